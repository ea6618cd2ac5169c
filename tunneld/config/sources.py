"""Where the values of options come from: command line, environment, config file.

Each function returns the texts one source gives, by option name. None of them reads a value;
that is done once, for whichever source wins.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tunneld.config.options import BY_NAME, FLANNELD_IGNORED, OPTIONS, Option
from tunneld.errors import UsageError


@dataclass(frozen=True, slots=True)
class Given:
    """What a source says of one option."""

    texts: tuple[str, ...]
    where: str
    """Where it says so, for an error message."""


Source = Mapping[str, Given]

BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"
"""Some editors put it in front of a text; none of our formats begins with it."""


def from_arguments(arguments: Mapping[str, Sequence[str]]) -> Source:
    """Returns what the command line gives; the last value of an option that takes one counts."""
    given = {}
    for name, texts in arguments.items():
        option = BY_NAME.get(name)
        if option is None or not texts:
            continue
        kept = _split(option, texts) if option.splits_argument else list(texts)
        given[name] = Given(tuple(kept if option.is_list else kept[-1:]), f"--{name}")
    return given


def from_environment(environ: Mapping[str, str], prefix: str) -> Source:
    """Returns what the variables `<prefix><NAME>` give; an empty one counts as not set."""
    given = {}
    for option in OPTIONS:
        variable = prefix + option.environment
        text = environ.get(variable)
        if text:
            texts = _split(option, [text]) if option.separator else [text]
            given[option.name] = Given(tuple(texts), variable)
    return given


def from_file(path: Path, *, is_optional: bool = False) -> Source:
    """Returns what a config file gives; nothing where an optional one is not there.

    Raises:
        UsageError: the file cannot be read, is no TOML, or has a key or a type that is not known.
    """
    try:
        text = path.read_text("utf-8")
        if text.startswith(BOM):
            raise UsageError(
                f"the config file {path} begins with a byte order mark (U+FEFF); expected TOML: "
                "save it as UTF-8 without one"
            )
        content = tomllib.loads(text)
    except OSError as error:
        if is_optional and isinstance(error, FileNotFoundError | NotADirectoryError):
            return {}
        raise UsageError(
            f"cannot read the config file {path}: {error.strerror}; expected a file that this "
            "user may read: see the mode of the file and of its directories, or name another "
            "with --config"
        ) from error
    except RecursionError as error:
        raise UsageError(f"the config file {path} is nested too deeply for TOML") from error
    except ValueError as error:
        reason = str(error).replace("\n", " ")
        raise UsageError(f"the config file {path} is not valid TOML: {reason}") from error
    return {key: _from_item(key, value, path) for key, value in content.items()}


def ignored_flanneld_variables(environ: Mapping[str, str]) -> list[str]:
    """Returns the variables that are set for options of flanneld without a meaning here."""
    variables = ("FLANNELD_" + name.upper().replace("-", "_") for name in sorted(FLANNELD_IGNORED))
    return [variable for variable in variables if environ.get(variable)]


def unknown_variables(environ: Mapping[str, str], known: Iterable[str]) -> list[str]:
    """Returns the variables in our name that mean nothing: most likely misspelt."""
    expected = {f"TUNNELD_{option.environment}" for option in OPTIONS} | set(known)
    return sorted(name for name in environ if name.startswith("TUNNELD_") and name not in expected)


def nearest(name: str, names: Iterable[str]) -> str:
    """Returns the end of a message about an unknown name: the known one most like it."""
    found = get_close_matches(name, list(names), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def _from_item(key: str, value: Any, path: Path) -> Given:  # noqa: ANN401 - any TOML value
    option = BY_NAME.get(key)
    if option is None or not option.is_in_file:
        names = [option.name for option in OPTIONS if option.is_in_file]
        hint = nearest(key.replace("_", "-"), names)
        raise UsageError(f"unknown key {key!r} in the config file {path}{hint}")
    try:
        texts, shown = _texts(option, value), json.dumps(value, default=str)
    except ValueError:
        # Python writes no number of more than 4,300 digits.
        texts, shown = None, "a number of thousands of digits"
    if texts is None:
        expected = {"strings": "string or array of strings"}.get(option.file_type, option.file_type)
        raise UsageError(
            f"{key} in the config file {path}: {shown} has a wrong type; expected {expected}"
        )
    return Given(texts, f"{key} in the config file {path}")


def _texts(option: Option, value: object) -> tuple[str, ...] | None:
    match option.file_type, value:
        case "boolean", bool():
            return (str(value).lower(),)
        case "integer", int() if not isinstance(value, bool):
            return (str(value),)
        case "strings", str():
            return tuple(_split(option, [value])) if option.separator else (value,)
        case "strings", list() if value and all(isinstance(item, str) for item in value):
            return tuple(value)
        case "string", str():
            return (value,)
        case _:
            return None


def _split(option: Option, texts: Sequence[str]) -> list[str]:
    return [item.strip() for text in texts for item in text.split(option.separator)]
