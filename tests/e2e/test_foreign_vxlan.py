"""Leases of a vxlan network that do not fit: named once, counted, and nothing else is disturbed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from testbed.wait import wait_until
from tests.e2e.site import PREFIX, Site
from tunneld.lab.daemons import status_of

pytestmark = pytest.mark.root

KEY = "10.5.254.0-24&fd00:10:5:fffe::-64"
"""Of a host that is not there."""


def lease(**members: Any) -> str:
    return json.dumps(
        {
            "PublicIP": "192.0.2.77",
            "PublicIPv6": "2001:db8::77",
            "BackendType": "vxlan",
            "BackendData": {"VNI": 1, "VtepMAC": "0e:00:00:00:00:77"},
            "BackendV6Data": {"VNI": 1, "VtepMAC": "0e:00:00:00:06:77"},
            **members,
        }
    )


def peers(site: Site) -> dict[str, dict[str, Any]]:
    """Returns the peers of the first host by their IPv4 subnet."""
    return {peer["subnet"]: peer for peer in status_of(site.hosts[0])["peers"]}


def lines(site: Site, words: str) -> list[str]:
    return [line for line in site.hosts[0].log.read_text().splitlines() if words in line]


@pytest.fixture
def calm_site(vxlan_site: Site) -> Iterator[Site]:
    """Takes the lease away again and proves that nobody was hurt."""
    before = peers(vxlan_site).keys()
    yield vxlan_site
    vxlan_site.etcdctl("del", f"{PREFIX}/subnets/{KEY}")
    wait_until(lambda: peers(vxlan_site).keys() == before, what="the peers there were before")
    vxlan_site.ping_all()
    vxlan_site.wait_ready()


def put(site: Site, text: str) -> None:
    site.etcdctl("put", "--", f"{PREFIX}/subnets/{KEY}", text)


MALFORMED: dict[str, dict[str, Any]] = {
    "absent": {"BackendData": None},
    "no object": {"BackendData": "0e:00:00:00:00:77"},
    "no mac": {"BackendData": {"VNI": 1}},
    "mac of five octets": {"BackendData": {"VNI": 1, "VtepMAC": "0e:00:00:00:77"}},
    "mac of a group": {"BackendData": {"VNI": 1, "VtepMAC": "01:00:5e:00:00:01"}},
}
"""No more of one reason than the log names within a minute."""


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        *(
            pytest.param(members, "backend_data_malformed", id=name)
            for name, members in MALFORMED.items()
        ),
        pytest.param({"BackendType": "wireguard"}, "backend_type_mismatch", id="another backend"),
        pytest.param({"BackendType": ""}, "backend_type_mismatch", id="no backend: udp or alloc"),
        pytest.param(
            {"BackendData": {"VNI": 2, "VtepMAC": "0e:00:00:00:00:77"}}, "vni_mismatch", id="vni"
        ),
    ],
)
def test_a_lease_that_does_not_fit_is_counted_and_named_once(
    calm_site: Site, members: dict[str, Any], reason: str
) -> None:
    counts = status_of(calm_site.hosts[0])["skipped_leases"]
    told = len(lines(calm_site, f"reason={reason}"))
    put(calm_site, lease(**members))

    def counted() -> bool:
        after = status_of(calm_site.hosts[0])["skipped_leases"]
        return bool(after.get(reason, 0) == counts.get(reason, 0) + 1)

    wait_until(counted, what=f"a skip as {reason}")
    calm_site.ping_all()
    assert len(lines(calm_site, f"reason={reason}")) == told + 1
    # What is wrong in one family leaves the other as it is.
    still = peers(calm_site).get("10.5.254.0/24")
    assert set(still["reach"] if still else {}) == ({"ipv6"} if "BackendData" in members else set())


def test_the_own_vtep_address_in_somebody_elses_lease_is_not_believed(calm_site: Site) -> None:
    own = calm_site.data_of(0)["VtepMAC"]
    put(calm_site, lease(BackendData={"VNI": 1, "VtepMAC": own}))

    def is_skipped() -> bool:
        counts: dict[str, int] = status_of(calm_site.hosts[0])["skipped_leases"]
        return counts.get("own_vtep_mac") == 1

    wait_until(is_skipped, what="a skip as own_vtep_mac")
    calm_site.ping_all()


def test_one_vtep_address_in_two_leases_is_named_once_and_takes_nothing_away(
    calm_site: Site,
) -> None:
    """In user space a peer is found by its subnet: the address decides nothing."""
    second = calm_site.views[1]
    data = calm_site.data_of(1)
    put(calm_site, lease(BackendData=data))
    wait_until(lambda: "10.5.254.0/24" in peers(calm_site), 10.0, "the lease among the peers")
    calm_site.ping_all()
    found = peers(calm_site)
    assert found["10.5.254.0/24"]["reach"]["ipv4"]["endpoint"] == "192.0.2.77"
    assert found[str(second.bridge.network)]["reach"]["ipv4"]["endpoint"] == str(
        second.underlays[0]
    )
    named = lines(calm_site, "publish one VTEP address")
    assert len(named) == 1
    assert data["VtepMAC"] in named[0]
