"""What a plan may cost at most: GPU-hours by its jobs' time limits. `hpc submit X` asks above confirm_gpu_hours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpc.cluster.profile import Profile

Plan = dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """GPU-hours if every job runs to its time limit, and the run that has most of them (shared jobs counted whole)."""

    gpu_hours: float
    run: str
    run_gpu_hours: float
    usd: float | None
    service_units: float | None

    def __str__(self) -> str:
        price = [f"{self.usd:,.0f} USD"] * (self.usd is not None)
        price += [f"{self.service_units:,.0f} SU"] * (self.service_units is not None)
        cost = f" ({', '.join(price)})" if price else ""
        costliest = f"the costliest run is {self.run}: {self.run_gpu_hours:,.1f}"
        return f"{self.gpu_hours:,.1f} GPU-hours at most{cost}; {costliest}"


def budget(plan: Plan, profile: Profile) -> Budget:
    """The budget of the jobs that `plan` has still to make.

    Raises:
        ClusterError: a job that this profile cannot give its resources.
    """
    users: dict[str, set[str]] = {s["key"]: set() for s in plan["stages"]}
    for run in plan["runs"]:
        for value in run["stages"].values():
            for key in value.values() if isinstance(value, dict) else [value]:
                users[key].add(run["name"])
    for stage in reversed(plan["stages"]):  # inputs come before what needs them
        for source in (i for i in stage["inputs"].values() if "key" in i):
            users[source["key"]] |= users[stage["key"]]
    total, by_run = 0.0, dict.fromkeys((r["name"] for r in plan["runs"]), 0.0)
    for job in (j for a in plan["arrays"] for j in a["jobs"]):
        resources = profile.resources(job["kind"], job["resources"])
        hours = resources["gpus"] * resources["hours"]
        total += hours
        for run in {r for key in job["stages"] for r in users[key]}:
            by_run[run] += hours
    costliest = max(by_run, key=lambda r: by_run[r], default="")
    usd, units = profile.usd_per_gpu_hour, profile.su_per_gpu_hour
    return Budget(
        total,
        costliest,
        by_run.get(costliest, 0.0),
        None if usd is None else usd * total,
        None if units is None else units * total,
    )
