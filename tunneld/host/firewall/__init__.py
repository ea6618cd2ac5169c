"""The packet filter of a host, whatever kind of host it is.

Path of a lease: `host.actuator` -> **`host.firewall`** -> nft | iptables -> the kernel.

`choice` is the way in; `nft_table` and `xtables` carry one wanted state out, the first in a
table of its own, the second among the rules of others.
"""

from tunneld.host.firewall.choice import HostFirewall, owners_in_force
from tunneld.host.firewall.layout import owner_of
from tunneld.host.firewall.nft_table import NO_MASQUERADE_MARK, NftTable

__all__ = ["NO_MASQUERADE_MARK", "HostFirewall", "NftTable", "owner_of", "owners_in_force"]
