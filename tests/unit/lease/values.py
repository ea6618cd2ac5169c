"""Networks and hosts of the lease tests."""

from __future__ import annotations

import json

from tunneld.lease.network import NetworkConfig, parse

NETWORK = parse('{"Network": "10.5.0.0/16"}')
DUAL = parse('{"Network": "10.5.0.0/16", "EnableIPv6": true, "IPv6Network": "fd00:10:5::/48"}')
ONLY6 = parse('{"EnableIPv4": false, "EnableIPv6": true, "IPv6Network": "fd00:10:5::/48"}')
ME = "192.0.2.11"
ALICE = "192.0.2.12"


def of_size(count: int) -> NetworkConfig:
    return parse(
        json.dumps(
            {"Network": "10.5.0.0/16", "SubnetMin": "10.5.1.0", "SubnetMax": f"10.5.{count}.0"}
        )
    )
