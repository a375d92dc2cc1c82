"""Some runs of a plan: by name, glob, axis value or state. `hpc submit X --only 'data=s1,budget=w*' --only failed`.

A selector is one condition or several, joined by commas, that must all hold; several selectors add up. A condition is
a run's name (or a glob of it), AXIS=LABEL (or a glob of the label; of train.lr the last part is enough), or a state.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from hpc.errors import PlanError

STATES = ("published", "running", "pending", "failed", "cancelled", "new")
"""Words of `hpc status` that a selector may use. A run has a state as soon as one of its stages has it."""
SETTLED = ("published", "running", "pending")
"""States of stages that `submit --again` leaves alone."""
SHOWN = 12

Plan = dict[str, Any]


def needs_states(document: Plan, selectors: Sequence[str]) -> bool:
    """True if a selector names a state, so that `choose` must be told the states."""
    names = {run["name"] for run in document["runs"]}
    return any(c in STATES and c not in names for s in selectors for c in _conditions(s))


def choose(document: Plan, selectors: Sequence[str], states: Mapping[str, str] | None = None) -> Plan:
    """The plan of the selected runs alone: their stages, what these are made from, and the jobs that make them.

    Jobs keep their arrays and indices, so that what is submitted now and later is one array to the eye.

    Args:
        states: state by stage key, as hpc.cluster.status tells it; needed where `needs_states`.

    Raises:
        PlanError: a selector that matches no run; with the runs and axes that there are.
    """
    chosen: set[str] = set()
    for selector in selectors:
        found = [r["name"] for r in document["runs"] if _matches(r, selector, states or {})]
        if not found:
            raise _unmatched(document, selector)
        chosen.update(found)
    runs = [r for r in document["runs"] if r["name"] in chosen]
    return cut(document, runs, closure(document, [k for r in runs for k in keys_of(r)]))


def again(document: Plan, states: Mapping[str, str]) -> set[str]:
    """Keys of a (chosen) plan whose stages ended without a result: what `submit --again` makes anew.

    Raises:
        PlanError: there is none.
    """
    keys = {s["key"] for s in document["stages"] if states[s["key"]] not in (*SETTLED, "new")}
    if not keys:
        counts = sorted({states[s["key"]] for s in document["stages"]})
        raise PlanError(
            "nothing to do again",
            where=", ".join(r["name"] for r in document["runs"][:SHOWN]),
            why=f"no stage of these runs has failed or was cancelled; they are {', '.join(counts)}",
            next="hpc status shows all runs; hpc submit starts what is new",
        )
    return keys


def others(document: Plan, chosen: Plan) -> set[str]:
    """Keys that runs outside of `chosen` need: not to be cancelled with it."""
    names = {run["name"] for run in chosen["runs"]}
    return closure(document, [k for r in document["runs"] if r["name"] not in names for k in keys_of(r)])


def keys_of(run: Mapping[str, Any]) -> list[str]:
    """Keys of a run's own stages."""
    return [k for v in run["stages"].values() for k in (v.values() if isinstance(v, dict) else [v])]


def closure(document: Plan, keys: Iterable[str]) -> set[str]:
    """These keys and those of everything that they are made from."""
    inputs = {s["key"]: [i["key"] for i in s["inputs"].values() if "key" in i] for s in document["stages"]}
    left, found = list(keys), set[str]()
    while left:
        key = left.pop()
        if key not in found:
            found.add(key)
            left += inputs.get(key, [])
    return found


def cut(document: Plan, runs: Sequence[dict[str, Any]], needed: Collection[str]) -> Plan:
    """The plan of these runs and stages alone. Jobs and arrays lose what is not needed, and keep their indices."""
    stages = [s for s in document["stages"] if s["key"] in needed]
    jobs = _jobs(document["jobs"], needed)
    arrays = [{**a, "jobs": _jobs(a["jobs"], needed)} for a in document["arrays"]]
    arrays = [a for a in arrays if a["jobs"]]
    names = {a["name"] for a in arrays}
    for array in arrays:
        array["parents"] = [p for p in array["parents"] if p["array"] in names]
    made = {k for job in jobs for k in job["stages"]}
    unpinned = document.get("unpinned", [])
    told = json.dumps([s for s in stages if s["key"] in made]) if unpinned else ""
    counts = {
        "runs": len(runs),
        "stages": len(stages),
        "reused": sum(s.get("state") == "reused" for s in stages),
        "to_make": len(made),
        "jobs": len(jobs),
        "arrays": len(arrays),
    }
    return {
        **document,
        "runs": [{**r, "stages": _own(r["stages"], needed)} for r in runs],
        "stages": stages,
        "jobs": jobs,
        "arrays": arrays,
        "unpinned": [u for u in unpinned if u.removeprefix("datasets/") in told],
        "totals": {**dict.fromkeys(document["totals"]), **counts},  # what was predicted holds for the whole plan
    }


def _conditions(selector: str) -> list[str]:
    return [c.strip() for c in selector.split(",") if c.strip()]


def _matches(run: Mapping[str, Any], selector: str, states: Mapping[str, str]) -> bool:
    conditions = [selector] if run["name"] == selector else _conditions(selector)  # a name may have a comma
    return bool(conditions) and all(_holds(run, c, states) for c in conditions)


def _holds(run: Mapping[str, Any], condition: str, states: Mapping[str, str]) -> bool:
    if fnmatchcase(run["name"], condition):
        return True
    axis, equals, label = condition.partition("=")
    if equals:
        return any(axis in (a, a.rsplit(".", 1)[-1]) and fnmatchcase(v, label) for a, v in run["axes"].items())
    return condition in {states.get(k) for k in keys_of(run)}


def _jobs(jobs: Sequence[dict[str, Any]], needed: Collection[str]) -> list[dict[str, Any]]:
    cut = [{**job, "stages": [k for k in job["stages"] if k in needed]} for job in jobs]
    return [job for job in cut if job["stages"]]


def _own(stages: dict[str, Any], needed: Collection[str]) -> dict[str, Any]:
    """A run's keys, as far as they are needed."""
    held = {n: {t: k for t, k in v.items() if k in needed} if isinstance(v, dict) else v for n, v in stages.items()}
    return {n: v for n, v in held.items() if (v if isinstance(v, dict) else v in needed)}


def _unmatched(document: Plan, selector: str) -> PlanError:
    axes: dict[str, list[str]] = {}
    for run in document["runs"]:
        for axis, label in run["axes"].items():
            if label not in axes.setdefault(axis, []):
                axes[axis].append(label)
    names = [run["name"] for run in document["runs"]]
    rows = [f"{axis}: {', '.join(labels[:SHOWN])}" for axis, labels in axes.items()]
    close = difflib.get_close_matches(selector, names, n=1)
    hint = f'did you mean "{close[0]}"? ' if close else ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    why = f"{hint}runs: {', '.join(names[:SHOWN])}{more}"
    return PlanError(
        f'"{selector}" selects no run',
        where=document["name"],
        why="; ".join([why, *(["axes: " + " | ".join(rows)] if rows else [])]),
        next=f"give a run, a glob in quotes, AXIS=LABEL, or a state ({', '.join(STATES)})",
    )
