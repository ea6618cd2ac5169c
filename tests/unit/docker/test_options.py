"""The environment file for dockerd.

The goldens are those of flannel's `dist/mk_docker_opts_test.go`, without blank lines and trailing
blanks; the other expectations are what its script was seen to print and to end with.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest

from testbed.netns import Rig, inside
from tunneld.docker.options import Form, foreign_route, render
from tunneld.errors import DockerError

SUBNET_ENV = """\
FLANNEL_NETWORK=10.1.0.0/16
FLANNEL_SUBNET=10.1.74.1/24
FLANNEL_MTU=1472
FLANNEL_IPMASQ=false
"""

BIP = 'DOCKER_OPT_BIP="--bip=10.1.74.1/24"\n'
IP_MASQ = 'DOCKER_OPT_IPMASQ="--ip-masq=true"\n'
MTU = 'DOCKER_OPT_MTU="--mtu=1472"\n'
ALL = '" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472"\n'


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (Form(), f"{BIP}{IP_MASQ}{MTU}DOCKER_OPTS={ALL}"),
        (Form(combined=False), f"{BIP}{IP_MASQ}{MTU}"),
        (Form(individual=False), f"DOCKER_OPTS={ALL}"),
        (Form(key="CUSTOM_KEY"), f"{BIP}{IP_MASQ}{MTU}CUSTOM_KEY={ALL}"),
        (Form(ip_masq=False), f'{BIP}{MTU}DOCKER_OPTS=" --bip=10.1.74.1/24 --mtu=1472"\n'),
    ],
    ids=["none", "-i", "-c", "-k", "-m"],
)
def test_output_is_byte_for_byte_that_of_flannels_script(form: Form, expected: str) -> None:
    assert render(SUBNET_ENV, form, {}) == expected


def test_ipv6_is_left_out_unless_it_is_asked_for() -> None:
    text = f"{SUBNET_ENV}FLANNEL_IPV6_NETWORK=fd00:1::/48\nFLANNEL_IPV6_SUBNET=fd00:1:0:4a::1/64\n"
    assert render(text, Form(), {}) == f"{BIP}{IP_MASQ}{MTU}DOCKER_OPTS={ALL}"
    ipv6 = 'DOCKER_OPT_IPV6="--ipv6 --fixed-cidr-v6=fd00:1:0:4a::/64"\n'
    asked = Form(combined=False, ipv6=True)
    assert render(text, asked, {}) == f"{BIP}{IP_MASQ}{ipv6}{MTU}"
    assert render(SUBNET_ENV, asked, {}) == f"{BIP}{IP_MASQ}{MTU}"
    with pytest.raises(DockerError, match=r"FLANNEL_IPV6_SUBNET is '10\.1\.0\.1/24'"):
        render("FLANNEL_IPV6_SUBNET=10.1.0.1/24\n", asked, {})


def test_docker_does_not_masquerade_when_the_overlay_daemon_does() -> None:
    text = SUBNET_ENV.replace("IPMASQ=false", "IPMASQ=true")
    assert 'DOCKER_OPT_IPMASQ="--ip-masq=false"' in render(text, Form(), {})


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        (None, {}, 'DOCKER_OPTS=""\n'),
        (None, {"DOCKER_OPTS": "--foo"}, 'DOCKER_OPTS="--foo "\n'),
        ("FLANNEL_MTU=1472\n", {}, f'{MTU}DOCKER_OPTS=" --mtu=1472"\n'),
        (
            None,
            {"FLANNEL_SUBNET": "192.0.2.1/28"},
            'DOCKER_OPT_BIP="--bip=192.0.2.1/28"\nDOCKER_OPTS=" --bip=192.0.2.1/28"\n',
        ),
        (
            SUBNET_ENV,
            {"FLANNEL_MTU": "900", "DOCKER_OPTS": "--foo  --bar", "DOCKER_OPT_X": "hey"},
            f'{BIP}{IP_MASQ}{MTU}DOCKER_OPT_X="hey"\n'
            'DOCKER_OPTS="--foo  --bar  --bip=10.1.74.1/24 --ip-masq=true --mtu=1472 hey"\n',
        ),
    ],
    ids=["nothing", "only-preset", "only-mtu", "only-environment", "preset"],
)
def test_environment_counts_where_the_file_is_silent_and_what_was_set_stays_in_front(
    text: str | None, environment: Mapping[str, str], expected: str
) -> None:
    assert render(text, Form(), environment) == expected


@pytest.mark.parametrize("value", ["maybe", "True", "1"])
def test_ip_masq_that_is_neither_true_nor_false_is_refused_unless_it_is_left_out(
    value: str,
) -> None:
    text = f"FLANNEL_IPMASQ={value}\n"
    with pytest.raises(DockerError, match=f"FLANNEL_IPMASQ is '{value}'"):
        render(text, Form(), {})
    assert render(text, Form(ip_masq=False), {}) == 'DOCKER_OPTS=""\n'


def test_quoted_values_are_read_as_a_shell_reads_them() -> None:
    quoted = "".join(
        f'export {line.replace("=", "=" + chr(34), 1)}"\n' for line in SUBNET_ENV.splitlines()
    )
    assert render(quoted, Form(), {}) == render(SUBNET_ENV, Form(), {})


def test_every_combination_of_lines_is_a_selection_of_the_whole() -> None:
    whole = set(render(SUBNET_ENV, Form(), {}).splitlines())
    for individual, combined in itertools.product((True, False), repeat=2):
        form = Form(individual=individual, combined=combined)
        assert set(render(SUBNET_ENV, form, {}).splitlines()) <= whole


@pytest.mark.root
@pytest.mark.parametrize(
    ("route", "expected"),
    [
        (("10.1.74.0/24", "via", "192.0.2.1"), "10.1.74.0/24 via 192.0.2.1 dev eth0"),
        (("10.1.74.0/24", "dev", "eth0"), None),
        (("10.1.0.0/16", "via", "192.0.2.1"), None),
        (("unreachable", "10.1.74.0/24"), None),
    ],
    ids=["gateway", "device", "wider", "our-unreachable"],
)
def test_only_a_gateway_to_the_leased_subnet_is_foreign(
    rig: Rig, route: tuple[str, ...], expected: str | None
) -> None:
    host, switch = rig.namespace("h"), rig.namespace("sw")
    rig.link(host, "eth0", switch, "port1", first_address="192.0.2.2/24")
    host.run("ip", "route", "add", *route)
    with inside(host):
        assert foreign_route(SUBNET_ENV, {}) == expected
        assert foreign_route(None, {}) is None
        assert foreign_route("FLANNEL_SUBNET=nonsense\n", {}) is None
