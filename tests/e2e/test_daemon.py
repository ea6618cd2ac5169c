"""A node on a real host: what it does when the network, the store or an operator does something.

Needs root, etcd and iproute2.
"""

from __future__ import annotations

import json
import shutil
import signal

import pytest

from testbed.netns import Rig
from testbed.network import PREFIX, Host, Network, pings
from testbed.wait import wait_until

pytestmark = pytest.mark.root

PATIENCE_S = 30.0


@pytest.fixture
def network(root_tools: None, rig: Rig) -> Network:
    """Two tunneld hosts whose containers reach each other."""
    network = Network(rig)
    network.add("t1")
    network.add("t2")
    network.wait_connected()
    return network


def _both(network: Network) -> tuple[Host, Host]:
    return network.host("t1"), network.host("t2")


def test_a_deleted_lease_is_taken_back_in_place(network: Network) -> None:
    first, second = _both(network)
    subnet = first.subnet
    network.etcd.delete(first.lease_key)
    wait_until(lambda: first.lease_key in network.leases(), PATIENCE_S, "the lease")
    wait_until(lambda: pings(first, second), PATIENCE_S, "the peer to take the host back")
    assert first.subnet == subnet
    # The peer may only now hear of the deletion.
    wait_until(lambda: pings(second, first), PATIENCE_S, "the way back from the peer")
    assert "lease" in first.running.output()


def test_a_lease_somebody_else_took_is_given_up_for_another_subnet(network: Network) -> None:
    first, second = _both(network)
    taken = first.subnet
    network.etcd.put(first.lease_key, '{"PublicIP":"192.0.2.99","PublicIPv6":null}')
    wait_until(lambda: first.subnet != taken, PATIENCE_S, "another subnet in subnet.env")
    wait_until(lambda: first.lease_key in network.leases(), PATIENCE_S, "another lease")
    peer = f"{first.subnet}"
    wait_until(
        lambda: peer in [entry["subnet"] for entry in second.status()["peers"]],
        PATIENCE_S,
        "the peer to learn the new subnet",
    )
    addresses = first.space.run("ip", "-o", "-4", "address", "show", "dev", "flannel0")
    assert f" {first.overlay_ip}/32 " in addresses
    assert f" {taken.network_address}/32 " not in addresses
    assert first.running.exit_status is None


def test_what_an_operator_removes_is_put_back(network: Network) -> None:
    first, second = _both(network)

    def host_state() -> tuple[str, str, str]:
        return (
            first.space.run("ip", "-4", "route", "show", "proto", "116"),
            first.space.run("ip", "-o", "-4", "address", "show", "dev", "flannel0"),
            first.space.run("nft", "list", "ruleset"),
        )

    before = host_state()
    assert all(before)
    first.space.run("ip", "-4", "route", "flush", "proto", "116")
    first.space.run("ip", "address", "flush", "dev", "flannel0")
    first.space.run("nft", "flush", "ruleset")
    wait_until(lambda: host_state() == before, PATIENCE_S, "routes, address and rules")
    wait_until(lambda: pings(first, second), PATIENCE_S, "the way to the peer")


def test_a_new_public_ip_is_written_into_the_same_lease(network: Network) -> None:
    first, second = _both(network)
    key = first.lease_key
    first.move()
    wait_until(lambda: pings(second, first), PATIENCE_S, "the peer to follow")
    assert first.lease_key == key
    assert len(network.leases()) == 2


def test_a_host_restarts_and_forwards_while_the_store_is_away(network: Network) -> None:
    first, second = _both(network)
    key = first.lease_key
    remembered = first.space.directory / "state" / "network.json"
    wait_until(
        lambda: (
            remembered.exists() and second.lease_key.rpartition("/")[2] in remembered.read_text()
        ),
        PATIENCE_S,
        "the peer to be remembered",
    )
    network.etcd.stop()
    assert first.end(signal.SIGKILL) != 0
    first.start()
    wait_until(lambda: pings(first, second), PATIENCE_S, "forwarding without a store")
    # It forwards a moment before it calls itself more than starting.
    wait_until(lambda: first.status()["state"] == "degraded", PATIENCE_S, "to be seen degraded")
    assert first.status()["store"]["connected"] is False
    network.etcd.start()
    wait_until(lambda: first.status()["state"] == "ready", PATIENCE_S, "the store")
    assert first.lease_key == key
    assert key in network.leases()
    assert pings(second, first)


