"""Submit a plan: one sbatch per piece, through submitit; said twice, it submits once. `hpc submit X --on PROFILE`.

submitit writes the script and calls sbatch; it ends at the node's door. What runs is the worker's own command line, not
a pickled callable: submitit moves its pickles to their names only after sbatch has answered, so a submit that is killed
in between would leave jobs that wait a minute for a pickle and die. The worker needs the job file alone.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpc import files
from hpc.cluster import ledger as ledgers
from hpc.cluster import local, pieces, queue, script
from hpc.cluster.cover import UNDECIDED, Cover, Plan, look
from hpc.cluster.ledger import Intent, Ledger, Piece
from hpc.cluster.profile import Profile
from hpc.errors import ClusterError

ROUNDS = 8
"""How often a submit steps back before another that began at the same moment."""
SBATCH_S = 120
"""An sbatch that has not answered by then is given up; if its jobs come all the same, they register themselves."""


@dataclass
class Submission:
    """What `submit` did: one row per sbatch, and what it left alone because it is there or on its way."""

    name: str
    submission: str
    profile: str
    dry_run: bool
    published: int = 0
    live: int = 0
    arrays: list[dict[str, Any]] = field(default_factory=list)

    @property
    def jobs(self) -> int:
        """Jobs submitted now."""
        return sum(len(a["indices"]) for a in self.arrays)

    def document(self) -> dict[str, Any]:
        """The JSON document of `hpc submit --json`."""
        return {**asdict(self), "jobs": self.jobs}


def submit(plan: Plan, profile: Profile, *, dry_run: bool = False) -> Submission:
    """Submit what is neither published nor on its way; failed, cancelled and lost jobs are submitted again.

    Args:
        dry_run: write the job files and return the texts, but submit nothing.

    Raises:
        ClusterError: no Slurm, a root that cannot be written to, sbatch refused (with its text), or another submit of
            these stages is at work.
    """
    if profile.kind == "slurm" and not dry_run and not shutil.which("sbatch"):
        raise queue.no_slurm("sbatch")
    _make_root(profile.root)
    for _ in range(ROUNDS):
        cover = _settled(plan, profile, dry_run)
        submission = ledgers.new_submission()
        result = Submission(plan["name"], submission, profile.name, dry_run, len(cover.published), len(cover.live))
        groups = pieces.group(pieces.todo(plan, profile, cover), submission, cover, profile.max_array_size)
        if not groups:
            return result
        rows = [_write(plan, profile, submission, g) for g in groups]
        intent = Intent(submission, plan["name"], profile.name, profile.kind, rows, path=ledgers.absolute(plan))
        if dry_run or _announce(intent, profile, cover):
            if not dry_run:
                _take_over(cover, groups, profile)
            send = _local if profile.kind == "local" else _slurm
            send(result, profile, groups, rows, cover)
            return result
        time.sleep(random.uniform(0.2, 2.0))  # two that met must not meet again
    raise _busy(profile, f"{ROUNDS} times another one began at the same moment")


def _make_root(root: Path) -> None:
    try:
        for folder in ("ledger", "jobs"):
            (root / folder).mkdir(parents=True, exist_ok=True)
            if not os.access(root / folder, os.W_OK):
                raise PermissionError(errno.EACCES, "you may not write there", str(root / folder))
    except OSError as error:
        raise ClusterError(
            "the folder for results cannot be made",
            where=str(root),
            why=f"{error.strerror}: {error.filename}",
            next="set HPC_ROOT (or the first of the profile's roots) to a folder that you can write to",
        ) from None


def texts(plan: Plan, profile: Profile) -> list[str]:
    """The sbatch scripts that submitting `plan` to an empty root would use, parents first. Touches nothing."""
    empty = Cover()
    groups = pieces.group(pieces.todo(plan, profile, empty), "SUBMISSION", empty, profile.max_array_size)
    return [_text(profile, "SUBMISSION", g, _dependency(g, {})) for g in groups]


def _settled(plan: Plan, profile: Profile, dry_run: bool, *, patience_s: float = 60.0) -> Cover:
    """What there is, once every earlier sbatch of these stages is decided.

    A live submit on this host is waited for. A piece whose submitter died before sbatch answered is decided here, as
    replaced; if its job has started and registered itself in the meantime, that stands, and it counts as on its way.
    """
    end = time.monotonic() + patience_s
    while True:
        cover = look(plan, profile)
        if any(j.word == UNDECIDED for j in cover.jobs):
            if time.monotonic() > end:
                raise _busy(profile, f"sbatch has not answered it for {patience_s:.0f} s")
            time.sleep(2.0)
        elif dry_run or not cover.undecided or not _replace(cover, profile):
            return cover


def _busy(profile: Profile, why: str) -> ClusterError:
    return ClusterError(
        "another `hpc submit` of these stages is at work",
        where=str(profile.root / "ledger"),
        why=why,
        next="wait for it, or stop it; then hpc submit again: nothing is submitted twice",
    )


def _announce(intent: Intent, profile: Profile, cover: Cover) -> bool:
    """Write the intent, then look whether another submit of these stages has done so since `cover`; if so, step back.

    Of two that write at once, at least one sees the other. (On a file system that shows names late, none may: then two
    jobs make the same artifact, and one of them is discarded at publication.)
    """
    Ledger(profile.root).intend(intent)
    keys = {k for p in intent.pieces for e in p.elements.values() for k in e["stages"]}
    ledger = Ledger(profile.root)
    fresh = [i for i in ledger.intents if i.submission not in {*cover.submissions, intent.submission}]
    rivals = [
        p
        for i in fresh
        for p in i.pieces
        if any(keys & set(e["stages"]) for e in p.elements.values())
        and "replaced" not in (ledger.decision(i.submission, p.name) or {})
    ]
    for piece in intent.pieces if rivals else []:
        ledger.decide(intent.submission, piece.name, {"replaced": "it stepped back for another submit"})
    return not rivals


def _replace(cover: Cover, profile: Profile) -> bool:
    """Decide undecided pieces as replaced. True if a job was faster and has registered itself."""
    ledger = Ledger(profile.root)
    why = {"replaced": "a later submit did not find it in the queue"}
    return any("replaced" not in ledger.decide(i.submission, p.name, why) for i, p in cover.undecided)


def _take_over(cover: Cover, groups: list[pieces.Piece], profile: Profile) -> None:
    """Withdraw the jobs that failed, vanished or wait in vain: they leave at once should Slurm start them again."""
    ledger = Ledger(profile.root)
    keys = {s["key"] for g in groups for t in g.jobs for s in t.stages}
    old = [j for j in cover.jobs if keys & set(j.stages)]
    ledger.withdraw([j.element for j in old if j.element not in ledger.withdrawn], "a later submit makes these stages")
    queue.cancel(sorted({j.job_id for j in old if j.queued and j.job_id}))


def _write(plan: Plan, profile: Profile, submission: str, group: pieces.Piece) -> Piece:
    """The job file of a piece; returns its row for the intent."""
    place, first = profile.place(group.kind), group.jobs[0]
    runs = _run_names(plan)
    document = {
        "submission": submission,
        "piece": group.name,
        "kind": group.kind,
        "plan": plan["name"],
        "profile": profile.name,
        "roots": [str(r) for r in profile.all_roots],
        "resources": first.resources,
        "max_restarts": profile.max_restarts,
        "python": place.python,
        "setup": place.setup,
        "env": profile.env,
        "elements": {str(t.index): _element(t, submission, runs) for t in group.jobs},
    }
    jobfile = _folder(profile, submission) / f"{group.name}.json"
    files.write_text(jobfile, json.dumps(document) + "\n")
    elements = {t.index: {"stages": [s["key"] for s in t.stages], "needs": t.needs} for t in group.jobs}
    name = f"{plan['name']}.{group.name}.{submission.rpartition('-')[2]}".replace("|", "_").replace(",", "_")
    return Piece(group.name, group.kind, name, str(jobfile), elements)


def _element(each: pieces.Todo, submission: str, runs: dict[str, str]) -> dict[str, Any]:
    after = [pieces.element(p, submission) for p in each.parents]
    return {
        "stages": [{**s, "run": runs.get(s["key"], s["recipe"])} for s in each.stages],
        "after": [list(a) for a in after],
        "needs": each.needs,
    }


def _run_names(plan: Plan) -> dict[str, str]:
    """For W&B: key -> RUN-STAGE[-TASK] for a stage of one run, RECIPE-STAGE[-TASK] for one that several share."""
    users: dict[str, list[str]] = {}
    for run in plan["runs"]:
        for keys in run["stages"].values():
            for key in keys.values() if isinstance(keys, dict) else [keys]:
                users.setdefault(key, []).append(run["name"])
    named = {s["key"]: users[s["key"]][0] if len(users.get(s["key"], [])) == 1 else s["recipe"] for s in plan["stages"]}
    return {s["key"]: "-".join(filter(None, [named[s["key"]], s["stage"], s["task"]])) for s in plan["stages"]}


def _folder(profile: Profile, submission: str) -> Path:
    return profile.root / "jobs" / submission


def _local(result: Submission, profile: Profile, groups: list[pieces.Piece], rows: list[Piece], cover: Cover) -> None:
    folder = _folder(profile, result.submission)
    files.write_json(
        folder / "submission.json",
        {
            "root": str(profile.root),
            "cores": profile.cores,
            "gpus": profile.node_gpus,
            "pieces": [g.name for g in groups],
        },
    )
    for group, row in zip(groups, rows, strict=True):
        result.arrays.append(_row(group, row, ""))
    if not result.dry_run:
        local.launch(folder)


def _slurm(result: Submission, profile: Profile, groups: list[pieces.Piece], rows: list[Piece], cover: Cover) -> None:
    ids = {j.element[:2]: j.job_id.partition("_")[0] for j in cover.jobs if j.job_id}
    for number, (group, row) in enumerate(zip(groups, rows, strict=True)):
        dependency = _dependency(group, ids)
        text = _text(profile, result.submission, group, dependency, row)
        result.arrays.append({**_row(group, row, text), "dependency": dependency})
        if not result.dry_run:
            job_id = _send(profile, result.submission, group, dependency, rows[number:])
            ids[(result.submission, group.name)] = result.arrays[-1]["job_id"] = job_id


def _send(profile: Profile, submission: str, group: pieces.Piece, dependency: str, rows: list[Piece]) -> str:
    """sbatch for the first of `rows`, the pieces that are left; its id goes into the ledger. Refused, it ends them all.

    Raises:
        ClusterError: sbatch refused, or another submit has replaced this piece meanwhile (the job is cancelled).
    """
    ledger = Ledger(profile.root)
    try:
        job_id = _sbatch(profile, submission, group, dependency, rows[0])
    except ClusterError:
        for rest in rows:
            ledger.decide(submission, rest.name, {"replaced": "sbatch refused"})
        raise
    standing = ledger.decide(submission, rows[0].name, {"job_id": job_id})
    if "replaced" in standing:
        queue.cancel([job_id])
        raise ClusterError(
            "another `hpc submit` has taken over",
            where=rows[0].job_name,
            why=standing["replaced"],
            next="hpc status shows what runs; submit again if something is missing",
        )
    return job_id


def _row(group: pieces.Piece, row: Piece, text: str) -> dict[str, Any]:
    return {
        "name": group.name,
        "kind": group.kind,
        "job_name": row.job_name,
        "jobfile": row.jobfile,
        "indices": sorted(row.elements),
        "text": text,
    }


def _dependency(group: pieces.Piece, ids: dict[tuple[str, str], str]) -> str:
    """Slurm's text: aftercorr by equal index, afterok for jobs that all of the piece wait for."""

    def base(piece: tuple[str, str]) -> str:
        return ids.get(piece, f"ID_OF_{piece[1]}")

    waits = group.waits
    ok = [*map(base, waits.whole), *(f"{base(w[:2])}_{w[2]}" for w in waits.ok)]
    return ",".join([*(f"aftercorr:{base(c)}" for c in waits.corr), *(["afterok:" + ":".join(ok)] if ok else [])])


