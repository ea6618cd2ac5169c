"""The table of options: each one once, for the command line, the environment and the config file.

Pure. Says what an option is called, takes and means; where its value comes from is `sources`.

Source: flanneld `main.go` for the names and meanings it shares with us.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from tunneld.config import values

Group = Literal["store", "control", "underlay", "lease", "data path", "encryption", "health", "log"]
FileType = Literal["string", "integer", "boolean", "strings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option."""

    name: str
    """As on the command line, without dashes; also the key in the config file."""
    group: Group
    read: Callable[[str], Any]
    """Reads one text; raises ValueError with what was expected."""
    metavar: str
    help: str
    default: str | None = None
    """The default as text; None: there is none."""
    is_list: bool = False
    """Given several times, or a list in the config file; its value is a tuple."""
    separator: str | None = None
    """What stands between the items of a list in the environment; None: it holds one item."""
    splits_argument: bool = False
    """Whether `separator` counts on the command line too."""
    file_type: FileType = "string"
    is_in_file: bool = True
    """False: a secret, which has no place in a file that others can read."""

    @property
    def is_flag(self) -> bool:
        """Returns whether the bare name means true."""
        return self.file_type == "boolean"

    @property
    def environment(self) -> str:
        """Returns the environment variable's name, without the program's prefix."""
        return self.name.upper().replace("-", "_")


