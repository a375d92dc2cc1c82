"""Plain YAML containers -> the schema's dataclasses; errors name the key, the type and the nearest valid name."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from functools import cache
from typing import Any, Literal, TypeVar, Union

from hpc.errors import RecipeError, nearest

T = TypeVar("T")
LEAVES = (str, int, float, bool, type(None))


def build(kind: type[T], tree: dict[str, Any], *, key: str = "", where: str = "") -> T:
    """An instance of the schema class `kind` from plain containers.

    Args:
        key: dotted key of `tree` in the recipe, for messages; where: the file or command it came from.

    Raises:
        RecipeError: an unknown key or a value of the wrong type.
    """
    if not isinstance(tree, dict):
        raise _wrong(key, "a mapping", tree, where, "")
    hints = _hints(typing.cast(Any, kind))
    for name in tree:
        if name not in hints:
            raise RecipeError(
                f'unknown key "{_dotted(key, name)}"',
                where=where,
                why=nearest(str(name), hints),
                next=f"hpc show lists every key with its meaning; correct or remove {name}",
            )
    docs, older = _docs(typing.cast(Any, kind)), _older(typing.cast(Any, kind))
    tree = {n: _renewed(older[n], v) if n in older else v for n, v in tree.items()}
    values = {n: _value(hints[n], v, _dotted(key, n), where, docs[n]) for n, v in tree.items()}
    for name, least in _bounds(typing.cast(Any, kind)).items():
        value = values.get(name)
        if isinstance(value, (int, float)) and not value >= least:
            raise _wrong(_dotted(key, name), f"at least {least}", value, where, docs[name])
    return kind(**values)


def plain(value: Any, kind: Literal["what", "how"] | None = None) -> Any:
    """The plain containers of a schema object; with `kind`, only its *what* or *how* fields (late ones if changed)."""
    if type(value) in LEAVES:
        return value
    if isinstance(value, list):
        return [plain(v, kind) for v in value]
    if isinstance(value, dict):
        return {k: plain(v, kind) for k, v in value.items()}
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    found = ((f, getattr(value, f.name)) for f in _fields(type(value)))
    return {f.name: plain(inner, kind) for f, inner in found if _counts(f, inner, kind)}


def _counts(field: dataclasses.Field[Any], value: Any, kind: str | None) -> bool:
    if kind is None:
        return True
    if field.metadata["kind"] != kind:
        return False
    return not (field.metadata["late"] and value == _default(field))


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


@cache
def _fields(kind: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind)


@cache
def _docs(kind: type) -> dict[str, str]:
    return {f.name: f.metadata.get("doc", "") for f in _fields(kind)}


@cache
def _older(kind: type) -> dict[str, dict[Any, Any]]:
    """Values once in use with what they mean today, of the fields that have some."""
    return {f.name: f.metadata["older"] for f in _fields(kind) if f.metadata.get("older")}


def _renewed(older: dict[Any, Any], value: Any) -> Any:
    """`value`, or what it means today; 1 is not true here."""
    known = isinstance(value, bool | str) and value in older
    return older[value] if known else value


@cache
def _bounds(kind: type) -> dict[str, float]:
    """Smallest values, of the fields that have one."""
    return {f.name: f.metadata["least"] for f in _fields(kind) if f.metadata.get("least") is not None}


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _dotted(key: str, name: str) -> str:
    return f"{key}.{name}" if key else str(name)


def _value(hint: Any, value: Any, key: str, where: str, doc: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _union(args, value, key, where, doc)
    if origin is Literal:
        if value in args and isinstance(value, type(args[args.index(value)])):
            return value
        raise _wrong(key, " or ".join(map(repr, args)), value, where, doc)
    if origin in (list, dict):
        return _container(origin, args, value, key, where, doc)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), {} if value is None else value, key=key, where=where)
    return _scalar(hint, value, key, where, doc)


def _union(args: tuple[Any, ...], value: Any, key: str, where: str, doc: str) -> Any:
    if value is None and type(None) in args:
        return None
    choices = [a for a in args if a is not type(None)]
    if isinstance(value, dict) and any(dataclasses.is_dataclass(a) for a in choices):
        choices = [a for a in choices if dataclasses.is_dataclass(a)]
    for choice in choices[:-1]:
        try:
            return _value(choice, value, key, where, doc)
        except RecipeError:
            continue
    try:
        return _value(choices[-1], value, key, where, doc)
    except RecipeError:
        if len(choices) == 1:
            raise
        raise _wrong(key, " or ".join(_name(a) for a in args), value, where, doc) from None


def _container(origin: Any, args: tuple[Any, ...], value: Any, key: str, where: str, doc: str) -> Any:
    if value is None:
        return origin()
    if not isinstance(value, origin):
        raise _wrong(key, "a list" if origin is list else "a mapping", value, where, doc)
    if origin is list:
        return [_value(args[0], v, f"{key}[{i}]", where, doc) for i, v in enumerate(value)]
    return {str(k): _value(args[1], v, _dotted(key, k), where, doc) for k, v in value.items()}


def _scalar(hint: Any, value: Any, key: str, where: str, doc: str) -> Any:
    if hint is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            number = float(value)  # YAML 1.1 reads 1e-5 (no dot) as text
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
    elif hint in (int, str, bool) and type(value) is hint:  # a bool is no int here
        return value
    raise _wrong(key, _name(hint), value, where, doc)


def _name(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
    return words.get(hint, "a mapping" if typing.get_origin(hint) is dict else str(getattr(hint, "__name__", hint)))


def _wrong(key: str, wanted: str, value: Any, where: str, doc: str) -> RecipeError:
    kind = "null" if value is None else f"{value!r} ({type(value).__name__})"
    return RecipeError(f'"{key}" must be {wanted}, not {kind}', where=where, why=doc, next=f"set {key} to {wanted}")
