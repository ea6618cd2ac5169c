"""Malformed and foreign entries in the store: skipped, logged once, counted, hurting nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from testbed.wait import wait_until
from tests.e2e.site import PREFIX, Site
from tests.support.goldens import MALFORMED_KEYS
from tunneld.lab.daemons import status_of

pytestmark = pytest.mark.root

# What is put under them, so that the key alone is at fault.
GOOD_VALUE = '{"PublicIP":"192.0.2.77","PublicIPv6":null}'


def leases(site: Site) -> list[str]:
    return [str(view.bridge.network) for view in site.views]


def skipped(site: Site) -> dict[str, int]:
    counts: dict[str, int] = status_of(site.hosts[0])["skipped_leases"]
    return counts


def log_lines(site: Site, words: str) -> list[str]:
    return [line for line in site.hosts[0].log.read_text().splitlines() if words in line]


@pytest.fixture
def calm_site(site: Site) -> Iterator[Site]:
    """Puts the store back and proves afterwards that nobody was hurt."""
    before = site.etcdctl("get", "--prefix", "--keys-only", PREFIX).split()
    yield site
    for key in site.etcdctl("get", "--prefix", "--keys-only", PREFIX).split():
        if key not in before:
            site.etcdctl("del", "--", key)
    site.ping_all()
    site.wait_ready()
    for host, view in zip(site.hosts, site.views, strict=True):
        status = status_of(host)
        assert status["lease"]["subnet"] == str(view.bridge.network)
        known = {peer["subnet"] for peer in status["peers"]}
        assert known == {lease for lease in leases(site) if lease != str(view.bridge.network)}


def put_and_expect_skip(site: Site, name: str, value: str, reason: str) -> None:
    """Writes a lease; waits until it is counted under `reason`; it is logged once."""
    before = skipped(site)[reason]
    site.etcdctl("put", "--", f"{PREFIX}/subnets/{name}", value)
    wait_until(lambda: skipped(site)[reason] == before + 1, what=f"a skip as {reason}")


def test_malformed_keys_are_skipped_and_counted_each_and_logged_within_a_budget(
    calm_site: Site,
) -> None:
    for name in MALFORMED_KEYS:
        put_and_expect_skip(calm_site, name, GOOD_VALUE, "malformed_key")
    calm_site.ping_all()
    first = f"subnets/{MALFORMED_KEYS[0]} "
    # It is named when it is looked at again, which is after it was counted.
    wait_until(lambda: log_lines(calm_site, first), what="a line that names it")
    assert len(log_lines(calm_site, first)) == 1


DEEP = '{{"PublicIP":"192.0.2.77","PublicIPv6":null,"X":{}"\\ud800"{}}}'.format(
    "[" * 500, "]" * 500
)


def test_malformed_values_are_skipped_and_counted_each_whatever_they_are(calm_site: Site) -> None:
    values = {
        "10.5.254.0-24": "{not json",
        "10.5.253.0-24": '{"PublicIP":null}',
        "10.5.252.0-24": '{"PublicIP":""}',
        "10.5.251.0-24": '{"PublicIP":"fd00::1"}',
        "10.5.250.0-24": "[]",
        "10.5.249.0-24": DEEP,
        "10.5.248.0-24": '{"PublicIP":"192.0.2.77","X":"%s"}' % ("x" * 100_000),
    }
    for name, value in values.items():
        put_and_expect_skip(calm_site, name, value, "malformed_value")
    calm_site.ping_all()
    wait_until(lambda: log_lines(calm_site, "subnets/10.5.254.0-24 "), what="a line that names it")
    assert len(log_lines(calm_site, "subnets/10.5.254.0-24 ")) == 1


def test_entry_that_is_rewritten_all_the_time_does_not_fill_the_log(calm_site: Site) -> None:
    lines = len(log_lines(calm_site, "reason=outside_network"))
    for number in range(40):
        value = f'{{"PublicIP":"192.0.2.77","PublicIPv6":null,"X":{number}}}'
        put_and_expect_skip(calm_site, "10.66.0.0-24", value, "outside_network")
    assert len(log_lines(calm_site, "reason=outside_network")) - lines < 20


def test_a_lease_that_overlaps_ours_takes_nothing_away(calm_site: Site) -> None:
    ours = calm_site.views[0].bridge.network
    inner = f"{ours[128]}-25"
    put_and_expect_skip(calm_site, inner, GOOD_VALUE, "overlaps_own")
    calm_site.ping_all()


def test_a_lease_outside_the_network_becomes_no_peer(calm_site: Site) -> None:
    put_and_expect_skip(calm_site, "10.99.1.0-24", GOOD_VALUE, "outside_network")
    routes = {peer["subnet"] for peer in status_of(calm_site.hosts[0])["peers"]}
    assert "10.99.1.0/24" not in routes
