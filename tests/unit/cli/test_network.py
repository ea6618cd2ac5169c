"""`tunneld network` on a real store: what is refused is not written, what is written is exact."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Tunneld
from tunneld.store import StoreOptions, open_store

EXAMPLES = sorted((Path(__file__).parents[3] / "config" / "network").glob("*.json"))


def config_in(store_option: str) -> str | None:
    async def read() -> str | None:
        path = Path(store_option.partition("sqlite:")[2])
        store = open_store(StoreOptions(kind="sqlite", path=path))
        try:
            return (await store.read()).config
        finally:
            await store.close()

    return asyncio.run(read())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_shipped_example_is_accepted(tunneld: Tunneld, example: Path) -> None:
    outcome = tunneld("network", "check", example)
    assert (outcome.status, outcome.err) == (0, "")
    backend = json.loads(example.read_text())["Backend"]["Type"]
    assert f", backend {backend}, " in outcome.out


def test_examples_are_shipped() -> None:
    assert EXAMPLES


def test_check_says_what_a_config_means(tunneld: Tunneld, tmp_path: Path) -> None:
    path = tmp_path / "n.json"
    path.write_text('{"Network":"10.5.0.0/16"}')
    # 10.5.0.0/24 is skipped: flannel's first subnet is the second one.
    assert tunneld("network", "check", path).out == (
        "network 10.5.0.0/16, backend udp, 255 subnets of /24 from 10.5.1.0 to 10.5.255.0\n"
    )


@pytest.mark.parametrize("backend", ["vxlan", "host-gw", "alloc", "udp"])
def test_check_names_both_families(tunneld: Tunneld, tmp_path: Path, backend: str) -> None:
    path = tmp_path / "n.json"
    members = '"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:10:5::/48"'
    path.write_text(f'{{{members},"Backend":{{"Type":"{backend}"}}}}')
    outcome = tunneld("network", "check", path)
    assert (outcome.status, outcome.out) == (
        0,
        f"network 10.5.0.0/16 and fd00:10:5::/48, backend {backend}, 255 subnets of /24 from"
        " 10.5.1.0 to 10.5.255.0, 65535 subnets of /64 from fd00:10:5:1:: to fd00:10:5:ffff::\n",
    )
    # The one backend that carries more here than in flannel.
    assert ("flanneld's udp backend carries no IPv6" in outcome.err) is (backend == "udp")
    assert outcome.err.count("\n") == (backend == "udp")


@pytest.mark.parametrize("backend", ["vxlan", "host-gw", "alloc", "udp"])
def test_network_without_ipv4_is_accepted_with_a_word_on_flanneld(
    tunneld: Tunneld, store_option: str, tmp_path: Path, backend: str
) -> None:
    path = tmp_path / "n.json"
    members = '"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:10:5::/48"'
    path.write_text(f'{{{members},"Backend":{{"Type":"{backend}"}}}}')
    outcome = tunneld("network", "set", path, store_option)
    assert (outcome.status, outcome.out) == (
        0,
        f"network fd00:10:5::/48, backend {backend}, 65535 subnets of /64 from fd00:10:5:1:: to"
        " fd00:10:5:ffff::\n",
    )
    assert outcome.err.startswith("tunneld: warning: no flanneld may join")
    assert outcome.err.count("\n") == 1
    assert config_in(store_option) == path.read_text()


@pytest.mark.parametrize(
    "content",
    [
        b'{"Network":"10.5.0.0/16"}',
        b'{ "Network" : "10.5.0.0/16",\r\n\t"Backend": {"Type": "udp"}, "Mine": "\xc3\xa9" }\n\n',
    ],
)
def test_config_is_written_and_shown_byte_for_byte(
    tunneld: Tunneld, store_option: str, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "n.json"
    path.write_bytes(content)
    assert tunneld("network", "set", path, store_option).status == 0
    assert config_in(store_option) == content.decode()
    end = "" if content.endswith(b"\n") else "\n"
    assert tunneld("network", "get", store_option).out == content.decode() + end


def test_config_may_come_from_stdin(
    tunneld: Tunneld, store_option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = io.BytesIO(b'{"Network":"10.5.0.0/16"}\r\n')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(content))
    assert tunneld("network", "set", "-", store_option).status == 0
    assert config_in(store_option) == '{"Network":"10.5.0.0/16"}\r\n'


# What flannel says of each is in its own source; the words must be found again.
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "JSON"),
        (b'{"Network":', "JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", ""),
        (b'\xef\xbb\xbf{"Network":"10.5.0.0/16"}', "byte order mark"),
        (b'{"Backend":{"Type":"udp"}}', "Network"),
        (b'{"Network":"10.5.0.0/29"}', "network is too small"),
        (b'{"Network":"10.5.0.0/16","SubnetLen":31}', "SubnetLen must be less than /31"),
        (b'{"Network":"10.5.0.0/16","SubnetLen":17}', "at least four subnets"),
        (b'{"Network":"10.5.0.0/16","Backend":{"Type":"carrier-pigeon"}}', "carrier-pigeon"),
        (b'{"Network":"10.5.0.0/16","Backend":{}}', "unknown backend type"),
        (b'{"Network":"10.5.0.0/16","Backend":{"Type":"udp","Port":70000}}', "Port"),
    ],
)
@pytest.mark.parametrize("action", ["set", "check"])
def test_bad_config_is_one_line_status_1_and_nothing_written(
    tunneld: Tunneld, store_option: str, tmp_path: Path, action: str, content: bytes, says: str
) -> None:
    path = tmp_path / "n.json"
    path.write_bytes(content)
    outcome = tunneld("network", action, path, *([store_option] if action == "set" else []))
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith("tunneld: ")
    assert outcome.err.count("\n") == 1
    assert says in outcome.err
    assert config_in(store_option) is None


def test_bad_config_leaves_the_good_one_in_force(
    tunneld: Tunneld, store_option: str, tmp_path: Path
) -> None:
    path = tmp_path / "n.json"
    path.write_text('{"Network":"10.5.0.0/16"}')
    assert tunneld("network", "set", path, store_option).status == 0
    path.write_text('{"Network":"10.5.0.0/33"}')
    assert tunneld("network", "set", path, store_option).status == 1
    assert config_in(store_option) == '{"Network":"10.5.0.0/16"}'


def test_missing_file_is_one_line(tunneld: Tunneld, tmp_path: Path, store_option: str) -> None:
    outcome = tunneld("network", "set", tmp_path / "none.json", store_option)
    assert outcome.status == 1
    assert "none.json: No such file or directory" in outcome.err


def test_store_without_a_config_is_said_with_what_to_do(
    tunneld: Tunneld, store_option: str
) -> None:
    assert config_in(store_option) is None  # which makes the file
    outcome = tunneld("network", "get", store_option)
    assert outcome.status == 1
    assert "/coreos.com/network/config" in outcome.err
    assert "network set" in outcome.err


def test_store_that_is_away_is_one_line(tunneld: Tunneld) -> None:
    outcome = tunneld("network", "get", "--etcd-endpoints", "http://127.0.0.1:1")
    assert outcome.status == 1
    assert outcome.err.count("\n") == 1
    assert "127.0.0.1:1" in outcome.err
