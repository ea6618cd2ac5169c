"""Bad input: one clear line and the promised exit status each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed.etcd import Etcd
from testbed.wait import wait_until
from tests.e2e.single_host import SingleHost, only_line
from tests.e2e.site import PREFIX

pytestmark = pytest.mark.root

GOOD_CONFIG = '{"Network": "10.5.0.0/16", "Backend": {"Type": "udp"}}'

# Refused by flannel v0.28.9 itself (`CheckNetworkConfig`); words of the reason that ours must hold.
INVALID_CONFIGS = {
    "too small": ('{"Network": "10.0.0.0/29"}', "/29"),
    "three subnets": ('{"Network": "10.0.0.0/16", "SubnetLen": 17}', "17"),
    "len 31": ('{"Network": "10.0.0.0/16", "SubnetLen": 31}', "31"),
    "min off boundary": ('{"Network": "10.0.0.0/16", "SubnetMin": "10.0.0.5"}', "10.0.0.5"),
    "min outside": ('{"Network": "10.0.0.0/16", "SubnetMin": "10.1.0.0"}', "10.1.0.0"),
    "max off boundary": ('{"Network": "10.0.0.0/16", "SubnetMax": "10.0.9.5"}', "10.0.9.5"),
    "max outside": ('{"Network": "10.0.0.0/16", "SubnetMax": "10.1.0.0"}', "10.1.0.0"),
    "no network": ("{}", "Network"),
    "null network": ('{"Network": null}', "Network"),
    "no cidr": ('{"Network": "10.0.0.0"}', "10.0.0.0"),
    "text for a number": ('{"Network": "10.0.0.0/16", "SubnetLen": "24"}', "SubnetLen"),
    "backend without a type": ('{"Network": "10.0.0.0/16", "Backend": {}}', "backend"),
    "backend null": ('{"Network": "10.0.0.0/16", "Backend": null}', "backend"),
    "unknown backend": (
        '{"Network": "10.0.0.0/16", "Backend": {"Type": "carrier-pigeon"}}',
        "carrier-pigeon",
    ),
    "cut off": ('{"Network": "10.0.0.0/16"', "JSON"),
    "no object": ("[]", "object"),
    "empty": ("", "JSON"),
}


def test_network_set_refuses_what_network_check_refuses_and_writes_nothing(
    host: SingleHost, etcd: Etcd, tmp_path: Path
) -> None:
    path = tmp_path / "network.json"
    path.write_text('{"Network": "10.0.0.0/29"}')
    done = host.tunneld("network", "set", str(path), "--etcd-endpoints", host.endpoint)
    assert done.returncode == 1
    assert "/29" in only_line(done)
    assert etcd.everything(PREFIX) == {}


def refuse(host: SingleHost, *options: str, wrapper: tuple[str, ...] = (), status: int = 1) -> str:
    done = host.daemon_ends(*options, wrapper=wrapper)
    assert done.returncode == status, done.stderr
    return only_line(done)


def test_without_cap_net_admin_the_daemon_says_so(host: SingleHost) -> None:
    without = ("setpriv", "--bounding-set=-net_admin")
    assert "CAP_NET_ADMIN" in refuse(host, wrapper=without)


def test_without_dev_net_tun_the_daemon_says_so(host: SingleHost, etcd: Etcd) -> None:
    etcd.put(f"{PREFIX}/config", GOOD_CONFIG)
    hide = ("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")
    assert "/dev/net/tun" in refuse(host, wrapper=hide)


def config(backend: str, **members: object) -> str:
    return json.dumps({"Network": "10.5.0.0/16", **members, "Backend": {"Type": backend}})


@pytest.mark.parametrize("datapath", ["userspace", "kernel"])
def test_a_vxlan_device_of_somebody_else_is_left_alone_and_named(
    host: SingleHost, etcd: Etcd, datapath: str
) -> None:
    etcd.put(f"{PREFIX}/config", config("vxlan"))
    theirs = ("flannel.1", "type", "vxlan", "id", "1", "dstport", "4789", "dev", "eth0")
    host.space.run("ip", "link", "add", *theirs)
    daemon = host.start_daemon("--datapath", datapath)
    wait_until(lambda: "4789" in daemon.output(), 20.0, "a line that names the port")
    line = daemon.output()
    assert daemon.stop() == 0
    assert "flannel.1" in line
    assert "4789" in line
    assert "dstport 4789" in host.space.run("ip", "-d", "link", "show", "flannel.1")


def test_options_without_an_effect_are_named_once(host: SingleHost, etcd: Etcd) -> None:
    text = '{"Network": "10.5.0.0/16", "Backend": {"Type": "vxlan", "SourceCheck": "loose"}}'
    etcd.put(f"{PREFIX}/config", text)
    daemon = host.start_daemon("--datapath", "kernel", "--source-check", "off")
    host.wait_ready()
    assert daemon.stop() == 0
    lines = [line for line in daemon.output().splitlines() if "no effect" in line]
    assert ["--source-check" in line for line in lines] == [False, True]


def test_a_second_daemon_on_the_state_directory_is_refused(host: SingleHost, etcd: Etcd) -> None:
    etcd.put(f"{PREFIX}/config", GOOD_CONFIG)
    first = host.start_daemon()
    host.wait_ready()
    line = refuse(host)
    assert str(host.directory / "state") in line
    assert str(first.pid) in line
    assert host.wait_ready()["lease"]
    assert first.stop() == 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("run", "--no-such-option"), "no-such-option"),
        (("run", "--store", "consul"), "consul"),
        (("run", "--workers", "many"), "many"),
        (("run", "--lease-ttl", "a week"), "a week"),
        (("run", "--subnet-lease-renew-margin", "1440"), "1440"),
        (("run", "--etcd-endpoints", "not a url"), "not a url"),
        (("run", "--public-ip", "192.0.2.256"), "192.0.2.256"),
        (("run", "--log-level", "loud"), "loud"),
        (("fly",), "fly"),
        ((), "command"),
        (("lab", "up", "--backend", "ipip"), "not built yet"),
    ],
)
def test_a_wrong_command_line_ends_with_2(
    host: SingleHost, argv: tuple[str, ...], words: str
) -> None:
    done = host.tunneld(*argv)
    assert done.returncode == 2, done.stderr
    assert words in only_line(done)


def test_an_unknown_key_in_the_config_file_is_named_with_the_file(
    host: SingleHost, tmp_path: Path
) -> None:
    path = tmp_path / "tunneld.toml"
    path.write_text('etcd-endpoint = ["http://192.0.2.1:2379"]\n')
    line = refuse(host, "--config", str(path), status=2)
    assert "etcd-endpoint" in line
    assert str(path) in line
    assert "etcd-endpoints" in line, "the nearest known key helps"


def test_a_wrong_environment_variable_ends_with_2(host: SingleHost) -> None:
    done = host.daemon_ends(environment={"TUNNELD_WORKERS": "many"})
    assert done.returncode == 2
    assert "TUNNELD_WORKERS" in only_line(done)
