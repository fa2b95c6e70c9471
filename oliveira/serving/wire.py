"""Messages between processes as one JSON object a line: their types say what a line may hold. Nothing executable.

A message is a frozen dataclass that `message` has given a tag: `{"op": "cancel", "id": "7"}` is `Cancel(id="7")`. What
is read is checked against the fields' types, lists and dictionaries to their members; a field of type `Any` is the
user's own JSON and is left alone.
"""

from __future__ import annotations

import dataclasses
import json
import operator
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, dataclass_transform

from oliveira.errors import OliveiraError

MAX_LINE = 16 << 20  # bytes; the front admits bodies far below this

M = TypeVar("M")
Read = Callable[[Any], Any]  # the value of a field from what JSON holds; raises `TypeError`


class _Form(NamedTuple):
    keys: tuple[str, ...]  # of JSON's object: that of the tag first, then the fields
    values: Callable[[Any], tuple[Any, ...]]
    scalars: list[tuple[str, frozenset[type]]]  # fields that are checked by their type alone
    others: list[tuple[str, Read]]
    known: frozenset[str]
    needed: frozenset[str]


_FORMS: dict[type, _Form] = {}
_TAGS: dict[tuple[str, str], type] = {}


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def message(key: str, tag: str) -> Callable[[type[M]], type[M]]:
    """Makes a class a message: `{key: tag, …fields}`."""

    def make(cls: type[M]) -> type[M]:
        made = dataclass(frozen=True, slots=True, kw_only=True)(cls)
        fields = dataclasses.fields(made)  # type: ignore[arg-type]
        hints = typing.get_type_hints(made)
        names = tuple(field.name for field in fields)
        missing = dataclasses.MISSING
        made._tag = tag  # type: ignore[attr-defined]
        _FORMS[made] = _Form(
            keys=(key, *names) if key else names,
            values=operator.attrgetter(*(("_tag",) if key else ()), *names, "_tag"),
            scalars=[(name, kinds) for name in names if (kinds := _scalar(hints[name])) is not None],
            others=[(name, _reader(hints[name])) for name in names if _scalar(hints[name]) is None],
            known=frozenset(names),
            needed=frozenset(f.name for f in fields if f.default is missing and f.default_factory is missing),
        )
        if key:
            assert (key, tag) not in _TAGS, f"two messages are called {tag}"
            _TAGS[key, tag] = made
        return made

    return make


@dataclass_transform(frozen_default=True, kw_only_default=True)
def part(cls: type[M]) -> type[M]:
    """Makes a class a part of messages: an object without a tag."""
    return message("", "")(cls)


def tagged(found: Any) -> dict[str, Any]:
    """A message, or a part of one, as JSON's object; parts within it are left."""
    form = _FORMS[type(found)]
    return dict(zip(form.keys, form.values(found)))  # noqa: B905 - one more value than keys: a tuple also of one field


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=tagged).encode
_decode = json.JSONDecoder().decode


def pack(messages: Iterable[Any]) -> bytes:
    """One line a message. Raises `ValueError` on NaN and on text that is not Unicode."""
    return b"".join([_encode(tagged(found)).encode() + b"\n" for found in messages])


def unpack(line: bytes, kind: type[M]) -> M:
    """The message of one line, of the side that `kind` names. Raises `OliveiraError`: the other side is broken."""
    if not line.endswith(b"\n") or len(line) > MAX_LINE:
        raise OliveiraError(f"a message of {len(line)} bytes is cut or longer than {MAX_LINE} bytes")
    try:
        found = _decode(line.decode())
    except ValueError as error:
        raise OliveiraError(f"a message is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise OliveiraError("a message is not a JSON object")
    key = "type" if "type" in found else "op"
    tag = found.pop(key, None)
    cls = _TAGS.get((key, tag)) if type(tag) is str else None
    if cls is None or not issubclass(cls, kind):
        raise OliveiraError(f"a message is none of {kind.__name__}: {key} is {str(tag)[:64]!r}")
    try:
        return _build(cls, found)
    except TypeError as error:
        raise OliveiraError(f"a message is no {tag!r}: {error}") from None


def _build(cls: type[M], found: dict[str, Any]) -> M:
    form = _FORMS[cls]
    if found.keys() != form.known:
        if not form.needed <= found.keys():
            raise TypeError(f"{min(form.needed - found.keys())} is missing")
        if not found.keys() <= form.known:
            raise TypeError(f"{min(found.keys() - form.known)[:64]} is unknown")
    for name, kinds in form.scalars:
        if name in found and type(found[name]) not in kinds:
            raise TypeError(f"{name} is a {type(found[name]).__name__}")
    for name, read in form.others:
        if name in found:
            try:
                found[name] = read(found[name])
            except TypeError as error:
                raise TypeError(f"{name}: {error}") from None
    return cls(**found)


def _scalar(hint: Any) -> frozenset[type] | None:
    """The types of JSON's values that a hint of plain values stands for."""
    if hint is float:
        return frozenset((float, int))
    if hint in (str, int, bool, types.NoneType):
        return frozenset((hint,))
    if isinstance(hint, types.UnionType):
        kinds = [_scalar(one) for one in typing.get_args(hint)]
        if all(one is not None for one in kinds):
            return frozenset().union(*(one for one in kinds if one is not None))
    return None


def _reader(hint: Any) -> Read:
    """How a value of a list, a dictionary, a part, or None in place of one of them is read."""
    kinds = _scalar(hint)
    if kinds is not None:
        return _only(kinds)
    if hint is Any:
        return lambda value: value
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        [one] = [arg for arg in inner if arg is not types.NoneType]
        read = _reader(one)
        return lambda value: None if value is None else read(value)
    if origin is list:
        return _list(inner[0])
    if origin is dict:
        members = _list(inner[1])
        return lambda value: dict(zip(_is(dict, value), members(list(value.values())), strict=True))
    return lambda value: _build(hint, dict(_is(dict, value)))


def _only(kinds: frozenset[type]) -> Read:
    def read(value: Any) -> Any:
        if type(value) not in kinds:
            raise TypeError(f"it is a {type(value).__name__}")
        return value

    return read


def _list(hint: Any) -> Read:
    kinds, read = _scalar(hint), None if hint is Any else _reader(hint)

    def of_scalars(value: Any) -> Any:
        if not set(map(type, _is(list, value))) <= (kinds or frozenset()):
            raise TypeError("a member is of another type")
        return value

    def of_others(value: Any) -> Any:
        return _is(list, value) if read is None else [read(one) for one in _is(list, value)]

    return of_others if kinds is None else of_scalars


def _is(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(f"it is no {kind.__name__}")
    return value
