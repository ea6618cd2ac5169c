"""Flanneld and tunneld hosts are one network: traffic, leases and datagrams are alike."""

from __future__ import annotations

import itertools
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from testbed.capture import Capture
from testbed.exchange import send_stream
from testbed.network import PREFIX, UDP_PORT, Host, Network, pings
from testbed.wait import wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # the first may build flanneld

GOLDEN = Path(__file__).parents[1] / "vectors" / "flannel-udp-8285.pcap"
STREAM_BYTES = 100_000_000
DAY_S = 86_400
ECHO_ID = 1066


def test_every_container_pings_every_other(mixed: Network) -> None:
    pairs = itertools.permutations(mixed.hosts, 2)
    silent = [f"{a.name}->{b.name}" for a, b in pairs if not pings(a, b, patience_s=30)]
    assert silent == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("f1", "t1"),
        ("t1", "f1"),
        ("t1", "t2"),
    ],
)
def test_100_megabytes_of_tcp_arrive_unchanged(
    mixed: Network, figures: list[dict[str, object]], first: str, second: str
) -> None:
    source, target = mixed.host(first), mixed.host(second)
    seed = zlib.crc32(f"{first}{second}".encode())
    mbit_s = send_stream(
        source.container, target.container, target.container_ip, STREAM_BYTES, seed=seed
    )
    figures.append({"stream": f"{source.kind}->{target.kind}", "mbit_s": round(mbit_s)})


def test_lease_values_are_flannelds_bytes_with_the_own_address(mixed: Network) -> None:
    stored = mixed.leases()
    model = mixed.of("flanneld")[0]
    flannelds = stored[model.lease_key]
    expected = {
        host.lease_key: flannelds.replace(
            str(model.public_ip).encode(), str(host.public_ip).encode()
        )
        for host in mixed.hosts
    }
    assert stored == expected
    assert flannelds == b'{"PublicIP":"10.99.0.11","PublicIPv6":null}'


def test_leases_last_as_long_as_flannelds(mixed: Network) -> None:
    for host in mixed.hosts:
        (item,) = json.loads(mixed.etcd.ctl("get", host.lease_key, "-w", "json"))["kvs"]
        life = json.loads(mixed.etcd.ctl("lease", "timetolive", f"{item['lease']:x}", "-w", "json"))
        assert life["granted-ttl"] == DAY_S, host.name
        assert DAY_S - 600 < life["ttl"] <= DAY_S, host.name


def test_nothing_but_leases_config_and_tunnelds_own_folder_is_in_the_store(
    mixed: Network,
) -> None:
    flannels = {f"{PREFIX}/config", *(host.lease_key for host in mixed.hosts)}
    others = set(mixed.etcd.everything("/")) - flannels
    assert flannels <= set(mixed.etcd.everything("/"))
    assert [key for key in others if not key.startswith(f"{PREFIX}/tunneld/")] == []


def test_no_key_flanneld_cannot_read_was_ever_written_below_subnets(mixed: Network) -> None:
    written = [key for key in mixed.keys_ever_written() if key.startswith(f"{PREFIX}/subnets")]
    lease = re.compile(rf"{PREFIX}/subnets/10\.5\.\d+\.0-24")
    assert len(written) >= len(mixed.hosts)
    assert [key for key in written if lease.fullmatch(key) is None] == []


def test_subnet_env_has_flannelds_lines(mixed: Network) -> None:
    for host in mixed.hosts:
        assert host.subnet_file.read_text() == (
            "FLANNEL_NETWORK=10.5.0.0/16\n"
            f"FLANNEL_SUBNET={host.gateway}/24\n"
            "FLANNEL_MTU=1472\n"
            "FLANNEL_IPMASQ=false\n"
        )


def test_no_flanneld_reported_an_error_or_lost_a_subnet(mixed: Network) -> None:
    for host in mixed.of("flanneld"):
        log = host.running.output()
        assert re.findall(r"^[EF]\d{4} .*", log, re.MULTILINE) == []
        assert "Subnet removed" not in log
        assert host.running.exit_status is None


