"""What a daemon of this kind could leave behind on a host."""

from __future__ import annotations

from testbed.systemd_machine import SystemdMachine
from testbed.wait import wait_until

_SCRIPT = """
ip -brief link; ip -brief address; ip route show table all; ip -6 route show table all; ip rule
nft list ruleset; iptables-save | grep -v '^#'; ip6tables-save | grep -v '^#'; ls /run/tunneld
sysctl --all --pattern '^net\\.(core|ipv4\\.(ip_forward|conf)|ipv6\\.conf.*forwarding)'
"""


def traces(machine: SystemdMachine) -> str:
    """Returns them, once the kernel has finished with the addresses it gives itself."""
    wait_until(
        lambda: not machine.run("ip", "-6", "address", "show", "tentative"),
        10,
        "the end of duplicate address detection",
    )
    return machine.run("sh", "-c", _SCRIPT)
