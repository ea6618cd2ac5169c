"""Where an option's value comes from, what is refused, and what the shipped config file says."""

from __future__ import annotations

import itertools
import re
import tomllib
from dataclasses import fields
from ipaddress import IPv4Address, IPv6Address
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from tunneld.config import RunOptions, load
from tunneld.config.options import OPTIONS, Option
from tunneld.errors import UsageError
from tunneld.fib.state import FirewallMark
from tunneld.store import StoreOptions

SHIPPED = Path(__file__).parents[3] / "config" / "tunneld.toml"

name_of = attrgetter("name")

# An option given by each of the places, strongest first.
PLACES = ("argument", "TUNNELD_", "file", "FLANNELD_")


def toml(tmp_path: Path, content: str) -> Path:
    path = tmp_path / "tunneld.toml"
    path.write_text(content)
    return path


@pytest.fixture(autouse=True)
def _no_config_file_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tunneld.config.DEFAULT_CONFIG_FILE", str(tmp_path / "none.toml"))


def test_defaults_are_flanneld_s_where_it_has_the_option() -> None:
    options = load({}, {})
    assert options == RunOptions(
        store=StoreOptions(
            kind="etcd",
            path=None,
            endpoints=("http://127.0.0.1:2379",),
            prefix="/coreos.com/network",
        ),
        state_dir=Path("/var/lib/tunneld"),
        control_socket=Path("/run/tunneld/tunneld.sock"),
        iface=(),
        iface_regex=(),
        iface_can_reach=None,
        public_ip=None,
        public_ipv6=None,
        subnet_file=Path("/run/flannel/subnet.env"),
        lease_ttl_s=86400.0,
        renew_margin_s=3600.0,
        ip_masq=False,
        ip_masq_fully_random_disable=False,
        iptables_forward_rules=True,
        firewall="auto",
        underlay_notrack=False,
        bridge_accept_fwmark=None,
        datapath="userspace",
        workers=1,
        scheduling="auto",
        threads="auto",
        source_check=None,
        encryption_floor=None,
        identities=None,
        psk_file=None,
        plain_peers=(),
        take_over=False,
        network_name=None,
        encryption_provider="auto",
        healthz_ip=IPv4Address("0.0.0.0"),
        healthz_port=0,
        log_format="text",
        log_level="info",
    )


@pytest.mark.parametrize(
    "given",
    [subset for size in range(len(PLACES) + 1) for subset in itertools.combinations(PLACES, size)],
)
def test_strongest_place_that_gives_an_option_wins(tmp_path: Path, given: tuple[str, ...]) -> None:
    arguments = {"etcd-prefix": ["/argument"]} if "argument" in given else {}
    environ = {
        f"{place}ETCD_PREFIX": f"/{place}" for place in ("TUNNELD_", "FLANNELD_") if place in given
    }
    content = 'etcd-prefix = "/file"' if "file" in given else ""
    environ["TUNNELD_CONFIG"] = str(toml(tmp_path, content))
    expected = f"/{given[0]}" if given else "/coreos.com/network"
    assert load(arguments, environ).store.prefix == expected


def test_list_of_a_stronger_place_replaces_the_weaker_one_whole(tmp_path: Path) -> None:
    path = toml(tmp_path, 'iface = ["eth0", "eth1"]')
    arguments = {"config": [str(path)], "iface": ["bond0"]}
    assert load(arguments, {"FLANNELD_IFACE": "eth7"}).iface == ("bond0",)
    assert load({"config": [str(path)]}, {"FLANNELD_IFACE": "eth7"}).iface == ("eth0", "eth1")


def test_empty_variable_counts_as_not_set() -> None:
    environ = {"TUNNELD_ETCD_PREFIX": "", "FLANNELD_ETCD_PREFIX": "/net"}
    assert load({}, environ).store.prefix == "/net"


def test_last_of_several_arguments_counts_but_lists_collect() -> None:
    options = load({"etcd-prefix": ["/a", "/b"], "iface": ["eth0", "192.0.2.1"]}, {})
    assert options.store.prefix == "/b"
    assert options.iface == ("eth0", "192.0.2.1")


