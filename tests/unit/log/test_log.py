"""The log's two forms, its closed dictionary, and what must never be in it."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import warnings
from pathlib import Path
from typing import Any

import pytest

from tunneld import log

pytestmark = pytest.mark.usefixtures("untouched_logging")

PACKAGE = Path(log.__file__).parent
LOGGING_MD = Path(__file__).parents[3] / "docs" / "logging.md"


def written(log_format: log.LogFormat, message: str, **fields: object) -> str:
    stream = io.StringIO()
    log.setup("info", log_format, stream)
    logging.getLogger("tunneld.lease").warning(message, extra={"fields": fields})
    return stream.getvalue()


def test_text_line_reads_time_level_room_message_fields() -> None:
    line = written("text", "subnet leased", subnet="10.5.1.0/24", ttl_s=5)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING lease: subnet leased"
        r" subnet=10\.5\.1\.0/24 ttl_s=5\n",
        line,
    )


def test_text_value_with_blanks_or_quotes_is_quoted() -> None:
    assert written("text", "m", error='no "route"\nto host').endswith(
        'error="no \\"route\\"\\nto host"\n'
    )


def test_message_with_line_ends_stays_one_line() -> None:
    assert written("text", "first\nsecond").count("\n") == 1


def test_json_line_is_one_object_with_head_first() -> None:
    line = written("json", "subnet leased", subnet="10.5.1.0/24", peers=3)
    assert line.count("\n") == 1
    value = json.loads(line)
    assert list(value) == ["time", "level", "room", "message", "subnet", "peers"]
    assert (value["level"], value["room"], value["peers"]) == ("warning", "lease", 3)


def test_field_outside_the_dictionary_lands_under_other() -> None:
    assert json.loads(written("json", "m", colour="red"))["other"] == {"colour": "red"}


@pytest.mark.parametrize("name", ["password", "psk", "key", "PSK", "etcd-password", "private_key"])
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_secret_field_is_hidden(log_format: log.LogFormat, name: str) -> None:
    line = written(log_format, "m", **{name: "s3cr3t"})
    assert "s3cr3t" not in line
    assert "[hidden]" in line


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_user_info_of_an_endpoint_is_hidden(log_format: log.LogFormat) -> None:
    url = "https://root:s3cr3t@192.0.2.1:2379"
    line = written(log_format, f"cannot reach {url}", endpoint=url)
    assert "s3cr3t" not in line
    assert "192.0.2.1:2379" in line


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_traceback_is_kept(log_format: log.LogFormat) -> None:
    stream = io.StringIO()
    log.setup("info", log_format, stream)
    try:
        raise LookupError("lost")
    except LookupError:
        logging.getLogger("tunneld.daemon").exception("ended")
    text = stream.getvalue()
    if log_format == "json":
        text = json.loads(text)["traceback"]
    assert "Traceback" in text
    assert "LookupError: lost" in text


def test_level_decides_for_our_rooms_and_libraries_stay_quiet() -> None:
    stream = io.StringIO()
    log.setup("debug", "text", stream)
    logging.getLogger("tunneld.store").debug("ours")
    logging.getLogger("somebody.else").info("theirs")
    assert "ours" in stream.getvalue()
    assert "theirs" not in stream.getvalue()


def test_second_setup_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    log.setup("info", "text", first)
    log.setup("info", "json", second)
    logging.getLogger("tunneld.x").info("once")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["message"] == "once"


def test_python_warnings_become_log_lines() -> None:
    stream = io.StringIO()
    log.setup("info", "text", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old call", ResourceWarning, stacklevel=1)
        logging.captureWarnings(False)
    assert "old call" in stream.getvalue()


def test_documented_dictionary_is_the_one_in_the_code() -> None:
    section = LOGGING_MD.read_text().split("## Fields")[1].split("## ")[0]
    documented = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert set(documented) == log.FIELDS
    assert documented == sorted(documented)


def names_logged(module: ast.Module) -> set[str]:
    """Returns the names in every dict written beside the word `fields`."""
    dicts = [
        value
        for node in ast.walk(module)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "fields" and isinstance(value, ast.Dict)
    ]
    keys = [key for found in dicts for key in found.keys]
    return {str(key.value) for key in keys if isinstance(key, ast.Constant)}


def test_rooms_use_no_field_outside_the_dictionary() -> None:
    unknown = {
        str(module.relative_to(PACKAGE)): names_logged(ast.parse(module.read_text())) - log.FIELDS
        for module in sorted(PACKAGE.rglob("*.py"))
    }
    assert not {module: names for module, names in unknown.items() if names}


def test_fields_of_a_log_call_are_found() -> None:
    call = 'log.info("m", extra={"fields": {"subnet": x, "peers": 3}})'
    assert names_logged(ast.parse(call)) == {"subnet", "peers"}


def test_repeated_condition_is_due_at_once_and_then_once_a_minute() -> None:
    periodic = log.Periodic()
    seconds = [t for t in range(200) if periodic.due(float(t), "store")]
    assert seconds == [0, 60, 120, 180]


def test_changed_cause_is_due_at_once_within_one_budget() -> None:
    periodic = log.Periodic()
    due = [n for n in range(600) if periodic.due(n / 10, f"cause {n}")]
    assert due == [0, 1, 2, 3, 4]
    assert periodic.due(60.0, "cause 600")
    assert periodic.left_out == 595
    assert not periodic.due(61.0, "cause 601")


def test_condition_that_ended_is_due_again_at_once() -> None:
    periodic = log.Periodic()
    assert not periodic.clear()
    assert periodic.due(0.0, "a")
    assert periodic.clear()
    assert periodic.due(1.0, "a")


def test_condition_that_comes_and_goes_has_one_budget_and_ends_only_where_it_was_told() -> None:
    periodic = log.Periodic()
    lines = 0
    for n in range(6_000):
        lines += periodic.due(n / 10, "a")
        lines += periodic.clear()
    assert lines <= 2 * (log.Periodic.BURST + 10)


def test_last_of_a_flood_is_told_once_the_budget_has_recovered() -> None:
    periodic = log.Periodic()
    assert not periodic.overdue(0.0)
    for n in range(10):
        periodic.due(0.0, n)
    assert not periodic.overdue(30.0)
    assert periodic.overdue(61.0)
    assert periodic.left_out == 5
    assert not periodic.overdue(200.0)


def test_value_of_any_type_can_be_logged() -> None:
    odd: Any = {"a": 1}
    assert "'a': 1" in json.loads(written("json", "m", detail=odd, peers=[1, Path("x")]))["detail"]
