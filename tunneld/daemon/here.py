"""What a backend is told of this host: its underlay, and VTEP addresses that stay the same.

Path of a lease: `host.underlay` -> **`daemon.here`** -> `backend`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

from tunneld.backend.base import Here
from tunneld.backend.mac import MacAddress, make_mac, parse_mac
from tunneld.host.state_dir import StateDir
from tunneld.host.underlay import Underlay

NAME = "vtep"
FORMAT = 1

_log = logging.getLogger("tunneld.daemon")


def this_host(underlay: Underlay, state_dir: StateDir) -> Here:
    """Returns what a backend may know."""
    mac, mac_v6 = vtep_macs(state_dir)
    return Here(
        address=underlay.address,
        address_v6=underlay.address_v6,
        public_ip=underlay.public_ip,
        public_ipv6=underlay.public_ipv6,
        underlay_mtu_bytes=underlay.mtu_bytes,
        mac=mac,
        mac_v6=mac_v6,
    )


def vtep_macs(
    state_dir: StateDir, chance: Callable[[int], bytes] = secrets.token_bytes
) -> tuple[MacAddress, MacAddress]:
    """Returns the VTEP addresses for IPv4 and IPv6, made at the first call and kept since.

    flanneld makes a new one at every start, and its peers send to the old one until they hear.
    """
    kept = _read(state_dir.load(NAME))
    if kept is not None:
        return kept
    made = make_mac(chance(6)), make_mac(chance(6))
    state_dir.save(NAME, {"Format": FORMAT, "Mac": made[0], "MacV6": made[1]})
    return made


def forget_vtep_macs(state_dir: StateDir) -> None:
    """Has new ones made: those that are kept are another host's, whose directory this is."""
    state_dir.save(NAME, None)


def _read(document: object) -> tuple[MacAddress, MacAddress] | None:
    if document is None:
        return None
    try:
        if not isinstance(document, dict) or document["Format"] != FORMAT:
            raise ValueError("it is of another format")
        return parse_mac(document["Mac"]), parse_mac(document["MacV6"])
    except (KeyError, TypeError, ValueError) as error:
        _log.warning(
            "the VTEP addresses of this host are not readable; new ones are made",
            extra={"fields": {"entry": NAME, "error": str(error)}},
        )
        return None
