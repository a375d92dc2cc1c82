"""Worker processes for graders that may hang: one JSON line in, one out, killed and replaced after a time limit.

python -m hpc.evals.pool '{"name": "math"}' 10        (started by Worker; reads lines from stdin)
"""

from __future__ import annotations

import json
import logging
import os
import queue
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from hpc.errors import StageError
from hpc.evals import lookup
from hpc.records import Question, Sample, Verdict

GRACE_S = 5.0
"""A worker whose parent was killed ends itself so long after an answer's time limit."""

START_S = 120.0
"""A worker imports sympy from a network file system: that is not charged to an answer's time."""

Item = tuple[Question, Sample]


class Worker:
    """One grading process. `judge` always comes back: with a verdict, or with grader_error after the time limit."""

    def __init__(self, spec: dict[str, Any], timeout_s: float, *, quiet: bool = False) -> None:
        self.spec, self.timeout_s, self.quiet = spec, timeout_s, quiet
        self.process: subprocess.Popen[bytes] | None = None

    def judge(self, item: Item) -> tuple[str | None, Verdict, str]:
        """(extracted, verdict, reason); the reason is empty unless the verdict is grader_error."""
        process = self.process or self._start()
        assert process.stdin
        line = json.dumps([asdict(item[0]), asdict(item[1])]) + "\n"
        try:
            process.stdin.write(line.encode())
            process.stdin.flush()
        except BrokenPipeError:
            pass  # it died between two answers: the empty reply below says so
        reply = _read_line(process, self.timeout_s)
        if reply is None:
            self.stop()
            return None, "grader_error", f"no verdict within {self.timeout_s:g} s, or the grader died"
        extracted, verdict, reason = json.loads(reply)
        return extracted, verdict, reason

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "hpc.evals.pool", json.dumps(self.spec), str(self.timeout_s)]
        command += ["quiet"] * self.quiet
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        if _read_line(self.process, START_S) is None:
            self.stop()
            raise StageError(
                f"the grading process of {self.spec['name']} did not start",
                where=" ".join(command[:3]),
                why=f"no sign of life within {START_S:.0f} s; its messages are above",
                next="run that command by hand and mend what it prints",
            )
        return self.process

    def stop(self) -> None:
        """Kill the process and everything it started."""
        if self.process:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it is gone already
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe:
                    _close(pipe)
            self.process = None


def judge_all(
    spec: dict[str, Any],
    items: Iterable[Item],
    *,
    timeout_s: float,
    workers: int = 1,
    quiet: bool = False,
    beat: Callable[[], None] = lambda: None,
) -> list[tuple[str | None, Verdict, str]]:
    """Verdicts in the order of `items`, whatever the number of workers; `quiet` drops all that graders print.

    `beat` is called after each verdict.
    """
    listed = list(items)
    results: list[tuple[str | None, Verdict, str]] = [(None, "grader_error", "not judged")] * len(listed)
    failures: list[BaseException] = []
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(listed)):
        todo.put(number)

    def run() -> None:
        worker = Worker(spec, timeout_s, quiet=quiet)
        try:
            while not failures:
                number = todo.get_nowait()
                results[number] = worker.judge(listed[number])
                beat()
        except queue.Empty:
            return
        except StageError as error:
            failures.append(error)
        finally:
            worker.stop()

    threads = [threading.Thread(target=run) for _ in range(max(1, min(workers, len(listed))))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


def _read_line(process: subprocess.Popen[bytes], timeout_s: float) -> bytes | None:
    """The next line of the process; None at its end or after `timeout_s`."""
    assert process.stdout
    handle, end, data = process.stdout.fileno(), time.monotonic() + timeout_s, b""
    while not data.endswith(b"\n"):
        ready, _, _ = select.select([handle], [], [], max(0.0, end - time.monotonic()))
        piece = os.read(handle, 65536) if ready else b""
        if not piece:
            return None
        data += piece
    return data


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except BrokenPipeError:
        pass  # unsent bytes of a killed worker


def judge_once(grader: lookup.Bound, item: Item) -> tuple[str | None, Verdict, str]:
    """One verdict in this process. Whatever a grader raises becomes grader_error: never a pass, never a crash."""
    try:
        extracted, verdict = grader(*item)
    except (Exception, RecursionError, MemoryError) as error:  # noqa: BLE001 - a grader may raise anything
        return None, "grader_error", f"{type(error).__name__}: {error}"[:500]
    return extracted, verdict, ""


def main(spec: dict[str, Any], timeout_s: float, *, quiet: bool = False) -> None:
    """Serve verdicts on stdin and stdout until stdin ends."""
    reply = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a grader prints must not look like a verdict
    if limit_gib := lookup.MEMORY_GIB.get(str(spec["name"])):
        limit = int(limit_gib * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    grader = lookup.resolve(spec)
    if spec["name"] == "math":
        import math_verify  # noqa: F401 - loaded before the clock of the first answer runs

        # it warns that it has no time limit of its own: this process is the time limit
        logging.getLogger("math_verify").setLevel(logging.ERROR)
    if quiet:  # from here on a message may quote a question or an answer
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    print("ready", file=reply, flush=True)
    for line in sys.stdin:
        question, sample = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, timeout_s + GRACE_S)  # not handled: the kernel ends even a hanging C call
        print(json.dumps(judge_once(grader, (Question(**question), Sample(**sample)))), file=reply, flush=True)
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), float(sys.argv[2]), quiet="quiet" in sys.argv[3:])
