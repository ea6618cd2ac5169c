"""Carries a HostChange into the operating system, and reports what is there.

Path of a lease: `fib` -> **`host`** -> the kernel. Knows nothing of stores, leases or peers.

`actuator` is the way in; the other modules each own one thing of the system: `tun`,
`sockets`, `netlink`, `monitor`, `xtables_lock`, `device`, `routes`, `forwarding`, `firewall`,
`takeover`, `subnet_env`, `underlay`, `path_mtu`, `notify`, `state_dir`, `capabilities`.
"""
