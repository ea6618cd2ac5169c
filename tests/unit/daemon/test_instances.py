"""A state directory knows which starts were its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from tests.unit.trust.values import ALICE, BOB
from tunneld.daemon.instances import KEPT, Instances
from tunneld.host.state_dir import StateDir
from tunneld.lease.model import NodeRecord, RecordEncryption, SubnetKey, Unreadable


@contextmanager
def opened(path: Path) -> Iterator[Instances]:
    with StateDir(path) as state_dir:
        yield Instances(state_dir)


def record(instance: bytes, key: str = ALICE) -> NodeRecord:
    return NodeRecord(
        node_id="n",
        key=SubnetKey(IPv4Network("10.5.1.0/24")),
        public_ip=IPv4Address("192.0.2.1"),
        version="1",
        encryption=RecordEncryption(key=key, port=8286, instance=instance.hex()),
    )


def test_each_start_has_another_and_knows_those_before(tmp_path: Path) -> None:
    with opened(tmp_path) as first:
        one, two = first.new(), first.new()
    assert one != two
    with opened(tmp_path) as again:
        for used in (one, two, again.new()):
            assert not again.is_of_a_copy(record(used), ALICE)
        assert again.is_of_a_copy(record(bytes(8)), ALICE)


def test_a_copy_knows_that_the_other_went_on_without_it(tmp_path: Path) -> None:
    with opened(tmp_path / "one") as original:
        before = original.new()
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    with opened(tmp_path / "one") as original:
        since = original.new()
    with opened(tmp_path / "copy") as copy:
        assert not copy.is_of_a_copy(record(before), ALICE), "nothing tells who it was"
        assert copy.is_of_a_copy(record(since), ALICE)
        # With a key of its own it is another host, whatever its node id.
        assert not copy.is_of_a_copy(record(since), BOB)


@pytest.mark.parametrize("written", [None, {}, {"Used": 7}])
def test_where_nothing_was_written_down_nothing_is_told_by_it(
    tmp_path: Path, written: object
) -> None:
    with StateDir(tmp_path) as state_dir:
        state_dir.save("instances", written)
        assert not Instances(state_dir).is_of_a_copy(record(bytes(8)), ALICE)


def test_a_record_without_keys_is_no_copys(tmp_path: Path) -> None:
    with opened(tmp_path) as one:
        one.new()
        plain = replace(record(bytes(8)), encryption=None)
        strange = replace(plain, encryption=Unreadable(value=7, detail="no object"))
        assert not [found for found in (None, plain, strange) if one.is_of_a_copy(found, ALICE)]


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as one:
        used = [one.new() for _ in range(KEPT + 1)]
    with opened(tmp_path) as again:
        strange = [each for each in used if again.is_of_a_copy(record(each), ALICE)]
    assert strange == used[:1]
