"""JSON as flannel's programs read it: Go's `encoding/json`, where it differs from Python's.

Path of a lease: `store.format` (lease values) and `lease.network` (the config) -> **here**.
Pure. Decides only what a text means as JSON, never whether a member is wanted.

Go matches member names exactly or folded, and of several that match the last one counts.
It knows no NaN and no Infinity, and replaces a lone surrogate by U+FFFD.

Source: Go `encoding/json` (decode.go, fold.go).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from math import isfinite
from typing import Any, NoReturn, TypeAlias

Json: TypeAlias = Any
"""A decoded value: None, bool, int, float, str, list or dict."""

MAX_DEPTH = 64
"""Objects and lists inside each other. Go stops at 10,000; what goes on from here is walked and
written again by code that calls itself, and no lease or config needs more than a handful."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def loads(text: str) -> Json:
    """Returns the value of a JSON text; objects are dicts in the order of their last writing.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or holds a number no float holds.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_last_wins,
            parse_constant=_reject_constant,
            parse_float=_finite,
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    _check_depth(value)
    return _well_formed(value) if "\\ud" in text.lower() else value


def dumps(value: Json) -> str:
    """Returns compact JSON as Go writes it: no blanks, and `<`, `>`, `&` escaped in strings."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


@lru_cache(maxsize=256)
def fold(name: str) -> str:
    """Returns the form two member names share when Go takes them for the same."""
    # Go folds rune by rune; a full case folding would also make "ß" equal to "ss".
    return "".join(c if len(c.casefold()) != 1 else c.casefold() for c in name)


def member(obj: Mapping[str, Json], name: str, default: Json = None) -> Json:
    """Returns the member Go would decode into a field called `name`; `default` when absent."""
    wanted = fold(name)
    for key in reversed(list(obj)):
        if fold(key) == wanted:
            return obj[key]
    return default


def others(obj: Mapping[str, Json], names: Iterable[str]) -> dict[str, Json]:
    """Returns the members that none of `names` would take, in their order."""
    known = {fold(name) for name in names}
    return {key: value for key, value in obj.items() if fold(key) not in known}


def _last_wins(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result: dict[str, Json] = {}
    for key, value in pairs:
        # A repeated name takes its new place too: `member` goes by the order of writing.
        result.pop(key, None)
        result[key] = value
    return result


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"number {text} is out of range")
    return value


def _check_depth(value: Json) -> None:
    """Raises ValueError where containers lie more than `MAX_DEPTH` deep. Calls itself never."""
    level: list[Json] = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"nested too deeply: more than {MAX_DEPTH} objects and lists in each other")


def _well_formed(value: Json) -> Json:
    match value:
        case str():
            return _LONE_SURROGATE.sub(_REPLACEMENT, value)
        case list():
            return [_well_formed(item) for item in value]
        case dict():
            return {_well_formed(key): _well_formed(item) for key, item in value.items()}
        case _:
            return value
