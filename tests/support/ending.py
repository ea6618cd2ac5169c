"""Lets SIGTERM end a test run as Ctrl-C does, so that what the tests have made is taken away."""

from __future__ import annotations

import signal

import pytest


def pytest_sessionstart() -> None:
    signal.signal(signal.SIGTERM, _end)


def _end(_number: int, _frame: object) -> None:
    pytest.exit("ended by SIGTERM", returncode=128 + signal.SIGTERM)
