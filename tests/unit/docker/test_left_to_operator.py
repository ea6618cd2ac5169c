"""`tunneld docker check` on real dockerds where it is the operator who lets the overlay pass."""

from __future__ import annotations

from ipaddress import IPv4Interface

import pytest

from testbed.docker import Release
from testbed.netns import Rig
from tests.unit.docker.conftest import CONFIG, NAME, DockerHost, standing

pytestmark = pytest.mark.root


def notes(host: DockerHost, table: str) -> list[str]:
    """Returns what is said of a table of iptables while nothing is off."""
    lines = host.wait_nothing_off().splitlines()
    return [line for line in lines if line.startswith("note: ") and f" of table {table} " in line]


@pytest.mark.parametrize("option", ["--iptables-forward-rules=false", "--firewall=off"])
def test_rules_that_are_left_to_the_operator_are_named_until_they_are_there(
    rig: Rig, release: Release, option: str
) -> None:
    with standing(rig, release, CONFIG, option) as host:
        assert host.tunneld("docker", "network", NAME)[0] == 0
        container = host.docker.run("c1", "--network", NAME)
        leased = IPv4Interface(host.subnet_env()["FLANNEL_SUBNET"]).network
        coming, going = f"-d {leased} -i flannel0 -j ACCEPT", f"-s {leased} -o flannel0 -j ACCEPT"

        (note,) = notes(host, "filter")
        assert "the chain DOCKER-USER" in note
        assert f"tunneld runs with {option}; it would have there: {coming}; {going};" in note
        # Docker 28 drops in raw too, where the other option leaves our accepts as they are.
        left = option == "--firewall=off" and host.docker.version_number >= (28,)
        assert [coming in note for note in notes(host, "raw")] == [True] * left

        for rule in (going, coming):
            host.machine.run("iptables-nft", "-w", "-I", "DOCKER-USER", *rule.split())
        assert notes(host, "filter") == []
        if left:
            host.machine.run(
                *("iptables-nft", "-w", "-t", "raw", "-I", "PREROUTING", *coming.split())
            )
        assert notes(host, "raw") == []
        host.docker.remove(container)
