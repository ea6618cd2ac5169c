"""The daemon's log: one line per event on stderr, as text or as JSON.

Rooms log through `logging.getLogger("tunneld.<room>")` and pass facts beside the message:
`extra={"fields": {"subnet": subnet, "reason": reason}}`. The names come from one closed
dictionary (`FIELDS`, explained in docs/logging.md), so that a query written today works tomorrow.

Decides how a line looks and that no secret is in it; never what is worth a line.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Literal, TextIO, cast, get_args

from tunneld.stderr import Writer

LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

LOG_FORMATS: Final[tuple[LogFormat, ...]] = get_args(LogFormat)
LOG_LEVELS: Final[tuple[LogLevel, ...]] = get_args(LogLevel)

HEAD: Final = ("time", "level", "room", "message")
"""Members of every JSON line, in this order; the fields follow."""

FIELDS: Final = frozenset(
    {
        "address",
        "attempt",
        "backend",
        "count",
        "datapath",
        "detail",
        "device",
        "endpoint",
        "entry",
        "error",
        "expires_at",
        "floor",
        "generation",
        "interface",
        "kind",
        "left_out",
        "mtu_bytes",
        "network",
        "node_id",
        "option",
        "path",
        "peer",
        "peers",
        "pid",
        "policy",
        "port",
        "prefix",
        "public_ip",
        "reason",
        "revision",
        "route",
        "signal",
        "size_bytes",
        "state",
        "store",
        "subnet",
        "ttl_s",
        "version",
        "wait_s",
        "worker",
    }
)
"""Every name a room may give a fact. Others are shown under `other`, where nobody looks first."""

SECRET: Final = frozenset({"key", "keys", "passphrase", "password", "psk", "secret", "token"})
"""Names whose values are never shown, alone or as the end of a longer name."""

HIDDEN: Final = "[hidden]"

_USER_INFO: Final = re.compile(r"(?<=://)[^/@\s]+@")
_PLAIN_VALUE: Final = re.compile(r"[^\s\"=]+")


def setup(
    level: LogLevel = "info", log_format: LogFormat = "text", stream: TextIO | None = None
) -> None:
    """Directs every log line of this process to `stream` (stderr when None), in one form.

    Python's own warnings become log lines too. May be called again; the last call counts.
    Lines to stderr leave by a thread of their own: nobody waits for its reader.
    """
    handler = logging.StreamHandler(stream) if stream is not None else _StderrHandler.of_process()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, JsonFormatter | TextFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)  # libraries speak up when something is wrong, not before
    logging.getLogger("tunneld").setLevel(level.upper())
    logging.captureWarnings(True)


def last_words(text: str) -> None:
    """Says on stderr, behind all lines of the log, why the process ends."""
    if _StderrHandler.writer is None:
        sys.stderr.write(f"{text}\n")
    else:
        _StderrHandler.writer.put(f"{text}\n")
        _StderrHandler.writer.flush()


def problem() -> str | None:
    """Returns why lines of the log are not written, in one line; None while they are."""
    return None if _StderrHandler.writer is None else _StderrHandler.writer.problem()


class _StderrHandler(logging.Handler):
    """Hands lines to the one writer of this process."""

    writer: ClassVar[Writer | None] = None

    @classmethod
    def of_process(cls) -> logging.Handler:
        if sys.stderr is None:  # closed at the start: its number may be another file's by now
            return logging.NullHandler()
        if cls.writer is None:
            cls.writer = Writer()
        handler = cls()
        cls.writer.lost = handler.lost
        return handler

    def emit(self, record: logging.LogRecord) -> None:
        """Takes a record. Never waits."""
        if self.writer is not None:
            self.writer.put(f"{self.format(record)}\n")

    def flush(self) -> None:
        """Waits a moment for what is not yet written; called at the end of the process."""
        if self.writer is not None:
            self.writer.flush()

    def lost(self, count: int) -> str:
        """Returns the line that tells of lines nobody read."""
        record = logging.LogRecord(
            "tunneld.log",
            logging.WARNING,
            __file__,
            0,
            "lines of the log are lost: nobody read it",
            None,
            None,
        )
        record.fields = {"count": count}
        return f"{self.format(record)}\n"


class TextFormatter(logging.Formatter):
    """`time LEVEL room: message key=value ...`; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, without its end."""
        head = f"{_time(record)} {record.levelname:<7} {_room(record)}: {_message(record)}"
        facts = [f"{name}={_text_value(value)}" for name, value in _facts(record).items()]
        line = " ".join([head.replace("\n", "\\n"), *facts])
        trace = _trace(record)
        return line if trace is None else f"{line}\n{trace}"


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `HEAD`, then the fields, then `traceback` when there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, without its end."""
        line: dict[str, Any] = dict(
            zip(
                HEAD,
                (_time(record), record.levelname.lower(), _room(record), _message(record)),
                strict=True,
            )
        )
        other: dict[str, object] = {}
        for name, value in _facts(record).items():
            (line if name in FIELDS else other)[name] = _json_value(value)
        if other:
            line["other"] = other
        trace = _trace(record)
        if trace is not None:
            line["traceback"] = trace
        return json.dumps(line, ensure_ascii=False, separators=(",", ":"))


