from __future__ import annotations

from collections.abc import Mapping

import pytest

from tunneld.daemon.switches import Switches
from tunneld.errors import ControlError, EngineError


class Engine:
    """Offloads by name; `tun_uso` is one that this kernel has not."""

    def __init__(self) -> None:
        self.states = {"udp_gso": "on", "udp_gro": "on", "tun_uso": "unsupported"}

    def set_offload(self, name: str, *, enabled: bool) -> None:
        if self.states.get(name, "unsupported") == "unsupported":
            raise EngineError(f"engine: offload {name} is not supported")
        self.states[name] = "on" if enabled else "off"

    def offloads(self) -> Mapping[str, str]:
        return self.states


def test_what_was_switched_holds_for_the_data_paths_that_follow() -> None:
    switches, first, second = Switches(), Engine(), Engine()
    answer = switches.switch(first, {"op": "offload", "name": "udp_gso", "enabled": False})
    assert answer == {"udp_gso": "off", "udp_gro": "on", "tun_uso": "unsupported"}
    switches.switch(first, {"name": "udp_gro", "enabled": False})
    switches.switch(first, {"name": "udp_gro", "enabled": True})
    switches.renew(second)
    assert second.states == first.states


def test_what_a_new_data_path_cannot_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    switches, other = Switches(), Engine()
    switches.switch(Engine(), {"name": "udp_gro", "enabled": False})
    switches.switch(Engine(), {"name": "udp_gso", "enabled": False})
    other.states["udp_gro"] = "unsupported"
    switches.renew(other)
    assert other.states["udp_gso"] == "off"
    assert "no longer as switched" in caplog.text


def test_an_unsupported_one_is_not_remembered() -> None:
    switches, other = Switches(), Engine()
    with pytest.raises(EngineError, match="tun_uso is not supported"):
        switches.switch(Engine(), {"name": "tun_uso", "enabled": True})
    other.states["tun_uso"] = "on"
    switches.renew(other)
    assert other.states["tun_uso"] == "on"


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"name": "udp_gso"},
        {"enabled": True},
        {"name": "udp_gso", "enabled": "off"},
        {"name": ["udp_gso"], "enabled": 1},
    ],
)
def test_a_request_that_does_not_say_what_is_refused(request_: Mapping[str, object]) -> None:
    with pytest.raises(ControlError, match="expected 'name', a text, and 'enabled', true or false"):
        Switches().switch(Engine(), request_)


def test_without_a_data_path_of_our_own_there_is_nothing_to_switch() -> None:
    with pytest.raises(ControlError, match="no offload can be switched"):
        Switches().switch(None, {"name": "udp_gso", "enabled": False})
