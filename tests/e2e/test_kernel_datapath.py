"""The kernel's vxlan device as the daemon keeps it: put back, kept, taken over, taken away.

Needs root, etcd and iproute2.
"""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable

import pytest

from testbed.netns import Rig
from testbed.network import PREFIX, Family, Host, Network, pings
from testbed.wait import wait_until

pytestmark = pytest.mark.root

PATIENCE_S = 30.0
FAMILIES: tuple[Family, ...] = (4, 6)
DEVICES = {4: "flannel.1", 6: "flannel-v6.1"}
BY_KERNEL = ("--datapath", "kernel")


@pytest.fixture
def network(root_tools: None, rig: Rig) -> Network:
    """Two tunneld hosts whose containers reach each other through the kernel's devices."""
    network = Network(rig, backend={"Type": "vxlan"}, families=FAMILIES)
    network.add("t1", *BY_KERNEL)
    network.add("t2", *BY_KERNEL)
    network.wait_connected()
    return network


def tables(host: Host) -> dict[str, str]:
    """Returns what the daemon has programmed, without what the kernel counts or numbers."""

    def shown(*argv: str) -> str:
        said = host.space.try_run(*argv)
        return said.stdout if said.returncode == 0 else ""

    found = {}
    for family, device in DEVICES.items():
        link = shown("ip", "-d", "-o", "link", "show", device)
        found[f"link {family}"] = re.sub(r"^\d+: | state \w+| qdisc \w+", "", link)
        found[f"address {family}"] = re.sub(
            r"^\d+: | tentative",
            "",
            shown("ip", f"-{family}", "-o", "address", "show", "dev", device, "scope", "global"),
            flags=re.M,
        )
        found[f"neighbours {family}"] = shown(
            "ip", f"-{family}", "neighbour", "show", "dev", device
        )
        found[f"fdb {family}"] = shown("bridge", "fdb", "show", "dev", device)
        found[f"routes {family}"] = shown("ip", f"-{family}", "route", "show", "proto", "116")
    return found


def wait_until_same(host: Host, before: dict[str, str], what: str) -> None:
    """Waits until the tables are as they were; an error shows what is not."""
    try:
        wait_until(lambda: tables(host) == before, PATIENCE_S, what)
    except TimeoutError as error:
        after = tables(host)
        for name, text in before.items():
            if after[name] != text:
                error.add_note(f"{name}\nbefore: {text}\nafter: {after[name]}")
        error.add_note(host.running.output()[-2000:])
        raise


