"""Recipe files -> resolved recipes: look-up by name, inheritance, overrides, and where each value came from.

hpc show s1_32b train.lr=2e-5
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

from hpc.errors import RecipeError, nearest
from hpc.recipe import schema, typed

Tree = dict[str, Any]
Kind = Literal["recipes", "sweeps", "profiles"]
FOLDERS = {"recipes": "recipes", "sweeps": "sweeps", "profiles": "sbatch/profiles"}


@dataclass
class Loaded:
    """A recipe file with its ancestors merged: plain `tree`, and for every dotted leaf the place that set it."""

    name: str
    path: Path
    tree: Tree
    origin: dict[str, str] = field(default_factory=dict)


def shelves(kind: Kind) -> list[Path]:
    """Folders where a bare name is looked up: the working folder, $HPC_PATH, the package's own copies."""
    home = Path(__file__).parents[2]
    share = Path(__file__).parents[1] / "share"
    own = share if share.is_dir() else home
    bases = [Path.cwd(), *(Path(p) for p in os.environ.get("HPC_PATH", "").split(os.pathsep) if p), own]
    unique = dict.fromkeys(base / FOLDERS[kind] for base in bases)
    return [p for p in unique if p.is_dir()]


def find(name: str, kinds: Sequence[Kind]) -> Path:
    """The YAML file called `name`: a path, or a bare name on the shelves of `kinds`, the first kind first.

    Raises:
        RecipeError: no such file; the message lists the nearest names.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return _path(name, kinds)
    for kind in kinds:
        for shelf in shelves(kind):
            if (shelf / f"{name}.yaml").is_file():
                return shelf / f"{name}.yaml"
    what = f'there is no {" or ".join(k.rstrip("s") for k in kinds)} called "{name}"'
    raise _missing(what, name, [shelf for kind in kinds for shelf in shelves(kind)])


def _path(name: str, kinds: Sequence[Kind]) -> Path:
    wanted = Path(name).expanduser()
    bases = [Path(), *(shelf.parents[FOLDERS[kind].count("/")] for kind in kinds for shelf in shelves(kind))]
    for base in bases:  # sweeps/mini.yaml also means the package's own copy
        if (base / wanted).is_file():
            return base / wanted
    beside = [base / wanted.parent for base in bases] if "/" in name else [Path()]
    shelved = [shelf for kind in kinds for shelf in shelves(kind)] if "/" not in name else []
    raise _missing(f"there is no file {name}", name, [*beside, *shelved])


def _missing(what: str, name: str, folders: Sequence[Path]) -> RecipeError:
    """The error for a file that is in none of `folders`, with those and the nearest names in them."""
    own = Path(name).expanduser()
    looked = [own.absolute()] if own.is_dir() else list(dict.fromkeys(f.absolute() for f in folders if f.is_dir()))
    return RecipeError(
        f"{name} is a folder, not a .yaml file" if own.is_dir() else what,
        where=", ".join(map(str, looked)) or f"no such folder, seen from {Path.cwd()}",
        why=nearest(re.sub(r"\.ya?ml?$", "", Path(name).name), {p.stem for f in looked for p in f.glob("*.yaml")}),
        next="use one of these names, or the path of an existing .yaml file",
    )


@cache
def _read(path: Path, stamp: tuple[int, int]) -> Tree:
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{path} is not valid YAML",
            where=str(path),
            why=" ".join(str(error).split()),
            next="correct the file at the line above",
        ) from None
    if not isinstance(tree, dict):
        raise RecipeError(
            f"{path} must hold a mapping of keys",
            where=str(path),
            why=f"it holds {tree!r:.60}",
            next="start from a copy of a shipped recipe",
        )
    absolute: Tree = _absolute(tree, path.resolve().parent)
    return absolute


def read(path: Path) -> Tree:
    """The mapping in a YAML file; text that begins with ./ or ../ is made relative to the file's folder."""
    stat = path.stat()
    return copy.deepcopy(_read(path, (stat.st_mtime_ns, stat.st_size)))


def _absolute(value: Any, folder: Path) -> Any:
    if isinstance(value, date):  # YAML reads 2024-01-01 as a date; recipes hold JSON values alone
        return str(value)
    if isinstance(value, dict):
        return {k: _absolute(v, folder) for k, v in value.items()}
    if isinstance(value, list):
        return [_absolute(v, folder) for v in value]
    if isinstance(value, str) and value.startswith(("./", "../")):
        return os.path.normpath(folder / value)
    return value


def load(name: str) -> Loaded:
    """The recipe `name` with its ancestors (`extends`) merged and its interpolations resolved."""
    loaded = inherit(find(name, ["recipes"]), ())
    loaded.tree = resolve(loaded.tree, str(loaded.path))
    return loaded


