"""Malformed and foreign entries in the store: skipped, logged once, counted, hurting nobody."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.site import PREFIX, Site
from tests.support.goldens import MALFORMED_KEYS
from tests.support.wait import wait_until
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


@pytest.mark.parametrize("name", MALFORMED_KEYS)
def test_a_malformed_key_is_skipped_logged_once_and_counted(calm_site: Site, name: str) -> None:
    put_and_expect_skip(calm_site, name, GOOD_VALUE, "malformed_key")
    calm_site.ping_all()
    # It is named when it is looked at again, which is after it was counted.
    wait_until(lambda: log_lines(calm_site, f"subnets/{name} "), what="a line that names it")
    assert len(log_lines(calm_site, f"subnets/{name} ")) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("10.5.254.0-24", "{not json"),
        ("10.5.253.0-24", '{"PublicIP":null}'),
        ("10.5.252.0-24", '{"PublicIP":""}'),
        ("10.5.251.0-24", '{"PublicIP":"fd00::1"}'),
        ("10.5.250.0-24", "[]"),
    ],
)
def test_a_malformed_value_is_skipped_logged_once_and_counted(
    calm_site: Site, name: str, value: str
) -> None:
    put_and_expect_skip(calm_site, name, value, "malformed_value")
    calm_site.ping_all()
    # It is named when it is looked at again, which is after it was counted.
    wait_until(lambda: log_lines(calm_site, f"subnets/{name} "), what="a line that names it")
    assert len(log_lines(calm_site, f"subnets/{name} ")) == 1


def test_a_lease_that_overlaps_ours_takes_nothing_away(calm_site: Site) -> None:
    ours = calm_site.views[0].bridge.network
    inner = f"{ours[128]}-25"
    put_and_expect_skip(calm_site, inner, GOOD_VALUE, "overlaps_own")
    calm_site.ping_all()


def test_a_lease_outside_the_network_becomes_no_peer(calm_site: Site) -> None:
    put_and_expect_skip(calm_site, "10.99.1.0-24", GOOD_VALUE, "outside_network")
    routes = {peer["subnet"] for peer in status_of(calm_site.hosts[0])["peers"]}
    assert "10.99.1.0/24" not in routes
