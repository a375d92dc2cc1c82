"""What a plan needs of the Hugging Face hub, and whether the cache holds it whole. Reads files, never the network.

    from hpc.plan import hub
    hub.missing(document)          # what a job without network would not find: empty when the plan can be submitted

The cache is huggingface_hub's own: HUB/models--ORG--NAME/{refs/REVISION, snapshots/COMMIT/FILE -> ../../blobs/ETAG}.
`hpc fetch` adds HUB/models--ORG--NAME/hpc/COMMIT.json, the list of what it brought; a repository that another tool has
fetched is judged by its own index of weight shards.
"""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from hpc.files import canonical
from hpc.recipe import names

COMMIT = re.compile(r"[0-9a-f]{40}")
Kind = Literal["models", "datasets"]
Use = Literal["model", "tokenizer", "data"]


@dataclass(frozen=True)
class Need:
    """One repository of the hub at one revision, and which of its files are used.

    Attributes:
        kind: models or datasets.
        name: org/name.
        revision: a commit, or a branch or tag whose commit is not known here.
        use: a model's weights and tokenizer, its tokenizer and configuration alone, or the tables of a data set.
    """

    kind: Kind
    name: str
    revision: str
    use: Use

    @property
    def title(self) -> str:
        """org/name, with datasets/ before a data set: as the hub's own addresses have it."""
        return self.name if self.kind == "models" else f"datasets/{self.name}"

    @property
    def folder(self) -> Path:
        """The repository's folder in the cache."""
        return names.hub_cache() / f"{self.kind}--{self.name.replace('/', '--')}"

    @property
    def snapshot(self) -> Path | None:
        """The folder of its files; None where the commit is not known. It need not exist, or be whole."""
        commit = names.commit(self.kind, f"{self.name}@{self.revision}")
        return self.folder / "snapshots" / commit if COMMIT.fullmatch(commit) else None


def environment(place: str) -> dict[str, str]:
    """Variables that put the caches of Hugging Face libraries below `place`, a profile's `cache`; none if empty."""
    if not place:
        return {}
    home = Path(os.path.expandvars(place)).expanduser().absolute() / "huggingface"
    return {"HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub")}


def use(place: str) -> None:
    """Look for fetched repositories below `place` from here on, as the profile's jobs will.

    HF_HOME stays as it is: the login of `hf auth login` lies in it.
    """
    if place:
        os.environ["HF_HUB_CACHE"] = environment(place)["HF_HUB_CACHE"]


def needs(plan: dict[str, Any]) -> list[Need]:
    """Every repository that the stages to be made read, once each, in the plan's order.

    Data sets that a local file stands in for are left out, as in the keys.
    """
    stages = _to_make(plan)
    return _needs(stages, _sources(stages))


def files(plan: dict[str, Any]) -> list[str]:
    """Data files without a hub data set to stand in for them, that are neither a path nor in $HPC_DATA_DIR."""
    return _lost(_sources(_to_make(plan)))


def missing(plan: dict[str, Any]) -> list[str]:
    """What jobs without network would not find, one sentence each: repositories and data files."""
    stages = _to_make(plan)
    sources = _sources(stages)
    folder = os.environ.get("HPC_DATA_DIR", "") or "(not set)"
    lost = [f"{name}: the data file is not there (HPC_DATA_DIR={folder})" for name in _lost(sources)]
    return [*(f"{n.title}: {why}" for n in _needs(stages, sources) if (why := lack(n))), *lost]


def lack(need: Need) -> str:
    """Why a repository is not whole in the cache; empty if it is."""
    snapshot = need.snapshot
    if snapshot is None:
        return "not fetched, its commit is not known"
    if not snapshot.is_dir():
        return f"not fetched at {snapshot.name[:8]}"
    try:
        listed, trusted = _recorded(need, snapshot.name)
        wrong = sorted(n for n, size in listed.items() if size != _size(snapshot / n))
        wrong += [] if wrong or trusted else _absent(need, snapshot)
    except (OSError, ValueError) as error:  # unreadable, or a torn index: not whole
        return f"its cache cannot be read ({error})"
    return f"{wrong[0]} is missing or torn at {snapshot.name[:8]}{_more(wrong)}" if wrong else ""


def record(need: Need, commit: str) -> Path:
    """Where `hpc fetch` writes what it brought: {"use": ..., "files": {name: bytes}}."""
    return need.folder / "hpc" / f"{commit}.json"


def wanted(need_use: Use, listing: list[str]) -> list[str]:
    """The files of a repository that jobs read: no second format of the same weights, no pictures, no code."""
    if need_use == "data":
        return [n for n in listing if n.endswith(TABLES) or n in ("README.md", "dataset_infos.json")]
    top = [n for n in listing if "/" not in n]
    words = [n for n in top if n.endswith(WORDS)] + [n for n in listing if "/" in n and n.endswith(".jinja")]
    if need_use == "tokenizer":
        return [n for n in words if not n.endswith(".index.json")]
    weights = [n for n in top if n.endswith(".safetensors")]
    ours = [n for n in weights if not n.startswith("consolidated")] or weights
    ours = ours or [n for n in top if n.startswith("pytorch_model") and n.endswith(".bin")]
    return words + ours


