"""Where packets may not travel in plain none does, whatever the store says.

Needs root, etcd, iproute2 and tcpdump.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from testbed.capture import Capture
from testbed.etcd import Etcd
from testbed.process import Process
from testbed.wait import wait_until
from tests.e2e.single_host import SingleHost
from tests.e2e.site import PREFIX
from tests.unit.trust.values import ALICE
from tunneld.control.client import NotRunningError

pytestmark = pytest.mark.root

PEER = "10.5.7.1"
OVERLAY = "udp or net 10.5.0.0/16"
PSK = bytes(range(7, 47))


def config(**backend: object) -> str:
    return json.dumps({"Network": "10.5.0.0/16", "Backend": backend})


def put_peer(etcd: Etcd, host: SingleHost) -> None:
    """A flanneld at the switch's address, which answers nothing."""
    data = {"VNI": 1, "VtepMAC": "0e:2a:00:00:00:07"}
    lease = {"PublicIP": str(host.switch_address), "BackendType": "vxlan", "BackendData": data}
    etcd.put(f"{PREFIX}/subnets/10.5.7.0-24", json.dumps({**lease, "PublicIPv6": None}))


def problems(host: SingleHost) -> str:
    try:
        return "\n".join(host.status()["problems"])
    except NotRunningError:  # the socket is that of the daemon before
        return ""


def ours(host: SingleHost) -> list[str]:
    """Returns the routes of tunneld."""
    lines = host.space.run("ip", "route", "show", "proto", "116").splitlines()
    return [line.partition(" metric")[0].strip() for line in lines]


def knock(host: SingleHost) -> None:
    """Sends a packet to the peer's subnet, wherever it goes."""
    host.space.try_run("ping", "-c", "1", "-W", "1", PEER)


def goes_out(host: SingleHost, port: int) -> None:
    """Asserts that packets to the peer travel in plain, to this port: the capture can see them."""
    with Capture(host.switch, "port1", OVERLAY, host.directory / "plain.pcap") as capture:

        def seen() -> bool:
            knock(host)
            return any(p.haslayer("UDP") and p["UDP"].dport == port for p in capture.packets())

        wait_until(seen, 30.0, f"a plain datagram to port {port}")


def watched(host: SingleHost, name: str) -> list[str]:
    """Returns what leaves of packets to the peer's subnet."""
    with Capture(host.switch, "port1", OVERLAY, host.directory / f"{name}.pcap") as capture:
        for _ in range(3):
            knock(host)
    return [packet.summary() for packet in capture.packets()]


def nothing_goes_out(host: SingleHost, *options: str, words: tuple[str, ...], name: str) -> Process:
    """Starts a daemon; asserts that it waits, says why, and that nothing leaves in plain."""
    daemon = host.start_daemon(*options)
    keeps_back(host, words=words, name=name)
    daemon.wait_for_output(words[0])
    return daemon


def keeps_back(host: SingleHost, *, words: tuple[str, ...], name: str) -> None:
    """Asserts that a daemon waits, says why, and that nothing leaves in plain."""
    wait_until(lambda: all(word in problems(host) for word in words), 20.0, f"{words} in status")
    wait_until(lambda: ours(host) == ["unreachable 10.5.0.0/16"], 20.0, "no way but into nothing")
    assert watched(host, name) == []
    assert "flannel" not in host.space.run("ip", "link")
    assert host.status()["state"] == "starting"
    assert host.status()["peers"] == []


def refuses_the_peer(host: SingleHost, *, name: str) -> None:
    """Asserts that a daemon encrypts, says why the peer is not reached, and sends it nothing."""
    wait_until(lambda: refusals(host) == {"required"}, 30.0, "the peer is refused")
    assert host.status()["encryption"]["mode"] == "required"
    assert "unreachable 10.5.0.0/16" in ours(host)
    assert "8285" not in host.space.run("ss", "-uln")
    assert "8472" not in host.space.run("ss", "-uln")
    assert watched(host, name) == []


def refusals(host: SingleHost) -> set[str]:
    try:
        return {one["reason"] for one in host.status()["refused"]}
    except NotRunningError:
        return set()


def stays_back(host: SingleHost, daemon: Process, *, name: str) -> None:
    """Stops a daemon; asserts that nothing leaves in plain without it."""
    assert daemon.stop() == 0
    assert ours(host) == ["unreachable 10.5.0.0/16"]
    assert watched(host, name) == []