@pytest.mark.parametrize("target", ["f1", "t2"])
def test_datagrams_equal_the_captured_ones_in_every_fixed_field(
    mixed: Network, target: str
) -> None:
    source, other = mixed.host("t1"), mixed.host(target)
    wait_until(lambda: pings(source, other), 5, "a first ping")
    expression = f"udp port {UDP_PORT} and host {other.public_ip}"
    path = source.space.directory / f"to-{target}.pcap"
    with Capture(source.space, "eth0", expression, path) as capture:
        # One by one: a daemon that is held up may let the second request pass the first reply.
        for _ in range(2):
            source.container.run(
                *("ping", "-c1", "-W30", "-e", str(ECHO_ID), str(other.container_ip))
            )
        wait_until(lambda: len(ours(capture.packets())) == 4, 10, "two requests and two replies")
    captured = ours(capture.packets())
    golden = read_capture(GOLDEN)
    assert [fixed_fields(packet) for packet in captured] == [
        fixed_fields(packet) for packet in golden
    ]
    for packet in captured:
        assert_checksums(packet)
    assert endpoints(captured[0]) == expected_endpoints(source, other)
    assert endpoints(captured[1]) == expected_endpoints(other, source)


def ours(packets: list[Any]) -> list[Any]:
    """Returns the datagrams with our pings; others may come late of a test before this one."""
    from scapy.layers.inet import ICMP, IP, UDP

    inner = [IP(bytes(packet[UDP].payload)) for packet in packets]
    return [
        packet
        for packet, carried in zip(packets, inner, strict=True)
        if isinstance(carried.payload, ICMP) and carried[ICMP].id == ECHO_ID
    ]


def read_capture(path: Path) -> list[Any]:
    import scapy.layers.inet  # noqa: F401 - registers the link types
    from scapy.utils import rdpcap

    return list(rdpcap(str(path)))


def fixed_fields(packet: Any) -> list[dict[str, object]]:
    """Returns all header fields but IP id, checksums, addresses, ICMP id and sequence."""
    from scapy.layers.inet import ICMP, IP, UDP

    varying = {"dst", "src", "id", "chksum", "seq"}
    inner = IP(bytes(packet[UDP].payload))
    layers = [packet, packet[IP], packet[UDP], inner, inner[ICMP]]
    fields: list[dict[str, object]] = [
        {name: repr(value) for name, value in layer.fields.items() if name not in varying}
        for layer in layers
    ]
    payload = bytes(inner[ICMP].payload)
    return [*fields, {"payload_bytes": len(payload), "inner_bytes": len(bytes(inner))}]


def assert_checksums(packet: Any) -> None:
    """Checks the outer IP, inner IP and ICMP checksums against scapy's own sums."""
    from scapy.layers.inet import ICMP, IP, UDP

    outer, inner = IP(bytes(packet[IP])), IP(bytes(packet[UDP].payload))
    for layer in (outer, inner, inner[ICMP]):
        rebuilt = layer.copy()
        del rebuilt.chksum
        assert type(layer)(bytes(rebuilt)).chksum == layer.chksum, layer.summary()


def endpoints(packet: Any) -> tuple[str, str, str, str]:
    from scapy.layers.inet import IP, UDP

    inner = IP(bytes(packet[UDP].payload))
    return packet[IP].src, packet[IP].dst, inner.src, inner.dst


def expected_endpoints(first: Host, second: Host) -> tuple[str, str, str, str]:
    return (
        str(first.public_ip),
        str(second.public_ip),
        str(first.container_ip),
        str(second.container_ip),
    )


def test_tunneld_reports_every_other_host_as_a_peer(mixed: Network) -> None:
    for host in mixed.of("tunneld"):
        status = host.status()
        others = [other for other in mixed.hosts if other is not host]
        seen = {(peer["subnet"], peer["public_ip"]) for peer in status["peers"]}
        assert seen == {(str(other.subnet), str(other.public_ip)) for other in others}
        for peer in status["peers"]:
            assert peer["tx_packets"] > 0, peer
            assert peer["rx_packets"] > 0, peer
