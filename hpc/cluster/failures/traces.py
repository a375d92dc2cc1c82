"""Reads a log as lines and Python tracebacks, through the prefixes that launchers and loggers put before them.

Pure text, no I/O. Used by hpc.cluster.failures.causes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

PREFIX = re.compile(
    r"\x1b\[[0-9;]*m"
    r"|\[?(?:default|rank) ?\d+\]?:\s?"  # torchrun, torch: [rank0]:
    r"|\[\d+\]\s(?=\[)"
    r"|\((?:[\w.-]+ )*?pid=\d+[^)]*\)\s?"  # vLLM, ray: (EngineCore_DP0 pid=17)
    r"|\d{1,5}: (?=\S|\s{2})"  # srun --label
    r"|\[\d+,\d+\]<std\w+>:\s?"  # mpirun
    r"|(?:ERROR|WARNING|INFO|DEBUG|CRITICAL)\s+(?:\d{4}-)?\d\d-\d\d \d\d:\d\d:\d\d(?:[.,]\d+)? \[[^\]]*\]\s?"  # vLLM
    r"|\[?\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?:?\s(?:[|-]\s)?"
    r"|(?:\[?(?:ERROR|CRITICAL)\]?:?\s)(?=\S*Traceback|\d+ \[)"
    r"|\d+ \[\w+\.py:\d+\]\s?"
    r"|[EF]\d{4} \d\d:\d\d:\d\d\.\d+\s+\d+ \S+?:\d+\]\s?"  # glog
    r"|\|\s"
    r"|(?:slurmstepd|srun): error: pyxis: {2,}"
)
START = "Traceback (most recent call last):"
FRAME = re.compile(r'\s*File "[^"]*", line \d+(?:, in |$)')  # faulthandler's stacks have no comma
CHAINED = re.compile(r"During handling of the above exception|direct cause of the following exception")
RAISED = re.compile(r"((?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:\([\w.]+\))?)(?::(?:\s(.*))?)?$", re.DOTALL)
KIND = re.compile(
    r"(?:Error|Exception|Interrupt|Exit|Iteration|Failed|Failure|Timeout|Empty|Full|Hung|Superseded|Interrupted|Expired"
    r"|Enabled|Unavailable|Mismatch|OutOfResources|Died|Mode|Warning|\berror|\btimeout)(?:\([\w.]+\))?$"
)
BARE = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception)(?:\([\w.]+\))?: \S")
QUIET = 25
"""Other lines after a traceback, above which it did not end the program."""
MORE = 12
"""Indented lines after an exception that are taken as part of its message."""


@dataclass
class Exc:
    """An exception in a log: where its last line stands (from 1), what it says, and which chain it belongs to."""

    line: int
    kind: str
    message: str
    chain: int
    ended: bool = True
    ignored: bool = False
    bare: bool = False
    handled: bool = False  # another was raised while this one was handled, which is what ended the program

    @property
    def text(self) -> str:
        """As Python prints it."""
        return f"{self.kind}: {self.message}" if self.message else self.kind


@dataclass
class _Open:
    """A traceback that is being read, of one rank or process."""

    indent: int
    chain: int
    ignored: bool
    after_frame: bool = False
    last: int = 0


@dataclass
class Reading:
    """Lines as they are, and without prefixes; the exceptions; and the lines that are parts of tracebacks."""

    lines: list[str]
    bodies: list[str]
    raised: list[Exc] = field(default_factory=list)
    inside: set[int] = field(default_factory=set)


def strip(line: str) -> tuple[str, str]:
    """(label, body): a line without the prefixes of launchers and loggers; the label tells ranks apart."""
    position, label = 0, ""
    body = line.rsplit("\r", 1)[-1] if "\r" in line.rstrip("\r") else line.rstrip("\r")
    while match := PREFIX.match(body, position):
        if match.end() == position:
            break
        if "rank" in match.group() or "pid=" in match.group() or re.fullmatch(r"\d+: ", match.group()):
            label = match.group().strip()
        position = match.end()
    return label, body[position:]


def read(text: str) -> Reading:
    """Read a log (or the traceback of a failure row)."""
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    stripped = [strip(line) for line in lines]
    reading = Reading(lines, [body for _, body in stripped])
    _Reader(reading).run(stripped)
    _mark_ended(reading)
    return reading


class _Reader:
    """Follows the tracebacks of several processes through one log."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.open: dict[str, _Open] = {}
        self.newest: dict[str, Exc] = {}
        self.link: dict[str, int] = {}
        self.ignored: set[str] = set()
        self.chains = 0

    def run(self, stripped: Iterable[tuple[str, str]]) -> None:
        for number, (label, body) in enumerate(stripped, 1):
            if (at := body.find(START)) >= 0:
                self._begin(number, label, at)
            elif label in self.open:
                self._inside(number, label, body)
            elif FRAME.match(body):  # the log's beginning was cut off inside a traceback
                self._begin(number, label, 0)
                self.open[label].after_frame = True
            elif not self._outside(number, label, body) and BARE.match(body):
                self._raise(number, label, body, bare=True)

    def _begin(self, number: int, label: str, indent: int) -> None:
        chain = self.link.pop(label, None)
        if chain is None:
            self.chains += 1
            chain = self.chains
        self.open[label] = _Open(indent, chain, label in self.ignored, last=number)
        self.ignored.discard(label)
        self.reading.inside.add(number)

    def _inside(self, number: int, label: str, body: str) -> None:
        trace = self.open[label]
        indent = len(body) - len(body.lstrip())
        if FRAME.match(body):
            trace.after_frame, trace.last = True, number
        elif self._source(body, indent, trace):
            trace.after_frame, trace.last = False, number
        elif body.strip() and (RAISED.match(body.strip()) and (KIND.search(_kind(body)) or number == trace.last + 1)):
            self._raise(number, label, body.strip(), bare=False)
        elif number > trace.last + 40:  # lost: it was never ended
            del self.open[label]
            return
        else:
            return
        self.reading.inside.add(number)

    def _source(self, body: str, indent: int, trace: _Open) -> bool:
        """A line of code under a frame, or the marks under it. Copies of logs may have lost the indentation."""
        if not body.strip():
            return False
        if indent > trace.indent or set(body.strip()) <= set("^~ ") or body.strip().startswith("[Previous line"):
            return True
        return trace.after_frame and not (KIND.search(_kind(body)) and RAISED.match(body.strip()))

    def _raise(self, number: int, label: str, body: str, *, bare: bool) -> None:
        match = RAISED.match(body)
        if match is None:
            return
        trace = self.open.pop(label, None)
        if trace is None:
            self.chains += 1
        message = "\n".join([match.group(2) or "", *self._more(number)]).strip()
        found = Exc(number, match.group(1), message, trace.chain if trace else self.chains, bare=bare)
        found.ignored = trace.ignored if trace else False
        self.reading.raised.append(found)
        self.newest[label] = found

    def _more(self, number: int) -> list[str]:
        """Indented lines that follow: the rest of the message."""
        rest: list[str] = []
        for body in self.reading.bodies[number : number + MORE]:
            if not body[:1].isspace() or FRAME.match(body):
                break
            rest.append(body.strip())
        return rest

    def _outside(self, number: int, label: str, body: str) -> bool:
        if CHAINED.search(body) and label in self.newest:
            self.link[label] = self.newest[label].chain
            self.newest[label].handled = body.startswith("During")
            self.reading.inside.add(number)
            return True
        if body.startswith(("Exception ignored in", "Exception ignored while")):
            self.ignored.add(label)
            return True
        return False


def _kind(body: str) -> str:
    return body.strip().split(": ", 1)[0].rstrip(":")


def _mark_ended(reading: Reading) -> None:
    """An exception after which the log goes on at length did not end the program: something handled it."""
    plain = [n for n, body in enumerate(reading.bodies, 1) if body.strip() and n not in reading.inside]
    for found in reading.raised:
        found.ended = sum(n > found.line for n in plain) <= QUIET and not found.ignored
