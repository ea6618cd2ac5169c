"""Programs that hang, or answer with something else than they should, end nothing."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest

from testbed.netns import Namespace
from tests.unit.host.conftest import eventually, run_inside
from tests.unit.host.firewall.site import WANTED
from tunneld.errors import HostError
from tunneld.host import takeover
from tunneld.host.firewall import HostFirewall, NftTable, choice, program
from tunneld.host.firewall.family import in_families

pytestmark = pytest.mark.root


def replace_nft(directory: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    stand_in = directory / "bin" / "nft"
    stand_in.parent.mkdir()
    stand_in.write_text(f"#!/bin/sh\n{text}\n")
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    "answer",
    ["", "nothing", "[]", "null", '{"nftables": 7}', '{"nftables": [1]}', "[" * 5000]
    + [
        f'{{"nftables": [{{"{what}": {value}}}]}}'
        for what in ("table", "chain", "rule", "set")
        for value in ("null", "[]", '{"hook": "forward", "policy": "drop", "type": "nat"}')
    ],
)
def test_nft_that_answers_something_else_is_an_error_and_no_end(
    space: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    (tmp_path / "answer").write_text(answer)
    replace_nft(tmp_path, monkeypatch, f"cat {tmp_path}/answer")

    async def work() -> None:
        firewall = HostFirewall("flannel0")
        for call in (lambda: firewall.apply(WANTED), firewall.observe, firewall.clear):
            with suppress(HostError):
                await call()
        with suppress(HostError):
            await takeover.remove_flannel_rules()
        with suppress(HostError):
            await NftTable("flannel0").apply(in_families(WANTED))

    run_inside(space, work)


def test_program_that_hangs_is_ended_with_what_it_has_started(
    space: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "LIMIT_S", 0.5)
    replace_nft(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; sleep 1000; exit 0")

    async def work() -> None:
        with pytest.raises(HostError, match=r"nft has not ended for 0\.5 s and was killed"):
            await HostFirewall("flannel0", "nftables").apply(WANTED)

    run_inside(space, work)
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_daemon_that_is_to_end_does_not_wait_for_a_program_that_hangs(
    space: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(program, "GRACE_S", 0.1)
    monkeypatch.setattr(choice, "CLEAR_S", 0.5)
    replace_nft(tmp_path, monkeypatch, f"touch {tmp_path}/started; sleep 1000")

    async def work() -> None:
        firewall = HostFirewall("flannel0", "nftables")
        applying = asyncio.create_task(firewall.apply(WANTED))
        await eventually((tmp_path / "started").exists, "nft is run")
        applying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await applying
        with pytest.raises(HostError, match=r"cannot take the firewall rules away within 0\.5 s"):
            await firewall.clear()

    run_inside(space, work)