def test_endpoints_are_split_at_commas_in_every_place(tmp_path: Path) -> None:
    two = ("http://192.0.2.1:2379", "http://192.0.2.2:2379")
    path = str(toml(tmp_path, f'etcd-endpoints = "{",".join(two)}"'))
    assert load({"etcd-endpoints": [",".join(two)]}, {}).store.endpoints == two
    assert load({}, {"FLANNELD_ETCD_ENDPOINTS": ", ".join(two)}).store.endpoints == two
    assert load({"config": [path]}, {}).store.endpoints == two


def test_commas_of_a_regex_are_its_own() -> None:
    assert load({}, {"TUNNELD_IFACE_REGEX": "^eth[0-9]{1,2}$"}).iface_regex == ("^eth[0-9]{1,2}$",)
    assert load({"iface-regex": ["a{1,2}"]}, {}).iface_regex == ("a{1,2}",)


def test_endpoint_without_a_scheme_uses_tls_when_tls_is_set_up() -> None:
    arguments = {"etcd-endpoints": ["192.0.2.1:2379"]}
    assert load(arguments, {}).store.endpoints == ("http://192.0.2.1:2379",)
    arguments["etcd-cafile"] = ["/ca.pem"]
    assert load(arguments, {}).store.endpoints == ("https://192.0.2.1:2379",)


def test_every_option_reaches_its_place(tmp_path: Path) -> None:
    content = """
        store = "sqlite:/var/lib/leases.db"
        etcd-cafile = "/ca"
        etcd-certfile = "/cert"
        etcd-keyfile = "/key"
        etcd-username = "root"
        etcd-password-file = "/password"
        state-dir = "/state"
        control-socket = "/sock"
        iface-can-reach = "192.0.2.9"
        public-ip = "192.0.2.10"
        public-ipv6 = "2001:db8::10"
        subnet-file = "/env"
        lease-ttl = "2h"
        subnet-lease-renew-margin = 30
        ip-masq = true
        ip-masq-fully-random-disable = true
        iptables-forward-rules = false
        firewall = "iptables"
        underlay-notrack = true
        bridge-accept-fwmark = "0x100/0xf00"
        workers = 2
        scheduling = "batch"
        source-check = "loose"
        healthz-ip = "::1"
        healthz-port = 8080
        log-format = "json"
        log-level = "debug"
    """
    options = load({"config": [str(toml(tmp_path, content))]}, {})
    assert options.store == StoreOptions(
        kind="sqlite",
        path=Path("/var/lib/leases.db"),
        cafile=Path("/ca"),
        certfile=Path("/cert"),
        keyfile=Path("/key"),
        username="root",
        password_file=Path("/password"),
    )
    assert (options.state_dir, options.control_socket) == (Path("/state"), Path("/sock"))
    assert options.iface_can_reach == IPv4Address("192.0.2.9")
    assert options.public_ip == IPv4Address("192.0.2.10")
    assert options.public_ipv6 == IPv6Address("2001:db8::10")
    assert options.subnet_file == Path("/env")
    assert (options.lease_ttl_s, options.renew_margin_s) == (7200.0, 1800.0)
    assert (options.ip_masq, options.ip_masq_fully_random_disable) == (True, True)
    assert (options.iptables_forward_rules, options.firewall) == (False, "iptables")
    assert options.underlay_notrack is True
    assert options.bridge_accept_fwmark == FirewallMark(value=0x100, mask=0xF00)
    assert (options.workers, options.source_check) == (2, "loose")
    assert options.scheduling == "batch"
    assert (options.healthz_ip, options.healthz_port) == (IPv6Address("::1"), 8080)
    assert (options.log_format, options.log_level) == ("json", "debug")


def test_every_option_of_the_table_is_taken_up() -> None:
    taken = {field.name.replace("_", "-") for field in fields(RunOptions)}
    elsewhere = {"lease-ttl", "subnet-lease-renew-margin"}
    for option in OPTIONS:
        name = option.name
        assert name in taken or name.startswith("etcd-") or name in elsewhere, name


