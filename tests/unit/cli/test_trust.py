"""`tunneld identity` and `tunneld trust` where no daemon runs."""

from __future__ import annotations

import base64
import json
import os
import stat
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Outcome, Tunneld
from tests.unit.trust.values import ALICE, BOB, addresses, nets
from tunneld.clock import Now
from tunneld.host.state_dir import StateDir
from tunneld.trust.memory import NAME, Memory

PSK = base64.b64encode(bytes(range(32))).decode()


class Host:
    """Commands on a host of the test's own."""

    def __init__(self, tunneld: Tunneld, path: Path) -> None:
        self._tunneld = tunneld
        self.state_dir = path / "state"
        self.identities = path / "identities"
        self.psk_file = path / "psk"
        self.places = (f"--state-dir={self.state_dir}", f"--control-socket={path / 'sock'}")

    def identity(self, action: str) -> Outcome:
        return self._tunneld("identity", action, *self.places)

    def trust(self, *words: str, by: str = "identities") -> Outcome:
        options = []
        if "identities" in by:
            options.append(f"--identities={self.identities}")
        if "psk" in by:
            self.psk_file.write_text(PSK)
            self.psk_file.chmod(0o600)
            options.append(f"--psk-file={self.psk_file}")
        return self._tunneld("trust", *words, *self.places, *options)


@pytest.fixture
def host(tunneld: Tunneld, tmp_path: Path) -> Host:
    return Host(tunneld, tmp_path)


def test_a_key_is_made_at_first_use_and_shown_from_then_on(host: Host) -> None:
    first = host.identity("show")
    assert (first.status, first.err) == (0, "")
    assert len(base64.b64decode(first.out, validate=False)) == 32
    assert stat.S_IMODE(host.state_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((host.state_dir / "identity.key").stat().st_mode) == 0o600
    assert host.identity("show").out == first.out
    assert (host.state_dir / "identity.key").read_text() not in first.out


def test_a_new_key_takes_the_place_of_the_former(host: Host) -> None:
    first, second = host.identity("show").out, host.identity("new").out
    assert first != second == host.identity("show").out


def test_a_key_that_others_may_read_is_refused(host: Host) -> None:
    host.identity("show")
    (host.state_dir / "identity.key").chmod(0o640)
    outcome = host.identity("show")
    assert outcome.status == 2
    assert "open to others (mode 0640)" in outcome.err
    assert host.identity("new").status == 0


def test_hosts_are_added_and_listed(host: Host) -> None:
    outcome = host.trust("add", ALICE, "alice", "subnets=10.5.3.0/24", "addresses=192.0.2.3")
    assert outcome == Outcome(0, f"added alice to {host.identities}; no daemon was running\n", "")
    assert host.trust("add", BOB, "bob").status == 0
    assert host.identities.read_text() == (
        f"{ALICE} alice subnets=10.5.3.0/24 addresses=192.0.2.3\n{BOB} bob\n"
    )
    listed = host.trust("list").out
    assert "the hosts of the identities file are trusted" in listed
    assert [line.split() for line in listed.splitlines()[2:]] == [
        ["alice", ALICE, "10.5.3.0/24", "192.0.2.3/32", "trusted"],
        ["bob", BOB, "any", "any", "trusted"],
    ]


def test_what_an_operator_wrote_into_the_file_stays(host: Host) -> None:
    host.identities.write_text("# ours, by hand")
    host.trust("add", ALICE, "alice")
    assert host.identities.read_text() == f"# ours, by hand\n{ALICE} alice\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((BOB, "alice"), "line 2: the name alice is taken by line 1"),
        ((ALICE, "bob"), "the key of bob is that of alice"),
        ((BOB, "bob", "subnets=10.5.3.0/25"), "overlaps 10.5.3.0/24 of alice"),
        ((BOB[:-2] + "=", "bob"), "the first word is no public key"),
        ((BOB, "b b"), "no option"),
        ((BOB, "bob", "subnet=10.5.3.0/24"), "no option"),
    ],
)
def test_what_cannot_be_added_changes_nothing(host: Host, words: list[str], says: str) -> None:
    host.trust("add", ALICE, "alice", "subnets=10.5.3.0/24")
    before = host.identities.read_text()
    outcome = host.trust("add", *words)
    assert outcome.status == 2
    assert says in outcome.err
    assert outcome.err.count("\n") == 1
    assert host.identities.read_text() == before


def test_without_a_file_nobody_can_be_added(host: Host) -> None:
    outcome = host.trust("add", ALICE, "alice", by="")
    assert outcome.status == 2
    assert "no identities file is configured" in outcome.err


