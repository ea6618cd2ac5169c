"""No secret is told by two hosts that shake hands, move packets and read their files again.

Needs root, etcd, iproute2, nft and ping.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from testbed.etcd import Etcd
from testbed.netns import Rig, inside
from testbed.process import Process
from testbed.wait import wait_until
from tests.e2e.single_host import SingleHost
from tests.e2e.site import PREFIX
from tests.native.hosts import udp_socket
from tests.native.second_peer import PORT, SecondPeer
from tests.unit.trust.values import ALICE, BOB

pytestmark = pytest.mark.root

CONFIG = json.dumps({"Network": "10.5.0.0/16", "Backend": {"Type": "udp"}})
PSK = bytes(range(7, 47))
KEYS = [base64.b64encode(bytes([64, *range(at, at + 30), 77])).decode() for at in (100, 140)]

RESPONSE = bytes([0, 0, 0, 0, 2, 1, 0, 0])


def forms(secret: bytes) -> list[bytes]:
    """Returns the forms in which a secret may be written down."""
    text = base64.b64encode(secret)
    urls = base64.urlsafe_b64encode(secret)
    digits = secret.hex().encode()
    spaced = secret.hex(" ").encode()
    return [secret, text, text.rstrip(b"="), urls, digits, digits.upper(), spaced,
            str(list(secret)).encode(), repr(secret)[2:-1].encode()]  # fmt: skip


class Guarded:
    """A host with secrets, and all that was said about it."""

    def __init__(self, host: SingleHost, key: str, psk_file: Path) -> None:
        self.host = host
        self.state_dir = host.directory / "state"
        self.psk_file = psk_file
        self.identities = host.directory / "identities"
        self.identities.touch()
        self.said: list[str] = []
        self.state_dir.mkdir(mode=0o700)
        path = self.state_dir / "identity.key"
        path.touch(0o600)
        path.write_text(f"{key}\n")
        self.public = self.told("identity", "show").strip()
        self.daemon: Process

    def start(self, *options: str) -> None:
        self.daemon = self.host.start_daemon(
            *("--psk-file", str(self.psk_file), "--identities", str(self.identities)),
            *("--log-level", "debug", *options),
        )

    def overlay_address(self) -> str:
        """Returns the host's own address in the overlay; nothing before it has a subnet."""
        if not self.host.subnet_file.exists():
            return ""
        lines = self.host.subnet_file.read_text().splitlines()
        env = dict(line.split("=", 1) for line in lines)
        return str(IPv4Interface(env["FLANNEL_SUBNET"]).network[0])

    def told(self, *words: str) -> str:
        """Returns what a command says, whatever it ends with."""
        done = self.host.tunneld(
            *words,
            *("--control-socket", str(self.host.control_socket)),
            *(() if words[0] == "status" else ("--state-dir", str(self.state_dir))),
        )
        self.said.append(done.stdout + done.stderr)
        return self.said[-1]

    def read_again(self, text: str, says: str) -> None:
        self.identities.write_text(text)
        self.daemon.signal(signal.SIGHUP)
        self.daemon.wait_for_output(says)
        assert any(says in problem for problem in self.host.status()["problems"])

    def places(self) -> Iterator[tuple[str, bytes]]:
        """Gives all that anybody but this host's root can come by, and what lies beside it."""
        process = Path("/proc", str(self.daemon.pid))
        yield "log", self.daemon.output().encode()
        yield "commands", "\n".join(self.said).encode()
        for name in ("environ", "cmdline", "status", "comm"):
            yield name, (process / name).read_bytes()
        for path in sorted(self.state_dir.iterdir()):
            if path.name != "identity.key":
                yield path.name, path.read_bytes()
        for number, path in enumerate(sorted((process / "fd").iterdir())):
            if path.is_file():
                yield f"{path.readlink()} open as {number}", path.read_bytes()
        yield "subnet.env", self.host.subnet_file.read_bytes()


@pytest.fixture
def pair(host: SingleHost, etcd: Etcd, rig: Rig, tmp_path: Path) -> tuple[Guarded, Guarded]:
    """Two hosts with one PSK and keys known to this test."""
    host.switch.sysctl("net/ipv4/ip_forward", 1)
    etcd.put(f"{PREFIX}/config", CONFIG)
    psk_file = tmp_path / "psk"
    psk_file.touch(0o600)
    psk_file.write_text(f"{base64.b64encode(PSK).decode()}\n")
    first, second = (
        Guarded(at, key, psk_file)
        for at, key in zip((host, SingleHost(rig, beside=host)), KEYS, strict=True)
    )
    return first, second