def test_nothing_leaves_in_plain_below_the_floor(
    host: SingleHost, etcd: Etcd, tmp_path: Path
) -> None:
    put_peer(etcd, host)
    etcd.put(f"{PREFIX}/config", config(Type="vxlan"))
    former = host.start_daemon("--datapath", "kernel")
    host.wait_ready()
    goes_out(host, 8472)
    former.kill()
    goes_out(host, 8472)  # the kernel goes on by itself

    floor = ("--encryption-floor", "required")
    daemon = host.start_daemon(*floor)
    refuses_the_peer(host, name="floor")
    status = host.status()["encryption"]
    assert (status["floor"], status["trust"]) == ("required", "store")
    stays_back(host, daemon, name="stopped")
    # Nothing the store says lowers the floor.
    etcd.put(f"{PREFIX}/config", config(Type="host-gw"))
    words: tuple[str, ...] = ("host-gw backend leaves packets as they are", "by --encryption-floor")
    daemon = nothing_goes_out(host, *floor, words=words, name="host-gw")
    for backend, says in (
        ({"Type": "alloc"}, "alloc backend leaves packets as they are"),
        ({"Type": "vxlan", "DirectRouting": True}, "DirectRouting sends in plain"),
        ({"Type": "vxlan", "Encryption": {"Mode": "on"}}, 'Backend.Encryption.Mode "on"'),
    ):
        etcd.put(f"{PREFIX}/config", config(**backend))
        wait_until(lambda says=says: says in problems(host), 20.0, says)  # type: ignore[misc]
    etcd.put(f"{PREFIX}/config", config(Type="vxlan", Encryption={"Mode": "off"}))
    refuses_the_peer(host, name="off")
    stays_back(host, daemon, name="stopped again")

    # Where it is preferred, a host that never had keys is reached in plain, and status says so.
    etcd.put(f"{PREFIX}/config", config(Type="udp", Encryption={"Mode": "preferred"}))
    daemon = host.start_daemon()
    host.wait_ready()
    goes_out(host, 8285)
    (peer,) = host.status()["peers"]
    assert (peer["encrypted"], peer["security"]["mode"]) == (False, "plain")
    assert "it has no keys" in peer["security"]["detail"]
    stays_back(host, daemon, name="preferred")
    etcd.put(f"{PREFIX}/config", config(Type="udp"))
    daemon = host.start_daemon()
    assert host.wait_ready()["encryption"]["mode"] == "off"
    goes_out(host, 8285)
    assert "unreachable 10.5.0.0/16" not in ours(host)
    # A host that runs follows a network that asks for more, and at once.
    etcd.put(f"{PREFIX}/config", config(Type="udp", Encryption={"Mode": "required"}))
    refuses_the_peer(host, name="raised")
    stays_back(host, daemon, name="stopped once more")

    # Nor is what it was before good enough once the store keeps away: it has been asked for more.
    etcd.put(f"{PREFIX}/config", config(Type="udp"))
    daemon = host.start_daemon()
    host.wait_ready()
    assert "unreachable 10.5.0.0/16" not in ours(host)
    remembered = host.directory / "state" / "network.json"
    wait_until(
        lambda: "Mode" not in remembered.read_text(), 20.0, "the plain config is written down"
    )
    assert daemon.stop() == 0
    assert ours(host) == []
    required = config(Type="host-gw", Encryption={"Mode": "required"})
    etcd.put(f"{PREFIX}/config", required)
    words = ("encryption is required, and the host-gw",)
    daemon = nothing_goes_out(host, words=words, name="asked")
    stays_back(host, daemon, name="asked no more")
    etcd.stop()
    daemon = nothing_goes_out(host, words=words, name="remembered")
    etcd.start()
    assert daemon.stop() == 0

    identities = tmp_path / "identities"
    identities.write_text(f"{ALICE} alice\n")
    words = ("(by this host's floor, as identities or a PSK",)
    etcd.put(f"{PREFIX}/config", config(Type="host-gw"))
    by = ("--identities", str(identities))
    daemon = host.start_daemon(*by)
    wait_until(lambda: words[0] in problems(host), 20.0, words[0])
    # Another network opens no way for the containers of this one.
    etcd.put(f"{PREFIX}/config", config(Type="host-gw").replace("10.5", "10.6"))
    both = ["unreachable 10.5.0.0/16", "unreachable 10.6.0.0/16"]
    wait_until(lambda: ours(host) == both, 30.0, "both networks kept back")
    assert daemon.stop() == 0
    assert ours(host) == both
    # A file that cannot be read ends a daemon, and opens no way either, by what subnet.env says.
    identities.write_text("nonsense\n")
    remembered.unlink()
    for network in both:
        host.space.run("ip", "route", "del", *network.split())
    done = host.daemon_ends(*by)
    assert done.returncode == 2
    assert "identities, line 1" in done.stderr
    assert "unreachable 10.5.0.0/16" in ours(host)


def test_a_daemon_whose_secrets_are_open_to_others_does_not_start(
    host: SingleHost, tmp_path: Path
) -> None:
    psk_file = tmp_path / "psk"
    psk_file.write_text(base64.b64encode(PSK).decode())
    psk_file.chmod(0o640)
    done = host.daemon_ends("--psk-file", str(psk_file))
    assert done.returncode == 2
    assert "open to others (mode 0640)" in done.stderr
    assert base64.b64encode(PSK).decode() not in done.stderr
