"""The faults that a round chooses from. Each is over when its function returns.

A fault on a host takes away or changes what others own there, and brings back what others would
bring back; what is tunneld's own stays away, for tunneld to put back.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from testbed.wait import wait_until
from tests.chaos.hosts import PREFIX, ChaosHost, Site, pass_time

Act = Callable[[Site, ChaosHost, random.Random], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that happens to a host, or to the store as that host sees it."""

    name: str
    act: Act
    is_of_store: bool = False
    """It happens to the store, or needs it: one such fault at a time."""


def _kill(site: Site, host: ChaosHost, _rng: random.Random) -> None:
    host.running.kill()
    host.start(site.clock)


def _stop(site: Site, host: ChaosHost, _rng: random.Random) -> None:
    status = host.running.stop()
    assert status == 0, f"host {host.number} ended with {status}: {host.said()[-3000:]}"
    host.start(site.clock)


def _freeze(_site: Site, host: ChaosHost, rng: random.Random) -> None:
    host.running.pause()
    pass_time(rng.uniform(0.2, 2.0))
    host.running.resume()


def _link_down(_site: Site, host: ChaosHost, rng: random.Random) -> None:
    host.ip("link", "set", host.device, "down")
    pass_time(rng.uniform(0.1, 3.0))
    host.ip("link", "set", host.device, "up")
    host.connect()


def _link_made_again(_site: Site, host: ChaosHost, rng: random.Random) -> None:
    host.ip("link", "delete", host.device)
    pass_time(rng.uniform(0.0, 3.0))
    host.plug()


def _link_renamed(_site: Site, host: ChaosHost, _rng: random.Random) -> None:
    host.ip("link", "set", host.device, "down")
    new = "lan0" if host.device == "eth0" else "eth0"
    host.ip("link", "set", host.device, "name", new)
    host.device = new
    host.ip("link", "set", host.device, "up")
    host.connect()


def _address_away(_site: Site, host: ChaosHost, rng: random.Random) -> None:
    host.ip("address", "delete", f"{host.address}/24", "dev", host.device)
    pass_time(rng.uniform(0.1, 2.5))
    host.connect()


def _readdress(host: ChaosHost) -> None:
    old, last = host.address, int(host.address.rpartition(".")[2])
    host.address = f"192.0.2.{last + 50 if last < 200 else 10 + host.number}"
    host.ip("address", "add", f"{host.address}/24", "dev", host.device)
    host.ip("address", "delete", f"{old}/24", "dev", host.device)
    host.connect()


def _address_changed(_site: Site, host: ChaosHost, _rng: random.Random) -> None:
    _readdress(host)


def _address_changed_twice(_site: Site, host: ChaosHost, rng: random.Random) -> None:
    _readdress(host)
    pass_time(rng.uniform(0.05, 3.0))
    _readdress(host)


def _address_flaps(_site: Site, host: ChaosHost, rng: random.Random) -> None:
    for _ in range(rng.randint(3, 8)):
        host.ip("address", "delete", f"{host.address}/24", "dev", host.device)
        pass_time(rng.uniform(0.0, 0.4))
        host.connect()
        pass_time(rng.uniform(0.0, 0.4))


def _routes_flushed(_site: Site, host: ChaosHost, _rng: random.Random) -> None:
    host.ip("route", "flush", "table", "main")
    host.connect()
    host.ip("route", "replace", _network(host.subnet), "dev", "br0", "src",
            host.subnet.partition("/")[0])  # fmt: skip


def _network(gateway: str) -> str:
    return gateway.replace(".1/", ".0/")


def _rules_flushed(_site: Site, host: ChaosHost, _rng: random.Random) -> None:
    host.space.run("nft", "flush", "ruleset")


def _overlay_device(host: ChaosHost) -> str:
    """Returns the overlay device, which may be just about to be put back."""

    def found() -> str:
        links = [line.split()[1] for line in host.ip("-o", "link").splitlines()]
        names = [link.rstrip(":").partition("@")[0] for link in links]
        return next((name for name in names if name.startswith("flannel")), "")

    return wait_until(found, what=f"an overlay device on host {host.number}")


def _device_deleted(_site: Site, host: ChaosHost, _rng: random.Random) -> None:
    host.ip("link", "delete", _overlay_device(host))


def _device_renamed(_site: Site, host: ChaosHost, _rng: random.Random) -> None:
    device = _overlay_device(host)
    host.ip("link", "set", device, "down", check=False)
    host.ip("link", "set", device, "name", "mine0", check=False)


def _device_taken(_site: Site, host: ChaosHost, _rng: random.Random) -> None:
    device = _overlay_device(host)
    host.ip("link", "set", device, "netns", host.inner.name, "name", "taken0", check=False)
    host.inner.run("ip", "link", "delete", "taken0", check=False)


def _device_down(_site: Site, host: ChaosHost, _rng: random.Random) -> None:
    host.ip("link", "set", _overlay_device(host), "down")


def _forwarding_off(_site: Site, host: ChaosHost, _rng: random.Random) -> None:
    host.space.sysctl("net/ipv4/ip_forward", 0)


