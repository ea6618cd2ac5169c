"""What is looked at without an event: each second, each minute."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from tunneld.daemon.rounds import Rounds


class Host:
    """A host with a device whose features others may change."""

    changed = False
    features = b"tso"
    looked = 0

    def __init__(self) -> None:
        self.told: list[str] = []

    async def differs(self) -> bool:
        return self.changed

    def look_again(self) -> None:
        self.looked += 1

    def device_features(self) -> bytes:
        return self.features

    def tell_put_back(self, done: str) -> None:
        self.told.append(done)


class Engine:
    """An engine that gives the device what it has switched on."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def offloads(self) -> Mapping[str, str]:
        return {"tun_tso": "on", "tun_uso": "unsupported", "udp_gso": "on"}

    def set_offload(self, name: str, *, enabled: bool) -> None:
        assert (name, enabled) == ("tun_tso", True)
        self.host.features = b"tso"


def test_each_second_what_is_cheap_and_each_minute_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host, woken = Host(), []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        now_s = 0.0
        monkeypatch.setattr(loop, "time", lambda: now_s)

        async def second(pause_s: float) -> None:
            nonlocal now_s
            now_s += pause_s
            match now_s:
                case 3.0:
                    host.changed = True
                case 4.0:
                    host.changed = False
                case 5.0:
                    host.features = b""
                case 6.0:
                    assert host.features == b"tso"
                case 130.0:
                    raise asyncio.CancelledError

        monkeypatch.setattr(asyncio, "sleep", second)
        await Rounds(host, engine=Engine(host), wake=lambda: woken.append(now_s)).run()

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert woken == [3.0]
    assert host.looked == 2
    assert host.told == ["its offloads"]
