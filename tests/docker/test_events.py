"""What Docker or an operator does to a host's rules does not part its containers for long."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest

from testbed.probe import RATE_HZ, Probe
from testbed.wait import wait_until
from tests.docker.site import MARGIN_TIMEOUT_S, Host, Site, answering, ask, situation

pytestmark = pytest.mark.root

OTHER_RULES = """\
*raw
:PREROUTING ACCEPT
:OUTPUT ACCEPT
COMMIT
*nat
:PREROUTING ACCEPT
:INPUT ACCEPT
:OUTPUT ACCEPT
:POSTROUTING ACCEPT
COMMIT
*filter
:INPUT ACCEPT
:FORWARD DROP
:OUTPUT ACCEPT
COMMIT
"""


def flush(host: Host) -> None:
    """Empties all chains; the policies stay."""
    for table in ("filter", "nat", "raw"):
        host.machine.run("iptables", "-w", "-t", table, "-F")


def replace(host: Host) -> None:
    """Loads a rule set that knows neither Docker nor us; with nftables, none at all."""
    if host.site.kind.rules == "nft":
        host.machine.run("nft", "flush", "ruleset")
    else:
        host.machine.run("iptables-restore", "-w", stdin=OTHER_RULES)


def see_each_other(site: Site, first: Host, second: Host) -> bool:
    """Says whether containers of two hosts see each other's own address, both ways."""
    for one, other in ((first, second), (second, first)):
        asking, asked = site.containers[one.name], site.containers[other.name]
        with answering(asked, 7100):
            if ask(asking, "tcp", asked.address, 7100, timeout_s=5.0) != asking.address:
                return False
    return True


def wait_until_they_see_each_other(site: Site, first: Host, second: Host) -> None:
    seen = partial(see_each_other, site, first, second)
    wait_until(seen, MARGIN_TIMEOUT_S, "each other's address")


def running(host: Host) -> bool:
    return all(c.inspect()["State"]["Running"] for c in host.docker.containers)


def wait_steady(probe: Probe, since_s: float, host: Host) -> None:
    try:
        probe.wait_steady(since_s, MARGIN_TIMEOUT_S, count=50)
    except TimeoutError as error:
        error.add_note(situation(host))
        raise


@pytest.mark.parametrize("event", [flush, replace])
def test_traffic_is_back_after_the_loss_of_all_rules(
    site: Site, event: Callable[[Host], None], figures: list[dict[str, object]]
) -> None:
    first, last = site.hosts[0], site.hosts[-1]
    probes = [site.probe(first, last), site.probe(last, first)]
    for probe in probes:
        wait_steady(probe, 0.0, last)

    # Docker's policy: what stays of a flushed FORWARD drops all that nobody accepts again.
    assert last.forward_policy == "DROP"
    event(last)
    lost_s = time.monotonic()
    for probe in probes:
        wait_steady(probe, lost_s, last)
        probe.stop()

    wait_until_they_see_each_other(site, first, last)
    figures.extend(
        {
            "rules": event.__name__,
            "site": str(site.kind),
            "probe": probe.name,
            "rate_hz": RATE_HZ,
            "gap_s": round(probe.longest_gap_s(), 3),
            "lost": probe.lost(),
        }
        for probe in probes
    )
    # Docker puts back its own rules at its start, but not the policy while forwarding is on.
    last.docker.stop()
    last.docker.start()
    last.machine.run("iptables", "-w", "-P", "FORWARD", "DROP")
    site.wait_connected(MARGIN_TIMEOUT_S)


def test_containers_that_end_with_dockerd_are_reached_again_after_its_restart(site: Site) -> None:
    first, last = site.hosts[0], site.hosts[-1]
    published = first.container("published", "--publish", "8081:7101")
    first.docker.stop()
    first.docker.start()
    wait_until(lambda: running(first), MARGIN_TIMEOUT_S, "containers that run again")
    site.wait_connected(MARGIN_TIMEOUT_S)
    wait_until_they_see_each_other(site, first, last)
    client = site.containers[last.name]
    with answering(published, 7101):
        assert ask(client, "tcp", first.address, 8081) == last.address
        assert ask(client, "tcp", published.address, 7101) == client.address
    first.docker.remove(published)


def test_containers_that_outlive_dockerd_are_reached_during_its_restart(
    site: Site, figures: list[dict[str, object]]
) -> None:
    first, last = site.hosts[0], site.hosts[-1]
    probe = site.probe(first, last)
    wait_steady(probe, 0.0, last)
    last.docker.stop()
    last.docker.start()
    started_s = time.monotonic()
    wait_steady(probe, started_s, last)
    probe.stop()
    wait_until_they_see_each_other(site, first, last)
    figures.append(
        {
            "restart": "dockerd --live-restore",
            "site": str(site.kind),
            "probe": probe.name,
            "rate_hz": RATE_HZ,
            "gap_s": round(probe.longest_gap_s(), 3),
            "lost": probe.lost(),
        }
    )
