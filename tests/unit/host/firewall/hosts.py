"""Hosts that have rules already, and ways to write and to read such rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from testbed.netns import Namespace, Rig
from tests.unit.host.conftest import run_inside
from tests.unit.host.firewall.site import Site, site
from tunneld.host.firewall import HostFirewall
from tunneld.host.firewall.family import IPTABLES, Version

Variant = Literal["nft", "legacy"]

# Each is what iptables-save would show of the host; the comment says who makes such a host.
HOSTS = {
    "policy": "*filter\n:FORWARD DROP [0:0]\nCOMMIT\n",  # an operator, ufw
    "reject": "*filter\n-A FORWARD -i br9 -j ACCEPT\n"  # the iptables service of Red Hat
    "-A FORWARD -j REJECT --reject-with icmp-host-prohibited\nCOMMIT\n",
    "docker-20": """\
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-ISOLATION-STAGE-1 - [0:0]
:DOCKER-ISOLATION-STAGE-2 - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-ISOLATION-STAGE-1
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A FORWARD -i docker0 ! -o docker0 -j ACCEPT
-A FORWARD -i docker0 -o docker0 -j ACCEPT
-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
-A DOCKER-ISOLATION-STAGE-1 -j RETURN
-A DOCKER-ISOLATION-STAGE-2 -o br9 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
-A DOCKER-ISOLATION-STAGE-2 -j RETURN
-A DOCKER-USER -j RETURN
COMMIT
*nat
-A POSTROUTING -s 10.5.1.0/24 ! -o docker0 -j MASQUERADE
COMMIT
""",
    "docker-28": """\
*raw
-A PREROUTING -d 10.5.1.2/32 ! -i docker0 -j DROP
COMMIT
*filter
:FORWARD ACCEPT [0:0]
:DOCKER - [0:0]
:DOCKER-FORWARD - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -j DOCKER-FORWARD
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-FORWARD -o docker0 -j DOCKER
-A DOCKER-FORWARD -i docker0 -j ACCEPT
COMMIT
*nat
-A POSTROUTING -s 10.5.1.0/24 ! -o docker0 -j MASQUERADE
COMMIT
""",
}


IN_IPV6 = {
    "10.5.1.2/32": "fd05:0:0:1::2/128",
    "10.5.1.2": "fd05:0:0:1::2",
    "10.5.1.0/24": "fd05:0:0:1::/64",
    "icmp-host-prohibited": "icmp6-adm-prohibited",
}


def translated(text: str, version: Version) -> str:
    """Returns rules of IPv4 as those of a family."""
    for ipv4, ipv6 in IN_IPV6.items() if version == 6 else ():
        text = text.replace(ipv4, ipv6)
    return text


def iptables(
    host: Namespace, variant: Variant, *argv: str, stdin: str = "", version: Version = 4
) -> str:
    program = IPTABLES[version]
    argv = tuple(translated(word, version) for word in argv)
    return host.run(f"/usr/sbin/{program}-{variant}", *argv, stdin=stdin)


def restore(host: Namespace, variant: Variant, text: str, version: Version = 4) -> None:
    program = f"/usr/sbin/{IPTABLES[version]}-{variant}-restore"
    host.run(program, "--noflush", stdin=translated(text, version))


def saved(host: Namespace) -> str:
    """Returns all rules of the host, of every kind, without counters."""
    text = "".join(
        host.run(*command)
        for command in (
            ("/usr/sbin/iptables-legacy-save",),
            ("/usr/sbin/iptables-nft-save",),
            ("/usr/sbin/ip6tables-legacy-save",),
            ("/usr/sbin/ip6tables-nft-save",),
            ("/usr/sbin/nft", "list", "ruleset"),
        )
    )
    return re.sub(r"(?m)^#.*\n|\[\d+:\d+\]|packets \d+ bytes \d+", "", text)


def run_on(
    rig: Rig, space: Namespace, work: Callable[[Site, HostFirewall], Coroutine[Any, Any, None]]
) -> None:
    async def main() -> None:
        async with site(rig, space) as place:
            firewall = HostFirewall("flannel0")
            await work(place, firewall)

    run_inside(space, main)