def _subnet_env_deleted(_site: Site, host: ChaosHost, _rng: random.Random) -> None:
    host.subnet_file.unlink(missing_ok=True)


def _subnet_env_cut(_site: Site, host: ChaosHost, _rng: random.Random) -> None:
    host.subnet_file.write_text("FLANNEL_NETWORK=10.5")


def _disk_full(site: Site, host: ChaosHost, rng: random.Random) -> None:
    ballast = str(host.directory / "state" / "ballast")
    host.in_mounts("dd", "if=/dev/zero", f"of={ballast}", "bs=4096", check=False)
    _restart_in_between(site, host, rng)
    host.in_mounts("rm", ballast)


def _read_only(site: Site, host: ChaosHost, rng: random.Random) -> None:
    """As after an error of the disk: nobody has a file open for writing when it becomes so."""
    state = str(host.directory / "state")
    host.running.kill()
    host.in_mounts("mount", "-o", "remount,ro", state)
    host.start(site.clock)
    wait_until(host.forwards, what=f"host {host.number} forwarding")
    _rules_flushed(site, host, rng)
    host.in_mounts("mount", "-o", "remount,rw", state)


def _restart_in_between(site: Site, host: ChaosHost, rng: random.Random) -> None:
    if rng.random() < 0.5:
        _kill(site, host, rng)
        wait_until(host.forwards, what=f"host {host.number} forwarding")
    else:
        _rules_flushed(site, host, rng)


def _clock_jumps(_site: Site, host: ChaosHost, rng: random.Random) -> None:
    host.set_clock(rng.choice((-864_000, -3_600, 3_600, 864_000)))
    pass_time(rng.uniform(0.1, 2.0))
    host.set_clock(0)


def _log_reader_stopped(site: Site, host: ChaosHost, rng: random.Random) -> None:
    host.stop_log_reader()
    _address_flaps(site, host, rng)
    host.reader.resume()


def _store_killed(site: Site, _host: ChaosHost, rng: random.Random) -> None:
    site.etcd.kill()
    pass_time(rng.uniform(0.0, 3.0))
    site.etcd.start()


def _store_cut_off(site: Site, host: ChaosHost, rng: random.Random) -> None:
    hosts = [host] if rng.random() < 0.5 else site.hosts
    with site.store_hidden_from(hosts):
        pass_time(rng.uniform(0.5, 4.0))


def _store_wiped(site: Site, _host: ChaosHost, _rng: random.Random) -> None:
    site.replace_store(prepare=False)


def _store_restored(site: Site, _host: ChaosHost, _rng: random.Random) -> None:
    site.replace_store(prepare=True)


def _store_compacted(site: Site, host: ChaosHost, _rng: random.Random) -> None:
    with site.store_hidden_from([host]):
        for number in range(20):
            site.etcd.put(f"{PREFIX}/chaos", str(number))
        revision = site.etcd.revision()
        site.etcd.ctl("compact", "--physical", str(revision))


def _killed_without_store(site: Site, host: ChaosHost, rng: random.Random) -> None:
    with site.store_hidden_from([host]):
        _kill(site, host, rng)
        wait_until(host.forwards, what=f"host {host.number} forwarding from its cache")


def _lease_deleted(site: Site, host: ChaosHost, _rng: random.Random) -> None:
    gateway = host.subnet.replace(".1/", ".0-")
    site.etcd.delete(f"{PREFIX}/subnets/{gateway}")


FAULTS: Final = (
    Fault("killed", _kill),
    Fault("stopped", _stop),
    Fault("frozen", _freeze),
    Fault("interface down", _link_down),
    Fault("interface made again", _link_made_again),
    Fault("interface renamed", _link_renamed),
    Fault("address away", _address_away),
    Fault("address changed", _address_changed),
    Fault("address changed twice", _address_changed_twice),
    Fault("address flapping", _address_flaps),
    Fault("routes flushed", _routes_flushed),
    Fault("rules flushed", _rules_flushed),
    Fault("device deleted", _device_deleted),
    Fault("device renamed", _device_renamed),
    Fault("device taken away", _device_taken),
    Fault("device down", _device_down),
    Fault("forwarding off", _forwarding_off),
    Fault("subnet.env deleted", _subnet_env_deleted),
    Fault("subnet.env cut", _subnet_env_cut),
    Fault("state disk full", _disk_full),
    Fault("state disk read-only", _read_only),
    Fault("clock jumps", _clock_jumps),
    Fault("log reader stopped", _log_reader_stopped),
    Fault("store killed", _store_killed, is_of_store=True),
    Fault("store cut off", _store_cut_off, is_of_store=True),
    Fault("store wiped", _store_wiped, is_of_store=True),
    Fault("store restored", _store_restored, is_of_store=True),
    Fault("store compacted", _store_compacted, is_of_store=True),
    Fault("killed without the store", _killed_without_store, is_of_store=True),
    Fault("lease deleted", _lease_deleted, is_of_store=True),
)
