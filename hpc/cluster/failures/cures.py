"""The causes of failures: what users read, what may cure each by itself, and what they can do. `hpc why X` prints it.

In what they can do, {x} stands for the words after the verb that name the plan, {plain} for those without --smoke and
--only.

Cures: here (start again in the same allocation), elsewhere (requeue, this node excluded), memory, time (more of it),
smaller (less of the GPU), space (wait for it), rebuild (make the input again), again (submit unchanged), stop.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """One word of the vocabulary: what users read, what may cure it by itself, and what they can do."""

    words: str
    cure: str
    next: str


CAUSES: dict[str, Cause] = {
    "cuda_oom": Cause(
        "the GPU ran out of memory",
        "smaller",
        "lower train.memory_share (packed rows), train.micro_batch (train.pack=false) or generate.engine_batch; shard "
        "more (train.zero.stage=3, zero.offload=optimizer), or raise resources.*.gpus; then hpc submit {x}",
    ),
    "host_oom": Cause(
        "the node's memory limit was reached (host memory, not the GPU's)",
        "memory",
        "raise resources.*.memory_gib (or memory_gib of the profile) by half and hpc submit {x}",
    ),
    "gpu_fault": Cause(
        "a GPU failed",
        "elsewhere",
        "exclude the node (sbatch: {exclude: NODE} of the profile), hpc submit {x}, and report the node to the "
        "cluster's staff",
    ),
    "driver": Cause(
        "no usable GPU driver on the node",
        "elsewhere",
        "hpc doctor --job compares driver and wheels; exclude the node, or install a torch built for this driver",
    ),
    "node_fault": Cause(
        "the node failed, or Slurm lost it",
        "elsewhere",
        "hpc submit {x}; if the same node comes back, exclude it (sbatch: {exclude: NODE} of the profile)",
    ),
    "time_limit": Cause(
        "the time limit was reached",
        "time",
        "hpc submit {x} goes on from the last checkpoint; raise resources.*.hours if it saves too rarely",
    ),
    "preempted": Cause(
        "a job of higher priority took the node",
        "again",
        "hpc submit {x} goes on from the last checkpoint; a qos or partition without preemption avoids it",
    ),
    "cancelled": Cause("the job was cancelled", "stop", "hpc submit {x} starts it again"),
    "hung": Cause(
        "nothing moved until the watchdog ended it",
        "here",
        "read the stacks in the log; if it hangs at the same place again, raise hang_s of the profile or report a bug",
    ),
    "killed": Cause(
        "a process was killed from outside (SIGKILL) and left no other trace",
        "here",
        "hpc submit {x}; if it happens twice, raise resources.*.memory_gib: most such kills are the kernel's",
    ),
    "segfault": Cause(
        "native code crashed",
        "here",
        "hpc submit {x}; if the same crash comes back, it is a bug or a wrong build of the library in the trace",
    ),
    "shared_memory": Cause(
        "shared memory (/dev/shm) ran out",
        "elsewhere",
        "lower the number of loader workers or ranks on a node, raise the container's /dev/shm, or exclude the node",
    ),
    "no_space": Cause(
        "no space or no quota is left (bytes or number of files)",
        "space",
        "hpc gc lists what can go; free space under the root or the caches, then hpc submit {x}",
    ),
    "purged_input": Cause(
        "a published input is gone or damaged",
        "rebuild",
        "hpc submit {x} makes the input anew",
    ),
    "missing_file": Cause(
        "a file is missing",
        "stop",
        "check the path: it must exist on the nodes, not only on the login node",
    ),
    "permission": Cause(
        "access to a file or folder was denied",
        "stop",
        "check owner and group of the path in the message; umask of the profile decides what the group may read",
    ),
    "import_error": Cause(
        "the Python environment of the job lacks something",
        "stop",
        "check `python` and `setup` of the profile: the job must start the environment that hpc is installed in",
    ),
    "build": Cause(
        "an extension or kernel could not be compiled",
        "stop",
        "hpc doctor --build compiles it once and clears stale locks; load the CUDA module that fits torch in `setup`",
    ),
    "network": Cause(
        "the node could not reach a remote host, or a file was not fetched before",
        "stop",
        "hpc fetch {plain} on the login node puts what is missing into the profile's cache; then hpc submit {x}",
    ),
    "gated": Cause(
        "the hub refused access",
        "stop",
        "accept the licence on the model's page, `hf auth login` on the login node, hpc fetch {plain}, and "
        "hpc submit {x}",
    ),
    "rendezvous": Cause(
        "the ranks could not meet at the start",
        "here",
        "hpc submit {x}; if it stays, check that nodes reach each other's ports, and that no old job holds the port",
    ),
    "nccl": Cause(
        "communication between GPUs or nodes failed, and no other failure explains it",
        "elsewhere",
        "hpc doctor --job tests NCCL between two nodes; exclude the node if it comes back",
    ),
    "nan": Cause(
        "loss or gradients are not finite",
        "stop",
        "lower train.lr, lengthen the warm-up, or look at the batch of the step in the message",
    ),
    "checkpoint": Cause(
        "a checkpoint or weight file is corrupt, or does not fit the model",
        "stop",
        "delete the file in the message (training goes on from the checkpoint before it), or fetch the model again",
    ),
    "bad_config": Cause("a setting is wrong", "stop", "correct the setting in the message and hpc submit {x}"),
    "setup": Cause(
        "the batch script failed before the worker began",
        "stop",
        "run the profile's `setup` lines by hand in an interactive job, and correct them",
    ),
    "dependency": Cause(
        "a job that it depends on failed", "again", "mend the parent; hpc submit {x} then resumes both"
    ),
    "bug": Cause(
        "the program raised an exception",
        "stop",
        "read the traceback: the same input fails the same way again; correct it and hpc submit {x}",
    ),
    "unknown": Cause(
        "the logs do not say why",
        "again",
        "read the whole log (hpc logs {x}) and `sacct -j JOB --format=JobID,State,ExitCode,NodeList`",
    ),
}
