"""From logs, failure rows and Slurm's words to one cause: every cause and role, exact proofs, fingerprints."""

import textwrap

import pytest

from hpc.cluster.failures import signs, words
from hpc.cluster.failures.causes import Evidence, Log, classify, fingerprint
from hpc.cluster.failures.cures import CAUSES

CURES = {"here", "elsewhere", "memory", "time", "smaller", "space", "rebuild", "again", "stop"}


def judged(*texts, **more):
    logs = [Log(f"{n}.out", textwrap.dedent(t).lstrip("\n")) for n, t in enumerate(texts)]
    return classify(Evidence(logs=logs, **more))


def raised(line, prefix=""):
    frames = ["Traceback (most recent call last):", '  File "/env/run.py", line 31, in main', "    work(step)"]
    return "".join(f"{prefix}{row}\n" for row in [*frames, line])


ROOTS = [
    ("cuda_oom", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity "
     "of 79.15 GiB of which 1.2 GiB is free. See PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid it"),
    ("cuda_oom", "RuntimeError: CUDA error: out of memory"),
    ("cuda_oom", "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`."),
    ("host_oom", "RuntimeError: [enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate "
     "memory: you tried to allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"),
    ("host_oom", "MemoryError"),
    ("gpu_fault", "RuntimeError: CUDA error: uncorrectable ECC error encountered"),
    ("gpu_fault", "torch.AcceleratorError: CUDA error: all CUDA-capable devices are busy or unavailable"),
    ("driver", "RuntimeError: The NVIDIA driver on your system is too old (found version 11040)."),
    ("driver", "RuntimeError: No CUDA GPUs are available"),
    ("node_fault", "OSError: [Errno 116] Stale file handle: '/scratch/runs/x'"),
    ("node_fault", "OSError: [Errno 5] Input/output error"),
    ("shared_memory", "RuntimeError: DataLoader worker (pid 46794) is killed by signal: Bus error. It is possible that "
     "dataloader's workers are out of shared memory."),
    ("shared_memory", "OSError: [Errno 28] No space left on device: '/dev/shm/torch_12_34'"),
    ("no_space", "OSError: [Errno 122] Disk quota exceeded"),
    ("no_space", "RuntimeError: [enforce fail at inline_container.cc:778] . PytorchStreamWriter failed writing file "
     "data/3: file write failed"),
    ("no_space", "OSError: [Errno 28] No space left on device"),
    ("purged_input", "hpc.errors.ArtifactError: model.safetensors of a published artifact is gone"),
    ("missing_file", "FileNotFoundError: [Errno 2] No such file or directory: '/data/train.jsonl'"),
    ("permission", "PermissionError: [Errno 13] Permission denied: '/scratch/lab/x'"),
    ("permission", "OSError: [Errno 30] Read-only file system: '/home/me/.cache'"),
    ("import_error", "ModuleNotFoundError: No module named 'flash_attn'"),
    ("import_error", "ImportError: /lib64/libc.so.6: version `GLIBC_2.32' not found (required by /env/x.so)"),
    ("build", "RuntimeError: Error building extension 'cpu_adam'"),
    ("build", "deepspeed.ops.op_builder.builder.CUDAMismatchException: >- DeepSpeed Op Builder: Installed CUDA version "
     "11.8 does not match the version torch was compiled with 12.4"),
    ("build", "torch._inductor.exc.InductorError: RuntimeError: Failed to find C compiler."),
    ("network", "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for "
     "the specified revision on the local disk and outgoing traffic has been disabled."),
    ("network", "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='huggingface.co', port=443): Max "
     "retries exceeded with url: /api/models/x (Caused by NewConnectionError('[Errno 101] Network is unreachable'))"),
    ("gated", "huggingface_hub.errors.GatedRepoError: 403 Client Error. Cannot access gated repo for url https://hf.co"),
    ("rendezvous", "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network "
     "address. port: 29500, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use"),
    ("nan", "FloatingPointError: Minimum loss scale reached (0.0001)."),
    ("nan", "ValueError: loss is nan at step 412"),
    ("checkpoint", "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory"),
    ("checkpoint", "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge"),
    ("bad_config", "hpc.errors.StageError: the settings leave no token for thinking"),
    ("bad_config", "AssertionError: Check batch related parameters. train_batch_size is not equal to micro_batch"),
    ("hung", "Hung: no progress for 3600 s (hang_s of the profile)"),
    ("bug", "KeyError: 'question'"),
    ("bug", "RuntimeError: CUDA error: an illegal memory access was encountered"),
    ("bug", "AssertionError"),
]  # fmt: skip


