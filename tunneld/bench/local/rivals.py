"""fastd, tinc, nebula, OpenVPN and VpnCloud as overlays, each with a cipher it is fast with.

Sources: fastd.readthedocs.io, tinc-vpn.org/documentation, nebula.defined.net/docs, openvpn(8),
vpncloud.ddswd.de/docs.
"""

from __future__ import annotations

import json
import shutil

from tunneld.bench.local.pair import Host
from tunneld.bench.local.peer import DEVICE, PeerOverlay
from tunneld.lab import namespaces


class Fastd(PeerOverlay):
    """fastd with a method that its authors recommend."""

    name = "fastd salsa2012+umac"
    label = "fastd"
    what = "fastd, method salsa2012+umac"
    mtu_bytes = 1440
    debian = "fastd"
    programs = ("fastd",)

    def prepare(self) -> None:
        self._public = {}
        for host in self.pair.hosts:
            secret = namespaces.run(self.program, "--generate-key", "--machine-readable").split()[
                -1
            ]
            self.write(host, "secret.conf", f'secret "{secret}";\n')
            said = namespaces.run(
                *(self.program, "--config", str(host.directory / "secret.conf")),
                *("--show-key", "--machine-readable"),
            )
            self._public[host.label] = said.split()[-1]

    def join(self, host: Host) -> None:
        other = self.other(host)
        config = self.write(
            host,
            "fastd.conf",
            f'include "{host.directory / "secret.conf"}";\n'
            f'log level warn;\nmode tun;\ninterface "{DEVICE}";\nmethod "salsa2012+umac";\n'
            f"bind {host.address}:10000;\nmtu {self.mtu_bytes};\n"
            f'peer "other" {{ key "{self._public[other.label]}"; '
            f"remote {other.address}:10000; }}\n",
        )
        self._spawn(host, self.program, "--config", str(config))


class Tinc(PeerOverlay):
    """tinc 1.0 as a router, with its default ciphers."""

    name = "tinc"
    label = "tinc"
    what = "tinc in router mode, its default ciphers"
    mtu_bytes = 1400
    debian = "tinc"
    programs = ("tincd",)

    def prepare(self) -> None:
        for host in self.pair.hosts:
            config = (
                f"Name = {host.label}\nMode = router\nDeviceType = tun\nInterface = {DEVICE}\n"
                f"AddressFamily = ipv4\nConnectTo = {self.other(host).label}\n"
            )
            self.write(host, "tinc/tinc.conf", config)
            subnets = f"Subnet = {self.subnet(host)}\nSubnet = {self.inner(host)}/32\n"
            self.write(host, f"tinc/hosts/{host.label}", f"Address = {host.address}\n{subnets}")
            namespaces.run(self.program, "-c", str(host.directory / "tinc"), "-K2048")
        for host in self.pair.hosts:
            name = f"tinc/hosts/{host.label}"
            shutil.copy(host.directory / name, self.other(host).directory / name)

    def join(self, host: Host) -> None:
        place = host.directory / "tinc"
        self._spawn(host, self.program, "-c", str(place), "-D", f"--pidfile={place / 'pid'}")