class Periodic:
    """Says whether a repeated condition is due for a line again: one budget for a condition.

    It is due when it begins, when its cause is another one, and otherwise once an interval.
    However often it begins again, and whatever its causes say, it is due `BURST` times at first
    and once an interval from then on; `left_out` counts the lines in between.

    The clock is the caller's; times are seconds on a clock that never goes back.
    """

    BURST: Final = 5

    def __init__(self, interval_s: float = 60.0) -> None:
        self._interval_s = interval_s
        self._told_at: float | None = None
        """When it was due last; None: it has not been since it began."""
        self._cause: object = None
        self._budget = float(self.BURST)
        self._counted_at = 0.0
        self._omitted = 0
        self.left_out = 0
        """How many lines were left out before the one that is due now."""

    def due(self, now: float, cause: object = None) -> bool:
        """Returns True when the condition, which `cause` has brought about, deserves a line now."""
        self._recover(now)
        is_told = self._told_at is not None and cause == self._cause
        if is_told and self._told_at is not None and now - self._told_at < self._interval_s:
            self._omitted += 1
            return False
        if not self._is_within_budget:
            self._omitted += 1
            return False
        self._budget -= 1.0
        self._told_at, self._cause = now, cause
        self.left_out, self._omitted = self._omitted, 0
        return True

    def overdue(self, now: float) -> bool:
        """Returns True, and counts as due, when lines were left out and the budget has recovered.

        For conditions of many instances: it lets the last of a flood be told too.
        """
        self._recover(now)
        return self._omitted > 0 and self._is_within_budget and self.due(now, object())

    def omissions(self) -> dict[str, int]:
        """Returns the field of the line that is due now, if lines were left out before it."""
        return {"left_out": self.left_out} if self.left_out else {}

    def clear(self) -> bool:
        """Forgets a condition that has ended, so that the next one is due within the budget.

        Returns True when it was told: then its end deserves a line as well.
        """
        was_told = self._told_at is not None
        self._told_at = self._cause = None
        return was_told

    def _recover(self, now: float) -> None:
        passed_s = max(0.0, now - self._counted_at)
        self._budget = min(self.BURST, self._budget + passed_s / self._interval_s)
        self._counted_at = now

    @property
    def _is_within_budget(self) -> bool:
        # Less than one by rounding is one.
        return self._budget >= 1.0 - 1e-9


class Condition:
    """A lack that lasts: a line when it begins, one when it ends, at most one a minute between.

    `problem` is for `daemon.report`. The clock is the caller's, as with `Periodic`.
    """

    def __init__(
        self, log: logging.Logger, begins: str, ends: str, level: int = logging.WARNING
    ) -> None:
        """`begins` and `ends` are the messages of the two lines, `level` the first one's."""
        self._log = log
        self._level = level
        self._begins = begins
        self._ends = ends
        self._budget = Periodic()
        self.problem: str | None = None
        """What is the matter, in one line; None: nothing."""

    def set(self, now_s: float, problem: str, **fields: object) -> None:
        """It is so, still or from now on; `fields` go into the line beside `error`."""
        self.problem = problem
        if self._budget.due(now_s, problem):
            facts = {**fields, "error": problem, **self._budget.omissions()}
            self._log.log(self._level, self._begins, extra={"fields": facts})

    def clear(self, **fields: object) -> None:
        """It is not so, or not any more."""
        self.problem = None
        if self._budget.clear():
            self._log.info(self._ends, extra={"fields": fields})


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _room(record: logging.LogRecord) -> str:
    return record.name.removeprefix("tunneld.")


def _message(record: logging.LogRecord) -> str:
    return _without_user_info(record.getMessage())


def _facts(record: logging.LogRecord) -> dict[str, object]:
    fields = cast("Mapping[str, object]", getattr(record, "fields", {}))
    return {
        name: HIDDEN if _is_secret(name) and value is not None else value
        for name, value in fields.items()
    }


def _is_secret(name: str) -> bool:
    return name.lower().replace("-", "_").rsplit("_", 1)[-1] in SECRET


def _trace(record: logging.LogRecord) -> str | None:
    if not record.exc_info or record.exc_info[1] is None:
        return None
    return _without_user_info("".join(traceback.format_exception(record.exc_info[1])).rstrip("\n"))


def _without_user_info(text: str) -> str:
    # An endpoint may be written as https://user:password@host.
    return _USER_INFO.sub(f"{HIDDEN}@", text)


def _json_value(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_json_value(item) for item in value]
    return _without_user_info(str(value))


def _text_value(value: object) -> str:
    if isinstance(value, list | tuple | set | frozenset):
        value = ",".join(str(item) for item in value)
    text = _without_user_info(str(value))
    return text if _PLAIN_VALUE.fullmatch(text) else json.dumps(text, ensure_ascii=False)
