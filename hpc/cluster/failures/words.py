"""The form of a signature, Slurm's own words, kinds of exceptions, what is said in passing. See signs.py.

Each signature has a role. A *root* is where a failure began. A *cascade* follows from another rank's end, and explains
the failure only when nothing else does. A *confirmation* is the word of Slurm or of the kernel: it supports a root, or
stands in for one that left no trace. The weight says how much else a signature explains; the heaviest root wins.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ROOT, CASCADE, CONFIRMATION = "root", "cascade", "confirmation"

SURE = 9.0
"""The kernel, the driver or Slurm says itself what it did."""
NAMED = 6.0
"""A message that has one meaning."""
TYPED = 4.0
"""The kind of exception alone tells the cause."""
PLAIN = 3.0
"""Any other exception that ended a program."""
TRACE = 2.6
"""A process died, and only its end is seen."""
STAND_IN = 1.0
"""A cascade: counts only where nothing else is found."""


@dataclass(frozen=True)
class Sign:
    """A signature: `pattern` in a line (or in the text of an exception) speaks for `cause`.

    `cause` of a cascade is what it stands in for when nothing else is found; empty never stands in. `loud`: counts in
    lines of level INFO and WARNING too. `raised`: counts only as the text of an exception. `cure`: instead of the
    cause's own.
    """

    cause: str
    role: str
    weight: float
    pattern: re.Pattern[str]
    loud: bool = False
    raised: bool = False
    cure: str = ""


def sign(
    cause: str,
    pattern: str,
    weight: float = NAMED,
    role: str = ROOT,
    *,
    loud: bool = False,
    raised: bool = False,
    cure: str = "",
) -> Sign:
    """A signature; a root unless said otherwise."""
    return Sign(cause, role, weight, re.compile(pattern), loud, raised, cure)


def cascade(cause: str, pattern: str, weight: float = STAND_IN, *, raised: bool = False) -> Sign:
    """What follows from another failure; `cause` is what it stands in for."""
    return sign(cause, pattern, weight, CASCADE, raised=raised)


def word(cause: str, pattern: str, weight: float = SURE, *, loud: bool = True) -> Sign:
    """The word of Slurm, the kernel or a library about what happened."""
    return sign(cause, pattern, weight, CONFIRMATION, loud=loud)


SLURM: tuple[Sign, ...] = (
    word("dependency", r"DependencyNeverSatisfied"),
    word("host_oom", r"OUT_OF_ME", 8.5),
    word("time_limit", r"TIMEOUT|DEADLINE", 8.0),
    word("node_fault", r"NODE_FAIL|BOOT_FAIL|LAUNCH_FAILED|RECONFIG_FAIL|launch failed", 8.0),
    word("preempted", r"PREEMPTED", 8.0),
    word("cancelled", r"CANCELLED", 5.0),
)
"""Slurm's words for jobs and steps. A step that is CANCELLED or FAILED says nothing: its job ended it."""

CODES: dict[int, tuple[str, float]] = {
    87: ("hung", 2.8),
    126: ("setup", 1.8),
    127: ("setup", 1.8),
    132: ("segfault", 1.6),
    134: ("segfault", 0.8),
    135: ("shared_memory", 2.0),
    137: ("killed", 1.6),
    139: ("segfault", 1.6),
    143: ("cancelled", 0.4),
}
"""What srun's exit code stands in for: 128 + signal."""

TYPES: dict[str, str] = {
    "MemoryError": "host_oom",
    "OutOfMemoryError": "cuda_oom",
    "FileNotFoundError": "missing_file",
    "NotADirectoryError": "missing_file",
    "IsADirectoryError": "missing_file",
    "PermissionError": "permission",
    "ImportError": "import_error",
    "ModuleNotFoundError": "import_error",
    "Hung": "hung",
    "HpcError": "bad_config",
    "RecipeError": "bad_config",
    "PlanError": "bad_config",
    "ClusterError": "bad_config",
    "StageError": "bad_config",
    "ArtifactError": "purged_input",
    "ArgumentError": "bad_config",
    "ValidationError": "bad_config",
}
"""Exceptions whose kind alone tells the cause; every other one is a bug."""

WRITTEN: tuple[Sign, ...] = (
    sign("missing_file", r"can't open file .*No such file", TYPED),
    sign("permission", r"Read-only file system|\[Errno (?:1|13|30)\]|[Pp]ermission denied|\bEACCES\b", TYPED),
    sign("missing_file", r"\[Errno 2\]|No such file or directory", TYPED, raised=True),
)
"""Weaker than the rest: asked only when no other signature and no kind of exception matches."""

HARMLESS = re.compile(
    r"(?i)\b(?:re-?trying|will retry|retry \d|retries left|attempt \d+ ?(?:of|/) ?\d+|falling back|fall back to"
    r"|recovered"
    r"|skipping|skipped|ignoring|ignored|caught|reducing|for example|e\.g\.|if you (?:see|get|encounter)"
    r"|in case of|entering retry loop|as a workaround|deprecat)"
)
"""Said in passing: an operation that went on, an advice, a description. Not applied to exceptions."""
LEVEL = re.compile(
    r"(?<!NCCL)(?:^|[\s\[(|:-])(?:INFO|WARNING|WARN|DEBUG|NOTICE)(?=[\s\])|:,-]|$)|\w*Warning: "
    r"|^\[?[WID]\d{3,4} \d\d:|\[W\d* ?\S+:\d+\]"
)
"""Lines below the level of an error. (NCCL's own WARN is an error.)"""

LINES = frozenset(
    {
        "setup",
        "build",
        "no_space",
        "shared_memory",
        "node_fault",
        "gpu_fault",
        "driver",
        "host_oom",
        "rendezvous",
        "hung",
    }
)
"""Causes whose signatures count in full on any line; the others' only in what a program raised."""
