"""Who gets no keys, what is no encryption, and that nothing secret is shown."""

from __future__ import annotations

import base64
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.netns import Namespace
from tests.native.keyed import HostMaker, KeyedHost, acquaint, events, numbered, passes, psks
from tunneld import _native
from tunneld.errors import EngineError

Spoil = Callable[[HostMaker, Path], tuple[KeyedHost, KeyedHost]]


def _other_network(make: HostMaker, _: Path) -> tuple[KeyedHost, KeyedHost]:
    return make(1), make(2, network="/coreos.com/other")


def _other_psk(make: HostMaker, path: Path) -> tuple[KeyedHost, KeyedHost]:
    return make(1, psks=psks(path / "a", 1)), make(2, psks=psks(path / "b", 2, 3))


def _no_psk(make: HostMaker, path: Path) -> tuple[KeyedHost, KeyedHost]:
    return make(1), make(2, psks=psks(path / "b", 2))


def _other_cipher(make: HostMaker, _: Path) -> tuple[KeyedHost, KeyedHost]:
    return make(1, cipher="aes-128-gcm"), make(2, cipher="chacha20-poly1305")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_other_network, "handshake_noise"),
        (_other_psk, "psk_unknown"),
        (_no_psk, "psk_unknown"),
        (_other_cipher, "handshake_cipher"),
    ],
)
def test_who_cannot_prove_itself_gets_no_keys_and_is_counted_as_what_it_is(
    make: HostMaker, tmp_path: Path, spoil: Spoil, reason: str
) -> None:
    a, b = spoil(make, tmp_path)
    acquaint(a, b)
    a.engine.start()
    b.engine.start()
    a.write(numbered(a, b, 1))
    # The second one is a repeat.
    b.wait_for_drop(reason, 2)
    assert set(b.drops()) == {reason}
    assert (a.peer()["state"], b.peer()["state"], b.peer()["sets"]) == ("handshake", "none", 0)
    assert reason in (b.peer()["last_error"] or "")
    assert (b.reads_nothing(), a.drops(), events(b)) == (True, {}, [])


@pytest.mark.parametrize(("is_mistaken", "reason"), [(False, "unknown_identity"), (True, "mac1")])
def test_who_is_not_trusted_or_asks_another_gets_no_keys(
    make: HostMaker, is_mistaken: bool, reason: str
) -> None:
    a, b, c = make(1), make(2), make(3)
    a.knows(2, c.key if is_mistaken else b.key)
    b.knows(1, a.key, trusts=is_mistaken)
    a.engine.start()
    b.engine.start()
    a.write(numbered(a, b, 1))
    b.wait_for_drop(f"handshake_{reason}", 2)
    assert set(b.drops()) == {f"handshake_{reason}"}
    assert (a.peer()["sets"], b.reads_nothing()) == (0, True)


SECRET_CALLS: list[tuple[str, object, str]] = [
    ("cipher", "null", 'cipher "null", expected auto, aes-256-gcm'),
    ("provider", "openssl", 'provider "openssl", expected auto, aws-lc-rs, ring'),
    ("instance", b"seven b", "instance of 7 bytes, expected 8"),
    ("claim", ["10.5.1.1/24"], "claim 10.5.1.1/24, expected at most one subnet of each family"),
    ("claim", ["10.5.1.0/24", "10.5.2.0/24"], "claim 10.5.2.0/24"),
    ("keepalive_s", 0.0, "keepalive_s 0, expected 1 to 86400"),
    ("keepalive_s", float("nan"), "keepalive_s NaN"),
    ("floor", "off", 'unknown key "floor"'),
]


@pytest.mark.parametrize(("field", "value", "message"), SECRET_CALLS)
def test_encryption_that_cannot_be_is_refused_by_what_is_wrong(
    tmp_path: Path, field: str, value: object, message: str
) -> None:
    with pytest.raises(EngineError) as refused:
        _engine(tmp_path, {field: value})
    assert message in str(refused.value)


def _engine(path: Path, change: dict[str, object], workers: int = 1) -> _native.Engine:
    encryption: dict[str, object] = {
        "identity": _native.Identity.create(path / "identity"),
        "psks": psks(path / "psk", 1),
        "network": "/n",
        "cipher": "auto",
        "provider": "auto",
        "instance": bytes(8),
        "claim": [],
        "keepalive_s": None,
    }
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        sockets: _native.UnderlaySockets = {"ipv4": [], "ipv6": [], "esp_ipv4": [far.fileno()]}
        return _native.Engine(
            tun_fds=[near.fileno()] * workers,
            underlay=[sockets] * workers,
            icmp_fd=None,
            icmp6_fd=None,
            split=False,
            encryption=encryption | change,  # type: ignore[arg-type]
        )