@pytest.mark.parametrize(
    ("arguments", "environ", "says"),
    [
        ({"workers": ["many"]}, {}, "--workers: 'many' is not usable; expected a whole number"),
        ({}, {"TUNNELD_PUBLIC_IP": "here"}, "TUNNELD_PUBLIC_IP: 'here' is not usable; expected an"),
        ({}, {"FLANNELD_IP_MASQ": "yes"}, "FLANNELD_IP_MASQ: 'yes' is not usable; expected true"),
        (
            {"store": ["sqlite"]},
            {},
            "--store: 'sqlite' is not usable; expected etcd or",
        ),
        ({"subnet-lease-renew-margin": ["1440"]}, {}, "expected a whole number from 1 to 1439"),
        ({"subnet-lease-renew-margin": ["0"]}, {}, "expected a whole number from 1 to 1439"),
        ({"etcd-endpoints": ["http://192.0.2.1:2379,"]}, {}, "--etcd-endpoints: '' is not usable"),
        ({"log-level": ["loud"]}, {}, "expected debug or info or warning or error"),
        ({"config": ["/nonexistent.toml"]}, {}, "cannot read the config file /nonexistent.toml"),
        ({}, {"TUNNELD_CONFIG": "/nonexistent.toml"}, "No such file or directory"),
        (
            {"lease-ttl": ["10m"], "subnet-lease-renew-margin": ["10"]},
            {},
            "--subnet-lease-renew-margin: 10 minutes are not less than the lease's life of 600 s",
        ),
    ],
)
def test_bad_value_is_said_in_one_line_with_its_place(
    arguments: dict[str, list[str]], environ: dict[str, str], says: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        load(arguments, environ)
    assert caught.value.exit_status == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('etcd-prefx = "/x"', "unknown key 'etcd-prefx' in the config file {}; did you mean etcd"),
        ('etcd_prefix = "/x"', "'etcd_prefix' in the config file {}; did you mean etcd-prefix?"),
        ("zzz = 1", "unknown key 'zzz' in the config file {}"),
        ('[etcd]\nprefix = "/x"', "unknown key 'etcd' in the config file {}"),
        ('etcd-password = "x"', "did you mean etcd-password-file?"),
        ('workers = "2"', 'workers in the config file {}: "2" has a wrong type; expected integer'),
        ("workers = true", "the config file {}: true has a wrong type; expected integer"),
        ("workers = 1000", "workers in the config file {}: '1000' is not usable"),
        ('ip-masq = "true"', 'the config file {}: "true" has a wrong type; expected boolean'),
        ("ip-masq = 1", "ip-masq in the config file {}: 1 has a wrong type; expected boolean"),
        ("lease-ttl = 86400", "the config file {}: 86400 has a wrong type; expected string"),
        ("iface = [1]", "[1] has a wrong type; expected string or array of strings"),
        ("iface = []", "[] has a wrong type; expected string or array of strings"),
        ('public-ip = ["192.0.2.1"]', '["192.0.2.1"] has a wrong type; expected string'),
        ("ip-masq = ", "is not valid TOML"),
        ("ip-masq = true\nip-masq = false", "is not valid TOML"),
        ("\ufeffworkers = 1", "{} begins with a byte order mark (U+FEFF)"),
        ("iface = " + "[" * 9_999, "{} is "),
        ("workers = 0x" + "f" * 9_999, "a number of thousands of digits has a wrong type"),
        ("workers = " + "9" * 9_999, "is not valid TOML"),
        ('state-dir = "/a\\u0000b"', "is not usable; expected a path"),
    ],
)  # fmt: skip
def test_bad_config_file_is_said_in_one_line(tmp_path: Path, content: str, says: str) -> None:
    path = toml(tmp_path, content)
    with pytest.raises(UsageError, match=re.escape(says.format(path))) as caught:
        load({"config": [str(path)]}, {})
    assert "\n" not in str(caught.value)


def test_config_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not valid TOML"):
        load({"config": [str(path)]}, {})


def test_config_file_that_may_not_be_read_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may look into every directory; a link to itself refuses even root.
    path = tmp_path / "tunneld"
    path.symlink_to(path)
    monkeypatch.setattr("tunneld.config.DEFAULT_CONFIG_FILE", str(path / "tunneld.toml"))
    with pytest.raises(UsageError, match=r"cannot read the config file .*/tunneld\.toml: Too many"):
        load({}, {})
    monkeypatch.setattr("tunneld.config.DEFAULT_CONFIG_FILE", str(tmp_path / "no" / "x.toml"))
    assert load({}, {}) == load({"config": ["/dev/null"]}, {})


