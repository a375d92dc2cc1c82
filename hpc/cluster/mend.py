"""The mender: a sweep's last job. It looks at what failed, submits it again with what the cause asks for, then reports.

    python -P -u -m hpc.cluster.mend ROOT/jobs/SUBMISSION/plan.json

It runs `afterany` on all jobs of its submission. Clusters whose nodes may not call sbatch set mend: false; there
`hpc submit` on the login node does the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Collection
from pathlib import Path

from hpc import artifact
from hpc.cluster import jobfile, requeue
from hpc.cluster.cover import SETTLING, Plan, look
from hpc.cluster.ledger import Ledger
from hpc.cluster.profile import Profile
from hpc.cluster.shift import document
from hpc.errors import ArtifactError, ClusterError

ROUNDS = 3
"""How often menders of one sweep submit failed jobs again."""
COMES = 3
"""How often a mender that Slurm does not let submit goes back to the queue."""
PAUSES_S = (10.0, 30.0, 60.0, 120.0)
"""Waits between tries where Slurm, or another submit, does not let it."""


def set_aside(profile: Profile, inputs: list[dict[str, str]]) -> list[str]:
    """Keys of `inputs` that must be made again: gone, or damaged (then they are moved aside first).

    Raises:
        ClusterError: a damaged one lies in somebody else's root.
    """
    keys = []
    for source in inputs:
        folder = artifact.find(profile.all_roots, source["stage"], source["key"])
        if folder is None:
            keys.append(source["key"])
            continue
        try:
            artifact.check(folder)
        except ArtifactError as error:
            if not folder.is_relative_to(profile.root):
                raise ClusterError(
                    "a damaged artifact lies in a root that is not yours",
                    where=str(folder),
                    why=error.why,
                    next="ask its owner to delete it, or take that root out of the profile's roots; then submit again",
                ) from None
            folder.rename(folder.with_name(f".purged-{uuid.uuid4().hex}"))
            keys.append(source["key"])
    return keys


def with_makers(plan: Plan, profile: Profile, keys: Collection[str]) -> Plan:
    """The plan, with jobs that make `keys` again, as the ledger knows them from when they were first made."""
    plan = {**plan, "stages": [*plan["stages"]], "arrays": [*plan["arrays"]]}
    planned = {k for a in plan["arrays"] for j in a["jobs"] for k in j["stages"]}
    intents = list(reversed(Ledger(profile.root).intents))
    wanted = [k for k in keys if k not in planned]
    while wanted:
        key = wanted.pop()
        found = [(p, i) for t in intents for p in t.pieces for i, e in p.elements.items() if key in e["stages"]]
        if key in planned or not found:
            continue
        planned.add(key)
        piece, index = found[0]
        content = document(Path(piece.jobfile))
        spec = next(s for s in content["elements"][str(index)]["stages"] if s["key"] == key)
        name = f"{piece.kind}-again-{key[:6]}"
        job = {"kind": piece.kind, "stages": [key], "resources": content["resources"], "array": name, "index": 0}
        plan["arrays"].append({"name": name, "kind": piece.kind, "jobs": [job], "parents": []})
        if key not in {s["key"] for s in plan["stages"]}:
            plan["stages"].append(spec)
        inputs = [i for i in spec["inputs"].values() if "key" in i]
        wanted += [i["key"] for i in inputs if not artifact.find(profile.all_roots, i["stage"], i["key"])]
    return plan


def main() -> int:
    """Mend the sweep whose plan.json is named on the command line; 0 if nothing is left to mend or it is on its way."""
    path = Path(sys.argv[1])
    plan, profile, rounds = jobfile.read_plan(path)
    ledger, submission = Ledger(profile.root), path.parent.name
    gone = "replaced" in ledger.decide(submission, jobfile.MENDER, {"job_id": "itself"})
    if gone or (submission, jobfile.MENDER, 0) in ledger.withdrawn:
        print("hpc: this mender leaves: its submission was replaced or cancelled", flush=True)
        return 0
    for pause_s in (*PAUSES_S, None):
        try:
            return mend(plan, profile, rounds)
        except ClusterError as error:  # a controller that restarts, a full queue, another submit: all pass
            print(f"hpc: the mender could not submit: {error}", flush=True)
            if pause_s is not None:
                time.sleep(pause_s)
    return _come_again()


def mend(plan: Plan, profile: Profile, rounds: int) -> int:
    """One look at the sweep: submit again what can be cured; when all is over, write the report."""
    from hpc.cluster.submit import submit  # it judges with hpc.cluster.judge

    _settle(plan, profile)
    sent = submit(plan, profile, mender=True, rounds=rounds)
    for key, why in sent.held.items():
        print(f"hpc: {key} is left: {why}", flush=True)
    print(f"hpc: mender, round {rounds}: {sent.jobs} job(s) submitted again, {len(sent.held)} held", flush=True)
    if not sent.jobs and not sent.later and not sent.live and plan.get("report") is not None:
        _report(plan, profile)
    return 1 if sent.held else 0


def _come_again() -> int:
    """Give the job back to the queue: nobody mends the mender."""
    if int(os.environ.get("SLURM_RESTART_COUNT", 0)) < COMES and "SLURM_JOB_ID" in os.environ:
        for pause_s in PAUSES_S:
            try:
                if not requeue.scontrol("requeue", os.environ["SLURM_JOB_ID"]).returncode:
                    time.sleep(60)  # Slurm ends this process meanwhile
                    break
            except (subprocess.TimeoutExpired, FileNotFoundError) as error:
                print(f"hpc: {error}", flush=True)
            time.sleep(pause_s)
    print("hpc: the mender gives up; hpc submit does the same", flush=True)
    return 1


def _settle(plan: Plan, profile: Profile) -> None:
    """Wait until the file system shows what finished jobs have published."""
    end = time.monotonic() + artifact.PATIENCE_S
    while any(j.word == SETTLING for j in look(plan, profile).jobs) and time.monotonic() < end:
        time.sleep(2.0)


def _report(plan: Plan, profile: Profile) -> None:
    from analysis import report

    page = report.build(plan, profile.all_roots, profile.root / "reports" / plan["name"])
    print(f"hpc: report: {page}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
