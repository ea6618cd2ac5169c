"""A command-line parser that takes Go's spelling of options beside the usual one.

`-name`, `--name`, `-name=value`, `-name value`; a flag is true by its bare name and takes a value
only behind `=`. Errors are `UsageError`s: one line, with the known option most like the unknown.

Source: Go `flag` (parseOne), which flanneld's command line is read by.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, Final, NoReturn

from tunneld.config.options import (
    CONFIG_OPTION,
    DEFAULT_CONFIG_FILE,
    FLANNELD_IGNORED,
    OPTIONS,
    Group,
    Option,
)
from tunneld.errors import UsageError

_PREFIX: Final = "option:"
_IGNORED: Final = "ignored"

GROUP_TITLES: Final[dict[Group, str]] = {
    "store": "store",
    "control": "this daemon",
    "underlay": "underlay",
    "lease": "lease",
    "data path": "data path",
    "encryption": "encryption",
    "health": "health server",
    "log": "log",
}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reads Go-style options, in itself and in its subcommands."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - argparse's own
        settings.setdefault("allow_abbrev", False)
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**settings)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Brings the arguments of this parser, but not of its subcommands, into one spelling."""
        return super().parse_known_args(self._normalised(list(args or ())), namespace)

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Returns the arguments.

        Raises:
            UsageError: one is not known, is missing, or has a value that is not usable.
        """
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser: Parser = getattr(found, "parser", self)
            parser.error(_unknown(unknown[0], parser._long_names()))
        return found

    def error(self, message: str) -> NoReturn:
        """Refuses the command line."""
        raise UsageError(f"{message} (see: {self.prog} --help)")

    def _long_names(self) -> list[str]:
        return [
            name
            for action in self._actions
            if action.help is not argparse.SUPPRESS
            for name in action.option_strings
            if name.startswith("--")
        ]

    def _normalised(self, tokens: list[str]) -> list[str]:
        by_name = {
            name.lstrip("-"): action for action in self._actions for name in action.option_strings
        }
        # What follows a subcommand, or the command of `lab exec`, is not ours to read.
        ends_at_positional = any(
            action.nargs in (argparse.PARSER, argparse.REMAINDER)
            for action in self._actions
            if not action.option_strings
        )
        result: list[str] = []
        rest = iter(tokens)
        for word in rest:
            if word == "--" or (ends_at_positional and not word.startswith("-")):
                return [*result, word, *rest]
            name, equals, value = word.lstrip("-").partition("=")
            action = by_name.get(name) if word.startswith("-") else None
            if action is None or word.startswith("---"):
                result.append(word)
                continue
            spelling = max(action.option_strings, key=len)
            if equals:
                result.append(f"{spelling}={value}")
            elif isinstance(action, _FlagAction):
                result.append(f"{spelling}=true")
            elif action.nargs is None:
                # The next word is the value, also when it begins with a dash.
                following = next(rest, None)
                result.append(spelling if following is None else f"{spelling}={following}")
            else:
                result.append(spelling)
        return result


def add_options(parser: Parser, names: Iterable[str]) -> None:
    """Adds options of the table, in the table's order and under its groups."""
    wanted = set(names)
    for group, title in GROUP_TITLES.items():
        options = [o for o in OPTIONS if o.group == group and o.name in wanted]
        if options:
            section = parser.add_argument_group(title)
            for option in options:
                _add(section, option)
    parser.add_argument(
        f"--{CONFIG_OPTION}",
        dest=_PREFIX + CONFIG_OPTION,
        metavar="FILE",
        action="append",
        help=f"config file (default: {DEFAULT_CONFIG_FILE}, if it is there)",
    )
    parser.set_defaults(**{_IGNORED: []})


def add_store_options(parser: Parser, *more: str) -> None:
    """Adds the options every command takes that touches the store, and those named in `more`."""
    add_options(parser, [*(o.name for o in OPTIONS if o.group == "store"), *more])


def add_flanneld_options(parser: Parser) -> None:
    """Takes flanneld's options without a meaning here, so that its unit keeps working."""
    for name, is_flag in FLANNELD_IGNORED.items():
        parser.add_argument(
            f"--{name}",
            dest=_IGNORED,
            action=_IgnoredFlagAction if is_flag else _IgnoredAction,
            help=argparse.SUPPRESS,
        )


def option_texts(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Returns what the command line gave for options of the table, by name."""
    return {
        name.removeprefix(_PREFIX): texts
        for name, texts in vars(arguments).items()
        if name.startswith(_PREFIX) and texts
    }


def ignored_options(arguments: argparse.Namespace) -> list[str]:
    """Returns the options of flanneld without a meaning here that were given."""
    found: list[str] = getattr(arguments, _IGNORED, [])
    return found


class _FlagAction(argparse.Action):
    """Appends the value of a flag; `Parser` makes a bare name `name=true`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest) or []
        setattr(namespace, self.dest, [*before, values])


class _IgnoredAction(argparse.Action):
    """Remembers the option's name."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest) or []
        setattr(namespace, self.dest, [*before, option_string])


class _IgnoredFlagAction(_IgnoredAction, _FlagAction):
    """The same for a flag."""


def _add(section: argparse._ArgumentGroup, option: Option) -> None:
    default = f" (default: {option.default})" if option.default and not option.is_flag else ""
    section.add_argument(
        f"--{option.name}",
        dest=_PREFIX + option.name,
        metavar=option.metavar,
        action=_FlagAction if option.is_flag else "append",
        help=(option.help + default).replace("%", "%%"),
    )


def _unknown(token: str, names: Sequence[str]) -> str:
    if not token.startswith("-"):
        return f"unexpected argument {token!r}"
    name = "--" + token.lstrip("-").partition("=")[0]
    found = get_close_matches(name, names, n=1)
    hint = f"; did you mean {found[0]}?" if found else ""
    return f"unknown option {token.partition('=')[0]!r}{hint}"
