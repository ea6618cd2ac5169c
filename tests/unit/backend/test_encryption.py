from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.backend import parse_backend
from tunneld.backend.encryption import Encryption, encryption_of, require_served
from tunneld.errors import NetworkConfigError
from tunneld.lease.network import NetworkConfig, parse


def config(encryption: object, **backend: object) -> NetworkConfig:
    members = {"Type": "udp", **backend, "Encryption": encryption}
    return parse(json.dumps({"Network": "10.5.0.0/16", "Backend": members}))


@pytest.mark.parametrize(
    ("written", "means"),
    [
        (None, Encryption()),
        ({"Mode": "off"}, Encryption()),
        (
            {"Mode": "required"},
            Encryption(mode="required", cipher="auto", port=8286, keepalive_s=0),
        ),
        (
            {"mode": "PREFERRED", "CIPHER": "ChaCha20-Poly1305", "port": 51820, "Keepalive": 25},
            Encryption(mode="preferred", cipher="chacha20-poly1305", port=51820, keepalive_s=25),
        ),
        ({"Mode": "required", "Later": 1, "Port": None}, Encryption(mode="required")),
    ],
)
def test_a_network_says_what_it_asks_for(written: object, means: Encryption) -> None:
    assert encryption_of(config(written)) == means


def test_a_network_that_says_nothing_asks_for_nothing() -> None:
    assert encryption_of(parse('{"Network": "10.5.0.0/16"}')).mode == "off"


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("required", 'Backend.Encryption "required": expected a JSON object'),
        (True, "Backend.Encryption true: expected a JSON object"),
        ([], "Backend.Encryption []: expected a JSON object"),
        ({}, "Backend.Encryption.Mode is missing in {}"),
        ({"Mod": "required"}, 'Backend.Encryption.Mode is missing in {"Mod":"required"}'),
        ({"Mode": None}, "Backend.Encryption.Mode is missing"),
        ({"Mode": "on"}, 'Backend.Encryption.Mode "on": expected one of off, preferred, required'),
        ({"Mode": True}, "Backend.Encryption.Mode true: expected one of off"),
        ({"Mode": "required", "Cipher": "null"}, 'Backend.Encryption.Cipher "null": expected one'),
        ({"Mode": "required", "Port": 0}, "Backend.Encryption.Port 0: expected a whole number"),
        ({"Mode": "required", "Port": 65536}, "Backend.Encryption.Port 65536: expected"),
        ({"Mode": "required", "Port": "8286"}, 'Backend.Encryption.Port "8286": expected'),
        ({"Mode": "required", "Keepalive": -1}, "Backend.Encryption.Keepalive -1: expected"),
        ({"Mode": "required", "Keepalive": 3601}, "Backend.Encryption.Keepalive 3601: expected"),
        ({"Mode": "off", "Cipher": 7}, "Backend.Encryption.Cipher 7: expected one"),
    ],
)
def test_what_cannot_be_meant_is_named(written: object, says: str) -> None:
    with pytest.raises(NetworkConfigError) as caught:
        parse_backend(config(written))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("backend", "datapath", "says"),
    [
        ({"Type": "host-gw"}, "userspace", "host-gw backend leaves packets as they are"),
        ({"Type": "alloc"}, "userspace", "alloc backend leaves packets as they are"),
        ({"Type": "vxlan", "DirectRouting": True}, "userspace", "DirectRouting sends in plain"),
        ({"Type": "vxlan"}, "kernel", "kernel's vxlan device sends in plain"),
        ({"Type": "udp", "Port": 8286}, "userspace", "Encryption.Port 8286 is the port of the udp"),
        ({"Type": "vxlan", "Port": 8286}, "userspace", "is the port of the vxlan backend"),
    ],
)
def test_a_backend_that_cannot_keep_it_is_refused(
    backend: dict[str, object], datapath: str, says: str
) -> None:
    required = config({"Mode": "required"}, **backend)
    with pytest.raises(NetworkConfigError, match=says):
        parse_backend(required, datapath)  # type: ignore[arg-type]
    # The same by a floor of the host alone.
    off = config({"Mode": "off"}, **backend)
    served = parse_backend(off, datapath)  # type: ignore[arg-type]
    with pytest.raises(NetworkConfigError, match=says):
        require_served(served, encryption_of(off), "required")
    require_served(served, encryption_of(off), "off")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(json_values | st.dictionaries(st.sampled_from(["Mode", "Port", "Cipher"]), json_values))
def test_nothing_that_is_written_does_worse_than_an_error(written: object) -> None:
    try:
        found = encryption_of(config(written))
    except NetworkConfigError:
        return
    assert found.mode in ("off", "preferred", "required")
