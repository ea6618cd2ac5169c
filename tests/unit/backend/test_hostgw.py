"""The host-gw backend: plain routes, and the refusal of what cannot work."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from tests.unit.backend.values import HERE, OWN, backend, dual_peer, network
from tunneld.backend import parse_backend
from tunneld.backend.base import Reach, Unusable
from tunneld.errors import InterfaceError

V4, V6 = IPv4Address("10.99.0.12"), IPv6Address("fd99::12")


def test_it_is_routes_of_the_kernel_whatever_the_data_path_is_to_be() -> None:
    found = backend("host-gw", "dual")
    assert parse_backend(network("host-gw", "dual"), "kernel") == found
    assert (found.datapath, found.port, found.device_template) == ("kernel", None, None)
    assert (found.vtep(HERE), found.devices(HERE, OWN)) == (None, ())
    assert found.wants_on_link


def test_packets_travel_as_they_are() -> None:
    assert backend("host-gw", "dual").device_mtu_bytes(1500) == 1500
    with pytest.raises(InterfaceError, match="at least 1280"):
        backend("host-gw", "dual").device_mtu_bytes(1279)


def test_peer_on_the_link_is_the_gateway_to_its_subnets() -> None:
    found = backend("host-gw", "dual")
    assert [
        found.reach(dual_peer("host-gw"), family, HERE, on_link={V4, V6})
        for family in found.families
    ] == [Reach(gateway=V4), Reach(gateway=V6)]


def test_peer_elsewhere_is_unusable_in_that_family() -> None:
    found = backend("host-gw", "dual")
    assert found.reach(dual_peer("host-gw"), 4, HERE, on_link={V4}) == Reach(gateway=V4)
    with pytest.raises(Unusable, match="fd99::12 is not on the link") as caught:
        found.reach(dual_peer("host-gw"), 6, HERE, on_link={V4})
    assert caught.value.reason == "not_on_link"


@pytest.mark.parametrize("backend_type", ["", "vxlan"])
def test_lease_of_another_backend_is_unusable(backend_type: str) -> None:
    with pytest.raises(Unusable) as caught:
        backend("host-gw").reach(dual_peer(backend_type), 4, HERE, on_link={V4})
    assert caught.value.reason == "backend_type_mismatch"


def test_host_behind_nat_is_refused_with_what_to_do() -> None:
    found = backend("host-gw", "dual")
    found.check(HERE)
    with pytest.raises(InterfaceError, match=r"203\.0\.113\.9 is not .*10\.99\.0\.11.*--public-ip"):
        found.check(replace(HERE, public_ip=IPv4Address("203.0.113.9")))
    elsewhere = replace(HERE, public_ipv6=IPv6Address("2001:db8::9"))
    with pytest.raises(InterfaceError, match=r"2001:db8::9.*--public-ipv6"):
        found.check(elsewhere)
    backend("host-gw", "ipv4").check(elsewhere)