def _parameters(profile: Profile, group: pieces.Piece, dependency: str, job_name: str) -> dict[str, Any]:
    indices = [t.index for t in group.jobs] if len(group.jobs) > 1 else None
    return script.parameters(
        group.kind, group.jobs[0].resources, profile, job_name=job_name, indices=indices, dependency=dependency
    )


def _line(profile: Profile, submission: str, group: pieces.Piece) -> str:
    alone = ["--index", str(group.jobs[0].index)] if len(group.jobs) == 1 else []
    jobfile = _folder(profile, submission) / f"{group.name}.json"
    return script.command(profile.place(group.kind).python or sys.executable, jobfile, *alone)


def _text(profile: Profile, submission: str, group: pieces.Piece, dependency: str, row: Piece | None = None) -> str:
    chosen = _parameters(profile, group, dependency, row.job_name if row else f"PLAN.{group.name}.SUBMISSION")
    return script.sbatch_text(chosen, _logs(profile, submission, group), _line(profile, submission, group))


def _logs(profile: Profile, submission: str, group: pieces.Piece) -> Path:
    return profile.root / "logs" / submission / group.name


def _sbatch(profile: Profile, submission: str, group: pieces.Piece, dependency: str, row: Piece) -> str:
    """Call sbatch through submitit; returns the job id."""
    from hpc.cluster import door  # submitit: 0.1 s, only where something is submitted

    chosen = _parameters(profile, group, dependency, row.job_name)
    logs = _logs(profile, submission, group)
    logs.mkdir(parents=True, exist_ok=True)
    return door.send(chosen, logs, _line(profile, submission, group), SBATCH_S)
