from __future__ import annotations

import os
import stat
import subprocess
import threading
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunneld.errors import HostError
from tunneld.fib.state import SubnetEnv
from tunneld.host.subnet_env import SubnetFile, parse, read, render, write

NETWORK = IPv4Network("10.5.0.0/16")
SUBNET = IPv4Network("10.5.102.0/24")

# flannel's WriteSubnetFile, as seen of flanneld v0.28.9 with the udp backend on MTU 1500.
GOLDEN = """\
FLANNEL_NETWORK=10.5.0.0/16
FLANNEL_SUBNET=10.5.102.1/24
FLANNEL_MTU=1472
FLANNEL_IPMASQ=false
"""
VALUE = SubnetEnv(network=NETWORK, subnet=SUBNET, mtu_bytes=1472, ip_masq=False)


def networks() -> st.SearchStrategy[IPv4Network]:
    return st.builds(
        lambda base, length: IPv4Network((base, length), strict=False),
        st.integers(0, 2**32 - 1),
        st.integers(1, 30),
    )


def ipv6_networks() -> st.SearchStrategy[IPv6Network]:
    return st.builds(
        lambda base, length: IPv6Network((base, length), strict=False),
        st.integers(0, 2**128 - 1),
        st.integers(1, 126),
    )


@st.composite
def values(draw: st.DrawFn) -> SubnetEnv:
    return SubnetEnv(
        network=draw(st.none() | networks()),
        subnet=draw(st.none() | networks()),
        network_v6=draw(st.none() | ipv6_networks()),
        subnet_v6=draw(st.none() | ipv6_networks()),
        mtu_bytes=draw(st.integers(68, 65535)),
        ip_masq=draw(st.booleans()),
    )


def test_text_is_flannels_byte_for_byte() -> None:
    assert render(VALUE) == GOLDEN


def test_ipv6_only_network_leaves_the_ipv4_fields_out() -> None:
    value = SubnetEnv(network=None, subnet=None, mtu_bytes=1450, ip_masq=True)
    assert render(value) == "FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"


@given(values())
def test_parse_inverts_render(value: SubnetEnv) -> None:
    assert parse(render(value)) == value


@given(st.text())
def test_no_text_at_all_breaks_the_reader(text: str) -> None:
    parse(text)
    parse(f"FLANNEL_NETWORK={text}\nFLANNEL_SUBNET={text}\nFLANNEL_MTU={text}")
    parse(f"FLANNEL_IPV6_NETWORK={text}\nFLANNEL_IPV6_SUBNET={text}")


@pytest.mark.parametrize(
    "line",
    [
        'FLANNEL_SUBNET="10.5.102.1/24"',
        "FLANNEL_SUBNET='10.5.102.1/24'",
        "export FLANNEL_SUBNET=10.5.102.1/24",
        "  FLANNEL_SUBNET = 10.5.102.1/24  ",
        "FLANNEL_SUBNET: 10.5.102.1/24",
        "FLANNEL_SUBNET=10.5.102.1/24 # of this host",
        "# FLANNEL_SUBNET=10.6.0.1/24\n\nFLANNEL_SUBNET=10.5.102.1/24",
        "FLANNEL_SUBNET=10.5.9.1/24\nFLANNEL_SUBNET=10.5.102.1/24",
        "FLANNEL_SUBNET=10.5.102.1/24\r",
    ],
)
def test_forms_of_a_dotenv_file_are_understood(line: str) -> None:
    assert parse(line).subnet == SUBNET


def test_number_of_any_length_or_script_is_no_number() -> None:
    for digits in ("9" * 5000, "١٤٧٢", "²"):
        text = f"FLANNEL_SUBNET=10.5.102.1/{digits}\nFLANNEL_MTU={digits}\n"
        assert parse(f"{text}FLANNEL_IPV6_SUBNET=fd00::1/{digits}\n") == SubnetEnv(
            network=None, subnet=None, mtu_bytes=0, ip_masq=False
        )


@pytest.mark.parametrize(
    "value",
    [
        "",
        "10.5.102.1",
        "10.5.102.1/",
        "10.5.102.1/33",
        "10.5.102.1/24x",
        "10.5.102.300/24",
        "10.5.102.1/255.255.255.0",
        "10.5.1.1/24,10.5.2.1/24",
        "fd00::1/64",
        "#10.5.102.1/24",
    ],
)
def test_cidr_that_is_not_one_is_ignored(value: str) -> None:
    assert parse(f"FLANNEL_SUBNET={value}\nFLANNEL_MTU=1472\n") == SubnetEnv(
        network=None, subnet=None, mtu_bytes=1472, ip_masq=False
    )


