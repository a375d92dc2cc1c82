"""Why a job failed: from its logs, its failure rows and Slurm's words to one cause, with the lines that prove it.

Pure functions over signs.py (the table) and traces.py (the reading); evidence.py gathers what they look at. `hpc why X`
shows the result; the rescue of a job and the mender act on `cure`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from hpc.cluster.failures import signs, traces, words
from hpc.cluster.failures.cures import CAUSES
from hpc.cluster.failures.words import CASCADE, CONFIRMATION, ROOT, Sign

HANDLED = 2.4
"""Weight of an exception after which the program went on."""
WRITTEN = 2.9
"""Weight of a message on a plain line, where the cause is one that programs usually raise."""
BARE = 1.7
"""Weight of an exception without traceback that no signature knows: another process's summary, mostly."""
MOST_PROOFS = 8
HEADER = re.compile(r"======== (?:.* job \S+, |job \S+ restart \d+ on )([\w.-]+), ")
OURS = re.compile(r"hpc: (?!rank \d+ made no progress)")
NODE = re.compile(
    r"srun: error: ([\w.-]+): tasks? |slurmstepd-([\w.-]+): |\*\*\* (?:JOB|STEP) \S+ ON ([\w.-]+) CANCELLED"
)
TASKS = re.compile(r"srun: error: ([\w.-]+): tasks? ([\d,-]+): ")
RANK = re.compile(r"-(\d+)\.(?:out|log)$")
NUMBER = re.compile(r"\d+")
TELLING = re.compile(r"(?i)err|xid|exit|code|kill|fail|signal|:? -\d+\b")
"""Lines whose numbers may matter. Of others, one that says nothing stands for all that differ in numbers alone."""
OVER = ("time_limit", "cancelled")
"""Slurm ends a job so, also one whose other ranks wait for ever for one that has failed."""


@dataclass(frozen=True)
class Log:
    """The tail of a log; `first` is the number of its first line in the file."""

    path: str
    text: str
    first: int = 1


@dataclass(frozen=True)
class Evidence:
    """What is known of a failed job.

    `slurm`: Slurm's word for it, verbatim, may be empty. `steps`: states of its steps. `code`: srun's exit code (137 is
    SIGKILL). `failures`: rows that the ranks wrote: type, message, traceback, host, rank, at; "path" is their file.
    """

    logs: list[Log] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    slurm: str = ""
    steps: list[str] = field(default_factory=list)
    code: int | None = None
    hosts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Proof:
    """A line of a file, verbatim; lines count from 1. Slurm's own words have the path "slurm"."""

    path: str
    line: int
    text: str


@dataclass(frozen=True)
class Verdict:
    """The cause and its cure, the lines that prove it, and what to do.

    `exception`: the fingerprint by which the same exception is never retried twice; empty if nothing was raised.
    `host`: the node that it happened on, as far as the evidence says.
    """

    cause: str
    cure: str
    proof: list[Proof]
    exception: str
    host: str
    words: str
    next: str


@dataclass(frozen=True)
class Clue:
    """One thing that speaks for a cause. `at`: when (text that sorts), empty if unknown; `order`: place in the logs."""

    cause: str
    role: str
    weight: float
    proof: Proof
    order: tuple[int, int]
    cure: str = ""
    at: str = "~"
    host: str = ""
    kind: str = ""
    message: str = ""

    @property
    def raised(self) -> bool:
        """True for an exception."""
        return bool(self.kind)


def classify(evidence: Evidence) -> Verdict:
    """The root cause of a failure.

    Cascades are dropped when anything else is found. Of the roots the heaviest wins; of equals the one that happened
    first (by the failure rows' times), then the first in the logs. Slurm's and the kernel's words stand in for roots
    that left no trace.
    """
    clues = [c for c in _clues(evidence) if c.cause]
    if not clues:
        return _unknown(evidence)
    best = min(clues, key=_rank)
    if best.cause in OVER and (earlier := _before(best, clues)):
        best = earlier
    return _verdict(best, clues, evidence)


def fingerprint(kind: str, message: str, hosts: list[str] | None = None) -> str:
    """TYPE: message without what differs from start to start: numbers, addresses, paths, host names."""
    if not kind:
        return ""
    text = message.strip().split("\n", 1)[0]
    for host in sorted(hosts or [], key=len, reverse=True):
        if host:
            text = re.sub(rf"\b{re.escape(host)}\b", "HOST", text)
    text = re.sub(r"https?://\S+", "URL", text)
    text = re.sub(r"(?<![\w/])(?:~|\.{1,2})?/[^\s'\"`:,)]+", "PATH", text)
    text = re.sub(r"\b0x[0-9a-fA-F]+\b|\b[0-9a-f]{8}(?:-?[0-9a-f]{4,}){0,4}\b(?<![g-z])", "HEX", text)
    text = re.sub(r"\d+(?:\.\d+)*(?:[eE][+-]?\d+)?", "N", text)
    return f"{kind.rsplit('.', 1)[-1]}: {text[:300]}".rstrip(": ")


