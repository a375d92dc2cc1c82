"""What failures look like in a log: the table of signatures. Read by causes.py; the form is in words.py."""

from __future__ import annotations

from hpc.cluster.failures.words import SURE, TRACE, Sign, cascade, sign, word

# The first signature that matches a line decides it: the special stand above the general.
SIGNS: tuple[Sign, ...] = (
    # the watchdog of hpc.cluster.worker, and failures that our own code names
    sign("hung", r"^Hung: |hpc: rank \d+ made no progress for", 2.8),
    sign("purged_input", r"of a published artifact is (?:gone|damaged)|the \w+ artifact [0-9a-f]{8,} is missing"),
    sign("checkpoint", r"StageError: the checkpoint cannot be loaded"),
    sign("missing_file", r"there is no \S+ on this node|the data file .* is not there"),
    # time limit, preemption, node failure, cancellation: Slurm's own lines
    word("time_limit", r"DUE TO TIME LIMIT|Job (?:reached|exceeded) (?:its )?time limit", 8.0),
    word("preempted", r"DUE TO PREEMPTION", 8.0),
    word("node_fault", r"DUE TO NODE FAILURE|srun: error: Node failure on|NODE_FAIL|BOOT_FAIL", 8.0),
    word("preempted", r"DUE TO JOB REQUEUE", 2.0),
    word("cancelled", r"\*\*\* JOB \d+ ON \S+ CANCELLED AT \S+ \*\*\*", 5.0),
    cascade("cancelled", r"\*\*\* STEP \S+ ON \S+ CANCELLED AT \S+ \*\*\*", 0.5),
    # host memory: kernel and Slurm
    word(
        "host_oom",
        r"(?i)\boom[-_]kill|OOM[- ]Killed|[Mm]emory cgroup out of memory|\bOut of memory: Kill(?:ed)? process"
        r"|invoked oom-killer|oom-kill:constraint|exceeded (?:job |step )?memory limit|task \d+: Out Of Memory"
        r"|(?:tasks|task) [\d,-]+: Out Of Memory",
        8.5,
    ),
    # GPUs that failed. Xid 13, 31, 43, 45 and the like are mostly the program's own doing.
    sign(
        "gpu_fault",
        r"NVRM: Xid \([^)]*\): (?!(?:8|13|31|32|43|45|68|137)\b)\d+",
        SURE,
        loud=True,
    ),
    cascade("", r"NVRM: Xid"),
    sign(
        "gpu_fault",
        r"(?i)fallen off the bus|uncorrectable (?:nvlink|ecc) error|nvlink error was detected|ECCUncorrectable"
        r"|all CUDA-capable devices are busy or unavailable|cudaErrorDevice(?:s)?Unavailable|GPU is lost|GPU_IS_LOST"
        r"|Unable to determine the device handle for GPU|CUDA error: unknown error|hardware stack error"
        r"|CUDA_ERROR_(?:ECC|NVLINK)_UNCORRECTABLE|GPU requires reset|row remapping failure"
        r"|double[- ]bit ecc|contained (?:ecc|memory) error",
        SURE,
    ),
    # GPU memory
    sign(
        "cuda_oom",
        r"Free memory on device .* is less than desired GPU memory utilization",
        cure="elsewhere",  # another process holds the memory: a leftover on this node
    ),
    sign(
        "cuda_oom",
        r"CUDA out of memory|HIP out of memory|CUDA error: out of memory|\bOutOfMemoryError\b"
        r"|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|CUBLAS_STATUS_ALLOC_FAILED|CUBLAS_STATUS_NOT_INITIALIZED"
        r"|Cuda failure (?:\d+ )?'out of memory'|No available memory for the cache blocks"
        r"|larger than the available KV cache memory|larger than the maximum number of tokens that can be stored in KV"
        r"|CUDA driver error: out of memory|RESOURCE_EXHAUSTED: Out of memory",
    ),
    # GPU driver; torch only warns of it, and something else fails later
    word("driver", r"CUDA initialization: .*(?:driver|CUDA|device)", 3.5),
    sign(
        "driver",
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient|No CUDA GPUs are available"
        r"|Found no NVIDIA driver|no CUDA-capable device is detected|cudaErrorNoDevice|cudaErrorInsufficientDriver"
        r"|NVIDIA-SMI has failed because it couldn't communicate|Failed to initialize NVML"
        r"|Driver/library version mismatch"
        r"|compiled with an unsupported toolchain|forward compatibility was attempted on non supported HW"
        r"|system not yet initialized|libcuda\.so\.1: cannot open shared object|cudaErrorSystem\w+"
        r"|Can't initialize NVML|NVML_ERROR_(?:DRIVER|LIB_RM)|found no CUDA devices|Failed to infer device type"
        r"|only supported with GPUs, no GPUs found",
        5.5,
    ),
    sign(
        "driver",
        r"no kernel image is available for execution|Torch not compiled with CUDA enabled|is not compatible with the "
        r"current PyTorch installation",
        5.5,
        cure="stop",
    ),
    # shared memory, before space: both say "No space left on device"
    sign(
        "shared_memory",
        r"(?i)\bbus error\b|SIGBUS|insufficient shared memory|out of shared memory"
        r"|/dev/shm/(?:torch_|psm_|nccl-|sem\.)\S*.*No space left"
        r"|No space left on device.*/dev/shm/(?:torch_|psm_|nccl-|sem\.)"
        r"|unable to (?:open|mmap|allocate|write to) (?:shared memory|file </torch_)"
        r"|unable to mmap \d+ bytes from file </torch|error while creating shared memory segment"
        r"|failed to (?:allocate|create|extend).{0,40}/dev/shm|Call to posix_fallocate failed: No space left",
        6.5,
    ),
    sign(
        "no_space",
        r"No space left on device|[Dd]isk quota exceeded|\bENOSPC\b|\bEDQUOT\b|\[Errno (?:28|122)\]|[Qq]uota exceeded"
        r"|\(os error (?:28|122)\)|PytorchStreamWriter failed writing|unexpected pos \d+ vs \d+|file write failed"
        r"|not enough (?:free )?disk space|[Nn]o free inodes",
        7.0,
    ),
    # Slurm cannot start the tasks
    sign(
        "node_fault",
        r"[Tt]ask launch (?:for \S+ )?failed|launch failed requeued held|Zero Bytes were transmitted"
        r"|Communication connection failure|[Pp]rolog (?:error|failed|failure)|credential (?:expired|revoked|invalid)"
        r"|Job/step already completing|Unable to contact slurm|Slurmd could not|Not responding|\bLAUNCH_FAILED\b"
        r"|srun: error: .*(?:not responding|Socket timed out|Connection refused|No route to host)",
        6.5,
    ),
    sign(
        "node_fault",
        r"Stale file handle|\[Errno 116\]|Transport endpoint is not connected|Cannot send after transport endpoint"
        r"|\[Errno (?:5|107|108)\]|Input/output error|Remote I/O error",
        6.2,
    ),
    sign(
        "bad_config",
        r"srun: error: Unable to create step for job|srun: unrecognized option|sbatch: error:|srun: error: Unable to "
        r"allocate resources|Requested node configuration is not available|More processors requested than permitted"
        r"|Memory required by task is not available",
    ),
    # before the worker began
    sign(
        "setup",
        r"pyxis:\s+(?:\[ERROR\]|failed|couldn't|container start failed|child \d+ failed|unable)|\benroot[-\w]*: "
        r"|required plugin spank_pyxis|^FATAL: +\w|(?:apptainer|singularity)\S*:? .*(?:FATAL|ERROR)"
        r"|Lmod has detected the following error|[Uu]nable to locate a modulefile|ModuleCmd_\w+|Module ERROR"
        r"|module\(s\) are unknown|CondaError|EnvironmentNameNotFound|EnvironmentLocationNotFound|CommandNotFoundError"
        r"|line \d+: \S+: (?:command not found|unbound variable)|execve\(\): |couldn't chdir to"
        r"|slurm_script: line \d+: .*(?:No such file|Permission denied|not found|unbound|syntax error)",
        6.0,
    ),
    # ports and the first meeting
    sign("rendezvous", r"EADDRINUSE|[Aa]ddress already in use|\[Errno 98\]"),
    cascade(
        "rendezvous",
        r"The client socket has (?:timed out|failed to connect)|cannot be retrieved \(gai error|[Rr]endezvous\w*Error"
        r"|Timed out after \d+ seconds waiting for clients|/\d+ clients joined|wait timeout after \d+ ?ms"
        r"|connectFullMesh failed|Timed out waiting for clients|Timeout waiting for key|makeDeviceForHostname"
        r"|(?i:unable to find (?:address|interface)|no socket interface found)",
        1.5,
    ),
    # compilers
    sign(
        "build",
        r"Error building extension|ninja: build stopped|CUDAMismatchException|MissingCUDAException|Unable to JIT load"
        r"|nvcc fatal|CUDA_HOME (?:environment variable is not set|does not exist)|CUDA_HOME is None"
        r"|version torch was compiled with|fatal error: \S+\.(?:h|hpp|cuh)\b|collect2: error: ld returned"
        r"|compilation terminated\.|unsupported GNU version|Failed to find C compiler|torch\._inductor\.exc\."
        r"|PTXASError"
        r"|Internal Triton PTX codegen error|triton\S*\.CompilationError|BackendCompilerFailed|Ninja is required"
        r"|'\[?'?(?:ninja|\S*/gcc|\S*nvcc|\S*/cc1plus|\S*c\+\+|\S*/ptxas)'.*returned non-zero|cannot find -l\w+"
        r"|[Tt]imed out waiting for (?:the )?(?:build )?lock|Failed to (?:build|compile)|mismatch! DeepSpeed ops"
        r"|Could not (?:load|compile) .*\bop\b|LoweringException|ptxas fatal|error: command '\S*(?:gcc|g\+\+|nvcc)",
    ),
    # hubs and remote hosts
    sign(
        "gated",
        r"GatedRepoError|gated (?:repo|dataset|model)|(?:401|403) Client Error|HTTP (?:Error )?40[13]\b"
        r"|Access to (?:model|dataset) \S+ is restricted|not in the authorized list|LocalTokenNotFoundError"
        r"|awaiting a review from the repo authors|Invalid (?:username or password|user token|credentials)"
        r"|returned error code: 40[13]",
        6.5,
    ),
    sign(
        "network",
        r"LocalEntryNotFoundError|OfflineModeIsEnabled|CachedRepoTreeNotFoundError|RevisionResolutionError|offlineMode"
        r"|outgoing traffic has been disabled|[Oo]ffline mode is enabled|HF_HUB_OFFLINE|local_files_only"
        r"|[Cc]ouldn't connect to '?https?:|Couldn't reach \S+ on the Hub|Network is unreachable",
    ),
    sign(
        "network",
        r"Max retries exceeded with url|Failed to establish a new connection|name resolution|NameResolutionError"
        r"|Name or service not known|MaxRetryError|ConnectTimeout|ReadTimeout\b|ReadTimeoutError|NewConnectionError"
        r"|Couldn't reach|Could not resolve host|ProxyError|SSLCertVerificationError|SSLError|httpx?\.Connect\w+"
        r"|CommError|(?:429|50[0234]) (?:Client|Server) Error|No route to host"
        r"|[Cc]heck (?:your|the) (?:internet )?connection",
        cure="again",  # it may have been a moment's; the same message is not retried twice
    ),
    # imports
    sign(
        "import_error",
        r"ModuleNotFoundError|ImportError|cannot import name|undefined symbol|version [`'\"]?(?:GLIBC|GLIBCXX|CXXABI)_"
        r"|cannot open shared object file|No module named|symbol lookup error|Could not find a version that satisfies",
        5.0,
    ),
    # checkpoints and weights
    sign(
        "checkpoint",
        r"PytorchStreamReader failed|failed finding central directory|in loading state_dict|size mismatch for"
        r"|SafetensorError|HeaderTooLarge|InvalidHeader|MetadataIncompleteBuffer|invalid load key|UnpicklingError"
        r"|Weights only load failed|Ran out of input|ZeRORuntimeException|incomplete metadata, file not fully covered"
        r"|checkpoint being loaded|[Cc]heckpoint.{0,60}(?:corrupt|mismatch|incomplete|not match)|not a valid checkpoint"
        r"|[Cc]orrupt(?:ed)? (?:checkpoint|shard|file)|unexpected end of (?:file|data)",
        5.8,
    ),
    # numbers
    sign(
        "nan",
        r"(?i)Current loss scale already at minimum|loss is (?:nan|inf)\b"
        r"|(?:loss|gradient|grad(?:ient)? norm|logits?)s? "
        r"(?:is|are|became|was|turned) (?:now )?(?:nan|inf|infinite|not finite|non-?finite)"
        r"|non-?finite (?:loss|grad|norm)"
        r"|(?:nan|inf) (?:loss|gradients?|values?) (?:at|in|detected|found|encountered)|returned nan values"
        r"|found nan in|nan or inf|probability tensor contains either|FloatingPointError|NaN (?:loss|detected|found)"
        r"|detected (?:nan|inf)\b|contains (?:nan|inf)",
        5.5,
    ),
    # settings
    sign(
        "bad_config",
        r"error: (?:unrecognized arguments|the following arguments are required|argument \S+: |ambiguous option)"
        r"|Check batch related parameters|must be divisible by|greater than the derived max_model_len"
        r"|DeepSpeedConfigError|omegaconf\.\w|ConfigAttributeError|pydantic\S*ValidationError|validation errors? for"
        r"|yaml\.\w+\.\w*Error|Unrecognized (?:model|configuration)|hydra\.errors|UsageError|api_key not configured"
        r"|is not divisible by|InvalidArgument: config|unknown (?:key|option|setting)\b",
        5.0,
    ),
    sign("host_oom", r"DefaultCPUAllocator: |Cannot allocate memory|\[Errno 12\]|std::bad_alloc|\bMemoryError\b", 6.0),
    # communication: the other ranks' way of noticing. A root where nothing else is found.
    cascade("nccl", r"NCCL WARN NET/|Got completion .* with (?:error|status)|async event: (?:port|local|QP)", 1.1),
    cascade(
        "nccl",
        r"Watchdog caught collective operation timeout|ProcessGroupNCCL|NCCL error|ncclSystemError|ncclInternalError"
        r"|ncclRemoteError|ncclUnhandledCudaError|NCCL WARN|DistBackendError|DistNetworkError|DistStoreError"
        r"|[Cc]onnection closed by (?:remote )?peer|[Cc]onnection reset by (?:remote )?peer|gloo/transport|gloo::"
        r"|NCCL communicator was aborted|NCCL (?:timeout|operations? (?:have )?failed)|failed to recv, got 0 bytes"
        r"|TCPStore|ibv_poll_cq|ibv_modify_qp|NET/IB|ncclCommAbort"
        r"|Timed out waiting \d+ ?ms for (?:recv|send)|[Bb]arrier (?:failed|timed out)|Socket Timeout|monitoredBarrier"
        r"|ProcessGroupGloo|wait\(\) timed out",
    ),
    # the ends of processes
    cascade(
        "killed",
        r"task \d+: Killed|tasks [\d,-]+: Killed|killed by signal: Killed|exitcode *: -9\b|Signal 9 \(SIGKILL\)"
        r"|<Signals\.SIGKILL: 9>|terminated with signal SIGKILL|(?:core proc|proc)\S* ?\S*: -9\b|exit code: -9\b"
        r"|line \d+: +\d+ Killed|[Ee]xit(?:ed with exit)? code:? 137|'[\w-]+': -9[,}]|exited unexpectedly with code -9",
        TRACE,
    ),
    cascade(
        "segfault",
        r"Segmentation fault|SIGSEGV|Fatal Python error: (?!Aborted)|exitcode *: -11\b|Illegal instruction|SIGILL"
        r"|\bsegfault at\b"
        r"|free\(\): invalid|double free or corruption|malloc\(\): |stack smashing detected|corrupted size vs"
        r"|exit code 139"
        r"|'[\w-]+': -11[,}]|Caught signal 11",
        TRACE,
    ),
    cascade(
        "segfault",
        r"SIGABRT|Fatal Python error: Aborted|task \d+: Aborted|exitcode *: -6\b|terminate called|exit code 134"
        r"|core dumped",
        0.9,
    ),
    cascade(
        "killed",
        r"DataLoader worker \(pid.*(?:exited unexpectedly|is killed by signal)|WorkerLostError|BrokenProcessPool"
        r"|A process in the process pool was terminated abruptly|ActorDiedError|RayActorError|worker died",
        1.3,
    ),
    cascade("cancelled", r"KeyboardInterrupt|task \d+: Terminated|Signal 15 \(SIGTERM\)|SignalException", 0.6),
    cascade(
        "",
        r"BrokenPipe|Broken pipe|ConnectionResetError|ConnectionAbortedError|ConnectionRefusedError|Connection refused"
        r"|Engine core initialization failed|EngineDeadError|EngineCore encountered an issue|EngineCore failed to start"
        r"|Engine core proc|WorkerProc initialization failed|Executor failed|died unexpectedly|ChildFailedError"
        r"|ProcessRaisedException|ProcessExitedException|Terminating job step|Job step aborted|Exited with exit code"
        r"|srun: error: .*: tasks? [\d,-]+: |Failed to invoke spank|EOFError|SystemExit|CancelledError|resource_tracker"
        r"|leaked (?:semaphore|shared_memory)",
    ),
)