TABLES = (".parquet", ".json", ".jsonl", ".csv", ".tsv", ".txt", ".arrow", ".gz", ".zst", ".xz", ".bz2", ".zip")
WORDS = (".json", ".jinja", ".model", ".tiktoken", "vocab.txt", "merges.txt")


def _to_make(plan: dict[str, Any]) -> list[dict[str, Any]]:
    keys = {key for job in plan["jobs"] for key in job["stages"]}
    return [s for s in plan["stages"] if s["key"] in keys]


def _needs(stages: list[dict[str, Any]], sources: list[dict[str, Any]]) -> list[Need]:
    found: dict[tuple[str, str, str], Need] = {}
    for need in [*_models(stages), *_tables(sources)]:
        place = (need.kind, need.name, need.revision)
        if need.use == "model" or place not in found:
            found[place] = need
    return list(found.values())


def _lost(sources: list[dict[str, Any]]) -> list[str]:
    named = {s["file"] for s in sources if s.get("file") and not s.get("hub")}
    return sorted(name for name in named if names.local_file(name) is None)


def _models(stages: list[dict[str, Any]]) -> Iterator[Need]:
    pairs = ((i["ref"], n == "tokenizer") for stage in stages for n, i in stage["inputs"].items() if "ref" in i)
    for reference, words in dict.fromkeys(pairs):
        name, _, revision = reference.partition("@")
        yield Need("models", name, revision or "main", "tokenizer" if words else "model")


def _tables(sources: list[dict[str, Any]]) -> Iterator[Need]:
    for source in sources:
        hub, file = source.get("hub"), source.get("file")
        if isinstance(hub, str) and hub and not (isinstance(file, str) and file and names.local_file(file)):
            yield Need("datasets", hub.partition("@")[0], names.commit("datasets", hub), "data")


def _sources(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every source that is read, arguments filled in: of data stages, of their tests, of generate's tasks.

    A thousand stages share a few trees (a plan's stages hold the same objects), so each is looked at once.
    """
    trees: dict[int, Any] = {}
    for stage in stages:
        what = stage.get("what", {})
        if stage["stage"] == "generate":
            source = what.get("task", {}).get("source")
            trees[id(source)] = source
        elif stage["stage"] == "data":
            asked = [_asked(canonical(t)) for t in what.get("decontaminate", [])]
            trees |= {id(tree): tree for tree in (what, *asked)}
    return [found for tree in trees.values() for found in _within(tree)]


def _within(tree: Any) -> list[dict[str, Any]]:
    if isinstance(tree, list):
        return [found for inner in tree for found in _within(inner)]
    if not isinstance(tree, dict):
        return []
    whole = {**_defaults(str(tree.get("name", ""))), **tree}
    minus = whole.get("minus") or []
    tasks = [_asked(canonical(t)) for t in (minus if isinstance(minus, list) else [minus])]
    own = [whole] if whole.get("hub") or whole.get("file") else []
    return [*own, *(found for inner in (*tree.values(), *tasks) for found in _within(inner))]


@cache
def _asked(task: str) -> Any:
    """The source of a task's questions; `task` is canonical JSON."""
    return names.task(json.loads(task), "data")["source"]


@cache
def _defaults(source: str) -> dict[str, Any]:
    """`file` and `hub` that a source function takes when it is told nothing else; read without importing it."""
    tree = _syntax(names.HOME / names.MODULES["source"])
    function = next((n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == source), None)
    if function is None:
        return {}
    pairs = zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return {a.arg: d.value for a, d in pairs if a.arg in ("file", "hub", "minus") and isinstance(d, ast.Constant)}


@cache
def _syntax(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _recorded(need: Need, commit: str) -> tuple[dict[str, int], bool]:
    """Sizes by name of what `hpc fetch` brought, and whether it brought all that this use needs."""
    path = record(need, commit)
    if not path.is_file():
        return {}, False
    found = json.loads(path.read_text(encoding="utf-8"))
    return found["files"], found["use"] in (need.use, "model")


def _absent(need: Need, snapshot: Path) -> list[str]:
    """Files that this use of a repository cannot do without, whoever fetched it."""
    if need.use == "data":
        there = any(p.name.endswith(TABLES) and p.exists() for p in snapshot.rglob("*"))
        return [] if there else ["every table"]
    lost = [] if (snapshot / "config.json").exists() else ["config.json"]
    if not any((snapshot / n).exists() for n in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        lost.append("tokenizer.json")
    return lost if need.use == "tokenizer" else [*lost, *_lost_weights(snapshot)]


def _lost_weights(snapshot: Path) -> list[str]:
    for whole in ("model.safetensors", "pytorch_model.bin"):
        index = snapshot / f"{whole}.index.json"
        if (snapshot / whole).exists():
            return []
        if index.exists():
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            return sorted(n for n in shards if not (snapshot / n).exists())
    return [] if any(p.exists() for p in snapshot.glob("*.safetensors")) else ["model.safetensors"]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1


def _more(wrong: list[str]) -> str:
    return f" (and {len(wrong) - 1} more files)" if len(wrong) > 1 else ""