@pytest.mark.parametrize("whom", ["alice", ALICE])
def test_a_revoked_host_is_remembered_and_not_added_again(host: Host, whom: str) -> None:
    host.trust("add", ALICE, "alice")
    assert host.trust("revoke", whom).out == "revoked alice; no daemon was running\n"
    assert (host.state_dir / "revoked-keys").read_text() == f"{ALICE} alice\n"
    document = json.loads(host.trust("list", "--json").out)
    assert document["identities"][0]["state"] == "revoked"
    assert document["revoked"] == {ALICE: "alice"}

    host.identities.write_text("")
    outcome = host.trust("add", ALICE, "alice")
    assert outcome.status == 2
    assert "was revoked on this host" in outcome.err
    assert ["alice", ALICE, "-", "-", "revoked"] in [
        line.split() for line in host.trust("list").out.splitlines()
    ]


@pytest.mark.root
def test_root_writes_and_reads_what_is_the_daemons_users(host: Host, tmp_path: Path) -> None:
    host.state_dir.mkdir(mode=0o700)
    os.chown(host.state_dir, 12345, 12346)
    key = host.identity("show")
    assert host.identity("show") == key
    assert host.trust("add", ALICE, "alice").status == 0
    assert host.trust("revoke", "alice").status == 0
    assert (host.state_dir / "revoked-keys").stat().st_uid == 12345
    assert host.trust("list").status == 0
    os.chown(host.identities, 54321, 0)
    assert "may be written by others (mode 0644, user 54321)" in host.trust("list").err


def test_revoking_with_a_psk_alone_is_refused_with_what_to_do(host: Host) -> None:
    outcome = host.trust("revoke", ALICE, by="psk")
    assert outcome.status == 2
    assert "rotate the PSK" in outcome.err
    assert not (host.state_dir / "revoked-keys").exists()


def test_revoking_with_a_psk_and_identities_revokes(host: Host) -> None:
    host.trust("add", ALICE, "alice")
    assert host.trust("revoke", "alice", by="psk identities").status == 0


def test_revoking_where_the_store_is_believed_says_what_it_is_worth(host: Host) -> None:
    outcome = host.trust("revoke", ALICE, by="")
    assert outcome.status == 0
    assert "whoever writes the store can announce another key" in outcome.err


def test_whom_nobody_knows_is_not_revoked(host: Host) -> None:
    host.trust("add", ALICE, "alice")
    outcome = host.trust("revoke", "bob")
    assert outcome.status == 2
    assert "'bob' is no name of the identities and no key" in outcome.err


@pytest.mark.parametrize("name", ["identities", "revoked-keys"])
def test_a_file_that_others_may_write_is_refused(host: Host, name: str) -> None:
    host.trust("add", ALICE, "alice")
    host.trust("revoke", "alice")
    path = host.identities if name == "identities" else host.state_dir / name
    path.chmod(0o664)
    outcome = host.trust("list")
    assert outcome.status == 2
    assert "may be written by others (mode 0664" in outcome.err


def test_a_damaged_list_of_revoked_keys_lets_nobody_back(host: Host) -> None:
    host.trust("add", ALICE, "alice")
    host.state_dir.mkdir(mode=0o700)
    (host.state_dir / "revoked-keys").write_text(f"{ALICE} alice\nrubbish\n")
    outcome = host.trust("list")
    assert outcome.status == 2
    assert "revoked-keys, line 2: the first word is no public key" in outcome.err


def test_the_psk_is_listed_by_its_id(host: Host) -> None:
    out = host.trust("list", by="psk").out
    assert "whoever has the PSK is trusted" in out
    # SHA-256("tunneld/1 psk id" ‖ psk), its first 4 bytes, by sha256sum.
    assert "PSK: 0541430b" in out
    assert PSK not in out


def test_trust_by_default_is_the_stores_and_says_so(host: Host) -> None:
    assert "whoever writes the store is believed" in host.trust("list", by="").out


def test_plain_is_allowed_where_no_daemon_runs(host: Host) -> None:
    with StateDir(host.state_dir) as state_dir:
        memory, now = Memory(), Now.read()
        memory.with_keys.add(nets("10.5.3.0/24"), addresses("192.0.2.3"), now.boot_s)
        state_dir.save(NAME, memory.dump(now))
    assert host.trust("allow-plain", "10.5.4.0/24").out == (
        "nothing to forget: no peer of 10.5.4.0/24 had keys within 24 h\n"
    )
    assert host.trust("allow-plain", "10.5.3.0/24").out == (
        "forgot that 10.5.3.0/24 had keys: it may be reached in plain\n"
    )
    assert "nothing to forget" in host.trust("allow-plain", "192.0.2.3").out


def test_a_subnet_that_is_none_is_refused(host: Host) -> None:
    assert "is no subnet" in host.trust("allow-plain", "10.5.3.7/24").err
