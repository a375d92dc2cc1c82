"""Submit a plan: one sbatch per piece, through submitit; said twice, it submits once. `hpc submit X --on PROFILE`.

submitit writes the script and calls sbatch; it ends at the node's door. What runs is the worker's own command line, not
a pickled callable: submitit moves its pickles to their names only after sbatch has answered, so a submit that is killed
in between would leave jobs that wait a minute for a pickle and die. The worker needs the job file alone.
"""

from __future__ import annotations

import errno
import os
import random
import shlex
import shutil
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpc import files
from hpc.cluster import jobfile, judge, local, mend, pieces, queue, script, snapshot
from hpc.cluster import ledger as ledgers
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
    """What `submit` did: one row per sbatch, and what it left alone because it is there, on its way or held.

    held: key -> why a failed stage is not tried again. changed: why jobs were submitted with new options.
    later: jobs that wait for room in the queue (max_submit). mender: the id of its job.
    """

    name: str
    submission: str
    profile: str
    dry_run: bool
    published: int = 0
    live: int = 0
    arrays: list[dict[str, Any]] = field(default_factory=list)
    held: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    later: int = 0
    mender: str = ""

    @property
    def jobs(self) -> int:
        """Jobs submitted now."""
        return sum(len(a["indices"]) for a in self.arrays)

    def document(self) -> dict[str, Any]:
        """The JSON document of `hpc submit --json`."""
        return {**asdict(self), "jobs": self.jobs}


def submit(
    plan: Plan,
    profile: Profile,
    *,
    dry_run: bool = False,
    again: Collection[str] = (),
    mender: bool = False,
    rounds: int = 0,
) -> Submission:
    """Submit what is neither published nor on its way; failed, cancelled and lost jobs are submitted again.

    Args:
        dry_run: write the job files and return the texts, but submit nothing.
        again: keys to try again even if the same exception came twice.
        mender: called by the mender's job, which tries again only what its cause allows.
        rounds: how often menders have tried failed jobs of this sweep again.

    Raises:
        ClusterError: no Slurm, a root that cannot be written to, sbatch refused (with its text), or another submit of
            these stages is at work.
    """
    if profile.kind == "slurm" and not dry_run and not shutil.which("sbatch"):
        raise queue.no_slurm("sbatch")
    _make_root(profile.root)
    for _ in range(ROUNDS):
        cover = _settled(plan, profile, dry_run)
        judgement = judge.judge(plan, profile, cover, again=again, mender=mender)
        if judgement.rebuild and not dry_run:
            plan, cover = _rebuilding(plan, profile, judgement.rebuild)
        if rounds >= mend.ROUNDS:  # only what did not fail itself is still submitted
            tried = {k: c.why for k, c in judgement.changes.items() if c.why}
            judgement.held |= {k: f"{rounds} rounds of the mender: {why}" for k, why in tried.items()}
        submission = ledgers.new_submission()
        result = Submission(plan["name"], submission, profile.name, dry_run, len(cover.published), len(cover.live))
        result.held = judgement.held
        jobs = pieces.todo(plan, profile, cover, judgement.changes, judgement.held, judgement.poisoned)
        result.changed = {t.stages[0]["key"]: t.change.why for t in jobs if t.change.why}
        jobs, result.later = (jobs, 0) if dry_run else _room(jobs, profile)
        groups = pieces.group(jobs, submission, cover, profile.max_array_size)
        if not groups and not (result.later and _mends(profile)):
            return result
        code = snapshot.take(profile.root)
        rows = [jobfile.write(plan, profile, submission, g, code) for g in groups]
        last = [jobfile.write_plan(plan, profile, submission, rounds + bool(result.changed))] if _mends(profile) else []
        intent = Intent(
            submission, plan["name"], profile.name, profile.kind, [*rows, *last], path=ledgers.absolute(plan)
        )
        if dry_run or _announce(intent, profile, cover):
            if not dry_run:
                _take_over(cover, groups, profile)
            if profile.kind == "local":
                _local(result, profile, groups, rows)
            else:
                _slurm(result, profile, groups, [*rows, *last], cover, code)
            return result
        time.sleep(random.uniform(0.2, 2.0))  # two that met must not meet again
    raise _busy(profile, f"{ROUNDS} times another one began at the same moment")


def _rebuilding(plan: Plan, profile: Profile, inputs: list[dict[str, str]]) -> tuple[Plan, Cover]:
    """Plan and cover once `inputs` that are gone or damaged have been put back on the plan."""
    gone = mend.set_aside(profile, inputs)
    plan = mend.with_makers(plan, profile, gone)
    cover = look(plan, profile)
    for key in gone:  # its job is done, and what it published is gone: nobody makes it now
        cover.live.pop(key, None)
    return plan, cover


def _mends(profile: Profile) -> bool:
    return profile.kind == "slurm" and profile.mend


def _room(jobs: list[pieces.Todo], profile: Profile) -> tuple[list[pieces.Todo], int]:
    """The jobs that the queue has room for, parents first, and how many must wait for the mender.

    What counts is all that the user has in the queue, other sweeps and a mender that runs at this moment included.
    """
    if profile.max_submit is None or profile.kind == "local":
        return jobs, 0
    queued = queue.run(["squeue", "--me", "-h", "-r", "-t", "PENDING,RUNNING,COMPLETING", "-o", "%i"]).split()
    room = max(0, profile.max_submit - len(queued) - _mends(profile))
    return jobs[:room], len(jobs[room:])


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
    empty, code = Cover(), profile.root / "code" / "SNAPSHOT"
    groups = pieces.group(pieces.todo(plan, profile, empty), "SUBMISSION", empty, profile.max_array_size)
    return [_text(profile, "SUBMISSION", g, _dependency(g, {}), f"PLAN.{g.name}.SUBMISSION", code) for g in groups]


