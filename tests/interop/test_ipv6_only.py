"""A network of IPv6 alone is not shared with flanneld, whoever comes first.

There every host publishes PublicIP 0.0.0.0, by which a flanneld that starts takes the first lease
it finds for its own (flannel `pkg/subnet/etcd/local_manager.go`).
"""

from __future__ import annotations

import json
import signal

import pytest

from testbed.netns import Rig
from testbed.network import PREFIX, Host, Network
from testbed.wait import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # the first may build flanneld

PATIENCE_S = 30.0
WHY = "the network has IPv6 only, and a flanneld holds"


@pytest.fixture
def network(interop_tools: None, rig: Rig) -> Network:
    """A network of IPv6 alone, without a host yet."""
    return Network(rig, backend={"Type": "vxlan"}, families=(6,))


def named(host: Host) -> str:
    """Returns how the reason names the lease of a host."""
    return f"{host.subnet_of(6)} of {host.public_ipv6}"


def test_tunneld_does_not_join_a_flanneld_and_says_why(network: Network) -> None:
    flanneld = network.add("f1")
    flanneld.wait_ready()
    before = network.etcd.everything(PREFIX)
    assert flanneld.lease_key in before

    newcomer = network.add("t1")
    newcomer.running.wait_for_output(f"{WHY} {named(flanneld)}")
    assert "EnableIPv4" in newcomer.running.output()
    assert newcomer.status()["state"] == "starting"
    assert network.etcd.everything(PREFIX) == before, "nothing is written"
    assert not newcomer.subnet_file.exists()

    # What the reason asks for is enough.
    flanneld.end(signal.SIGTERM)
    network.etcd.delete(flanneld.lease_key)
    newcomer.wait_ready()
    wait_for_state(newcomer, "ready")


def test_tunnelds_that_a_flanneld_joins_go_on_degraded_until_it_is_gone(network: Network) -> None:
    tunnelds = (network.add("t1"), network.add("t2"))
    network.wait_connected()
    before = network.leases()

    flanneld = network.add("f1")
    flanneld.wait_ready()
    # It has the subnet of one of them, who has another one by now.
    assert flanneld.lease_key in before
    wait_until(lambda: len(network.leases()) == 3, PATIENCE_S, "a lease of each host")
    for host in tunnelds:
        wait_for_state(host, "degraded")
        host.running.wait_for_output(wait_for_problem(host, f"{WHY} {named(flanneld)}"))
    for first, second in (tunnelds, tunnelds[::-1]):
        wait_until(lambda: reaches(first, second), PATIENCE_S, "tunneld hosts to go on")  # noqa: B023

    # One that was in the network is not shut out of it by its own restart.
    tunnelds[0].end(signal.SIGTERM)
    tunnelds[0].start()
    wait_for_state(tunnelds[0], "degraded")

    # It stumbled over the leases of the others, and does not end for being asked to.
    flanneld.end(signal.SIGKILL)
    network.etcd.delete(flanneld.lease_key)
    for host in tunnelds:
        wait_for_state(host, "ready")
    wait_until(lambda: reaches(*tunnelds), PATIENCE_S, "tunneld hosts to go on")


def wait_for_problem(host: Host, text: str) -> str:
    """Waits until a problem of a host holds `text`; returns the whole of it.

    The host whose subnet flanneld took has one more: its bridge still has an address there.
    """

    def found() -> str:
        problems: list[str] = host.status()["problems"]
        return next((problem for problem in problems if text in problem), "")

    return wait_until(found, PATIENCE_S, f"{text!r} as a problem of {host.name}")


def wait_for_state(host: Host, state: str) -> None:
    def is_so() -> bool:
        done = host.ctl("status", "--json")
        return done.returncode == 0 and json.loads(done.stdout)["state"] == state

    wait_until(is_so, PATIENCE_S, f"{host.name} {state}")


def reaches(first: Host, second: Host) -> bool:
    """Says whether one host reaches the overlay address of another: the base of its subnet."""
    target = str(second.subnet_of(6).network_address)
    return first.space.try_run("ping", "-c1", "-W1", target).returncode == 0
