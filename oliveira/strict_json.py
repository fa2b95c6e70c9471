"""JSON from outside: finite numbers, whole Unicode text, bounded depth; anything else is a sentence."""

from __future__ import annotations

import json
import math
from typing import Any

MAX_DEPTH = 32  # nested lists and objects


def parse(data: bytes | str) -> Any:
    """The value. Raises `ValueError` with the reason."""
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.object[error.start]:#04x} at {error.start})") from None
    except ValueError as error:
        if "digits" in str(error):  # Python's own advice is not for the sender
            raise ValueError(_TOO_LARGE) from None
        raise
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [*item.keys(), *item.values()]
            elif isinstance(item, list):
                below += item
            elif isinstance(item, str) and not _is_unicode(item):
                raise ValueError("a string holds half a surrogate pair")
            elif isinstance(item, int | float) and not is_finite(item):
                raise ValueError(_TOO_LARGE)
        level = below
    if level:
        raise ValueError(_TOO_DEEP)
    return value


def is_finite(value: float) -> bool:
    """Also false for an integer that no float can hold."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def all_finite(value: Any) -> bool:
    """Every number in a JSON value."""
    if isinstance(value, dict):
        return all(map(all_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(all_finite, value))
    return not isinstance(value, int | float) or is_finite(value)


def in_words(value: Any) -> str:
    """What a JSON value is, in the words of JSON: who sent it need know no Python. Nothing of what it says is told."""
    match value:
        case None:
            return "missing or null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number" if is_finite(value) else "a number that no float can hold"
        case str():
            return "a text" if value.strip() else "an empty text"
        case list():
            return f"a list of {len(value)}"
    return "an object"


_TOO_LARGE = "a number is too large"
_TOO_DEEP = f"it is nested deeper than {MAX_DEPTH} levels"


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
