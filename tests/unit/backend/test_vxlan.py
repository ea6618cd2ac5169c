"""The vxlan backend against flannel's facts: options, MTU, devices, and who is reached how."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Literal

import pytest

from tests.unit.backend.values import (
    HERE,
    MAC,
    MAC_V6,
    OWN,
    PEER_MAC,
    PEER_MAC_V6,
    Family,
    backend,
    dual_peer,
    network,
    peer,
    vxlan_peer,
)
from tunneld.backend import parse_backend
from tunneld.backend.base import (
    Adjacency,
    Backend,
    KernelPath,
    Reach,
    Unusable,
    Vtep,
    VxlanDevice,
)
from tunneld.errors import InterfaceError, NetworkConfigError

V4, V6 = IPv4Address("10.99.0.12"), IPv6Address("fd99::12")


def vxlan(
    families: Family = "dual",
    datapath: Literal["userspace", "kernel"] = "userspace",
    **options: Any,
) -> Backend:
    return backend("vxlan", families, datapath, **options)


def test_defaults_are_flannels() -> None:
    found = vxlan("ipv4")
    assert (found.type, found.port, found.source_check) == ("vxlan", 8472, "strict")
    assert (found.datapath, found.device_template) == ("userspace", "flannel.1")
    assert (found.wants_on_link, found.source_ports) == (False, 4)
    assert found.vtep(HERE) == Vtep(vni=1, gbp=False, mac=MAC, mac_v6=None)


def test_port_0_is_the_kernels_default() -> None:
    assert vxlan(Port=0).port == 8472
    assert vxlan(Port=4789).port == 4789


@pytest.mark.parametrize("datapath", ["userspace", "kernel"])
@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("VNI", [0, -1, 2**24, "1", True, 1.0], "from 1 to 16777215"),
        ("Port", [-1, 65_536, "8472", False], "from 0 to 65535"),
        ("MTU", [-1, 65_536, "1500"], "from 0 to 65535"),
        ("GBP", [0, 1, "true", []], "true or false"),
        ("Learning", [0, "no"], "true or false"),
        ("DirectRouting", [1, "yes", {}], "true or false"),
        ("SourceCheck", ["on", True], "strict, loose, off"),
    ],
)
def test_option_out_of_its_limits_is_refused(
    datapath: Literal["userspace", "kernel"], name: str, values: list[object], words: str
) -> None:
    for value in values:
        with pytest.raises(NetworkConfigError, match=rf"^Backend\.{name} .*{words}"):
            backend("vxlan", "dual", datapath, **{name: value})


def test_null_options_are_the_defaults() -> None:
    nothing: dict[str, Any] = dict.fromkeys(
        ("VNI", "Port", "MTU", "GBP", "Learning", "DirectRouting")
    )
    assert vxlan(**nothing) == vxlan()


def test_vni_that_makes_too_long_a_device_name_is_refused() -> None:
    assert vxlan("dual", VNI=9_999_999).device_template == "flannel.9999999"
    with pytest.raises(NetworkConfigError, match=r"flannel\.10000000.*at most 7 digits"):
        vxlan("ipv4", VNI=10_000_000)
    with pytest.raises(NetworkConfigError, match=r"flannel-v6\.10000.*at most 4 digits"):
        vxlan("dual", "kernel", VNI=10_000)


def test_one_tun_device_serves_both_families() -> None:
    assert vxlan("dual", VNI=7).device_template == "flannel.7"
    assert vxlan("ipv6", VNI=7).device_template == "flannel-v6.7"
    assert vxlan("dual", "kernel").device_template is None


def test_what_has_no_effect_is_named() -> None:
    (learning,) = vxlan(Learning=True).remarks
    assert "Learning" in learning
    (source_check,) = vxlan("ipv4", "kernel", SourceCheck="loose").remarks
    assert "SourceCheck" in source_check
    assert vxlan("ipv4", "kernel", Learning=True).remarks == vxlan(SourceCheck="off").remarks == ()


@pytest.mark.parametrize(
    ("families", "mtu_bytes"), [("ipv4", 1450), ("ipv6", 1430), ("dual", 1430)]
)
@pytest.mark.parametrize("datapath", ["userspace", "kernel"])
def test_headers_take_50_bytes_over_ipv4_and_70_over_ipv6(
    families: Family, mtu_bytes: int, datapath: Literal["userspace", "kernel"]
) -> None:
    assert vxlan(families, datapath).device_mtu_bytes(1500) == mtu_bytes


def test_devices_of_the_kernel_hold_no_more_than_a_datagram() -> None:
    """One byte more, and the kernel refuses what its own device has taken."""
    here = replace(HERE, underlay_mtu_bytes=65_536)
    found = vxlan("dual", "kernel").devices(here, OWN)
    assert [device.mtu_bytes for device in found] == [65_535 - 50, 65_535 - 70]


def test_mtu_option_is_the_outer_one() -> None:
    assert vxlan("ipv4", MTU=1400).device_mtu_bytes(1500) == 1350
    assert vxlan("ipv4", MTU=0).device_mtu_bytes(1500) == 1450
    with pytest.raises(InterfaceError, match="1349 leaves 1279"):
        vxlan("dual").device_mtu_bytes(1349)


@pytest.mark.parametrize("datapath", ["userspace", "kernel"])
@pytest.mark.parametrize(
    # RFC 791 asks for packets of 68 bytes, RFC 8200 of 1280.
    ("families", "least"),
    [("ipv4", 68 + 50), ("dual", 1280 + 70), ("ipv6", 1280 + 70)],
)
def test_mtu_option_that_leaves_no_room_for_a_packet_is_refused_by_its_name(
    families: Family, least: int, datapath: Literal["userspace", "kernel"]
) -> None:
    vxlan(families, datapath, MTU=least)
    with pytest.raises(
        NetworkConfigError, match=rf"^Backend\.MTU {least - 1} leaves .* expected at least {least}"
    ):
        vxlan(families, datapath, MTU=least - 1)


def test_vtep_has_an_address_for_each_family() -> None:
    assert vxlan("dual", VNI=9, GBP=True).vtep(HERE) == Vtep(
        vni=9, gbp=True, mac=MAC, mac_v6=MAC_V6
    )
    assert vxlan("ipv6").vtep(HERE) == Vtep(vni=1, gbp=False, mac=None, mac_v6=MAC_V6)
    assert vxlan("dual", "kernel").vtep(HERE) is None


def test_peer_in_user_space_has_an_adjacency_for_each_family() -> None:
    found = vxlan()
    assert [found.reach(vxlan_peer(), family, HERE, on_link=()) for family in found.families] == [
        Reach(
            adjacency=Adjacency(
                encapsulation="vxlan",
                endpoint=V4,
                port=8472,
                mtu_bytes=1430,
                of_peer={"vtep_mac": PEER_MAC},
            )
        ),
        Reach(
            adjacency=Adjacency(
                encapsulation="vxlan",
                endpoint=V6,
                port=8472,
                mtu_bytes=1430,
                of_peer={"vtep_mac": PEER_MAC_V6},
            )
        ),
    ]


def test_peer_in_the_kernel_has_what_flanneld_programs() -> None:
    """Source: flannel `pkg/backend/vxlan/vxlan_network.go` (handleSubnetEvents)."""
    found = vxlan("dual", "kernel", VNI=1)
    assert [found.reach(vxlan_peer(), family, HERE, on_link=()) for family in found.families] == [
        Reach(
            kernel=KernelPath(
                device="flannel.1",
                next_hop=IPv4Address("10.5.2.0"),
                mac=PEER_MAC,
                endpoint=V4,
            )
        ),
        Reach(
            kernel=KernelPath(
                device="flannel-v6.1",
                next_hop=IPv6Address("fd00:10:5:2::"),
                mac=PEER_MAC_V6,
                endpoint=V6,
            )
        ),
    ]


def test_kernel_devices_are_flannels_two_each_with_its_own_mtu() -> None:
    common: dict[str, Any] = {"vni": 7, "port": 4789, "gbp": True, "learning": True}
    options: dict[str, Any] = {"VNI": 7, "Port": 4789, "GBP": True, "Learning": True}
    assert vxlan("dual", "kernel", **options).devices(HERE, OWN) == (
        VxlanDevice(
            name="flannel.7",
            local=IPv4Address("10.99.0.11"),
            mac=MAC,
            mtu_bytes=1450,
            address=IPv4Address("10.5.57.0"),
            **common,
        ),
        VxlanDevice(
            name="flannel-v6.7",
            local=IPv6Address("fd99::11"),
            mac=MAC_V6,
            mtu_bytes=1430,
            address=IPv6Address("fd00:10:5:1a::"),
            **common,
        ),
    )
    assert [device.name for device in vxlan("ipv4", "kernel").devices(HERE, OWN)] == ["flannel.1"]
    assert [device.name for device in vxlan("ipv6", "kernel").devices(HERE, OWN)] == [
        "flannel-v6.1"
    ]
    assert vxlan().devices(HERE, OWN) == ()


def test_direct_routing_goes_by_family_and_keeps_the_adjacency_for_what_comes_in() -> None:
    found = vxlan(DirectRouting=True)
    assert found.wants_on_link
    direct = found.reach(vxlan_peer(), 4, HERE, on_link={V4})
    tunnelled = found.reach(vxlan_peer(), 6, HERE, on_link={V4})
    assert direct is not None
    assert tunnelled is not None
    assert (direct.gateway, tunnelled.gateway) == (V4, None)
    assert replace(direct, gateway=None) == found.reach(vxlan_peer(), 4, HERE, on_link=())


def test_direct_routing_in_the_kernel_has_the_route_alone_as_flannels() -> None:
    found = vxlan("dual", "kernel", DirectRouting=True)
    assert found.reach(vxlan_peer(), 6, HERE, on_link={V6}) == Reach(gateway=V6)


@pytest.mark.parametrize("datapath", ["userspace", "kernel"])
def test_peer_on_the_link_stays_in_the_tunnel_without_direct_routing(
    datapath: Literal["userspace", "kernel"],
) -> None:
    reach = vxlan("dual", datapath).reach(vxlan_peer(), 4, HERE, on_link={V4})
    assert reach is not None
    assert reach.gateway is None


def good(**other: object) -> dict[str, object]:
    return {"VNI": 1, "VtepMAC": "72:0b:53:7f:1d:2f", **other}


@pytest.mark.parametrize(
    ("backend_type", "data", "reason"),
    [
        ("", good(), "backend_type_mismatch"),
        ("VXLAN", good(), "backend_type_mismatch"),
        ("host-gw", None, "backend_type_mismatch"),
        ("vxlan", None, "backend_data_malformed"),
        ("vxlan", "text", "backend_data_malformed"),
        ("vxlan", [], "backend_data_malformed"),
        ("vxlan", {}, "backend_data_malformed"),
        ("vxlan", good(VtepMAC=None), "backend_data_malformed"),
        ("vxlan", good(VtepMAC="72:0b:53:7f:1d"), "backend_data_malformed"),
        ("vxlan", good(VtepMAC="72:0b:53:7f:1d:2f:00:00"), "backend_data_malformed"),
        ("vxlan", good(VtepMAC="ff:ff:ff:ff:ff:ff"), "backend_data_malformed"),
        ("vxlan", good(VtepMAC="01:00:5e:00:00:01"), "backend_data_malformed"),
        ("vxlan", good(VtepMAC="00:00:00:00:00:00"), "backend_data_malformed"),
        ("vxlan", good(VtepMAC=7), "backend_data_malformed"),
        ("vxlan", good(VNI="1"), "backend_data_malformed"),
        ("vxlan", good(VNI=True), "backend_data_malformed"),
        ("vxlan", good(VNI=2), "vni_mismatch"),
        ("vxlan", good(VNI=0), "vni_mismatch"),
        ("vxlan", good(VtepMAC=MAC), "own_vtep_mac"),
        ("vxlan", good(VtepMAC=MAC_V6.upper()), "own_vtep_mac"),
    ],
)
@pytest.mark.parametrize("datapath", ["userspace", "kernel"])
def test_lease_that_does_not_fit_has_a_reason_of_its_own(
    datapath: Literal["userspace", "kernel"], backend_type: str, data: Any, reason: str
) -> None:
    bad = dual_peer(backend_type, data=data, data_v6=data)
    for family in (4, 6):
        with pytest.raises(Unusable) as caught:
            vxlan("dual", datapath).reach(bad, family, HERE, on_link={V4, V6})
        assert caught.value.reason == reason
        assert "10.5.2.0/24" in caught.value.detail


def test_one_bad_family_leaves_the_other() -> None:
    half = dual_peer("vxlan", data=good(), data_v6=good(VNI=3))
    assert vxlan().reach(half, 4, HERE, on_link=()) is not None
    with pytest.raises(Unusable, match="BackendV6Data"):
        vxlan().reach(half, 6, HERE, on_link=())


def test_peer_without_an_address_in_a_family_is_unusable_there() -> None:
    half = peer(subnet_v6="fd00:10:5:2::/64", backend_type="vxlan", data_v6=good())
    with pytest.raises(Unusable) as caught:
        vxlan().reach(half, 6, HERE, on_link=())
    assert caught.value.reason == "no_underlay_address"


@pytest.mark.parametrize(
    "data",
    [
        good(VtepMAC="72-0B-53-7F-1D-2F"),
        {"vni": 1, "vtepmac": "72:0b:53:7f:1d:2f"},
        good(Other={"more": 1}),
        {"VtepMAC": "72:0b:53:7f:1d:2f"},
        good(VNI=None),
    ],
)
def test_what_flanneld_reads_is_read(data: Any) -> None:
    reach = vxlan().reach(dual_peer("vxlan", data=data), 4, HERE, on_link=())
    assert reach is not None
    assert reach.adjacency is not None
    assert reach.adjacency.of_peer == {"vtep_mac": "72:0b:53:7f:1d:2f"}


def test_long_backend_data_is_cut_in_the_log() -> None:
    with pytest.raises(Unusable) as caught:
        vxlan().reach(dual_peer("vxlan", data="x" * 10_000), 4, HERE, on_link=())
    assert len(caught.value.detail) < 300


@pytest.mark.parametrize("datapath", ["userspace", "kernel"])
def test_host_without_an_address_of_a_family_is_refused(
    datapath: Literal["userspace", "kernel"],
) -> None:
    found = parse_backend(network("vxlan", "dual"), datapath)
    found.check(HERE)
    with pytest.raises(InterfaceError, match=r"no IPv4 address.*EnableIPv4"):
        found.check(replace(HERE, address=None))
    with pytest.raises(InterfaceError, match=r"no IPv6 address.*EnableIPv6"):
        found.check(replace(HERE, address_v6=None))
    parse_backend(network("vxlan", "ipv4"), datapath).check(replace(HERE, address_v6=None))