@pytest.mark.parametrize(
    "value",
    ["", "fd00::1", "fd00::1/129", "fd00::1%eth0/64", "fd00::1/64,fd01::1/64", "10.5.102.1/24"],
)
def test_ipv6_cidr_that_is_not_one_is_ignored(value: str) -> None:
    assert parse(f"FLANNEL_IPV6_SUBNET={value}\nFLANNEL_MTU=1472\n") == SubnetEnv(
        network=None, subnet=None, mtu_bytes=1472, ip_masq=False
    )


def test_file_gets_mode_0644_and_directories_0755_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "run" / "flannel" / "subnet.env"
    umask = os.umask(0o022)
    try:
        write(path, VALUE)
        os.umask(0o077)
        write(path, VALUE)
        write(tmp_path / "other" / "deep" / "subnet.env", VALUE)
    finally:
        os.umask(umask)
    for directory in ("other", "other/deep"):
        assert stat.S_IMODE((tmp_path / directory).stat().st_mode) == 0o755
    assert path.read_text() == GOLDEN
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert [entry.name for entry in path.parent.iterdir()] == ["subnet.env"]


def test_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    other = SubnetEnv(network=NETWORK, subnet=SUBNET, mtu_bytes=1300, ip_masq=True)
    write(path, VALUE)
    seen = set()
    is_done = threading.Event()

    def watch() -> None:
        while not is_done.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=watch)
    reader.start()
    for _ in range(100):
        write(path, other)
        write(path, VALUE)
    is_done.set()
    reader.join()
    assert seen <= {GOLDEN, render(other)}


def test_missing_file_is_none(tmp_path: Path) -> None:
    assert read(tmp_path / "subnet.env") is None
    assert read(tmp_path / "no" / "subnet.env") is None


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write(tmp_path / "subnet.env", VALUE)
    assert read(tmp_path / "subnet.env") == VALUE


def test_place_that_cannot_be_written_or_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=r"cannot write .*/file/subnet\.env.*--subnet-file"):
        write(tmp_path / "file" / "subnet.env", VALUE)
    (tmp_path / "subnet.env").mkdir()
    with pytest.raises(HostError, match=r"cannot read .*subnet\.env: Is a directory"):
        read(tmp_path / "subnet.env")
    with pytest.raises(HostError, match=r"cannot write .*subnet\.env: Is a directory"):
        write(tmp_path / "subnet.env", VALUE)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "subnet.env"]


def test_file_that_is_a_mount_is_named_as_such(tmp_path: Path) -> None:
    path, source = tmp_path / "subnet.env", tmp_path / "source"
    path.touch()
    source.touch()
    subprocess.run(["mount", "--bind", source, path], check=True)
    try:
        with pytest.raises(
            HostError, match=r"subnet\.env: it is a mount, which cannot be replaced"
        ):
            write(path, VALUE)
    finally:
        subprocess.run(["umount", path], check=True)


def test_reader_does_not_wait_for_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "subnet.env")
    with pytest.raises(HostError, match="it is no regular file"):
        read(tmp_path / "subnet.env")


@pytest.mark.parametrize(
    "deed",
    [
        lambda path: path.unlink(),
        lambda path: path.write_text(GOLDEN[:40]),
        lambda path: path.write_text(""),
        lambda path: path.write_text(GOLDEN.replace("1472", "1400")),
        lambda path: path.chmod(0o600),
        lambda path: path.replace(path.with_name("elsewhere")),
        lambda path: (path.unlink(), path.parent.rmdir()),
        lambda path: (path.unlink(), path.symlink_to("/dev/null")),
    ],
    ids=["deleted", "cut", "emptied", "changed", "hidden", "moved", "directory gone", "a link"],
)
def test_whatever_is_done_to_the_file_shows_and_is_put_back(
    tmp_path: Path, deed: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    file = SubnetFile(tmp_path / "flannel" / "subnet.env")
    file.put(VALUE)
    assert (file.has_changed(), file.observe()) == (False, VALUE)
    assert caplog.records == []

    deed(file.path)
    assert file.has_changed()
    assert file.observe() != VALUE
    assert not file.has_changed()

    file.put(VALUE)
    assert (file.has_changed(), file.observe()) == (False, VALUE)
    assert file.path.read_text() == GOLDEN
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o644
    assert [record.message for record in caplog.records] == [
        "put back subnet.env, which somebody changed or deleted"
    ]
