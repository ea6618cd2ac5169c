"""What only developers measure beside the overlays of `tunneld bench`: flanneld, and IPv6."""

from __future__ import annotations

import json
import subprocess
from typing import Final

from testbed.flanneld.build import FLANNEL_VERSION, flanneld_binary
from tunneld.bench.local.ours import NETWORK, Tunneld, TunneldHostGw, TunneldVxlan
from tunneld.bench.local.overlay import READY_TIMEOUT_S, Overlay, last_line
from tunneld.errors import LabError
from tunneld.lab import namespaces
from tunneld.lab.store import environment

_FLANNEL_PREFIX: Final = "/coreos.com/network"


class FlannelUdp(Overlay):
    """The real flanneld with its udp backend, on an etcd on the first host."""

    name = "flannel udp"
    label = "flannel"
    what = f"the real flanneld {FLANNEL_VERSION} with its udp backend, leases in etcd"

    def start(self) -> None:
        endpoint = self._start_etcd()
        for host in self.pair.hosts:
            self._spawn(
                host,
                *(str(flanneld_binary()), "-iface=u0", f"-etcd-endpoints={endpoint}"),
                *(f"-etcd-prefix={_FLANNEL_PREFIX}", "-ip-masq=false"),
                f"-subnet-file={host.directory / 'subnet.env'}",
                *self.options,
            )
        for host in self.pair.hosts:
            self._wait(host, (host.directory / "subnet.env").exists)
            self._attach_by_subnet_file(host)

    def _start_etcd(self) -> str:
        host = self.pair.a
        client, peer = f"http://{host.address}:2379", f"http://{host.address}:2380"
        etcd = namespaces.start(
            host.namespace,
            *("etcd", "--name", "bench", "--data-dir", str(host.directory / "etcd")),
            *("--listen-client-urls", client, "--advertise-client-urls", client),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"bench={peer}"),
            log=host.directory / "etcd.log",
            env=environment(),
        )
        self.others.append(etcd)
        config = json.dumps({"Network": NETWORK, "Backend": {"Type": "udp"}})
        put = namespaces.inside(
            host.namespace,
            *("env", "ETCDCTL_API=3", "etcdctl", f"--endpoints={client}", "put"),
            *(f"{_FLANNEL_PREFIX}/config", config),
        )

        def is_written() -> bool:
            return subprocess.run(put, capture_output=True, check=False).returncode == 0

        if not namespaces.became_true(is_written, READY_TIMEOUT_S):
            msg = "bench: etcd takes no config; it said last: "
            raise LabError(msg + last_line(host, "etcd.log"))
        return client


class TunneldIPv6(Tunneld):
    """The udp backend, IPv6 in IPv6."""

    name = "tunneld IPv6"
    label = "t6"
    what = "tunneld of this tree with its udp backend, IPv6 inside and outside, leases in SQLite"
    ipv6 = True


class TunneldVxlanIPv6(TunneldVxlan):
    """The vxlan backend, IPv6 in IPv6."""

    name = "tunneld vxlan IPv6"
    label = "tvxlan6"
    what = "tunneld of this tree with vxlan in user space, IPv6 inside and outside, SQLite"
    ipv6 = True


class TunneldHostGwIPv6(TunneldHostGw):
    """The same over IPv6."""

    name = "host-gw IPv6"
    label = "thgw6"
    what = "tunneld of this tree with its host-gw backend over IPv6: the kernel's routes, no tunnel"
    ipv6 = True
