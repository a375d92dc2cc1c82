"""The jobs of a plan that nobody makes yet -> pieces, one sbatch each, with the jobs they wait for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from hpc.cluster.cover import Cover, Plan
from hpc.cluster.ledger import Element
from hpc.cluster.profile import Profile
from hpc.errors import ClusterError
from hpc.files import canonical

Spec = dict[str, Any]


@dataclass
class Change:
    """What a job gets that an earlier try did not have: more memory or time, other nodes, other settings of its stages.

    Settings are `how` settings by key of a stage: {KEY: {"micro_batch": 2}}. `why` is empty where nothing failed.
    """

    memory_gib: float = 0
    hours: float = 0
    exclude: list[str] = field(default_factory=list)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    why: str = ""

    def apply(self, resources: dict[str, Any]) -> dict[str, Any]:
        """Resources of the next try."""
        more = {n: v for n, v in (("memory_gib", self.memory_gib), ("hours", self.hours)) if v > resources[n]}
        return {**resources, **more, **({"exclude": self.exclude} if self.exclude else {})}


@dataclass(eq=False)
class Todo:
    """One job to submit: its stages that are neither published nor on their way, and the jobs that make its inputs.

    `depth` is the longest way to a job without parents among those to submit; -1 while not yet known.
    """

    kind: str
    array: str
    index: int
    stages: list[Spec]
    resources: dict[str, Any]
    change: Change = field(default_factory=Change)
    needs: list[str] = field(default_factory=list)
    parents: list[Todo | Element] = field(default_factory=list)
    depth: int = -1
    piece: str = ""


@dataclass
class Waits:
    """Dependencies that jobs of one sbatch share: pieces by equal index, whole pieces, single elements."""

    corr: list[tuple[str, str]]
    whole: list[tuple[str, str]]
    ok: list[Element]


@dataclass
class Piece:
    """Jobs of one sbatch, and what they wait for."""

    name: str
    kind: str
    jobs: list[Todo]
    waits: Waits


def todo(
    plan: Plan,
    profile: Profile,
    cover: Cover,
    changes: dict[str, Change] | None = None,
    held: Collection[str] = (),
    poisoned: Collection[str] = (),
) -> list[Todo]:
    """The jobs to submit, parents first.

    Args:
        changes: key -> what its job gets after a failure.
        held: keys that are not to be made; what needs them waits too.
        poisoned: nodes that no job is sent to.

    Raises:
        ClusterError: an input that is not published and that neither the plan nor a submitted job makes.
    """
    specs = {s["key"]: s for s in plan["stages"]}
    found: list[Todo] = []
    for job in (j for a in plan["arrays"] for j in a["jobs"]):
        keys = [k for k in job["stages"] if k not in cover.published and k not in cover.live and k not in held]
        if keys:
            stages, change = [specs[k] for k in keys], _merged([(changes or {}).get(k, Change()) for k in keys])
            change.exclude = sorted({*change.exclude, *poisoned})
            resources = change.apply(profile.resources(job["kind"], job["resources"]))
            found.append(Todo(job["kind"], job["array"], int(job["index"]), stages, resources, change))
    found = _possible(found, cover, set(held))
    makers = {s["key"]: t for t in found for s in t.stages}
    for each in found:
        _parents(each, makers, cover)
    for each in found:
        _measure(each, ())
    return sorted(found, key=lambda t: t.depth)


def _merged(changes: list[Change]) -> Change:
    """One change for all stages of a job."""
    whys = list(dict.fromkeys(c.why for c in changes if c.why))
    settings: dict[str, dict[str, Any]] = {}
    for change in changes:
        settings |= change.settings
    return Change(
        max(c.memory_gib for c in changes),
        max(c.hours for c in changes),
        sorted({n for c in changes for n in c.exclude}),
        settings,
        "; ".join(whys),
    )


def _possible(jobs: list[Todo], cover: Cover, held: set[str]) -> list[Todo]:
    """Jobs whose inputs do not wait for something that is held; a job loses the stages that do."""
    while held:
        late = {
            s["key"]
            for t in jobs
            for s in t.stages
            if any(i.get("key") in held and i["key"] not in cover.live for i in s["inputs"].values())
        } - cover.published.keys()
        if not late - held:
            break
        held |= late
    for each in jobs:
        each.stages = [s for s in each.stages if s["key"] not in held]
    return [t for t in jobs if t.stages]


def _parents(each: Todo, makers: dict[str, Todo], cover: Cover) -> None:
    own = {s["key"] for s in each.stages}
    inputs = [i["key"] for s in each.stages for i in s["inputs"].values() if "key" in i]
    each.needs = list(dict.fromkeys(k for k in inputs if k not in own and k not in cover.published))
    for key in each.needs:
        if key not in makers and key not in cover.live:
            raise ClusterError(
                f"nobody makes the input {key} of {each.stages[0]['stage']} {each.stages[0]['key']}",
                where=f"job {each.array}[{each.index}]",
                why="it is not published, not submitted, and not in this plan",
                next="hpc submit the whole recipe, without leaving out the stages it builds on",
            )
    each.parents = list(dict.fromkeys(makers[k] if k in makers else cover.live[k].element for k in each.needs))


def _measure(each: Todo, below: tuple[Todo, ...]) -> int:
    assert each not in below, "jobs wait for each other in a circle"
    if each.depth < 0:
        parents = [p for p in each.parents if isinstance(p, Todo)]
        each.depth = max((1 + _measure(p, (*below, each)) for p in parents), default=0)
    return each.depth


def group(jobs: list[Todo], submission: str, cover: Cover, max_array_size: int) -> list[Piece]:
    """Pieces, parents first: jobs of one array, chunk and dependency shape. Sets each job's piece and local index.

    Slurm's array index must stay below `max_array_size`: a job's own index is its plan index modulo that.
    """
    sizes = Counter(j.element[:2] for j in cover.jobs)
    done: list[Piece] = []
    for depth in range(1 + max((t.depth for t in jobs), default=-1)):
        chunks: dict[tuple[str, int], list[Todo]] = {}
        for each in (t for t in jobs if t.depth == depth):
            chunk, each.index = divmod(each.index, max_array_size)
            chunks.setdefault((each.array, chunk), []).append(each)
        for (array, _), members in chunks.items():
            for chosen in _alike(members, submission, sizes):
                number = sum(p.name == array or p.name.startswith(f"{array}-part") for p in done)
                name = f"{array}-part{number}" if number else array
                for each in chosen:
                    each.piece = name
                sizes[(submission, name)] = len(chosen)
                done.append(Piece(name, chosen[0].kind, chosen, _waits(chosen, submission, sizes)))
    return done


def _alike(members: list[Todo], submission: str, sizes: Counter[tuple[str, str]]) -> list[list[Todo]]:
    """Split jobs by what they wait for: the same elements, or each its own index of the same pieces."""
    by_elements: dict[Any, list[Todo]] = {}
    for each in members:
        asked = canonical(each.resources)  # a job that failed may ask for more than its siblings
        by_elements.setdefault((asked, tuple(sorted(_elements(each, submission)))), []).append(each)
    shapes: dict[Any, list[Todo]] = {}
    for (asked, waits), chosen in by_elements.items():
        corr, rest = _split(chosen[0], submission, sizes) if len(chosen) == 1 else ([], list(waits))
        shapes.setdefault((asked, tuple(corr), tuple(rest)), []).extend(chosen)
    return list(shapes.values())


def _split(each: Todo, submission: str, sizes: Counter[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[Element]]:
    """The pieces of which a job waits for its own index alone, and all other elements that it waits for."""
    waits = sorted(_elements(each, submission))
    counts = Counter(w[:2] for w in waits)
    corr = [w[:2] for w in waits if counts[w[:2]] == 1 and w[2] == each.index and sizes[w[:2]] > 1]
    return corr, [w for w in waits if w[:2] not in corr]


def _waits(chosen: list[Todo], submission: str, sizes: Counter[tuple[str, str]]) -> Waits:
    """What jobs of one shape wait for. A plain job has no index of its own, so it names its parents' elements."""
    same = len({tuple(sorted(_elements(t, submission))) for t in chosen}) == 1
    corr, rest = ([], sorted(_elements(chosen[0], submission))) if same else _split(chosen[0], submission, sizes)
    counts = Counter(w[:2] for w in rest)
    whole = [p for p in counts if counts[p] == sizes[p]]
    return Waits(corr, whole, [w for w in rest if w[:2] not in whole])


def _elements(each: Todo, submission: str) -> list[Element]:
    return [element(p, submission) for p in each.parents]


def element(parent: Todo | Element, submission: str) -> Element:
    """Where a parent runs: (submission, piece, index)."""
    return (submission, parent.piece, parent.index) if isinstance(parent, Todo) else parent