def _rank(clue: Clue) -> tuple[float, str, tuple[int, int]]:
    return -clue.weight, clue.at, clue.order


def _before(word: Clue, clues: list[Clue]) -> Clue | None:
    """A root that was there before Slurm ended the job: the other ranks waited for it in vain."""
    roots = [c for c in clues if c.role == ROOT and c.raised and c.weight >= words.PLAIN]
    same = [c for c in roots if c.proof.path == word.proof.path and c.proof.line < word.proof.line]
    other = [c for c in roots if c.proof.path != word.proof.path and c.weight >= words.TYPED]
    return min([*same, *other], key=_rank, default=None)


def _clues(evidence: Evidence) -> Iterator[Clue]:
    readings = [traces.read(log.text) for log in evidence.logs]
    nodes = _nodes(readings)
    only = nodes[0] if nodes and set(nodes.values()) == {nodes.get(0, "")} else ""
    for number, (log, reading) in enumerate(zip(evidence.logs, readings, strict=True), 1):
        rank = RANK.search(log.path)
        yield from _of_log(number, log, reading, nodes.get(int(rank.group(1)), "") if rank else only)
    for row in evidence.failures:
        yield from _of_row(row, evidence.logs, readings)
    yield from _of_slurm(evidence)


def _nodes(readings: list[traces.Reading]) -> dict[int, str]:
    """The node of each rank, as srun's lines about their ends tell."""
    found: dict[int, str] = {}
    for match in (m for r in readings for body in r.bodies if (m := TASKS.match(body))):
        for part in match.group(2).split(","):
            first, _, last = part.partition("-")
            found.update(dict.fromkeys(range(int(first), int(last or first) + 1), match.group(1)))
    return found


def _of_log(number: int, log: Log, reading: traces.Reading, node: str) -> Iterator[Clue]:
    host = node or next((m.group(1) for line in reversed(reading.lines) if (m := HEADER.match(line))), "")
    raised = {e.line: e for e in reading.raised}
    task_lines, dull = 0, set[str]()
    for line, (text, body) in enumerate(zip(reading.lines, reading.bodies, strict=True), 1):
        proof = Proof(log.path, log.first + line - 1, text)
        spot = (number, line)
        if line in raised:
            if not raised[line].ignored:
                yield _of_exception(raised[line], proof, spot, host)
        elif line not in reading.inside and body.strip() and not OURS.match(body):
            shape = NUMBER.sub("0", body)
            if shape in dull:
                continue
            is_task = bool(re.match(r"srun: error: \S+: tasks? ", body))
            task_lines += is_task
            if clue := _of_line(body, proof, spot, host):  # srun names the task that died first, first
                yield replace(clue, weight=min(clue.weight, 0.9)) if is_task and task_lines > 1 else clue
            elif not TELLING.search(body):
                dull.add(shape)


def _of_line(body: str, proof: Proof, spot: tuple[int, int], host: str) -> Clue | None:
    sign = _sign_of(body, signs.SIGNS)
    weak = None if sign else _sign_of(body, words.WRITTEN)
    if (sign or weak) is None:
        return None
    quiet = bool(words.LEVEL.search(proof.text[:100]))
    harmless = words.HARMLESS.search(body)
    if weak is not None:
        return None if quiet or weak.raised or harmless else Clue(weak.cause, ROOT, 2.0, proof, spot, host=host)
    assert sign is not None
    if (quiet and not sign.loud) or (sign.role == ROOT and sign.weight < words.SURE and harmless):
        return None
    node = NODE.search(body)
    named = next((g for g in node.groups() if g), "") if node else ""
    weight = sign.weight if sign.role != ROOT or sign.cause in words.LINES else min(sign.weight, WRITTEN)
    return Clue(sign.cause, sign.role, weight, proof, spot, sign.cure, host=named or host)


def _of_exception(found: traces.Exc, proof: Proof, spot: tuple[int, int], host: str, at: str = "~") -> Clue:
    """The clue of one exception. One that was handled weighs little; in a chain the first is nearest to the root."""
    cause, role, weight, cure = _kind_of(found)
    if not found.ended and weight < words.SURE:
        weight = min(weight, HANDLED if role == ROOT else weight)
    if found.bare and cause == "bug":
        weight = BARE
    if found.handled and words.PLAIN < weight <= words.TYPED:
        weight -= 0.1  # of two that say equally much, the one that was not handled
    return Clue(cause, role, weight, proof, spot, cure, at, host, found.kind, found.message)


def _kind_of(found: traces.Exc) -> tuple[str, str, float, str]:
    sign = _sign_of(found.text, signs.SIGNS)
    short = found.kind.rsplit(".", 1)[-1]
    if sign is not None:
        return sign.cause, sign.role, sign.weight, sign.cure
    if short in words.TYPES:
        return words.TYPES[short], ROOT, words.TYPED, ""
    if weak := _sign_of(found.text, words.WRITTEN):
        return weak.cause, weak.role, weak.weight, weak.cure
    return "bug", ROOT, words.PLAIN, ""


