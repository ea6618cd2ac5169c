"""What `--help` says at its head."""

from __future__ import annotations

import pytest

from tunneld.cli import SUMMARIES, main


@pytest.mark.parametrize("command", list(SUMMARIES))
def test_usage_of_a_command_can_be_typed_as_it_is_shown(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: tunneld {command} ")
