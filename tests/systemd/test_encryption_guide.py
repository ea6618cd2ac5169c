"""The page on how to encrypt a network, carried out on three booted hosts under probes.

The commands of the page are given as they stand there; words in capitals are put in as a reader
would: KEY_1, NEW_KEY, and the subnet of the example.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from testbed.booted import BootedHost, BootedNetwork, wait_connected
from testbed.document import commands
from testbed.probe import Probe
from testbed.wait import wait_until
from tests.systemd.conftest import MakeNetwork

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # the first installs tunneld

PAGE = Path(__file__).resolve().parents[2] / "docs" / "encryption-how-to.md"
NAMES = ("web1", "web2", "db1")
SMALL, IDENTITIES, ROTATE, MOVE, BACK, LOST = (
    "A PSK for a small network",
    "Identities",
    "Rotate a PSK",
    "Move a live plain network",
    "Move back to plain",
    "A lost key",
)


class Reader:
    """Somebody who gives the commands of the page on the hosts of a network."""

    def __init__(self, network: BootedNetwork) -> None:
        self.hosts = network.hosts
        self.given: set[str] = set()
        """The commands as the page has them."""

    def give(
        self, heading: str, numbers: slice, *hosts: BootedHost, **words: str
    ) -> dict[str, str]:
        """Gives some of the commands below a heading on each host; returns what the first said.

        Raises:
            AssertionError: one ended with something else than 0.
        """
        wanted = [command.text for command in commands(PAGE) if command.heading == heading][numbers]
        assert wanted, f"{heading} has no commands {numbers}"
        said: dict[str, str] = {}
        for host in hosts:
            for text in wanted:
                self.given.add(text)
                there = text
                for word, meant in words.items():
                    there = there.replace(word, meant)
                said[host.name] = host.machine.run("bash", "-ec", there)
        return said

    def bring_psk(self) -> None:
        """Makes a PSK and brings it to all hosts, as the page has it made."""
        self.give(SMALL, slice(1), self.hosts[0])
        text = self.hosts[0].machine.run("cat", "psk")
        for host in self.hosts:
            host.machine.run("sh", "-ec", "umask 077; cat > psk", stdin=text)


def status(host: BootedHost) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(host.machine.run("tunneld", "status", "--json"))
    return document


def wait_encrypted(network: BootedNetwork, expected: bool) -> None:
    """Waits until every host reaches both others, under keys or in plain."""

    def reached() -> bool:
        return all(
            [peer["encrypted"] for peer in status(host)["peers"]] == [expected, expected]
            for host in network.hosts
        )

    wait_until(reached, 30.0, f"encrypted: {expected}")
    for first, second in itertools.permutations(network.hosts, 2):
        wait_connected(first, second)


def wait_mode(network: BootedNetwork, mode: str) -> None:
    def is_everywhere() -> bool:
        return {status(host)["encryption"]["mode"] for host in network.hosts} == {mode}

    wait_until(is_everywhere, 30.0, f"mode {mode} on all hosts")


@contextmanager
def nothing_lost(network: BootedNetwork) -> Iterator[None]:
    """Probes between all containers meanwhile, of which each arrives."""
    probes = [Probe(first, second) for first, second in itertools.permutations(network.hosts, 2)]
    for probe in probes:
        probe.wait_steady(0.0, 30.0)
    yield
    now_s = time.monotonic()
    for probe in probes:
        probe.wait_steady(now_s, 30.0)
        probe.stop()
    assert {probe.name: probe.lost() for probe in probes} == {probe.name: 0 for probe in probes}


def test_a_reader_of_the_page_moves_a_live_network_and_back(network_of: MakeNetwork) -> None:
    with network_of(*NAMES) as network:
        network.start_store()
        for host in network.hosts:
            host.machine.boot()
        wait_encrypted(network, False)
        reader, hosts = Reader(network), network.hosts
        first, *others = hosts

        # Move a live plain network.
        reader.bring_psk()
        for host in hosts:
            reader.give(MOVE, slice(3), host)
        wait_encrypted(network, False)
        for number, mode in ((3, "preferred"), (4, "required")):
            reader.give(MOVE, slice(number, number + 1), first)
            wait_mode(network, mode)
            wait_encrypted(network, True)
        reader.give(MOVE, slice(5, None), *hosts)

        # Rotate the PSK, each step on all hosts before the next.
        before = status(first)["encryption"]["psk_ids"]
        reader.bring_psk()
        with nothing_lost(network):
            for step in (slice(2), slice(2, 4), slice(4, None)):
                reader.give(ROTATE, step, *hosts)
                wait_encrypted(network, True)
        ids = [status(host)["encryption"]["psk_ids"] for host in hosts]
        assert [len(one) for one in ids] == [1, 1, 1]
        assert before not in ids

        # Identities: from here on the floor is what they ask for by default.
        shown = reader.give(IDENTITIES, slice(1), *hosts)
        keys = {f"KEY_{n}": shown[name].strip() for n, name in enumerate(NAMES, start=1)}
        said = reader.give(IDENTITIES, slice(1, None), *hosts, **keys)
        assert all(key in said["db1"] for key in keys.values())
        wait_encrypted(network, True)
        assert {status(host)["encryption"]["floor"] for host in hosts} == {"required"}

        # A lost key.
        reader.give(LOST, slice(1), *others)
        for host in others:
            wait_until(
                lambda host=host: "revoked" in json.dumps(status(host)["refused"]),  # type: ignore[misc]
                30.0,
                f"web1 revoked on {host.name}",
            )
        reader.give(LOST, slice(1, 3), first)
        new = first.machine.run("tunneld", "identity", "show").strip()
        assert new != keys["KEY_1"]
        reader.give(LOST, slice(3, None), *others, NEW_KEY=new)
        wait_encrypted(network, True)

        # Back to plain.
        reader.give(BACK, slice(1), first)
        reader.give(BACK, slice(1, 3), *hosts)
        wait_encrypted(network, False)
        subnet = str(others[0].subnet)
        said = reader.give(BACK, slice(3, None), first, **{"10.5.3.0/24": subnet})
        assert subnet in said["web1"]

        # A small network, made anew: what was configured before is taken away.
        reader.bring_psk()
        for host in hosts:
            host.machine.run("sed", "-i", "/^psk-file/d; /^identities/d; /^encryption-floor/d",
                             "/etc/tunneld/tunneld.toml")  # fmt: skip
        reader.give(SMALL, slice(1, None), *hosts)
        wait_encrypted(network, True)
        assert {status(host)["encryption"]["trust"] for host in hosts} == {"psk"}
        for host in hosts:  # the same PSK by systemd, whose file only root can read
            host.machine.run("chown", "root:root", "/etc/tunneld/psk")
            host.machine.run("sed", "-i", "/^psk-file/d", "/etc/tunneld/tunneld.toml")
            drop_in = "[Service]\nLoadCredential=tunneld.psk:/etc/tunneld/psk\n"
            folder = "/etc/systemd/system/tunneld.service.d"
            host.machine.write(f"{folder}/psk.conf", drop_in)
            host.machine.run("systemctl", "daemon-reload")
            host.machine.run("systemctl", "restart", "tunneld")
        wait_encrypted(network, True)

        assert {command.text for command in commands(PAGE)} == reader.given