def test_no_secret_is_told_by_hosts_that_encrypt_and_files_are_read_again(
    pair: tuple[Guarded, Guarded], etcd: Etcd
) -> None:
    first, second = pair
    trusted = f"{ALICE} alice\n{first.public} first\n{second.public} second\n"
    for one, options in ((first, ()), (second, ("--log-format", "json"))):
        one.identities.write_text(trusted)
        one.start(*options)
    status = first.host.wait_ready()
    assert status["encryption"]["mode"] == "required"
    other = wait_until(second.overlay_address, 30.0, "the other host's subnet")
    first.host.space.wait_for_answer(other)
    wait_until(
        lambda: [p["encrypted"] for p in first.host.status()["peers"]] == [True], 30.0, "keys"
    )

    host = first.host
    assert "the daemon knows" in first.told("trust", "add", BOB, "bob")
    assert host.status()["encryption"]["identities"] == 4
    first.told("trust", "revoke", "alice")
    first.told("trust", "list", "--json")
    assert host.status()["encryption"]["revoked"] == 1
    # What is not usable is refused, said without repeating it, and what was read before stays.
    first.read_again(f"{KEYS[0]} alice\n{KEYS[0]}\n", "identities, line 2: a name is missing")
    assert host.status()["encryption"]["identities"] == 4
    first.read_again(f"{base64.b64encode(PSK).decode()}\n", "no public key")
    psk_file = first.psk_file
    psk_file.chmod(0o644)
    first.read_again(trusted, "open to others")
    psk_file.chmod(0o600)
    psk_file.write_text(f"!{base64.b64encode(PSK).decode()}\n")
    first.told("trust", "list")
    first.read_again(f"{trusted} ", "is not base64")
    psk_file.write_text("\n".join(base64.b64encode(psk).decode() for psk in (PSK[::-1], PSK)))
    for one in pair:
        one.daemon.signal(signal.SIGHUP)
        wait_until(
            lambda one=one: len(one.host.status()["encryption"]["psk_ids"]) == 2,  # type: ignore[misc]
            20.0,
            "the rotation",
        )
        assert one.host.status()["problems"] == []
    host.space.wait_for_answer(other)

    secrets = [PSK, PSK[::-1], *map(base64.b64decode, KEYS)]
    tells_none_of(secrets, etcd, *pair)
    leaves_no_core_dump(second.daemon)
    tells_none_of(keys_in_use(first, second, other), etcd, first)
    assert first.daemon.stop() == 0


def tells_none_of(secrets: list[bytes], etcd: Etcd, *hosts: Guarded) -> None:
    """Asserts that secrets stand nowhere in what hosts tell, and in no form."""
    store = b"".join(name.encode() + value for name, value in etcd.everything("").items())
    for one in hosts:
        one.told("status")
        one.told("status", "--json")
        assert one.public.encode() in store, "the public key stands where it should"
    for name, content in (("store", store), *(place for one in hosts for place in one.places())):
        assert content or "open as" in name, name
        for number, secret in enumerate(secrets):
            assert not [form for form in forms(secret) if form in content], (name, number)


def keys_in_use(first: Guarded, second: Guarded, address: str) -> list[bytes]:
    """Agrees keys with the first host in the second one's place; returns those of all its SAs.

    No daemon tells them; who stands at their other end knows them.
    """
    peer = SecondPeer((f"{address}/24",), PREFIX, PSK, base64.b64decode(KEYS[1]))
    # The firewall that its daemon left behind keeps others from sending by its port.
    second.host.space.run("nft", "flush", "ruleset")
    with inside(second.host.space):
        underlay = udp_socket(str(second.host.address), PORT)
    with underlay:
        underlay.settimeout(30.0)
        to = (str(first.host.address), PORT)
        begun = peer.initiate(base64.b64decode(first.public))
        underlay.sendto(begun.message, to)
        pair = begun.finish(next_datagram(underlay, lambda it: it[:8] == RESPONSE))
        underlay.sendto(pair.out.seal(b"", 1), to)  # they are in use once this has come
        first.host.space.try_run("ping", "-c", "1", "-W", "1", address)
        base = pair.into.base >> 6
        sealed = next_datagram(underlay, lambda it: int.from_bytes(it[:4]) >> 6 == base)
        pair.into.open(sealed)
    both = (pair.out, pair.into)
    return [one.secret for one in both] + [
        one.material(lane)[:-4] for one in both for lane in range(64)
    ]


def next_datagram(underlay: socket.socket, is_it: Callable[[bytes], bool]) -> bytes:
    """Returns the next datagram of a kind; those before it are of keys that were."""
    while not is_it(datagram := underlay.recv(2_000)):
        pass
    return datagram


def leaves_no_core_dump(daemon: Process) -> None:
    """Ends a daemon by what its memory would be written down for, though it may be."""
    resource.prlimit(daemon.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
    daemon.signal(signal.SIGSEGV)
    ended = os.waitid(os.P_PID, daemon.pid, os.WEXITED | os.WNOWAIT)
    assert ended is not None
    # Whatever handler takes dumps, waitid(2) says whether there was one.
    assert (ended.si_status, ended.si_code) == (signal.SIGSEGV, os.CLD_KILLED)
    assert daemon.wait() == -signal.SIGSEGV