def peer_entries(host: Host, peer: Host, family: Family) -> dict[str, tuple[str, ...]]:
    """Returns the command that takes away each thing a peer is reached by."""
    device = DEVICES[family]
    data = json.loads(host.network.leases()[peer.lease_key])
    mac = data["BackendData" if family == 4 else "BackendV6Data"]["VtepMAC"]
    end = str(peer.public_ip if family == 4 else peer.public_ipv6)
    subnet = peer.subnet_of(family)
    return {
        "device": ("ip", "link", "delete", device),
        "device down": ("ip", "link", "set", device, "down"),
        "address": ("ip", f"-{family}", "address", "flush", "dev", device),
        "neighbour": ("ip", "neighbour", "delete", str(subnet[0]), "dev", device),
        "fdb": ("bridge", "fdb", "delete", mac, "dev", device, "dst", end, "self"),
        "route": ("ip", f"-{family}", "route", "delete", str(subnet)),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_what_somebody_takes_away_is_put_back(network: Network, family: Family) -> None:
    first, second = network.host("t1"), network.host("t2")
    before = tables(first)
    assert all(before.values()), before
    for what, command in peer_entries(first, second, family).items():
        first.space.run(*command)
        wait_until_same(first, before, f"the {what} of IPv{family}")
        reached: Callable[[], bool] = lambda: pings(first, second, family)  # noqa: E731
        wait_until(reached, PATIENCE_S, f"the way to the peer after the {what} was gone")
    assert first.running.exit_status is None


def test_a_changed_device_is_set_right_again(network: Network) -> None:
    first = network.host("t1")
    before = tables(first)
    first.space.run("ip", "link", "set", "flannel.1", "address", "0e:00:00:00:00:77")
    first.space.run("ip", "link", "set", "flannel-v6.1", "mtu", "1300")
    wait_until_same(first, before, "Ethernet address and MTU")


def test_entries_of_somebody_else_stay(network: Network) -> None:
    first = network.host("t1")
    theirs = ("10.5.250.0", "lladdr", "0e:00:00:00:00:78", "dev", "flannel.1", "nud", "permanent")
    first.space.run("ip", "route", "add", "10.9.0.0/24", "via", "10.99.0.1", "dev", "eth0")
    first.space.run("ip", "neighbour", "add", "192.0.2.7", *theirs[1:3], "dev", "eth0")
    first.space.run("ip", "link", "delete", "flannel.1")
    wait_until(lambda: pings(first, network.host("t2")), PATIENCE_S, "the device")
    assert "10.9.0.0/24" in first.space.run("ip", "route")
    assert "192.0.2.7" in first.space.run("ip", "neighbour")


def test_a_clean_stop_takes_everything_away(network: Network) -> None:
    first = network.host("t1")
    assert first.end(signal.SIGTERM) == 0
    assert not any(tables(first).values())
    assert "flannel" not in first.space.run("ip", "link")
    assert first.space.run("nft", "list", "ruleset") == ""
    assert first.lease_key in network.leases()


@pytest.mark.parametrize("datapath", ["kernel", "userspace"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["clean", "killed"])
def test_vtep_addresses_stay_the_same_over_a_restart(
    network: Network, datapath: str, number: signal.Signals
) -> None:
    first, second = network.host("t1"), network.host("t2")
    before = json.loads(network.leases()[first.lease_key])
    first.end(number)
    first.options = ("--datapath", datapath)
    first.start()
    # The kernel goes on alone: an answer would not say that the daemon is there.
    wait_until(lambda: "forwarding" in first.running.output(), PATIENCE_S, "the daemon")
    for family in network.families:
        wait_until(lambda: pings(second, first, family), PATIENCE_S, "the host")  # noqa: B023
    after = json.loads(network.leases()[first.lease_key])
    assert (after["BackendData"], after["BackendV6Data"]) == (
        before["BackendData"],
        before["BackendV6Data"],
    )
    assert first.status()["backend"]["datapath"] == datapath


def test_a_killed_daemon_by_the_kernel_is_followed_by_one_in_user_space(network: Network) -> None:
    first, second = network.host("t1"), network.host("t2")
    first.end(signal.SIGKILL)
    assert pings(second, first), "the kernel goes on alone"
    first.options = ()
    first.start()
    wait_until(lambda: "forwarding" in first.running.output(), PATIENCE_S, "the daemon")
    said = "removed what a daemon that is gone had left behind"
    assert f'{said} detail="device flannel' in first.running.output()
    link = first.space.run("ip", "-d", "link", "show", "flannel.1")
    assert " tun " in link
    assert "flannel-v6.1" not in first.space.run("ip", "link")
    for family in network.families:
        wait_until(lambda: pings(first, second, family), PATIENCE_S, "the peer")  # noqa: B023


def test_a_smaller_underlay_mtu_takes_effect_at_once(network: Network) -> None:
    first = network.host("t1")
    first.space.run("ip", "link", "set", "eth0", "mtu", "1400")
    wait_until(lambda: first.subnet_env["FLANNEL_MTU"] == "1330", PATIENCE_S, "subnet.env")
    assert " mtu 1350 " in first.space.run("ip", "link", "show", "flannel.1")
    assert " mtu 1330 " in first.space.run("ip", "link", "show", "flannel-v6.1")


def test_a_new_underlay_address_moves_the_device_and_the_lease(network: Network) -> None:
    first, second = network.host("t1"), network.host("t2")
    moved = str(first.move())
    for family in network.families:
        wait_until(lambda: pings(second, first, family), PATIENCE_S, "the peer to follow")  # noqa: B023
    assert f" local {moved} " in first.space.run("ip", "-d", "link", "show", "flannel.1")
    assert moved in second.space.run("bridge", "fdb", "show", "dev", "flannel.1")


def test_one_vtep_address_in_two_leases_is_the_older_ones(network: Network) -> None:
    """The kernel's table has room for one host behind an Ethernet address."""
    first, second = network.host("t1"), network.host("t2")
    stranger, theirs = f"{PREFIX}/subnets/10.5.254.0-24&fd00:10:5:fffe::-64", "10.5.254.0"
    data = json.loads(network.leases()[second.lease_key])
    mac = data["BackendData"]["VtepMAC"]
    # A copied state directory; in IPv6 the address is one of its own.
    copied = data | {"PublicIP": "10.99.0.77", "PublicIPv6": "fd99::77"}
    copied["BackendV6Data"] = {"VNI": 1, "VtepMAC": "0e:00:00:00:06:77"}

    def entries() -> list[str]:
        """Returns the IPv4 subnets the kernel leads to that Ethernet address, and by which host."""
        near = first.space.run("ip", "-4", "neighbour", "show", "dev", "flannel.1")
        far = first.space.run("bridge", "fdb", "show", "dev", "flannel.1")
        route = first.space.run("ip", "-4", "route", "show", "proto", "116", "dev", "flannel.1")
        return [
            *(line.split()[0] for line in near.splitlines() if mac in line),
            *(line.split()[2] for line in far.splitlines() if line.startswith(mac)),
            *(line.split()[0] for line in route.splitlines()),
        ]

    def skipped() -> int:
        return int(first.status()["skipped_leases"].get("vtep_mac_taken", 0))

    seconds = [str(second.subnet[0]), str(second.public_ip), str(second.subnet)]
    assert entries() == seconds
    network.etcd.put(stranger, json.dumps(copied))
    wait_until(lambda: skipped() == 1, PATIENCE_S, "a skip as vtep_mac_taken")
    assert entries() == seconds
    assert pings(first, second)
    (line,) = [line for line in first.running.output().splitlines() if "vtep_mac_taken" in line]
    assert theirs in line
    assert str(second.subnet) in line
    assert mac in line
    # The other family is judged for itself.
    (peer,) = [peer for peer in first.status()["peers"] if peer["subnet"] == f"{theirs}/24"]
    assert set(peer["reach"]) == {"ipv6"}
    of_ipv6 = "0e:00:00:00:06:77 dst fd99::77 "
    wait_until(
        lambda: of_ipv6 in first.space.run("bridge", "fdb", "show", "dev", "flannel-v6.1"),
        PATIENCE_S,
        "the entry of IPv6",
    )

    # Taken back at once by its host, the other lease is the younger one from now on.
    network.etcd.delete(second.lease_key)
    wait_until(lambda: skipped() == 2, PATIENCE_S, "a skip of the lease that is younger now")
    wait_until(
        lambda: entries() == [theirs, "10.99.0.77", f"{theirs}/24"], PATIENCE_S, "the older lease"
    )
    network.etcd.delete(stranger)
    wait_until(lambda: entries() == seconds, PATIENCE_S, "the entries there were before")
    assert pings(first, second)
    wait_until(lambda: first.status()["state"] == "ready", PATIENCE_S, "a host that is ready")


def test_status_shows_what_the_kernel_counts_on_its_devices(network: Network) -> None:
    first, second = network.host("t1"), network.host("t2")
    ways = [f"{way}_{what}" for way in ("rx", "tx") for what in ("packets", "bytes", "dropped")]

    def counted() -> dict[str, dict[str, int]]:
        return {one["device"]: one for one in first.status()["kernel_devices"]}

    def by_iproute() -> dict[str, dict[str, int]]:
        links = json.loads(first.space.run("ip", "-s", "-j", "link", "show", "type", "vxlan"))
        return {
            link["ifname"]: {
                way: link["stats64"][way.split("_")[0]][way.split("_")[1]] for way in ways
            }
            for link in links
        }

    def is_same() -> bool:
        shown = {name: {way: one[way] for way in ways} for name, one in counted().items()}
        return shown == by_iproute()

    for family in FAMILIES:
        before = counted()[DEVICES[family]]
        assert pings(first, second, family)
        after = counted()[DEVICES[family]]
        for way in ("tx_packets", "rx_packets"):
            assert after[way] > before[way], (family, way)
    wait_until(is_same, PATIENCE_S, "the figures of `ip -s link`")

    # A frame to an address nobody has: the device has no entry for it, and drops it.
    before = counted()["flannel.1"]
    frame = "0e00000000990e00000000980800" + "00" * 46
    script = (
        "import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW);"
        f"s.bind(('flannel.1', 0)); s.send(bytes.fromhex('{frame}'))"
    )
    first.space.run(sys.executable, "-c", script)
    wait_until(
        lambda: counted()["flannel.1"]["tx_dropped"] > before["tx_dropped"],
        PATIENCE_S,
        "the drop of the device",
    )
    text = first.ctl("status").stdout
    assert "kernel devices, as the kernel counts them:" in text
    assert first.status()["drops"] == {}, "the engine's, of which there is none"