OPTIONS: Final = (
    Option(
        name="store",
        group="store",
        read=values.store,
        metavar="STORE",
        default="etcd",
        help="where leases are kept: etcd, or sqlite:PATH for hosts on one machine",
    ),
    Option(
        name="etcd-endpoints",
        group="store",
        read=values.endpoint,
        metavar="URLS",
        default="http://127.0.0.1:2379",
        is_list=True,
        separator=",",
        splits_argument=True,
        file_type="strings",
        help="etcd endpoints, separated by commas",
    ),
    Option(
        name="etcd-prefix",
        group="store",
        read=values.text,
        metavar="PREFIX",
        default="/coreos.com/network",
        help="prefix of all keys of the network",
    ),
    Option(
        name="etcd-keyfile",
        group="store",
        read=values.path,
        metavar="FILE",
        help="private key of the client certificate, PEM",
    ),
    Option(
        name="etcd-certfile",
        group="store",
        read=values.path,
        metavar="FILE",
        help="client certificate shown to etcd, PEM",
    ),
    Option(
        name="etcd-cafile",
        group="store",
        read=values.path,
        metavar="FILE",
        help="certificate authority that etcd's certificate must come from, PEM",
    ),
    Option(
        name="etcd-username",
        group="store",
        read=values.text,
        metavar="NAME",
        help="user for etcd's authentication",
    ),
    Option(
        name="etcd-password-file",
        group="store",
        read=values.path,
        metavar="FILE",
        help="file that holds the password for etcd's authentication",
    ),
    Option(
        name="etcd-password",
        group="store",
        read=values.text,
        metavar="PASSWORD",
        is_in_file=False,
        help="the password itself, as flanneld takes it: not built yet, use --etcd-password-file",
    ),
    Option(
        name="state-dir",
        group="control",
        read=values.path,
        metavar="DIR",
        default="/var/lib/tunneld",
        help="this node's id and what it remembers; one daemon per directory",
    ),
    Option(
        name="control-socket",
        group="control",
        read=values.path,
        metavar="FILE",
        default="/run/tunneld/tunneld.sock",
        help="socket on which the daemon answers the command line",
    ),
    Option(
        name="iface",
        group="underlay",
        read=values.text,
        metavar="NAME|IP",
        is_list=True,
        separator=",",
        file_type="strings",
        help="underlay interface, by name, IPv4 or IPv6 address; the first that is there of several"
        " (default: the default route's)",
    ),
    Option(
        name="iface-regex",
        group="underlay",
        read=values.regex,
        metavar="REGEX",
        is_list=True,
        file_type="strings",
        help="the first interface whose address or name matches, after --iface; may be repeated",
    ),
    Option(
        name="iface-can-reach",
        group="underlay",
        read=values.address,
        metavar="IP",
        help="the interface by which this address, of either family, is reached",
    ),
    Option(
        name="public-ip",
        group="underlay",
        read=values.ipv4,
        metavar="IP",
        help="address other hosts reach this one by (default: the interface's)",
    ),
    Option(
        name="public-ipv6",
        group="underlay",
        read=values.ipv6,
        metavar="IP",
        help="the same for IPv6",
    ),
    Option(
        name="subnet-file",
        group="lease",
        read=values.path,
        metavar="FILE",
        default="/run/flannel/subnet.env",
        help="file that tells Docker and CNI plugins the subnet and the MTU",
    ),
    Option(
        name="lease-ttl",
        group="lease",
        read=values.duration(2, 10 * 365 * 24 * 3600),
        metavar="DURATION",
        default="24h",
        help="how long the lease outlives a daemon that went away",
    ),
    Option(
        name="subnet-lease-renew-margin",
        group="lease",
        read=values.integer(1, 1439),
        metavar="MINUTES",
        default="60",
        file_type="integer",
        help="minutes before its end by which the lease is renewed at the latest",
    ),
    Option(
        name="ip-masq",
        group="data path",
        read=values.boolean,
        metavar="BOOL",
        default="false",
        file_type="boolean",
        help="masquerade traffic that leaves the network",
    ),
    Option(
        name="ip-masq-fully-random-disable",
        group="data path",
        read=values.boolean,
        metavar="BOOL",
        default="false",
        file_type="boolean",
        help="let masqueraded connections keep their source port where it is free",
    ),
    Option(
        name="firewall",
        group="data path",
        read=values.choice("auto", "nftables", "iptables", "off"),
        metavar="MEANS",
        default="auto",
        help="what carries the firewall rules: auto (what this host uses), nftables, iptables, off",
    ),
    Option(
        name="iptables-forward-rules",
        group="data path",
        read=values.boolean,
        metavar="BOOL",
        default="true",
        file_type="boolean",
        help="accept what is forwarded from and to the network, by nftables or iptables",
    ),
    Option(
        name="bridge-accept-fwmark",
        group="data path",
        read=values.mark,
        metavar="MARK[/MASK]",
        help="what dockerd's option of this name says, where Docker uses nftables",
    ),
    Option(
        name="underlay-notrack",
        group="data path",
        read=values.boolean,
        metavar="BOOL",
        default="false",
        file_type="boolean",
        help="keep encapsulated datagrams out of connection tracking",
    ),
    Option(
        name="datapath",
        group="data path",
        read=values.choice("userspace", "kernel"),
        metavar="PATH",
        default="userspace",
        help="what moves vxlan's packets: userspace, or kernel (its own vxlan device)",
    ),
    Option(
        name="workers",
        group="data path",
        read=values.integer(1, 64),
        metavar="N",
        default="1",
        file_type="integer",
        help="packet workers, each with a queue of the device and a thread or two",
    ),
    Option(
        name="threads",
        group="data path",
        read=values.choice("auto", "joint", "split"),
        metavar="HOW",
        default="auto",
        help="of a worker: joint (one for both directions), split (one for each), or auto:"
        " split with four cores or more",
    ),
    Option(
        name="scheduling",
        group="data path",
        read=values.choice("auto", "batch", "normal"),
        metavar="POLICY",
        default="auto",
        help="how data threads wait for a processor: batch, normal, or auto (batch until other"
        " programs hold them up)",
    ),
    Option(
        name="source-check",
        group="data path",
        read=values.choice("strict", "loose", "off"),
        metavar="CHECK",
        help="how a packet's inner source must fit its outer one: strict, loose or off"
        " (default: what the network config says, else strict)",
    ),
    Option(
        name="encryption-floor",
        group="encryption",
        read=values.choice("off", "preferred", "required"),
        metavar="FLOOR",
        help="least encryption, whatever the store says: off, preferred or required"
        " (default: required with identities or a PSK, else off)",
    ),
    Option(
        name="identities",
        group="encryption",
        read=values.path,
        metavar="FILE",
        help="hosts that are trusted, a line each: KEY NAME [subnets=...] [addresses=...]",
    ),
    Option(
        name="psk-file",
        group="encryption",
        read=values.path,
        metavar="FILE",
        help="pre-shared key of the network, base64; two lines during a rotation"
        " (default: the systemd credential tunneld.psk)",
    ),
    Option(
        name="plain-peers",
        group="encryption",
        read=values.network,
        metavar="NETWORKS",
        is_list=True,
        separator=",",
        splits_argument=True,
        file_type="strings",
        help="with preferred: the only subnets or addresses reached in plain (default: any)",
    ),
    Option(
        name="network-name",
        group="encryption",
        read=values.text,
        metavar="NAME",
        help="name of the network in handshakes (default: the prefix, the same on all hosts)",
    ),
    Option(
        name="encryption-provider",
        group="encryption",
        read=values.choice("auto", "aws-lc-rs", "ring"),
        metavar="LIBRARY",
        default="auto",
        help="library that seals and opens: aws-lc-rs, ring or auto (the faster one on this"
        " processor)",
    ),
    Option(
        name="take-over",
        group="encryption",
        read=values.boolean,
        metavar="BOOL",
        default="false",
        file_type="boolean",
        help="take the lease although a host with a copy of this one's keys seems to live",
    ),
    Option(
        name="healthz-ip",
        group="health",
        read=values.address,
        metavar="IP",
        default="0.0.0.0",  # noqa: S104 - flanneld's; no server without a port
        help="address of the health server",
    ),
    Option(
        name="healthz-port",
        group="health",
        read=values.integer(0, 65535),
        metavar="PORT",
        default="0",
        file_type="integer",
        help="TCP port of the health server; 0: none",
    ),
    Option(
        name="log-format",
        group="log",
        read=values.choice("text", "json"),
        metavar="FORMAT",
        default="text",
        help="text or json",
    ),
    Option(
        name="log-level",
        group="log",
        read=values.choice("debug", "info", "warning", "error"),
        metavar="LEVEL",
        default="info",
        help="least level that is logged: debug, info, warning or error",
    ),
)

BY_NAME: Final[Mapping[str, Option]] = {option.name: option for option in OPTIONS}

CONFIG_OPTION: Final = "config"
"""The one option that is not in the table, since it says where the others are."""

DEFAULT_CONFIG_FILE: Final = "/etc/tunneld/tunneld.toml"

FLANNELD_IGNORED: Final[Mapping[str, bool]] = {
    "kube-subnet-mgr": True,
    "kube-api-url": False,
    "kube-annotation-prefix": False,
    "kubeconfig-file": False,
    "net-config-path": False,
    "set-node-network-unavailable": True,
    "iptables-resync": False,
    "ip-blackhole-route": True,
    "v": False,
    "vmodule": False,
    "log_backtrace_at": False,
}
"""flanneld's options without a meaning here, and whether each is a flag."""