@pytest.mark.parametrize(("cause", "line"), ROOTS, ids=[f"{c}-{n}" for n, (c, _) in enumerate(ROOTS)])
def test_an_exception_that_ended_the_program_names_its_cause(cause, line):
    verdict = judged("step 1\nstep 2\n" + raised(line), slurm="FAILED", code=1)
    assert (verdict.cause, verdict.proof[0].path, verdict.proof[0].line) == (cause, "0.out", 6)
    assert verdict.proof[0].text == line
    assert verdict.exception.startswith(line.split(":")[0].rsplit(".", 1)[-1])
    assert verdict.cure in CURES and verdict.next and CAUSES[cause].words in verdict.words


PLAIN = [
    ("gpu_fault", "[37.6] NVRM: Xid (PCI:0000:44:00): 79, pid=1, GPU has fallen off the bus."),
    ("gpu_fault", "NVRM: Xid (PCI:0000:b3:00): 94, Contained: ECC error"),
    ("driver", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."),
    ("node_fault", "srun: error: Task launch for StepId=17.0 failed on node h100-02: Communication connection failure"),
    ("setup", "/var/spool/slurmd/job00040/slurm_script: line 14: module: command not found"),
    ("setup", 'Lmod has detected the following error: The following module(s) are unknown: "cuda/12.9"'),
    ("setup", "slurmstepd: error: pyxis: couldn't start container"),
    ("setup", "slurmstepd: error: execve(): /env/bin/python: No such file or directory"),
    ("bad_config", "srun: error: Unable to create step for job 17: More processors requested than permitted"),
    ("import_error", "/usr/bin/python3: No module named hpc.cluster.worker"),
    ("import_error", "python: error while loading shared libraries: libpython3.11.so: cannot open shared object file"),
    ("missing_file", "python: can't open file '/home/me/x.py': [Errno 2] No such file or directory"),
    ("permission", "bash: /scratch/lab/env/bin/python: Permission denied"),
    ("build", "ninja: build stopped: subcommand failed."),
    ("shared_memory", "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared "
     "memory (shm)."),
    ("no_space", "cp: error writing '/scratch/x': No space left on device"),
    ("segfault", "Fatal Python error: Segmentation fault"),
    ("segfault", "srun: error: h100-01: task 3: Segmentation fault (core dumped)"),
    ("killed", "srun: error: h100-01: task 3: Killed"),
    ("nccl", "[rank0]:[E321 02:07:08.4 ProcessGroupNCCL.cpp:607] [Rank 0] Watchdog caught collective operation "
     "timeout: WorkNCCL(SeqNum=1580, OpType=ALLREDUCE, Timeout(ms)=600000) ran for 600060 milliseconds"),
    ("nccl", "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.1]"),
    ("rendezvous", "torch.distributed.DistNetworkError: The client socket has timed out after 600s while trying to "
     "connect to (h100-01, 29500)."),
]  # fmt: skip


@pytest.mark.parametrize(("cause", "line"), PLAIN, ids=[f"{c}-{n}" for n, (c, _) in enumerate(PLAIN)])
def test_a_plain_line_names_its_cause_when_nothing_else_is_there(cause, line):
    verdict = judged(f"hello\n{line}\n", slurm="FAILED", code=1)
    assert verdict.cause == cause
    assert (verdict.proof[0].line, verdict.proof[0].text) == (2, line)


SLURM = [
    ("host_oom", {"slurm": "OUT_OF_MEMORY"}),
    ("host_oom", {"slurm": "FAILED", "steps": ["COMPLETED", "OUT_OF_MEMORY"], "code": 1}),
    ("time_limit", {"slurm": "TIMEOUT"}),
    ("node_fault", {"slurm": "NODE_FAIL"}),
    ("preempted", {"slurm": "PREEMPTED"}),
    ("cancelled", {"slurm": "CANCELLED by 1000"}),
    ("dependency", {"slurm": "CANCELLED DependencyNeverSatisfied"}),
    ("killed", {"slurm": "FAILED", "code": 137}),
    ("killed", {"slurm": "FAILED", "code": -9}),
    ("segfault", {"slurm": "FAILED", "code": 139}),
    ("shared_memory", {"slurm": "FAILED", "code": 135}),
    ("hung", {"slurm": "FAILED", "code": 87}),
    ("unknown", {"slurm": "FAILED", "code": 1}),
]


@pytest.mark.parametrize(("cause", "more"), SLURM, ids=[f"{c}-{n}" for n, (c, _) in enumerate(SLURM)])
def test_slurms_word_stands_in_for_a_job_that_left_no_trace(cause, more):
    verdict = judged("step 1\nstep 2\n", **more)
    assert verdict.cause == cause
    assert verdict.exception == ""


def test_every_cause_of_the_vocabulary_is_covered_here_and_has_a_cure():
    seen = {c for c, _ in [*ROOTS, *PLAIN, *SLURM]}
    assert seen == CAUSES.keys()
    assert {c.cure for c in CAUSES.values()} <= CURES
    assert {s.cause for s in (*signs.SIGNS, *words.SLURM, *words.WRITTEN)} - {""} <= CAUSES.keys()


OOM_KILL = "slurmstepd: error: Detected 1 oom_kill event in StepId=17.0. Some of the step tasks have been OOM Killed."


def test_the_kernels_word_beats_what_the_other_ranks_say():
    verdict = judged(
        raised("RuntimeError: DataLoader worker (pid(s) 3216) exited unexpectedly"),
        "[rank1]: torch.distributed.DistBackendError: NCCL error in: socket.cpp\n",
        f"{OOM_KILL}\nsrun: error: h100-01: task 0: Out Of Memory\n",
        slurm="FAILED", code=1,
    )  # fmt: skip
    assert (verdict.cause, verdict.cure, verdict.host) == ("host_oom", "memory", "h100-01")
    assert [p.path for p in verdict.proof] == ["2.out", "2.out"]


def test_an_nccl_time_out_is_a_cascade_where_a_rank_has_failed():
    watchdog = (
        "[rank0]:[E321 02:07:08 ProcessGroupNCCL.cpp:607] [Rank 0] Watchdog caught collective operation timeout\n"
    )
    abort = "terminate called after throwing an instance of 'c10::DistBackendError'\n  what(): NCCL watchdog thread\n"
    own = raised("ValueError: bad example 17", "[rank3]: ")
    verdict = judged(watchdog + abort, own, "srun: error: n1: task 0: Aborted (core dumped)\n", code=134)
    assert (verdict.cause, verdict.exception) == ("bug", "ValueError: bad example N")
    assert verdict.proof[0].text == "[rank3]: ValueError: bad example 17"
    assert judged(watchdog + abort, code=134).cause == "nccl"


def test_the_engines_summary_gives_way_to_what_its_process_said():
    verdict = judged(
        """
        (EngineCore_DP0 pid=17) ERROR 09-28 15:47:24 [core.py:718] EngineCore failed to start.
        (EngineCore_DP0 pid=17) ERROR 09-28 15:47:24 [core.py:718] Traceback (most recent call last):
        (EngineCore_DP0 pid=17) ERROR 09-28 15:47:24 [core.py:718]   File "/env/core.py", line 7, in run
        (EngineCore_DP0 pid=17) ERROR 09-28 15:47:24 [core.py:718]     raise ValueError(
        (EngineCore_DP0 pid=17) ERROR 09-28 15:47:24 [core.py:718] ValueError: Free memory on device (3.2/79.1 GiB) on \
startup is less than desired GPU memory utilization (0.9, 71.2 GiB).
        Traceback (most recent call last):
          File "/env/run.py", line 9, in <module>
            main()
        RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
        """
    )
    assert (verdict.cause, verdict.cure, verdict.proof[0].line) == ("cuda_oom", "elsewhere", 5)


def test_the_first_of_a_chain_is_nearer_to_the_root():
    verdict = judged(
        raised("huggingface_hub.errors.GatedRepoError: 401 Client Error. Cannot access gated repo")
        + "\nThe above exception was the direct cause of the following exception:\n\n"
        + raised("hpc.errors.StageError: the model cannot be loaded")
    )
    assert (verdict.cause, verdict.proof[0].line) == ("gated", 4)


def test_of_two_weak_ones_the_one_that_ended_the_program_counts():
    verdict = judged(
        raised("FileNotFoundError: [Errno 2] No such file or directory: '/cache/x'")
        + "\nDuring handling of the above exception, another exception occurred:\n\n"
        + raised("PermissionError: [Errno 13] Permission denied: '/cache'")
    )
    assert verdict.cause == "permission"


def test_a_handled_exception_is_not_the_root():
    rest = "".join(f"step {n}\n" for n in range(100))
    verdict = judged(raised("torch.OutOfMemoryError: CUDA out of memory. Tried") + rest + raised("KeyError: 'x'"))
    assert verdict.cause == "bug"


@pytest.mark.parametrize(
    "line",
    [
        "WARNING 05-07 02:13:52 [x.py:1] CUDA out of memory can be avoided by a lower gpu_memory_utilization",
        "[W1121 10:00:00 socket.cpp:426] [c10d] The server socket has failed to bind to [::]:29500 (errno: 98 - "
        "Address already in use).",
        "set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation",
        "CUDA out of memory in warm-up, retrying with a batch of 4",
        "wandb: Network error (ConnectionError), entering retry loop.",
        "/env/x.py:3: UserWarning: ModuleNotFoundError was raised for an optional package",
        "INFO: No module named 'optional', using the slow path",
        "hpc: start 17.0.0 failed with code 1: a GPU failed: CUDA error: uncorrectable ECC error -> here",
        "Exception ignored in: <function X.__del__ at 0x7f30c6ca0830>\n"
        + raised("ImportError: sys.meta_path is None, Python is likely shutting down"),
    ],
)
def test_what_is_said_in_passing_is_no_root(line):
    assert judged(f"{line}\nstep 1\n").cause == "unknown"
    assert judged(f"{line}\n{raised('KeyError: 3')}").cause == "bug"


def test_code_shown_in_a_traceback_is_no_message():
    text = raised("KeyError: 'a'").replace("work(step)", 'raise RuntimeError("CUDA out of memory. Tried to allocate")')
    assert judged(text).cause == "bug"


def test_a_rank_that_failed_first_by_its_row_is_the_root():
    rows = [
        {"type": "KeyError", "message": "'late'", "host": "n2", "rank": 1, "at": "2026-11-22T05:00:09Z"},
        {"type": "ValueError", "message": "early 3", "host": "n1", "rank": 5, "at": "2026-11-22T05:00:01Z",
         "path": "/r/failure.5.json"},
    ]  # fmt: skip
    verdict = judged("nothing\n", failures=rows)
    assert (verdict.exception, verdict.host) == ("ValueError: early N", "n1")
    assert (verdict.proof[0].path, verdict.proof[0].text) == ("/r/failure.5.json", "ValueError: early 3")


def test_a_named_failure_beats_a_generic_one_whatever_the_times():
    rows = [
        {"type": "KeyError", "message": "'x'", "traceback": "", "host": "n1", "at": "2026-11-22T05:00:00Z"},
        {
            "type": "OSError",
            "message": "[Errno 28] No space left on device",
            "host": "n2",
            "at": "2026-11-22T05:00:01Z",
        },
    ]
    assert judged(failures=rows).cause == "no_space"


def test_a_row_is_proven_by_the_line_of_the_log_that_says_the_same():
    row = {"type": "KeyError", "message": "'x'", "traceback": raised("KeyError: 'x'"), "host": "n1", "at": "2026"}
    verdict = judged("a\nb\n" + raised("KeyError: 'x'", "[rank0]: "), failures=[row])
    assert (verdict.proof[0].path, verdict.proof[0].line) == ("0.out", 6)


def test_our_own_errors_give_their_own_advice():
    message = "the settings leave no token\n  where: thinking\n  why: 5 < 8\n  next: raise generate.max_tokens"
    verdict = judged(failures=[{"type": "StageError", "message": message, "traceback": "", "at": "2026"}])
    assert (verdict.cause, verdict.next) == ("bad_config", "raise generate.max_tokens")


def test_a_rank_that_died_before_the_time_limit_is_the_root_of_it():
    limit = "slurmstepd: error: *** JOB 17 ON n1 CANCELLED AT 2026-11-22T05:00:00 DUE TO TIME LIMIT ***\n"
    before = judged(raised("ValueError: bad example", "[rank3]: ") + limit, slurm="TIMEOUT")
    after = judged(limit + raised("ValueError: stopped while waiting", "[rank3]: "), slurm="TIMEOUT")
    assert (before.cause, after.cause) == ("bug", "time_limit")


def test_the_stacks_of_a_hung_rank_are_no_traceback():
    stacks = "".join(f'  File "/env/loop.py", line {n} in wait\n' for n in range(40))
    verdict = judged(
        "hpc: rank 0 made no progress for 3605 s; all stacks:\nThread 0x00007f (most recent call first):\n"
        + stacks + "Hung: no progress for 3605 s (hang_s of the profile)\n",
        "srun: error: n1: task 0: Exited with exit code 87\n", code=87,
    )  # fmt: skip
    assert (verdict.cause, verdict.cure, verdict.host) == ("hung", "here", "n1")
    assert [p.line for p in verdict.proof[:2]] == [1, 43]


def test_srun_tells_on_which_node_a_rank_was():
    rank = Log("/logs/0-17.0.0-11.out", raised("RuntimeError: CUDA error: uncorrectable ECC error encountered"))
    ends = ["n7: task 11: Exited with exit code 1", "n7: tasks 8-10: Killed", "n6: tasks 0-7: Killed"]
    batch = Log("/logs/0-17.batch.out", "".join(f"srun: error: {end}\n" for end in ends))
    assert classify(Evidence([rank, batch])).host == "n7"


def test_an_abort_says_less_than_what_was_said_before_it():
    lost = (
        "n1:3468:3905 [3] net_ib.cc:1295 NCCL WARN NET/IB : Got completion from peer 10.0.0.1 with error 12, opcode 0\n"
    )
    verdict = judged(
        f"{lost}Fatal Python error: Aborted\n", "srun: error: n1: task 0: Aborted (core dumped)\n", code=134
    )
    assert (verdict.cause, verdict.proof[0].line) == ("nccl", 1)
    assert judged("Fatal Python error: Aborted\n", code=134).cause == "segfault"


def test_a_warning_about_the_driver_explains_what_fails_after_it():
    warned = "/env/cuda.py:124: UserWarning: CUDA initialization: The NVIDIA driver on your system is too old.\n"
    verdict = judged(warned + raised("ValueError: Your setup does not support bf16"))
    assert (verdict.cause, verdict.proof[0].line) == ("driver", 1)
    assert judged(warned + "step 1\n" * 9, slurm="TIMEOUT").cause == "time_limit"


def test_of_sruns_lines_the_first_names_the_task_that_died():
    text = "srun: error: n2: task 8: Segmentation fault\nsrun: error: n1: tasks 0-7: Killed\n"
    verdict = judged(text, code=137)
    assert (verdict.cause, verdict.host) == ("segfault", "n2")


def test_tracebacks_of_several_ranks_in_one_log_are_told_apart():
    a = raised("ConnectionResetError: [Errno 104] Connection reset by peer", "[rank0]: ").splitlines()
    b = raised("IndexError: list index out of range", "[rank1]: ").splitlines()
    mixed = "\n".join(line for pair in zip(a, b, strict=True) for line in pair)
    verdict = judged(mixed)
    assert (verdict.cause, verdict.exception) == ("bug", "IndexError: list index out of range")


def test_a_traceback_whose_beginning_was_cut_off_is_read():
    verdict = judged("\n".join(raised("KeyError: 'x'").splitlines()[1:]))
    assert (verdict.cause, verdict.proof[0].text) == ("bug", "KeyError: 'x'")


def test_line_numbers_count_from_the_beginning_of_the_file():
    verdict = classify(Evidence([Log("x.out", raised("KeyError: 'x'"), first=1001)]))
    assert verdict.proof[0].line == 1004


def test_a_progress_bar_before_a_message_does_not_hide_it():
    verdict = judged("step 1/9\rstep 2/9\rTraceback (most recent call last):\n" + raised("KeyError: 'x'")[35:])
    assert (verdict.cause, verdict.proof[0].line) == ("bug", 4)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0",
            "CUDA out of memory. Tried to allocate 12 MiB. GPU 3",
        ),
        ("bad file /scratch/a/1/x.pt", "bad file /home/b/x.pt"),
        ("object at 0x7f30c6ca0830", "object at 0x7e00c6ca0111"),
        ("no answer of h100-01 (10.0.0.1:29500)", "no answer of h100-02 (10.0.0.2:29501)"),
        ("attempt 3f2a9c1e-1111-2222-3333-444455556666", "attempt 00aa9c1e-9999-2222-3333-4444eeee6666"),
    ],
)
def test_the_same_exception_has_one_fingerprint(one, other):
    hosts = ["h100-01", "h100-02"]
    if "GiB" in one:
        other = other.replace("MiB", "GiB")
    assert fingerprint("a.b.SomeError", one, hosts) == fingerprint("SomeError", other, hosts)


def test_other_exceptions_have_other_fingerprints():
    assert fingerprint("KeyError", "'question'") != fingerprint("KeyError", "'answer'")
    assert fingerprint("KeyError", "'x'") != fingerprint("IndexError", "'x'")
    assert fingerprint("", "") == ""


def test_nothing_known_shows_the_last_lines_that_there_are():
    verdict = judged("step 1\nstep 2\n\n", "")
    assert (verdict.cause, [p.text for p in verdict.proof]) == ("unknown", ["step 2"])
