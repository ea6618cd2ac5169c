"""Which offloads a device has, and what switching one of them does."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from testbed.netns import Namespace, inside
from tests.native.hosts import PORT, TIMEOUT_S, Host, engine_on_tun, network, udp_socket
from tests.native.older_kernel import refuse_uso
from tests.native.packets import numbered, sized
from tunneld import _native
from tunneld.errors import EngineError

SOL_UDP, UDP_SEGMENT = 17, 103
DISCARD = 9
"""The port of the datagrams in `tests.native.packets`."""
NAMES = ["tun_tso", "tun_uso", "udp_gso", "udp_gro", "coalesce_tcp", "coalesce_udp"]


def test_a_socket_pair_is_no_device_with_offloads(host: Host) -> None:
    states = host.engine.offloads()
    assert list(states) == sorted(NAMES)
    assert {name for name, state in states.items() if state == "unsupported"} == {
        *("tun_tso", "tun_uso", "coalesce_tcp", "coalesce_udp")
    }
    assert states["udp_gso"] == states["udp_gro"] == "on"


def test_a_switch_must_be_known_and_supported(host: Host) -> None:
    with pytest.raises(EngineError, match=r'offload "warp" is not known, expected one of tun_tso'):
        host.engine.set_offload("warp", True)
    with pytest.raises(EngineError, match="offload tun_tso is not supported"):
        host.engine.set_offload("tun_tso", True)
    host.engine.set_offload("tun_tso", False)
    assert host.engine.offloads()["tun_tso"] == "unsupported"
    host.engine.stop()
    with pytest.raises(EngineError, match="set_offload is not possible, it is stopped"):
        host.engine.set_offload("udp_gso", False)


@pytest.fixture
def device(rig_space: Namespace) -> Iterator[_native.Engine]:
    engine = engine_on_tun(rig_space, "flannel0")
    yield engine
    engine.stop()


def test_switches_reach_the_device(device: _native.Engine, rig_space: Namespace) -> None:
    def is_on(feature: str) -> bool:
        return f"{feature}: on" in rig_space.run("ethtool", "-k", "flannel0")

    assert set(device.offloads().values()) == {"on"}
    assert is_on("tcp-segmentation-offload")
    assert is_on("tx-udp-segmentation")
    device.set_offload("tun_uso", False)
    assert is_on("tcp-segmentation-offload")
    assert not is_on("tx-udp-segmentation")
    device.set_offload("tun_tso", False)
    assert not is_on("tcp-segmentation-offload")
    device.set_offload("tun_uso", True)
    assert is_on("tx-udp-segmentation")
    assert not is_on("tcp-segmentation-offload")
    assert device.offloads()["tun_tso"] == "off"


def test_a_kernel_without_uso_carries_datagrams_one_by_one(rig_space: Namespace) -> None:
    with ThreadPoolExecutor(1) as older_kernel:
        older_kernel.submit(refuse_uso).result()
        engine = older_kernel.submit(engine_on_tun, rig_space, "flannel0").result()
    try:
        states = engine.offloads()
        without = {name for name, state in states.items() if state == "unsupported"}
        assert without == {"tun_uso", "coalesce_udp"}
        assert {states[name] for name in states if name not in without} == {"on"}
        features = rig_space.run("ethtool", "-k", "flannel0")
        assert "tcp-segmentation-offload: on" in features
        assert "tx-udp-segmentation: off" in features
        rig_space.sysctl("net/ipv6/conf/flannel0/disable_ipv6", 1)
        rig_space.run("ip", "address", "add", "10.5.1.0/32", "dev", "flannel0")
        rig_space.run("ip", "link", "set", "flannel0", "mtu", "1472", "up")
        rig_space.run("ip", "route", "add", "10.5.0.0/16", "dev", "flannel0")
        engine.commit(network())
        engine.start()
        with inside(rig_space):
            peer, program = udp_socket("127.0.0.2"), udp_socket("10.5.1.0", DISCARD)
        with peer, program:
            for opened in (peer, program):
                opened.settimeout(TIMEOUT_S)
                opened.setsockopt(SOL_UDP, UDP_SEGMENT, 1_000)
            program.sendto(numbered(10_000), ("10.5.2.2", DISCARD))
            got = [peer.recv(70_000) for _ in range(10)]
            assert b"".join(packet[28:] for packet in got) == numbered(10_000)
            arriving = [sized("10.5.2.2", "10.5.1.0", 1_000) for _ in range(10)]
            peer.sendto(b"".join(arriving), ("127.0.0.1", PORT))
            assert [program.recv(70_000) for _ in arriving] == [one[28:] for one in arriving]
        assert not any(engine.counters()["drops"].values())
        assert engine.drain_events() == []
    finally:
        engine.stop()
