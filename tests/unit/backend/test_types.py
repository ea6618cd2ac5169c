"""Which backends there are, and what is said of the others."""

from __future__ import annotations

import json

import pytest

from tests.unit.backend.values import backend
from tunneld.backend import FLANNEL_TYPES, parse_backend
from tunneld.errors import NetworkConfigError
from tunneld.lease.network import parse

BUILT = {"alloc", "host-gw", "udp", "vxlan"}


@pytest.mark.parametrize("backend_type", sorted(BUILT))
def test_backend_is_found_by_its_type(backend_type: str) -> None:
    assert backend(backend_type).type == backend_type
    assert backend(backend_type.upper()).type == backend_type


@pytest.mark.parametrize("backend_type", sorted(set(FLANNEL_TYPES) - BUILT))
def test_flannels_other_backends_are_refused_by_name(backend_type: str) -> None:
    with pytest.raises(NetworkConfigError, match=f"'{backend_type}' is not built yet"):
        backend(backend_type)


@pytest.mark.parametrize("members", [{"Type": "udpx"}, {}, None])
def test_unknown_backend_is_refused(members: object) -> None:
    with pytest.raises(
        NetworkConfigError,
        match=r"unknown backend type .*expected one of: alloc, host-gw, udp, vxlan",
    ):
        parse_backend(parse(json.dumps({"Network": "10.5.0.0/16", "Backend": members})))
