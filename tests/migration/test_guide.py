"""The guide moves a live network to tunneld and back, and every host keeps what it had."""

from __future__ import annotations

import pytest

from testbed.booted import PREFIX, SUBNET_FILE, BootedHost
from testbed.document import commands
from testbed.moves import GUIDE, MOVE, MOVE_BACK, PREPARE, FlannelNetwork
from tests.migration.conversation import Conversation

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]  # the first installs and builds

HOSTS = ("h1", "h2", "h3")


def host(flannel: FlannelNetwork, name: str) -> BootedHost:
    return next(host for host in flannel.hosts if host.name == name)


def leased(flannel: FlannelNetwork) -> set[str]:
    return set(flannel.net.etcd.everything(f"{PREFIX}/subnets/"))


def test_preparing_a_host_disturbs_nothing(flannel: FlannelNetwork) -> None:
    before = leased(flannel)
    for prepared in flannel.hosts:
        pid = prepared.machine.show("flanneld", "MainPID")
        flannel.carry_out(PREPARE, prepared)
        assert prepared.machine.show("flanneld", "MainPID") == pid
        assert not prepared.machine.is_active("tunneld")
    assert leased(flannel) == before


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("heading", [MOVE, MOVE_BACK])
def test_a_moved_host_keeps_what_it_had_and_the_others_lose_nothing(
    flannel: FlannelNetwork,
    conversation: Conversation,
    figures: list[dict[str, object]],
    heading: str,
    name: str,
) -> None:
    moved, leases = host(flannel, name), leased(flannel)
    subnet_env = moved.machine.run("cat", SUBNET_FILE)

    losses = flannel.move(heading, moved)

    figures.extend(loss.figure() for loss in losses if loss.is_affected)
    assert [loss for loss in losses if not loss.is_affected and loss.lost] == []
    assert conversation.answer(f"{heading}: {name}") == f"{heading}: {name}"
    assert leased(flannel) == leases
    assert moved.machine.run("cat", SUBNET_FILE) == subnet_env
    has_tunneld = heading == MOVE
    rules = moved.machine.run("sh", "-c", "iptables-save; nft list ruleset").lower()
    assert ("tunneld" in rules) is has_tunneld
    assert ("flannel" in rules.replace("flannel0", "")) is not has_tunneld
    for unit, expected in (("tunneld", has_tunneld), ("flanneld", not has_tunneld)):
        assert moved.machine.is_active(unit) is expected
        assert (moved.machine.show(unit, "UnitFileState") == "enabled") is expected


def test_every_command_of_the_guide_has_been_run(flannel: FlannelNetwork) -> None:
    for left in flannel.hosts:
        flannel.carry_out("After the last host", left)
    assert {command.text for command in commands(GUIDE)} == flannel.carried_out
