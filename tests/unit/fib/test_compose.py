"""What a host must hold, said once and completely."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from tests.unit.fib.values import (
    IPV4,
    IPV6,
    MAC,
    NETWORK,
    NETWORK_V6,
    OWN,
    OWN_V6,
    PEER,
    PEER_V6,
    VTEP,
    Reaches,
    gateway,
    kernel,
    kernel_overlay,
    overlay,
    raw,
    vxlan,
)
from tunneld.fib.compose import UNREACHABLE_METRIC, Rules, compose
from tunneld.fib.state import (
    LOCAL,
    EngineState,
    FdbEntry,
    Firewall,
    Neighbour,
    Route,
    SubnetEnv,
    UnderlayPort,
)
from tunneld.lease.model import IPNetwork

RULES = Rules(ip_masq=True)


def unreachable(subnet: IPNetwork) -> Route:
    return Route(destination=subnet, kind="unreachable", metric=UNREACHABLE_METRIC)


def test_own_subnet_is_local_and_a_peer_is_behind_its_adjacency() -> None:
    state = compose(overlay(), {PEER: raw()}, RULES)
    assert state.engine.entries == {OWN: LOCAL, PEER: "10.5.2.0/24"}
    assert state.engine.adjacencies == {"10.5.2.0/24": raw().adjacency}


def test_peer_of_both_families_has_two_adjacencies_named_by_its_subnets() -> None:
    reaches: Reaches = {PEER: vxlan(), PEER_V6: vxlan("2001:db8::2")}
    engine = compose(overlay(ipv6=IPV6, vtep=VTEP), reaches, RULES).engine
    assert engine.entries == {
        OWN: LOCAL,
        OWN_V6: LOCAL,
        PEER: "10.5.2.0/24",
        PEER_V6: "fd00:10:5:2::/64",
    }
    assert engine.adjacencies["fd00:10:5:2::/64"].endpoint == IPv6Address("2001:db8::2")
    assert engine.settings is not None
    assert engine.settings.vtep == VTEP


def test_one_route_covers_each_network_and_each_own_subnet_ends_unreachable() -> None:
    reaches: Reaches = {PEER: raw(), PEER_V6: raw("2001:db8::2")}
    assert compose(overlay(ipv6=IPV6), reaches, RULES).host.routes == {
        Route(destination=NETWORK, kind="overlay"),
        Route(destination=NETWORK_V6, kind="overlay"),
        unreachable(OWN),
        unreachable(OWN_V6),
    }


def test_peer_with_a_smaller_mtu_gets_a_route_of_its_own() -> None:
    reaches: Reaches = {PEER: raw(mtu_bytes=1372), PEER_V6: raw("2001:db8::2")}
    routes = compose(overlay(ipv6=IPV6), reaches, RULES).host.routes
    assert Route(destination=PEER, kind="overlay", mtu_bytes=1372) in routes
    assert PEER_V6 not in {route.destination for route in routes}


def test_no_route_says_less_than_its_family_allows() -> None:
    """68 bytes: RFC 791. 1,280: RFC 8200, below which the kernel refuses a route's MTU."""
    reaches: Reaches = {PEER: raw(mtu_bytes=20), PEER_V6: raw("2001:db8::2", mtu_bytes=1232)}
    state = compose(overlay(ipv6=IPV6), reaches, RULES)
    assert Route(destination=PEER, kind="overlay", mtu_bytes=68) in state.host.routes
    assert Route(destination=PEER_V6, kind="overlay", mtu_bytes=1280) in state.host.routes
    assert state.engine.adjacencies["fd00:10:5:2::/64"].mtu_bytes == 1232


def test_overlay_addresses_are_the_bases_of_the_subnets() -> None:
    state = compose(overlay(ipv6=IPV6), {}, RULES)
    assert state.host.device is not None
    assert state.host.device.address == IPv4Address("10.5.1.0")
    assert state.host.device.address_v6 == IPv6Address("fd00:10:5:1::")
    assert state.engine.settings is not None
    assert state.engine.settings.icmp_source == IPv4Address("10.5.1.0")
    assert state.engine.settings.icmp_source_v6 == IPv6Address("fd00:10:5:1::")


def test_overlay_of_ipv6_alone_has_nothing_of_ipv4() -> None:
    state = compose(overlay(ipv4=None, ipv6=IPV6), {PEER_V6: raw("2001:db8::2")}, RULES)
    assert state.host.device is not None
    assert state.host.device.address is None
    assert state.engine.settings is not None
    assert state.engine.settings.icmp_source is None
    assert {route.destination.version for route in state.host.routes} == {6}
    assert state.host.firewall is not None
    assert (state.host.firewall.ipv4, state.host.firewall.ipv6) == (None, IPV6)
    assert state.host.subnet_env == SubnetEnv(
        network=None,
        subnet=None,
        network_v6=NETWORK_V6,
        subnet_v6=OWN_V6,
        mtu_bytes=1472,
        ip_masq=True,
    )


