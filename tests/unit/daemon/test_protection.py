"""What a host makes of its options, its files and a network config."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trust.values import ALICE, BOB, key, recorded
from tunneld.clock import Now
from tunneld.config import load
from tunneld.daemon.protection import Protection, asks_for_encryption
from tunneld.errors import ControlError, NetworkConfigError, TrustError
from tunneld.fib.plan import Members
from tunneld.host.state_dir import StateDir
from tunneld.lease.model import NodeRecord, RecordEncryption, SubnetKey
from tunneld.lease.network import NetworkConfig, parse
from tunneld.peer import Peer

SUBNET = IPv4Network("10.5.3.0/24")
PLAIN = Peer(
    key=SubnetKey(SUBNET),
    public_ip=IPv4Address("192.0.2.3"),
    public_ipv6=None,
    backend_type="",
    backend_data=None,
    backend_v6_data=None,
    node_id=None,
    version=None,
)
KEYED = replace(PLAIN, node_id="n3", encryption=recorded(key(3)))


def config(mode: str | None) -> NetworkConfig:
    encryption = {} if mode is None else {"Encryption": {"Mode": mode}}
    return parse(json.dumps({"Network": "10.5.0.0/16", "Backend": {"Type": "udp", **encryption}}))


class Host:
    """A host with a state directory that its daemons use one after the other."""

    def __init__(self, path: Path) -> None:
        self.identities = path / "identities"
        self.path = path / "state"
        self.state_dir = StateDir(self.path)
        self.now = Now(wall_s=1e9, boot_s=1000.0, boot_id="boot")

    def passes(self, hours: float) -> None:
        """Lets time pass."""
        seconds = hours * 3600
        self.now = replace(
            self.now, wall_s=self.now.wall_s + seconds, boot_s=self.now.boot_s + seconds
        )

    def start(self, **options: str) -> Protection:
        """Starts a daemon; the one before was killed."""
        self.state_dir.close()
        self.state_dir = StateDir(self.path)
        arguments = {name.replace("_", "-"): [text] for name, text in options.items()}
        given = {"config": ["/dev/null"], "state-dir": [str(self.path)], **arguments}
        return Protection(load(given, {}), self.state_dir, lambda: self.now)

    def preferred(self, **options: str) -> Protection:
        """Starts a daemon in a network that prefers encryption."""
        protection = self.start(**options)
        protection.adopt(config("preferred"))
        return protection


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    made.state_dir.close()


def verdict(protection: Protection, peer: Peer) -> tuple[str, str]:
    found = protection.verdicts(Members(peers=(peer,)))[SUBNET]
    return found.way, found.reason


def test_a_network_without_encryption_is_served_and_judges_nobody(host: Host) -> None:
    protection = host.start()
    assert protection.adopt(config(None)).type == "udp"
    assert not protection.forbids_plain
    assert protection.verdicts(Members(peers=(PLAIN, KEYED))) == {}
    assert protection.status().mode == "off"


@pytest.mark.parametrize(
    ("asked", "floor", "mode"),
    [
        ("required", None, "required"),
        ("preferred", None, "preferred"),
        (None, "required", "required"),
        ("off", "preferred", "preferred"),
        ("preferred", "required", "required"),
        ("required", "off", "required"),
    ],
)
def test_what_network_or_host_asks_for_is_in_force_with_a_key_of_the_nodes_own(
    host: Host, asked: str | None, floor: str | None, mode: str
) -> None:
    protection = host.start(**{"encryption_floor": floor} if floor else {})
    assert protection.key is None, "no key is made before somebody wants one"
    assert protection.adopt(config(asked)).type == "udp"
    assert protection.forbids_plain
    assert protection.status().mode == mode
    assert protection.esp is not None
    assert protection.esp.is_alone is (mode == "required")
    first = protection.status().public_key
    assert first is not None
    assert stat.S_IMODE((host.path / "identity.key").stat().st_mode) == 0o600
    again = host.start(**{"encryption_floor": floor} if floor else {})
    again.adopt(config(asked))
    assert again.status().public_key == first, "the key is the same after every start"


def test_a_backend_below_what_is_asked_is_not_served_and_says_who_asks(host: Host) -> None:
    protection = host.start(encryption_floor="required")
    plain = parse('{"Network": "10.5.0.0/16", "Backend": {"Type": "host-gw"}}')
    with pytest.raises(NetworkConfigError) as caught:
        protection.adopt(plain)
    assert "encryption is required, and the host-gw backend" in str(caught.value)
    assert "(by --encryption-floor of this host)" in str(caught.value)
    assert protection.forbids_plain


def test_a_key_that_others_can_read_is_waited_out_and_none_is_made_in_its_place(
    host: Host,
) -> None:
    path = host.path / "identity.key"
    host.preferred()
    content = path.read_bytes()
    path.chmod(0o644)
    protection = host.start()
    with pytest.raises(NetworkConfigError, match=r"encryption is preferred, but .*open to others"):
        protection.adopt(config("preferred"))
    assert protection.forbids_plain
    path.chmod(0o600)
    protection.adopt(config("preferred"))
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("options", "text", "asks"),
    [
        ({}, None, False),
        ({}, config(None), False),
        ({}, config("preferred"), True),
        ({"identities": "x"}, None, True),
        ({"psk-file": "x"}, config("off"), True),
        ({"identities": "x", "encryption-floor": "off"}, None, False),
        ({"identities": "x", "encryption-floor": "off"}, config("required"), True),
        ({"encryption-floor": "preferred"}, None, True),
        ({}, config("most"), True),
    ],
)
def test_whether_plain_may_travel_is_known_before_a_file_is_read(
    options: dict[str, str], text: NetworkConfig | None, *, asks: bool
) -> None:
    given = {"config": ["/dev/null"], **{name: [value] for name, value in options.items()}}
    assert asks_for_encryption(load(given, {}), text) is asks


def test_a_host_whose_state_directory_is_a_copy_gets_a_key_of_its_own(host: Host) -> None:
    protection = host.start()
    protection.renew_key()
    assert not (host.path / "identity.key").exists(), "one that needs none gets none"
    protection = host.preferred()
    copied = protection.status().public_key
    own = NodeRecord(
        node_id="n",
        key=SubnetKey(SUBNET),
        public_ip=IPv4Address("192.0.2.3"),
        version="1",
        encryption=RecordEncryption(key=copied or "", port=8286, instance="00112233445566aa"),
    )
    protection.instances.new()
    assert protection.is_of_a_copy(own)
    assert not host.preferred(take_over="true").is_of_a_copy(own)
    protection.renew_key()
    assert protection.status().public_key not in (None, copied)
    assert not protection.is_of_a_copy(own)
    again = host.preferred()
    assert again.status().public_key == protection.status().public_key


def test_a_claim_in_a_handshake_decides_and_an_unchanged_one_is_no_news(host: Host) -> None:
    protection = host.preferred()
    changes: list[None] = []
    protection.on_change = lambda: changes.append(None)
    assert verdict(protection, KEYED) == ("encrypted", "keys")
    protection.confirmed(str(key(3)), ["10.5.3.0/24"])
    assert (changes, protection.claims.verdicts[SUBNET].is_confirmed) == ([], True)
    for _ in range(2):
        protection.confirmed(str(key(3)), ["10.5.4.0/24"])
    assert changes == [None]
    assert verdict(protection, KEYED) == ("unreachable", "claim")
    protection.lost(str(key(3)))
    protection.lost(str(key(3)))
    assert changes == [None, None]
    assert verdict(protection, KEYED) == ("encrypted", "keys")
    protection.confirmed(str(key(9)), ["10.5.3.0/24"])
    assert changes == [None, None], "a key that nobody shows reaches nobody"
    assert protection.claims.keys() == {str(key(9))}
    protection.claims.clear()
    assert protection.claims.keys() == frozenset()


def test_encryption_that_cannot_be_read_allows_no_plain(host: Host) -> None:
    protection = host.start()
    protection.adopt(config(None))
    with pytest.raises(NetworkConfigError):
        protection.adopt(config("most"))
    assert protection.forbids_plain


def test_a_config_that_is_only_looked_at_changes_nothing(host: Host) -> None:
    protection = host.start()
    protection.adopt(config(None))
    protection.backend_of(config("required"))
    assert (protection.status().mode, protection.forbids_plain) == ("off", False)


@pytest.mark.parametrize(
    ("text", "is_raised"),
    [
        (None, False),
        ("{", False),
        ('{"Network":"10.5.0.0/16","Backend":{"Type":"udp"}}', False),
        ('{"Network":"10.5.0.0/16","Backend":{"Encryption":{"Mode":"off"}}}', False),
        ('{"Network":"10.5.0.0/16","Backend":{"Encryption":{"Mode":"preferred"}}}', True),
        ('{"Network":"10.5.0.0/16","Backend":{"Encryption":{"Mode":"required"}}}', True),
    ],
)
def test_a_network_that_asks_for_more_is_known(
    host: Host, text: str | None, *, is_raised: bool
) -> None:
    protection = host.start()
    protection.adopt(config(None))
    assert protection.is_raised_by(text) is is_raised
    assert not host.start(encryption_floor="required").is_raised_by(text)


def text_of(mode: str | None, **backend: object) -> str:
    encryption = {} if mode is None else {"Encryption": {"Mode": mode}}
    return json.dumps(
        {"Network": "10.5.0.0/16", "Backend": {"Type": "udp", **encryption, **backend}}
    )


def live(host: Host, floor: str = "off") -> Protection:
    host.identities.write_text(f"{ALICE} alice\n")
    return host.start(identities=str(host.identities), encryption_floor=floor)


def test_a_mode_is_followed_in_place_where_the_operator_leaves_it_to_the_network(
    host: Host,
) -> None:
    protection = live(host)
    protection.adopt(config(None))
    assert protection.can_follow(config(None), text_of("preferred"))
    assert protection.can_follow(config(None), text_of("required"))
    for other in (
        None,
        "{",
        text_of("preferred", Type="vxlan"),
        text_of(None, Encryption={"Mode": "preferred", "Port": 9000}),
        text_of("preferred").replace("10.5", "10.6"),
        text_of(None, Type="host-gw"),
        text_of("on"),
    ):
        assert not protection.can_follow(config(None), other)
    for plain in (host.start(), live(host, "required")):
        plain.adopt(config("preferred"))
        assert not plain.can_follow(config("preferred"), text_of("off"))


def test_required_is_taken_up_once_every_pair_had_the_time_to_agree_keys(host: Host) -> None:
    protection = live(host)
    protection.adopt(config(None))
    again_s = protection.follow(config("required"))
    assert again_s == host.now.boot_s + 10.0
    assert protection.status().mode == "preferred"
    host.passes(10.0 / 3600)
    assert protection.follow(config("required")) is None
    assert protection.status().mode == "required"
    assert protection.esp is not None
    assert protection.esp.is_alone
    assert protection.follow(config("preferred")) is None
    host.passes(1.0)
    assert protection.follow(config("required")) is None, "no pair was plain meanwhile"


def test_esp_is_open_until_every_host_has_gone_back_to_plain(host: Host) -> None:
    protection = live(host)
    protection.adopt(config("required"))
    until_s = protection.follow(config("off"))
    assert until_s == host.now.boot_s + 20.0
    assert protection.esp is not None
    assert not protection.esp.is_alone
    host.passes(20.0 / 3600)
    assert protection.follow(config("off")) is None
    assert protection.esp is None
    assert protection.verdicts(Members(peers=(KEYED,))) == {}


def test_no_network_is_followed_below_the_floor(host: Host) -> None:
    protection = live(host, "preferred")
    protection.adopt(config("required"))
    assert protection.follow(config("off")) is None
    assert protection.mode == "preferred"
    assert verdict(protection, KEYED)[0] != "plain"


def test_identities_or_a_psk_make_the_floor_required(host: Host, tmp_path: Path) -> None:
    host.identities.write_text(f"{ALICE} alice\n")
    assert host.start(identities=str(host.identities)).floor == "required"
    psk_file = tmp_path / "psk"
    psk_file.touch(0o600)
    psk_file.write_text("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
    assert host.start(psk_file=str(psk_file)).floor == "required"
    assert host.start(identities=str(host.identities), encryption_floor="off").floor == "off"
    assert host.start().floor == "off"


def test_a_peer_that_had_keys_is_remembered_over_a_restart_until_plain_is_allowed(
    host: Host,
) -> None:
    assert verdict(host.preferred(), KEYED) == ("encrypted", "keys")
    protection = host.preferred()
    assert verdict(protection, PLAIN) == ("unreachable", "had_keys")
    changes: list[None] = []
    protection.on_change = lambda: changes.append(None)
    done = protection.order({"action": "allow-plain", "subnet": str(SUBNET)})
    assert done == {"forgotten": [str(SUBNET)]}
    assert changes == [None]
    assert verdict(protection, PLAIN) == ("plain", "no_keys")
    assert verdict(host.preferred(), PLAIN) == ("plain", "no_keys")


def test_a_day_is_counted_from_the_last_lease_also_where_nothing_has_happened(host: Host) -> None:
    protection = host.preferred()
    assert verdict(protection, KEYED) == ("encrypted", "keys")
    host.passes(hours=100)
    assert verdict(protection, PLAIN) == ("unreachable", "had_keys")
    host.passes(hours=23)
    assert verdict(protection, PLAIN) == ("unreachable", "had_keys")
    host.passes(hours=1)
    assert verdict(protection, PLAIN) == ("plain", "no_keys")


@pytest.mark.parametrize("ends", ["is stopped", "is killed"])
def test_so_it_is_for_a_daemon_that_is_started_again(
    host: Host, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    protection = host.preferred()
    verdict(protection, KEYED)
    host.passes(hours=100)
    if ends == "is stopped":
        protection.close()
    else:
        written: list[float] = []

        async def wait(wait_s: float) -> None:
            written.append(wait_s)
            if len(written) == 2:
                raise asyncio.CancelledError

        monkeypatch.setattr("tunneld.daemon.protection.asyncio.sleep", wait)
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(protection.keep())
    host.passes(hours=20)
    assert verdict(host.preferred(), PLAIN) == ("unreachable", "had_keys")


def test_a_network_that_begins_to_prefer_encryption_stays_plain_until_keys_are_confirmed(
    host: Host,
) -> None:
    protection = host.start()
    protection.adopt(config(None))
    protection.verdicts(Members(peers=(PLAIN,)))
    protection.close()
    host.passes(hours=0.01)
    protection = host.preferred()
    assert verdict(protection, KEYED) == ("plain", "switching")
    assert protection.claims.until_s() == host.now.boot_s + 10.0
    assert protection.claims.switching() == {str(key(3))}
    changes: list[None] = []
    protection.on_change = lambda: changes.append(None)
    protection.confirmed(str(key(3)), ["10.5.3.0/24"])
    # The other side goes over at a moment of its own: until the ten seconds are over.
    assert (changes, protection.claims.until_s()) == ([None], host.now.boot_s + 10.0)
    assert verdict(protection, KEYED) == ("encrypted", "keys")
    assert protection.claims.switching() == frozenset()
    host.passes(hours=10 / 3600)
    assert verdict(protection, KEYED) == ("encrypted", "keys")
    assert protection.claims.until_s() is None
    protection.lost(str(key(3)))
    assert verdict(protection, KEYED) == ("encrypted", "keys"), "it is never plain again"


def test_a_switch_ends_after_ten_seconds_without_keys(host: Host) -> None:
    protection = host.start()
    protection.adopt(config(None))
    protection.verdicts(Members(peers=(PLAIN,)))
    protection.close()
    protection = host.preferred()
    assert verdict(protection, KEYED) == ("plain", "switching")
    host.passes(hours=0.01)
    assert verdict(protection, KEYED) == ("encrypted", "keys")


def test_a_revoked_host_is_out_as_soon_as_the_files_are_read_again(host: Host) -> None:
    host.identities.write_text(f"{key(3)} web3\n")
    protection = host.preferred(identities=str(host.identities), encryption_floor="off")
    assert verdict(protection, KEYED) == ("encrypted", "keys")
    changes: list[None] = []
    protection.on_change = lambda: changes.append(None)
    (host.path / "revoked-keys").write_text(f"{key(3)} web3\n")
    protection.order({"action": "reload"})
    assert changes == [None]
    assert verdict(protection, KEYED) == ("unreachable", "untrusted")
    assert protection.status().revoked == 1


def test_a_bad_file_leaves_in_force_what_was_read_before(host: Host) -> None:
    host.identities.write_text(f"{ALICE} alice\n")
    protection = host.start(identities=str(host.identities))
    host.identities.write_text(f"{ALICE} alice\n{BOB} alice\n")
    with pytest.raises(TrustError, match="line 2: the name alice is taken by line 1"):
        protection.order({"action": "reload"})
    assert protection.status().identities == 1


def test_a_damaged_memory_is_none(host: Host) -> None:
    host.state_dir.save("peers-seen", {"Format": 1, "WithKeys": 7})
    assert verdict(host.preferred(), PLAIN) == ("plain", "no_keys")


@pytest.mark.parametrize(
    "request_",
    [{}, {"action": "x"}, {"action": "allow-plain"}, {"action": "allow-plain", "subnet": "x"}],
)
def test_an_order_that_is_none_is_refused(host: Host, request_: dict[str, Any]) -> None:
    with pytest.raises(ControlError, match="expected"):
        host.start().order(request_)