def _settled(plan: Plan, profile: Profile, dry_run: bool, *, patience_s: float = 60.0) -> Cover:
    """What there is, once every earlier sbatch of these stages is decided.

    A live submit on this host is waited for. A piece whose submitter died before sbatch answered is decided here, as
    replaced; if its job has started and registered itself in the meantime, that stands, and it counts as on its way.
    """
    end = time.monotonic() + patience_s
    while True:
        cover = look(plan, profile)
        if not dry_run:
            queue.release(cover.stuck)
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


def _local(result: Submission, profile: Profile, groups: list[pieces.Piece], rows: list[Piece]) -> None:
    folder = jobfile.folder(profile, result.submission)
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


def _slurm(
    result: Submission, profile: Profile, groups: list[pieces.Piece], rows: list[Piece], cover: Cover, code: Path
) -> None:
    """One sbatch per piece, then the mender's."""
    ids = {j.element[:2]: j.job_id.partition("_")[0] for j in cover.jobs if j.job_id}
    for number, group in enumerate(groups):
        dependency = _dependency(group, ids)
        if "ID_OF_" in dependency and not result.dry_run:
            raise ClusterError(
                f"{group.name} waits for jobs that Slurm does not know",
                where=str(profile.root / "ledger"),
                why=f"its inputs are being made by local processes: {dependency}",
                next="wait for them (hpc status --on local), or take another HPC_ROOT for this profile",
            )
        chosen = _parameters(profile, result.submission, group, dependency, rows[number].job_name, code)
        body = _body(profile, result.submission, group)
        logs = jobfile.logs(profile, result.submission, group.name)
        text = script.sbatch_text(chosen, logs, body)
        result.arrays.append({**_row(group, rows[number], text), "dependency": dependency})
        if not result.dry_run:
            job_id = _send(profile, result.submission, chosen, body, logs, rows[number:])
            ids[(result.submission, group.name)] = result.arrays[-1]["job_id"] = job_id
    if len(rows) > len(groups) and not result.dry_run:
        live = {j.job_id.partition("_")[0] for j in cover.live.values() if j.job_id}
        waits = sorted({*live, *(a["job_id"] for a in result.arrays)}, key=int)
        avoid = sorted({n for g in groups for n in g.jobs[0].resources.get("exclude", [])})
        result.mender = _send_mender(profile, result.submission, rows[-1], waits, code, avoid)


def _send_mender(profile: Profile, submission: str, row: Piece, waits: list[str], code: Path, avoid: list[str]) -> str:
    resources = {**profile.resources(jobfile.MENDER, {"gpus": 0, "nodes": 1, "ranks": 1}), "exclude": avoid}
    logs = jobfile.logs(profile, submission, row.name)
    chosen = script.parameters(
        jobfile.MENDER,
        resources,
        profile,
        job_name=row.job_name,
        logs=logs,
        dependency=f"afterany:{':'.join(waits)}" if waits else "",
        code=code,
    )
    if not waits:  # the queue is full of other sweeps: look again later
        chosen["additional_parameters"]["begin"] = "now+5minutes"
    body = f"export HPC_TRY=0\n{script.line(profile.place(jobfile.MENDER).python or '', 'mend', row.jobfile)}"
    return _send(profile, submission, chosen, body, logs, [row])


def _send(profile: Profile, submission: str, chosen: dict[str, Any], body: str, logs: Path, rows: list[Piece]) -> str:
    """sbatch for the first of `rows`, the pieces that are left; its id goes into the ledger. Refused, it ends them all.

    Raises:
        ClusterError: sbatch refused, or another submit has replaced this piece meanwhile (the job is cancelled).
    """
    from hpc.cluster import door  # submitit: 0.1 s, only where something is submitted

    ledger = Ledger(profile.root)
    try:
        logs.mkdir(parents=True, exist_ok=True)
        job_id = door.send(chosen, logs, body, SBATCH_S)
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


def _parameters(
    profile: Profile, submission: str, group: pieces.Piece, dependency: str, job_name: str, code: Path
) -> dict[str, Any]:
    return script.parameters(
        group.kind,
        group.jobs[0].resources,
        profile,
        job_name=job_name,
        logs=jobfile.logs(profile, submission, group.name),
        indices=[t.index for t in group.jobs] if len(group.jobs) > 1 else None,
        index=group.jobs[0].index,
        dependency=dependency,
        code=code,
        save_s=script.warned_s(s for t in group.jobs for s in t.stages),
    )


def _body(profile: Profile, submission: str, group: pieces.Piece) -> str:
    """The batch script's own lines for a piece."""
    place, index = profile.place(group.kind), group.jobs[0].index if len(group.jobs) == 1 else None
    path = jobfile.folder(profile, submission) / f"{group.name}.json"
    arguments = shlex.join([str(path), *(["--index", str(index)] if index is not None else [])])
    logs = shlex.quote(f"{jobfile.logs(profile, submission, group.name)}/")
    return script.body(place, profile, logs, place.python or "", arguments, index)


def _text(profile: Profile, submission: str, group: pieces.Piece, dependency: str, name: str, code: Path) -> str:
    chosen = _parameters(profile, submission, group, dependency, name, code)
    logs = jobfile.logs(profile, submission, group.name)
    return script.sbatch_text(chosen, logs, _body(profile, submission, group))