def test_subnet_env_carries_mtu_and_masquerade_flag() -> None:
    assert compose(overlay(), {}, RULES).host.subnet_env == SubnetEnv(
        network=NETWORK, subnet=OWN, mtu_bytes=1472, ip_masq=True
    )


def test_firewall_knows_the_devices_and_what_the_operator_says() -> None:
    port = UnderlayPort(address=ip_address("192.0.2.1"), port=8472)
    rules = Rules(ip_masq=True, random_fully=False, forward=False, notrack=frozenset({port}))
    assert compose(kernel_overlay(), {}, rules).host.firewall == Firewall(
        ipv4=IPV4,
        ipv6=IPV6,
        devices=frozenset({"flannel.1", "flannel-v6.1"}),
        masquerade=True,
        random_fully=False,
        forward=False,
        notrack=frozenset({port}),
    )
    firewall = compose(overlay(), {}, RULES).host.firewall
    assert firewall is not None
    assert firewall.devices == {"flannel0"}


def test_kernel_data_path_has_flannels_entries_for_a_peer_and_no_engine() -> None:
    """Source: flannel `pkg/backend/vxlan/vxlan_network.go` (handleSubnetEvents)."""
    reaches: Reaches = {PEER: kernel(PEER), PEER_V6: kernel(PEER_V6, "2001:db8::2")}
    wanted = kernel_overlay()
    state = compose(wanted, reaches, RULES)
    assert state.engine == EngineState()
    assert state.host.device is None
    assert state.host.vxlan_devices == frozenset(wanted.vxlan_devices)
    assert state.host.neighbours == {
        Neighbour(device="flannel.1", address=ip_address("10.5.2.0"), mac=MAC),
        Neighbour(device="flannel-v6.1", address=ip_address("fd00:10:5:2::"), mac=MAC),
    }
    assert state.host.fdb == {
        FdbEntry(device="flannel.1", mac=MAC, endpoint=ip_address("192.0.2.2")),
        FdbEntry(device="flannel-v6.1", mac=MAC, endpoint=ip_address("2001:db8::2")),
    }
    assert state.host.routes == {
        Route(destination=PEER, kind="onlink", gateway=ip_address("10.5.2.0"), device="flannel.1"),
        Route(
            destination=PEER_V6,
            kind="onlink",
            gateway=ip_address("fd00:10:5:2::"),
            device="flannel-v6.1",
        ),
        unreachable(OWN),
        unreachable(OWN_V6),
    }


def test_peer_on_the_link_has_a_plain_route_and_keeps_its_adjacency() -> None:
    reaches: Reaches = {PEER: vxlan(gateway="192.0.2.2"), PEER_V6: vxlan("2001:db8::2")}
    state = compose(overlay(ipv6=IPV6), reaches, RULES)
    direct = Route(destination=PEER, kind="gateway", gateway=ip_address("192.0.2.2"))
    assert direct in state.host.routes
    assert Route(destination=NETWORK, kind="overlay") in state.host.routes
    assert state.engine.entries[PEER] == "10.5.2.0/24"


def test_narrow_tunnel_says_nothing_of_a_plain_route() -> None:
    reaches: Reaches = {PEER: vxlan(gateway="192.0.2.2")}
    routes = compose(overlay(mtu_bytes=8950), reaches, RULES).host.routes
    assert [route.mtu_bytes for route in routes if route.destination == PEER] == [0]


def test_routes_alone_are_routes_to_the_peers_and_behind_the_own_subnet() -> None:
    reaches: Reaches = {PEER: gateway("192.0.2.2"), PEER_V6: gateway("2001:db8::2")}
    routed = overlay(ipv6=IPV6, datapath="kernel", device=None, mtu_bytes=1500)
    state = compose(routed, reaches, RULES)
    assert state.engine == EngineState()
    assert state.host.routes == {
        Route(destination=PEER, kind="gateway", gateway=ip_address("192.0.2.2")),
        Route(destination=PEER_V6, kind="gateway", gateway=ip_address("2001:db8::2")),
        unreachable(OWN),
        unreachable(OWN_V6),
    }
    assert state.host.firewall is not None
    assert state.host.firewall.devices == frozenset()


def test_lease_alone_is_rules_and_subnet_env() -> None:
    state = compose(overlay(datapath="none", device=None, mtu_bytes=1500), {}, RULES)
    assert state.engine == EngineState()
    assert (state.host.device, state.host.vxlan_devices) == (None, frozenset())
    assert state.host.routes == {unreachable(OWN)}
    assert state.host.subnet_env is not None
    assert state.host.firewall is not None