def _sign_of(text: str, table: tuple[Sign, ...]) -> Sign | None:
    return next((s for s in table if s.pattern.search(text)), None)


def _of_row(row: dict[str, Any], logs: list[Log], readings: list[traces.Reading]) -> Iterator[Clue]:
    """A failure row: its traceback's chain, or its type and message. The proof is the log's line where it has one."""
    message, kind = str(row.get("message", "")), str(row.get("type", ""))
    chain = [e for e in traces.read(str(row.get("traceback", ""))).raised if not e.ignored]
    if not chain or chain[-1].kind.rsplit(".", 1)[-1] != kind:
        chain = [*chain, traces.Exc(1, kind, message, 0)]
    else:
        chain[-1].message = message or chain[-1].message
    at, host = f"{row.get('at', '~')} {row.get('time', '')}".strip(), str(row.get("host", ""))
    for number, found in enumerate(chain):
        found.ended = True
        proof = _line_of(found, logs, readings) or Proof(str(row.get("path", "failure.json")), 1, _first(found.text))
        yield _of_exception(found, proof, (0, number), host, at)


def _line_of(found: traces.Exc, logs: list[Log], readings: list[traces.Reading]) -> Proof | None:
    wanted = _first(found.text)
    for log, reading in zip(logs, readings, strict=True):
        for line in range(len(reading.lines), 0, -1):
            if wanted and wanted in reading.lines[line - 1]:
                return Proof(log.path, log.first + line - 1, reading.lines[line - 1])
    return None


def _of_slurm(evidence: Evidence) -> Iterator[Clue]:
    for sign in words.SLURM:
        if sign.pattern.search(evidence.slurm):
            yield Clue(sign.cause, CONFIRMATION, sign.weight, Proof("slurm", 1, evidence.slurm), (9999, 1))
        for number, step in enumerate(evidence.steps, 1):
            if sign.cause in ("host_oom", "node_fault") and sign.pattern.search(step):
                text = f"step {number} of {len(evidence.steps)}: {step}"
                yield Clue(sign.cause, CONFIRMATION, sign.weight, Proof("slurm", 1 + number, text), (9999, 1 + number))
    code = 128 - evidence.code if evidence.code is not None and evidence.code < 0 else evidence.code
    if code in words.CODES:
        cause, weight = words.CODES[code]
        yield Clue(cause, CASCADE, weight, Proof("slurm", 1, f"exit code {code}"), (9999, 0))


def _verdict(best: Clue, clues: list[Clue], evidence: Evidence) -> Verdict:
    cause = CAUSES[best.cause]
    same = sorted((c for c in clues if c.cause == best.cause and c is not best), key=_rank)
    proofs = list(dict.fromkeys([best.proof, *(c.proof for c in same)]))
    thrown = best if best.raised else next((c for c in same if c.raised and c.weight > STAND_IN_MOST), None)
    hosts = [*evidence.hosts, *(str(r.get("host", "")) for r in evidence.failures)]
    host = (
        best.host
        or next((c.host for c in same if c.host), "")
        or (evidence.hosts[0] if len(evidence.hosts) == 1 else "")
    )
    return Verdict(
        cause=best.cause,
        cure=best.cure or cause.cure,
        proof=proofs[:MOST_PROOFS],
        exception=fingerprint(thrown.kind, thrown.message, hosts) if thrown else "",
        host=host,
        words=_said(best, cause.words),
        next=_own_next(best) or cause.next.replace("NODE", host or "NODE"),
    )


STAND_IN_MOST = words.STAND_IN
"""Cascades up to this weight are no exception of the program's own."""


def _said(best: Clue, general: str) -> str:
    said = (
        _first(f"{best.kind.rsplit('.', 1)[-1]}: {best.message}" if best.message else best.kind) if best.raised else ""
    )
    return f"{general}: {said[:200]}" if said else general


def _own_next(best: Clue) -> str:
    """The advice in the message itself, where one of our own errors speaks."""
    match = re.search(r"^\s*next: (.+)$", best.message, re.MULTILINE)
    return match.group(1).strip() if match else ""


def _first(text: str) -> str:
    return text.strip().split("\n", 1)[0]


def _unknown(evidence: Evidence) -> Verdict:
    cause = CAUSES["unknown"]
    proofs = []
    for log in evidence.logs:
        lines = log.text.split("\n")
        last = next((n for n in range(len(lines), 0, -1) if lines[n - 1].strip()), 0)
        if last:
            proofs.append(Proof(log.path, log.first + last - 1, lines[last - 1]))
    host = evidence.hosts[0] if len(evidence.hosts) == 1 else ""
    return Verdict("unknown", cause.cure, proofs[:MOST_PROOFS], "", host, cause.words, cause.next)
