"""Hosts for the actuator, and all that it could change on them."""

from __future__ import annotations

import re

import pytest

from testbed.netns import Namespace


@pytest.fixture
def host(space: Namespace) -> Namespace:
    """A host with an underlay interface, a bridge, and things of other people."""
    space.sysctl("net/ipv4/ip_forward", 0)
    # The kernel brings IPv6 up in its own time, which no comparison of two states can know.
    space.sysctl("net/ipv6/conf/default/disable_ipv6", 1)
    space.bridge("eth0", "192.0.2.1/24")
    space.bridge("br0", "10.5.1.1/24")
    space.run("ip", "route", "add", "default", "via", "192.0.2.254")
    space.run("ip", "route", "add", "10.5.77.0/24", "via", "192.0.2.9")
    space.run("ip", "route", "add", "10.6.0.0/16", "dev", "eth0", "proto", "116")
    space.run("ip", "rule", "add", "from", "10.5.0.0/16", "table", "100")
    space.run("nft", "-f", "-", stdin="table ip other { chain forward { counter; }; }\n")
    return space


@pytest.fixture
def dual(space: Namespace) -> Namespace:
    """A host with an underlay interface of both families, a bridge, and things of others."""
    space.sysctl("net/ipv4/ip_forward", 0)
    for device in ("all", "default"):
        # The kernel makes link-local addresses in its own time, which no comparison can know.
        space.sysctl(f"net/ipv6/conf/{device}/addr_gen_mode", 1)
    space.sysctl("net/ipv6/conf/all/forwarding", 1)
    space.bridge("eth0", "192.0.2.1/24")
    space.run("ip", "address", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
    space.bridge("br0", "10.5.1.1/24")
    space.run("ip", "route", "add", "default", "via", "192.0.2.254")
    space.run("ip", "route", "add", "fd00:5:0:77::/64", "via", "2001:db8::9")
    space.run("ip", "route", "add", "10.6.0.0/16", "dev", "eth0", "proto", "116")
    entry = "192.0.2.9 lladdr 0e:00:00:00:00:09 dev eth0"
    space.run(*f"ip neigh add {entry} nud permanent".split())
    return space


def everything(space: Namespace) -> list[str]:
    """Returns all that a daemon could change in a namespace."""
    commands = (
        ("ip", "link"),
        ("ip", "address"),
        ("ip", "route", "show", "table", "all"),
        ("ip", "-6", "route", "show", "table", "all"),
        ("ip", "rule"),
        ("ip", "neigh"),
        ("nft", "list", "ruleset"),
        ("sysctl", "-a", "--pattern", r"^net\.ipv[46]\.conf\..*|^net\.ipv4\.ip_forward"),
    )
    text = "\n".join(space.run(*command) for command in commands)
    return re.sub(r"\d+sec", "", text).splitlines()
