"""Ends a rank in which nothing moves: a thread that looks at Work's last beat. Runs in every rank of every job.

A hung collective keeps all ranks waiting for ever, and Slurm sees a healthy job. The thread writes every stack into the
log and a failure of type Hung into the attempt, then leaves with HUNG: srun ends the other ranks.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from hpc.artifact import Work

HUNG = 87
"""Exit code of a rank that its watchdog ended."""
LAG_S = 5.0
"""Ranks above 0 wait so much longer: the report of rank 0 is the one to read."""


class Watchdog(AbstractContextManager["Watchdog"]):
    """Watches `work` while the context is open.

    Args:
        limit_s: seconds without a beat after which the rank is ended; 0 watches nothing.
        failed: called with a message before the end; it writes the failure down.
    """

    def __init__(self, work: Work, limit_s: float, failed: Callable[[str], None]) -> None:
        self.work, self.failed = work, failed
        self.limit_s = limit_s and limit_s + LAG_S * (work.rank > 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self.work.beat()
        if self.limit_s:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(min(10.0, self.limit_s / 4)):
            silent_s = time.monotonic() - self.work.beaten
            if silent_s > self.limit_s:
                self._end(silent_s)

    def _end(self, silent_s: float) -> None:
        print(f"hpc: rank {self.work.rank} made no progress for {silent_s:.0f} s; all stacks:", file=sys.stderr)
        faulthandler.dump_traceback(all_threads=True)
        try:
            self.failed(f"no progress for {silent_s:.0f} s (hang_s of the profile)")
        finally:
            os._exit(HUNG)  # a thread cannot raise in the main one, which may hang in a C call
