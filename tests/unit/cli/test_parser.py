"""Go's spellings beside the usual ones, and what is said of a wrong command line."""

from __future__ import annotations

import argparse

import pytest

from tunneld.cli.parser import (
    Parser,
    add_flanneld_options,
    add_options,
    ignored_options,
    option_texts,
)
from tunneld.config import load
from tunneld.config.options import OPTIONS
from tunneld.errors import UsageError


def parse(*arguments: str) -> argparse.Namespace:
    parser = Parser(prog="tunneld run")
    add_options(parser, [option.name for option in OPTIONS])
    add_flanneld_options(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("-etcd-prefix", "/net"),
        ("--etcd-prefix", "/net"),
        ("-etcd-prefix=/net",),
        ("--etcd-prefix=/net",),
    ],
)
def test_one_dash_and_two_mean_the_same(arguments: tuple[str, ...]) -> None:
    assert option_texts(parse(*arguments)) == {"etcd-prefix": ["/net"]}


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("-ip-masq",), ["true"]),
        (("--ip-masq",), ["true"]),
        (("-ip-masq=false",), ["false"]),
        (("--ip-masq=0",), ["0"]),
        (("-ip-masq", "-ip-masq=false"), ["true", "false"]),
    ],
)
def test_bare_flag_means_true(arguments: tuple[str, ...], texts: list[str]) -> None:
    assert option_texts(parse(*arguments)) == {"ip-masq": texts}


def test_flag_does_not_swallow_the_next_option() -> None:
    found = option_texts(parse("-ip-masq", "-iface", "eth0"))
    assert found == {"ip-masq": ["true"], "iface": ["eth0"]}


def test_value_may_begin_with_a_dash() -> None:
    assert option_texts(parse("--iface-regex", "-tun$"))["iface-regex"] == ["-tun$"]


def test_value_may_hold_equals_signs() -> None:
    assert option_texts(parse("-etcd-prefix=/a=b=c"))["etcd-prefix"] == ["/a=b=c"]


def test_repeated_option_collects() -> None:
    assert option_texts(parse("-iface=eth0", "--iface", "eth1"))["iface"] == ["eth0", "eth1"]


def test_command_line_of_a_flanneld_unit_is_understood() -> None:
    # The options of CoreOS' and Fedora's units, and of the kube-flannel manifest.
    found = parse(
        "-etcd-endpoints=http://192.0.2.1:2379,http://192.0.2.2:2379",
        "-etcd-prefix=/coreos.com/network",
        "-iface=eth1",
        "--ip-masq",
        "--kube-subnet-mgr=false",
        "-iptables-resync=5",
        "-iptables-forward-rules",
        "-v=4",
        "-vmodule",
        "manager=5",
        "-subnet-lease-renew-margin=60",
        "-healthz-port=0",
    )
    options = load(option_texts(found), {}, ignored=ignored_options(found))
    assert options.store.endpoints == ("http://192.0.2.1:2379", "http://192.0.2.2:2379")
    assert options.ip_masq is True
    assert options.ignored == (
        "--kube-subnet-mgr",
        "--iptables-resync",
        "--v",
        "--vmodule",
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--etcd-prefx", "/x"], "unknown option '--etcd-prefx'; did you mean --etcd-prefix?"),
        (["-etcd-prefx=/x"], "unknown option '-etcd-prefx'; did you mean --etcd-prefix?"),
        (["--subnet-dir=/run"], "unknown option '--subnet-dir'"),
        (["---ip-masq"], "unknown option '---ip-masq'"),
        (["--etcd-p", "/x"], "unknown option '--etcd-p'"),
        (["surplus"], "unexpected argument 'surplus'"),
        (["-ip-masq", "false"], "unexpected argument 'false'"),
        (["--iface"], "expected one argument"),
    ],
)
def test_wrong_command_line_is_said_in_one_line(arguments: list[str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(*arguments)
    assert says in str(caught.value)
    assert "tunneld run --help" in str(caught.value)
    assert "\n" not in str(caught.value)


def nested() -> Parser:
    parser = Parser(prog="tunneld")
    commands = parser.add_subparsers(dest="command")
    lab = commands.add_parser("lab").add_subparsers(dest="action")
    execute = lab.add_parser("exec")
    execute.add_argument("--name")
    execute.add_argument("place")
    execute.add_argument("argv", nargs=argparse.REMAINDER)
    return parser


@pytest.mark.parametrize("separator", [[], ["--"]])
def test_command_that_is_passed_on_stays_as_it_is(separator: list[str]) -> None:
    command = ["ip", "-br", "-name=x", "-json", "route"]
    found = nested().parse_args(["lab", "exec", "-name=a", "h1", *separator, *command])
    assert found.name == "a"
    assert found.place == "h1"
    assert [word for word in found.argv if word != "--"] == command