def inherit(path: Path, below: tuple[Path, ...]) -> Loaded:
    """A recipe file merged over the one it extends, interpolations as written; `below` are the files that led here."""
    if path.resolve() in below:
        chain = " -> ".join(p.stem for p in (*below, path))
        raise RecipeError(
            f"recipes extend each other in a circle: {chain}", where=str(path), next="remove one `extends` line"
        )
    tree = read(path)
    parent = tree.pop("extends", None)
    base = Loaded(path.stem, path, {})
    if parent is not None:
        beside = path.parent / f"{parent}.yaml"
        base = inherit(beside if beside.is_file() else find(str(parent), ["recipes"]), (*below, path.resolve()))
    normalise_seeds(tree)
    tree.setdefault("about", "")
    merged = merge(base.tree, tree)
    origin = {**base.origin, **{key: str(path) for key in leaves(tree)}}
    return Loaded(path.stem, path, merged, origin)


def normalise_seeds(tree: Tree) -> None:
    """A plain list of seeds means seeds of train."""
    if isinstance(tree.get("seeds"), list):
        tree["seeds"] = {"train": tree["seeds"]}


def merge(base: Any, over: Any) -> Any:
    """`over` laid on `base`: mappings merge key by key, anything else replaces; so does a mapping with a `name`."""
    if not isinstance(base, dict) or not isinstance(over, dict) or "name" in over:
        return copy.deepcopy(over)
    merged = dict(base)
    for key, value in over.items():
        merged[key] = merge(base[key], value) if key in base else copy.deepcopy(value)
    return merged


def put(tree: Tree, key: str, value: Any, *, where: str) -> None:
    """Merge `value` at a dotted key of `tree`, in place.

    Raises:
        RecipeError: the key leads through something that is not a mapping.
    """
    *path, last = key.split(".")
    for name in path:
        if tree.get(name) is None:
            tree[name] = {}
        tree = tree[name]
        if not isinstance(tree, dict):
            raise RecipeError(
                f'"{key}" leads through "{name}", which is not a mapping',
                where=where,
                why=f"{name} is {tree!r}",
                next="hpc show prints the recipe's keys",
            )
    tree[last] = merge(tree.get(last), value)


def parse_override(text: str) -> tuple[str, Any]:
    """'train.lr=2e-5' -> ('train.lr', 2e-05); the value is read as YAML."""
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise RecipeError(
            f'"{text}" is not an override', where="command line", next="write key=value, as train.lr=2e-5"
        )
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(
            f'the value of "{text}" is not valid YAML',
            where="command line",
            why=" ".join(str(error).split()),
            next="quote it: 'key=[1, 2]'",
        ) from None


def leaves(tree: Tree, prefix: str = "") -> list[str]:
    """Dotted keys of everything in `tree` that is not a mapping (empty mappings count)."""
    keys: list[str] = []
    for name, value in tree.items():
        inner = isinstance(value, dict) and value and "name" not in value
        keys += leaves(value, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return keys


def resolve(tree: Tree, where: str) -> Tree:
    """Interpolations (${train.lr}, ${oc.env:HOME}) replaced by their values, once, by OmegaConf."""
    if "${" not in repr(tree):
        return tree
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        resolved: Tree = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    except OmegaConfBaseException as error:
        raise RecipeError(
            "an interpolation cannot be resolved",
            where=where,
            why=str(error).splitlines()[0],
            next="correct the ${...} expression",
        ) from None
    return resolved


_SECTIONS: dict[str, Any] = {
    "data": schema.Data,
    "train": schema.Train,
    "generate": schema.Generate,
    "grade": schema.Grade,
    "seeds": schema.Seeds,
    "resources": schema.Placement,
}
_built: dict[tuple[str, str], Any] = {}


def build(tree: Tree, where: str) -> schema.Recipe:
    """The typed recipe of a plain tree. Sections seen before are shared: thousands of runs differ in few of them."""
    sections: Tree = {}
    for name, kind in _SECTIONS.items():
        value = tree.get(name)
        if isinstance(value, dict):
            cached = (name, repr(value))
            if cached not in _built:
                _built[cached] = typed.build(kind, value, key=name, where=where)
            sections[name] = _built[cached]
    rest = {k: v for k, v in tree.items() if k not in sections}
    recipe = typed.build(schema.Recipe, rest, where=where)
    for name, section in sections.items():
        setattr(recipe, name, section)
    _complete(recipe, where)
    return recipe


def _complete(recipe: schema.Recipe, where: str) -> None:
    if not recipe.model:
        raise RecipeError(
            '"model" is missing',
            where=where,
            why="every recipe trains or evaluates a model",
            next="set model: org/name, ./folder or run:RECIPE",
        )
    if recipe.train is not None and recipe.data is None:
        raise RecipeError(
            '"train" needs "data"', where=where, why="data is null", next="declare data, or set train: null"
        )
    if recipe.data is not None and bool(recipe.data.source) == bool(recipe.data.mix):
        raise RecipeError(
            '"data" needs either "source" or "mix"',
            where=where,
            why="both are given" if recipe.data.mix else "neither is given",
            next="keep one; hpc show lists the keys of data",
        )