class Nebula(PeerOverlay):
    """nebula with AES-256-GCM, hosts that know each other."""

    name = "nebula"
    label = "nebula"
    what = "nebula, AES-256-GCM, one routine"
    mtu_bytes = 1420
    debian = "nebula"
    programs = ("nebula", "nebula-cert")

    def prepare(self) -> None:
        ca = self.pair.directory / "ca"
        cert = shutil.which("nebula-cert") or "nebula-cert"
        ca.mkdir()
        files = ("-out-crt", str(ca / "crt"), "-out-key", str(ca / "key"))
        namespaces.run(cert, "ca", "-name", "bench", *files)
        for host in self.pair.hosts:
            namespaces.run(
                *(cert, "sign", "-ca-crt", str(ca / "crt"), "-ca-key", str(ca / "key")),
                *("-name", host.label, "-ip", f"{self.inner(host)}/24"),
                *("-subnets", self.subnet(host)),
                *("-out-crt", str(host.directory / "crt")),
                *("-out-key", str(host.directory / "key")),
            )

    def join(self, host: Host) -> None:
        other = self.other(host)
        everybody = [{"port": "any", "proto": "any", "host": "any"}]
        route = {"route": self.subnet(other), "via": self.inner(other), "mtu": self.mtu_bytes}
        # JSON is YAML too.
        config = {
            "pki": {
                "ca": str(self.pair.directory / "ca/crt"),
                "cert": str(host.directory / "crt"),
                "key": str(host.directory / "key"),
            },
            "static_host_map": {self.inner(other): [f"{other.address}:4242"]},
            "lighthouse": {"am_lighthouse": False, "hosts": []},
            "listen": {"host": str(host.address), "port": 4242},
            "tun": {"dev": DEVICE, "mtu": self.mtu_bytes, "unsafe_routes": [route]},
            "logging": {"level": "warning"},
            "firewall": {"outbound": everybody, "inbound": everybody},
        }
        path = self.write(host, "nebula.yml", json.dumps(config))
        self._spawn(host, self.program, "-config", str(path))

    def set_up(self, host: Host) -> None:
        """It sets its device up itself."""


class Openvpn(PeerOverlay):
    """OpenVPN in user space, certificates known by their fingerprints."""

    name = "openvpn"
    label = "openvpn"
    what = "OpenVPN over UDP, TUN, AES-256-GCM, without its kernel module"
    mtu_bytes = 1440
    debian = "openvpn"
    programs = ("openvpn", "openssl")

    def prepare(self) -> None:
        self._prints = {}
        for host in self.pair.hosts:
            key, cert = host.directory / "key", host.directory / "crt"
            namespaces.run(
                *("openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "30"),
                *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", f"/CN=bench-{host.label}"),
                *("-keyout", str(key), "-out", str(cert)),
            )
            said = namespaces.run(
                *("openssl", "x509", "-in", str(cert), "-noout", "-fingerprint", "-sha256")
            )
            self._prints[host.label] = said.split("=")[1].strip()

    def join(self, host: Host) -> None:
        other = self.other(host)
        side = "--tls-server" if host is self.pair.a else "--tls-client"
        self._spawn(
            host,
            *(self.program, "--dev", DEVICE, "--dev-type", "tun", "--proto", "udp4"),
            *("--local", str(host.address), "--lport", "1194", "--disable-dco"),
            *("--remote", str(other.address), "1194", side, "--dh", "none"),
            *("--cert", str(host.directory / "crt"), "--key", str(host.directory / "key")),
            *("--peer-fingerprint", self._prints[other.label], "--data-ciphers", "AES-256-GCM"),
            *("--tun-mtu", str(self.mtu_bytes), "--mssfix", "0", "--verb", "2"),
            *("--ifconfig", self.inner(host), self.inner(other), "--ifconfig-noexec"),
        )


class Vpncloud(PeerOverlay):
    """VpnCloud as a router, hosts that know each other."""

    name = "vpncloud"
    label = "vpncloud"
    what = "VpnCloud, router mode, AES-128-GCM"
    mtu_bytes = 1400
    debian = None
    programs = ("vpncloud",)

    def join(self, host: Host) -> None:
        other = self.other(host)
        # It asks the kernel for its own address by the default route.
        namespaces.run(
            *("ip", "-n", host.namespace, "route", "replace", "default", "via", str(other.address))
        )
        config = {
            "device": {"type": "tun", "name": DEVICE},
            "ip": self.inner(host),
            "crypto": {"password": "of this bench alone", "algorithms": ["AES128"]},
            "listen": f"{host.address}:3210",
            "peers": [f"{other.address}:3210"],
            "claims": [self.subnet(host), f"{self.inner(host)}/32"],
            "auto-claim": False,
            "mode": "router",
            "port-forwarding": False,
        }
        path = self.write(host, "vpncloud.yml", json.dumps(config))
        self._spawn(host, self.program, "--config", str(path))