def test_more_workers_than_lanes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="65 workers, expected at most 64"):
        _engine(tmp_path, {}, 65)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"key": "x"}, 'identity "x": expected a key in base64'),
        ({"endpoint": "here"}, "endpoint here, expected an IP address or None"),
        ({"port": 0}, "port 0, expected 1 to 65535"),
        ({"instance": "12"}, "instance 12, expected 16 hexadecimal digits"),
    ],
)
def test_an_identity_that_does_not_parse_is_named(
    make: HostMaker, item: dict[str, object], message: str
) -> None:
    a, b = make(1), make(2)
    good = a.identity_of(2, b.key)
    with pytest.raises(EngineError) as refused:
        a.engine.commit({"put_identities": [good, good | item]})  # type: ignore[list-item]
    assert message in str(refused.value)
    entry: _native.Entry = {"prefix": "10.5.9.0/24", "target": "nobody"}
    with pytest.raises(EngineError, match="no adjacency is named"):
        a.engine.commit({"put_identities": [good], "put_entries": [entry]})
    assert (a.engine.digest()["identities"], a.engine.digest()["generation"]) == ([], 0)
    assert a.engine.security() == []


def test_identities_are_said_again_as_they_were_put(make: HostMaker) -> None:
    a = make(1)
    keys = sorted(make(number).key for number in (2, 3, 4))
    put: list[_native.TrustedIdentity] = [
        {"key": keys[0], "endpoint": None, "port": 8286, "instance": None},
        {"key": keys[1], "endpoint": "2001:db8::1", "port": 1, "instance": "00000000000000ff"},
        {"key": keys[2], "endpoint": "192.0.2.1", "port": 65535, "instance": "ff" * 8},
    ]
    a.engine.commit({"put_identities": put[::-1]})
    told = a.engine.digest()["identities"]
    assert sorted(told, key=lambda item: item["key"]) == put
    # Of what is dropped and put in one change the put holds.
    a.engine.commit({"drop_identities": keys, "put_identities": put[:1]})
    assert a.engine.digest()["identities"] == put[:1]
    assert [one["key"] for one in a.engine.security()] == keys[:1]


def test_an_engine_without_encryption_says_so(space: Namespace, make: HostMaker) -> None:
    key = make(1).key
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        engine = _native.Engine(
            tun_fds=[near.fileno()],
            underlay=[{"ipv4": [far.fileno()], "ipv6": []}],
            icmp_fd=None,
            icmp6_fd=None,
            split=False,
        )
        with pytest.raises(EngineError, match="expected none without encryption"):
            _native.Engine(
                tun_fds=[near.fileno()],
                underlay=[{"ipv4": [far.fileno()], "ipv6": [], "esp_ipv4": [far.fileno()]}],
                icmp_fd=None,
                icmp6_fd=None,
                split=False,
            )
    for call in (engine.security, engine.security_self, engine.renew, lambda: engine.connect(key)):
        with pytest.raises(EngineError, match="without encryption"):
            call()
    put: _native.TrustedIdentity = {"key": key, "endpoint": None, "port": 1, "instance": None}
    with pytest.raises(EngineError, match="putting identities is not possible without encryption"):
        engine.commit({"put_identities": [put]})
    engine.commit({"drop_identities": [key]})


def test_nothing_secret_is_shown(make: HostMaker, tmp_path: Path) -> None:
    handle = psks(tmp_path / "psk", 1)
    a, b = make(1, psks=handle), make(2, psks=handle)
    acquaint(a, b)
    a.engine.start()
    b.engine.start()
    passes(a, b)
    with pytest.raises(EngineError) as error:
        a.engine.commit({"put_identities": [a.identity_of(2, "x")]})
    shown = [
        *(repr(it) for it in (a.engine, a.identity, handle, error.value, error.value.args)),
        *(repr(it) for it in (a.engine.security(), a.engine.security_self())),
        *(repr(it) for it in (a.engine.digest(), a.engine.drain_events(), a.engine.heartbeat())),
    ]
    secrets = [(tmp_path / name).read_text().strip() for name in ("identity1", "identity2", "psk")]
    for text in "".join(shown), "".join(shown).lower():
        for secret in secrets:
            assert secret not in text
            assert secret.lower() not in text
            assert base64.b64decode(secret).hex() not in text