def test_a_remembered_config_that_is_not_the_networks_any_more_is_mended_without_a_restart(
    network: Network,
) -> None:
    first, second = _both(network)
    old = network.etcd.everything(f"{PREFIX}/config")[f"{PREFIX}/config"].decode()
    new = json.loads(old)
    new["Backend"] = {"Type": "udp", "Port": 8299}
    wait_until((first.space.directory / "state" / "network.json").exists, PATIENCE_S, "a memory")
    first.end(signal.SIGKILL)
    network.etcd.put(f"{PREFIX}/config", json.dumps(new))
    network.etcd.stop()
    first.start()
    wait_until(lambda: pings(first, second), PATIENCE_S, "forwarding from memory")
    wait_until(lambda: first.status()["state"] == "degraded", PATIENCE_S, "to be seen degraded")
    assert ":8285 " in first.space.run("ss", "-Hlun")
    network.etcd.start()
    wait_until(lambda: ":8299 " in first.space.run("ss", "-Hlun"), PATIENCE_S, "the new port")
    wait_until(lambda: first.status()["state"] == "ready", PATIENCE_S, "the store")
    second.end(signal.SIGTERM)
    second.start()
    wait_until(lambda: pings(first, second) and pings(second, first), PATIENCE_S, "both ways")


def test_a_store_that_was_wiped_while_the_host_slept_gets_its_lease_again(
    network: Network,
) -> None:
    first, second = _both(network)
    key = first.lease_key
    config = network.etcd.everything(f"{PREFIX}/config")[f"{PREFIX}/config"].decode()
    first.running.pause()
    try:
        network.etcd.stop()
        shutil.rmtree(network.etcd.data_dir)
        network.etcd.start()
        network.etcd.put(f"{PREFIX}/config", config)
        # Its history grows past what the sleeper has seen, and the cluster has the same id.
        for number in range(20):
            network.etcd.put("/elsewhere", str(number))
    finally:
        first.running.resume()
    wait_until(lambda: key in network.leases(), PATIENCE_S, "the lease in the new store")
    wait_until(lambda: first.status()["state"] == "ready", PATIENCE_S, "the store")
    wait_until(lambda: pings(first, second) and pings(second, first), PATIENCE_S, "both ways")


def test_a_smaller_underlay_mtu_takes_effect_at_once(network: Network) -> None:
    first, _ = _both(network)
    first.space.run("ip", "link", "set", "eth0", "mtu", "1400")
    wait_until(lambda: first.subnet_env["FLANNEL_MTU"] == "1372", PATIENCE_S, "subnet.env")
    assert " mtu 1372 " in first.space.run("ip", "link", "show", "flannel0")


def test_an_operator_switches_an_offload_while_packets_move(network: Network) -> None:
    first, second = _both(network)
    before = first.status()["offloads"]
    assert first.ctl("offload", "udp_gso", "off").stdout == "udp_gso: off\n"
    assert first.status()["offloads"] == {**before, "udp_gso": "off"}
    assert "udp_gso: off\n" in first.ctl("offload").stdout
    assert pings(first, second)
    unknown = first.ctl("offload", "warp", "on")
    assert unknown.returncode == 1
    assert 'offload "warp" is not known, expected one of tun_tso' in unknown.stderr
    half = first.ctl("offload", "udp_gso")
    assert half.returncode == 2
    assert "expected 'on' or 'off'" in half.stderr
    assert first.ctl("offload", "udp_gso", "on").stdout == "udp_gso: on\n"


def test_leave_gives_the_lease_back_and_ends_the_daemon(network: Network) -> None:
    first, second = _both(network)
    key, subnet = first.lease_key, str(first.subnet)
    done = first.ctl("leave")
    assert done.returncode == 0, done.stderr
    assert first.running.wait() == 0
    assert key not in network.leases()
    assert not first.subnet_file.exists()
    wait_until(
        lambda: subnet not in [entry["subnet"] for entry in second.status()["peers"]],
        PATIENCE_S,
        "the peer to forget the host",
    )
    assert not network.etcd.everything(f"{PREFIX}/tunneld/nodes/{first.public_ip}")


def test_a_clean_stop_leaves_the_lease_and_subnet_env_only(network: Network) -> None:
    first, _ = _both(network)
    assert first.end(signal.SIGTERM) == 0
    assert first.space.run("nft", "list", "ruleset") == ""
    assert "flannel0" not in first.space.run("ip", "link", "show")
    assert first.space.run("ip", "-4", "route", "show", "proto", "116") == ""
    assert not first.control_socket.exists()
    assert first.subnet_file.exists()
    assert first.lease_key in network.leases()


def test_another_network_config_is_named_and_waits_for_a_restart(network: Network) -> None:
    first, second = _both(network)
    network.etcd.put(f"{PREFIX}/config", '{"Network":"10.5.0.0/16","SubnetLen":25}')
    first.running.wait_for_output("not the one in force any more")
    assert pings(first, second)
    assert first.status()["network"]["Backend"] == {"Type": "udp"}