def test_default_config_file_is_read_when_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = toml(tmp_path, "workers = 3")
    monkeypatch.setattr("tunneld.config.DEFAULT_CONFIG_FILE", str(path))
    assert load({}, {}).workers == 3


def test_options_of_encryption_are_taken_from_everywhere(tmp_path: Path) -> None:
    content = 'identities = "/ids"\nplain-peers = ["10.5.9.0/24", "192.0.2.9"]\nnetwork-name = "n"'
    arguments = {"config": [str(toml(tmp_path, content))], "encryption-floor": ["preferred"]}
    options = load(arguments, {"TUNNELD_PSK_FILE": "/psk", "TUNNELD_IDENTITIES": "/other"})
    assert (options.encryption_floor, options.network_name) == ("preferred", "n")
    assert (options.identities, options.psk_file) == (Path("/other"), Path("/psk"))
    assert list(map(str, options.plain_peers)) == ["10.5.9.0/24", "192.0.2.9/32"]
    assert load({"encryption-provider": ["ring"]}, {}).encryption_provider == "ring"
    plain = load({"plain-peers": ["10.5.9.0/24,fd00::/64"]}, {}).plain_peers
    assert list(map(str, plain)) == ["10.5.9.0/24", "fd00::/64"]


def test_margin_of_a_short_lease_is_half_its_life_unless_given() -> None:
    assert load({"lease-ttl": ["10s"]}, {}).renew_margin_s == 5.0
    assert load({"lease-ttl": ["30m"]}, {}).renew_margin_s == 900.0
    assert load({"lease-ttl": ["61m"]}, {}).renew_margin_s == 3600.0


def test_environment_of_a_flanneld_unit_is_understood() -> None:
    options = load(
        {},
        {
            "FLANNELD_ETCD_ENDPOINTS": "https://192.0.2.1:2379,https://192.0.2.2:2379",
            "FLANNELD_ETCD_CAFILE": "/etc/ssl/etcd/ca.pem",
            "FLANNELD_IFACE": "eth1",
            "FLANNELD_IP_MASQ": "true",
            "FLANNELD_SUBNET_FILE": "/run/flannel/other.env",
            "FLANNELD_HEALTHZ_PORT": "8471",
            "FLANNELD_IPTABLES_RESYNC": "5",
            "FLANNELD_KUBE_SUBNET_MGR": "false",
            "FLANNELD_UNHEARD_OF": "1",
        },
    )
    assert options.store.endpoints == ("https://192.0.2.1:2379", "https://192.0.2.2:2379")
    assert options.iface == ("eth1",)
    assert options.ip_masq is True
    assert options.healthz_port == 8471
    assert options.subnet_file == Path("/run/flannel/other.env")
    assert options.ignored == ("FLANNELD_IPTABLES_RESYNC", "FLANNELD_KUBE_SUBNET_MGR")


def test_misspelt_variable_of_ours_is_named() -> None:
    environ = {"TUNNELD_ETCD_PREFX": "/x", "TUNNELD_ETCD_PREFIX": "/y", "PATH": "/bin"}
    assert load({}, environ).unknown_variables == ("TUNNELD_ETCD_PREFX",)


def uncommented(text: str) -> dict[str, Any]:
    return tomllib.loads(re.sub(r"^#(?=[a-z0-9-]+ = )", "", text, flags=re.MULTILINE))


def test_shipped_config_file_changes_nothing_as_it_is() -> None:
    assert tomllib.loads(SHIPPED.read_text()) == {}
    assert load({"config": [str(SHIPPED)]}, {}) == load({}, {})


def test_shipped_config_file_lists_every_option_and_parses(tmp_path: Path) -> None:
    listed = uncommented(SHIPPED.read_text())
    assert set(listed) == {option.name for option in OPTIONS if option.is_in_file}
    path = toml(tmp_path, re.sub(r"^#(?=[a-z0-9-]+ = )", "", SHIPPED.read_text(), flags=re.M))
    assert load({"config": [str(path)]}, {}).iface == ("eth0",)


@pytest.mark.parametrize("option", [o for o in OPTIONS if o.default and o.is_in_file], ids=name_of)
def test_shipped_config_file_shows_the_default(option: Option) -> None:
    shown = uncommented(SHIPPED.read_text())[option.name]
    texts = shown if isinstance(shown, list) else [shown]
    assert [str(text).lower() for text in texts] == [option.default]
