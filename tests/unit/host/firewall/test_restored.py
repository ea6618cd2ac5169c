"""Whoever flushes or drops, overlay packets pass again, by the events alone."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from testbed.netns import Namespace, Rig
from tests.unit.host.conftest import eventually, run_inside
from tests.unit.host.firewall.hosts import Variant
from tests.unit.host.firewall.mending import actuated, mended
from tests.unit.host.firewall.site import (
    CONTAINER,
    REMOTE,
    WANTED,
    Site,
    Tools,
    comes_in_by_the_tun,
    path_with,
    site,
    udp_socket,
)
from tunneld.fib.state import HostChange

pytestmark = pytest.mark.root

INTERVAL_S = 0.01

DROPS = """\
*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A DOCKER-USER -j RETURN
COMMIT
*raw
-A PREROUTING -d 10.5.1.2/32 ! -i docker0 -j DROP
COMMIT
"""

# Each once, each variant with either set of tools twice. That every change is seen and mended with
# each variant is the claim of test_hosts.py.
SPOILERS: tuple[tuple[str, Variant, str], ...] = (
    ("iptables -F", "nft", "all"),
    ("iptables -F DOCKER-USER", "legacy", "all"),
    ("iptables -t raw -F", "nft", "iptables only"),
    (
        "iptables -t raw -I PREROUTING -d 10.5.1.2 ! -i docker0 -j DROP",
        "legacy",
        "iptables only",
    ),
    ("iptables -D FORWARD -j DOCKER-USER", "nft", "iptables only"),
    ("iptables -F TUNNELD-FWD-flannel0", "legacy", "iptables only"),
    ("nft flush ruleset", "nft", "all"),
    ("iptables-restore rules", "legacy", "all"),
)


async def spoil_under_traffic(place: Site, spoiler: tuple[str, ...]) -> None:
    """Spoils the rules under traffic; returns when packets pass again, without a gap.

    How long that takes is measured by `bench.recovery`.
    """
    loop = asyncio.get_running_loop()
    receiver = udp_socket(place.container)
    receiver.setblocking(False)
    port = receiver.getsockname()[1]
    arrived = [loop.time()]

    def drain() -> None:
        with suppress(BlockingIOError):
            while True:
                data, (source, _) = receiver.recvfrom(100)
                assert (data, source) == (b"probe", REMOTE)
                arrived.append(loop.time())

    async def traffic() -> None:
        while True:
            comes_in_by_the_tun(place, CONTAINER, port)
            await asyncio.sleep(INTERVAL_S)
            drain()

    def is_steady(since_s: float) -> bool:
        late = [at for at in arrived if at > since_s][-21:]
        return len(late) > 20 and all(b - a < 0.1 for a, b in pairwise(late))

    sending = asyncio.create_task(traffic())
    try:
        start_s = loop.time()
        await eventually(lambda: is_steady(start_s), "steady traffic", timeout_s=30.0)
        program = await asyncio.create_subprocess_exec(*spoiler)
        assert await program.wait() == 0
        spoilt_s = loop.time() + 0.3
        what = f"steady traffic after {spoiler}"
        await eventually(lambda: is_steady(spoilt_s), what, timeout_s=30.0)
    finally:
        sending.cancel()
        receiver.close()


@pytest.mark.parametrize(("spoiler", "variant", "tools"), SPOILERS)
def test_packets_pass_again(
    rig: Rig,
    space: Namespace,
    variant: Variant,
    spoiler: str,
    tools: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rules = tmp_path / "rules"
    rules.write_text(DROPS)
    space.run(f"/usr/sbin/iptables-{variant}-restore", str(rules))
    program, *argv = spoiler.replace("-restore rules", f"-restore {rules}").split()
    program = f"/usr/sbin/{program.replace('iptables', f'iptables-{variant}')}"
    usable: Tools = "all"
    if tools != "all":
        usable = "iptables-nft only" if variant == "nft" else "iptables-legacy only"
    monkeypatch.setenv("PATH", path_with(usable, tmp_path / "bin"))

    async def work() -> None:
        async with site(rig, space) as place, actuated(tmp_path) as actuator:
            await actuator.apply(HostChange(firewall=WANTED))
            async with mended(actuator, WANTED):
                await spoil_under_traffic(place, (program, *argv))

    run_inside(space, work)


def test_a_firewall_that_changes_all_the_time_is_looked_at_a_few_times_a_second(
    rig: Rig, space: Namespace, tmp_path: Path
) -> None:
    async def work() -> None:
        events: list[str] = []
        async with site(rig, space), actuated(tmp_path) as actuator:
            actuator.on_change(events.append)
            script = "\n".join(f"add chain ip filter c{i}" for i in range(40))
            space.run("nft", "add", "table", "ip", "filter")
            loop = asyncio.get_running_loop()
            start_s = loop.time()
            for line in script.splitlines():
                program = await asyncio.create_subprocess_exec("nft", *line.split())
                await program.wait()
            took_s = loop.time() - start_s
        assert 1 <= events.count("firewall") <= 2 + took_s / 0.2

    run_inside(space, work)
