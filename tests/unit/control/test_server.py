"""The control socket: real sockets, real clients, good and bad requests, and who owns the file."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from testbed.wait import PATIENCE
from tunneld.control import server as server_module
from tunneld.control.client import NotRunningError, request
from tunneld.control.server import MAX_CONNECTIONS, MAX_REQUEST_BYTES, ControlServer, Handler
from tunneld.errors import ControlError, LeaseError

Run = Callable[[Coroutine[Any, Any, None]], None]


async def status() -> dict[str, Any]:
    return {"state": "ready", "peers": []}


@asynccontextmanager
async def serving(path: Path, **handlers: Handler) -> AsyncIterator[ControlServer]:
    server = ControlServer(path, handlers)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def ask(path: Path, op: str, timeout_s: float = 10.0 * PATIENCE) -> Any:
    return await asyncio.to_thread(request, path, op, timeout_s=timeout_s)


async def refuses(path: Path) -> bool:
    try:
        _, writer = await asyncio.open_unix_connection(str(path))
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def raw(path: Path, *lines: bytes) -> list[Any]:
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        replies = []
        for line in lines:
            writer.write(line)
            await writer.drain()
            replies.append(json.loads(await reader.readline()))
        return replies
    finally:
        writer.close()
        await writer.wait_closed()


def test_client_gets_what_the_handler_returns(tmp_path: Path, run: Run) -> None:
    async def check() -> None:
        path = tmp_path / "deep" / "er" / "control.sock"
        async with serving(path, status=status):
            assert await ask(path, "status") == {"state": "ready", "peers": []}

    run(check())


def test_ping_is_always_answered_with_the_pid(tmp_path: Path, run: Run) -> None:
    async def check() -> None:
        path = tmp_path / "s"
        async with serving(path):
            assert await ask(path, "ping") == {"pid": os.getpid()}

    run(check())


def test_only_the_owner_may_connect(tmp_path: Path, run: Run) -> None:
    async def check() -> None:
        path = tmp_path / "s"
        old = os.umask(0)
        try:
            async with serving(path):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
        finally:
            os.umask(old)

    run(check())


def test_error_of_a_handler_reaches_the_client_as_it_is(tmp_path: Path, run: Run) -> None:
    async def leave() -> None:
        raise LeaseError("this node holds no lease")

    async def check() -> None:
        path = tmp_path / "s"
        async with serving(path, leave=leave):
            with pytest.raises(ControlError, match=r"^this node holds no lease$"):
                await ask(path, "leave")

    run(check())


def test_unforeseen_error_is_logged_and_the_server_goes_on(
    tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> object:
        raise ZeroDivisionError

    async def unspeakable() -> object:
        return object()

    async def check() -> None:
        path = tmp_path / "s"
        async with serving(path, broken=broken, unspeakable=unspeakable):
            for op in ("broken", "unspeakable"):
                with pytest.raises(ControlError, match="log says why"):
                    await ask(path, op)
            assert await ask(path, "ping")

    run(check())
    assert "ZeroDivisionError" in caplog.text
    assert "not JSON serializable" in caplog.text


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"\n", "not JSON"),
        (b"status\n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b"[]\n", "unknown operation None; expected one of ping, status"),
        (b'{"op":"no such thing"}\n', "unknown operation 'no such thing'"),
        (b'{"op":["ping"]}\n', "unknown operation"),
        (b"[" * 60000 + b"\n", "not JSON"),
    ],
)
def test_bad_request_is_refused_and_the_connection_goes_on(
    tmp_path: Path, run: Run, line: bytes, says: str
) -> None:
    async def check() -> None:
        path = tmp_path / "s"
        async with serving(path, status=status):
            bad, good = await raw(path, line, b'{"op":"ping"}\n')
            assert bad["ok"] is False
            assert says in bad["error"]
            assert good["ok"] is True

    run(check())


def test_endless_request_is_cut_off(tmp_path: Path, run: Run) -> None:
    async def check() -> None:
        path = tmp_path / "s"
        async with serving(path):
            [reply] = await raw(path, b"x" * (2 * MAX_REQUEST_BYTES) + b"\n")
            assert "longer than" in reply["error"]
            assert await ask(path, "ping")

    run(check())


def test_client_that_leaves_early_harms_nobody(tmp_path: Path, run: Run) -> None:
    async def check() -> None:
        path = tmp_path / "s"
        async with serving(path):
            for opening in (b"", b'{"op"', b'{"op":"ping"}\n'):
                with socket.socket(socket.AF_UNIX) as connection:
                    connection.connect(str(path))
                    connection.sendall(opening)
            assert await ask(path, "ping")

    run(check())


def test_socket_is_gone_after_close(tmp_path: Path, run: Run) -> None:
    async def check() -> None:
        async with serving(tmp_path / "s"):
            pass
        assert not (tmp_path / "s").exists()

    run(check())


def test_reply_on_its_way_is_finished_while_the_server_closes(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "PATIENCE_S", 10 * PATIENCE)

    async def check() -> None:
        path = tmp_path / "s"
        asked, go_on = asyncio.Event(), asyncio.Event()

        async def leave() -> str:
            asked.set()
            await go_on.wait()
            return "left"

        server = ControlServer(path, {"leave": leave})
        await server.start()
        answer = asyncio.create_task(ask(path, "leave"))
        await asked.wait()
        closing = asyncio.create_task(server.close())
        while not await refuses(path):
            pass
        go_on.set()
        assert await answer == "left"
        await closing

    run(check())


def test_idle_client_does_not_keep_the_server_from_closing(tmp_path: Path, run: Run) -> None:
    async def check() -> None:
        server = ControlServer(tmp_path / "s", {})
        await server.start()
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        await ask(tmp_path / "s", "ping")
        await asyncio.wait_for(server.close(), timeout=5 * PATIENCE)
        writer.close()

    run(check())


def test_silent_clients_make_room_and_one_that_waits_for_its_answer_does_not(
    tmp_path: Path, run: Run
) -> None:
    path = tmp_path / "s"

    async def check() -> None:
        asked, may_answer = asyncio.Event(), asyncio.Event()

        async def slow() -> dict[str, Any]:
            asked.set()
            await may_answer.wait()
            return {"was": "slow"}

        async with serving(path, status=status, slow=slow):
            waiting = asyncio.create_task(ask(path, "slow"))
            await asked.wait()
            silent = [
                (await asyncio.open_unix_connection(str(path)))[1]
                for _ in range(2 * MAX_CONNECTIONS)
            ]
            assert (await ask(path, "status"))["state"] == "ready"
            may_answer.set()
            assert await waiting == {"was": "slow"}
            for writer in silent:
                writer.close()

    run(check())


def test_socket_of_a_dead_daemon_is_replaced(tmp_path: Path, run: Run) -> None:
    async def check() -> None:
        path = tmp_path / "s"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
            dead.listen()
        async with serving(path):
            assert await ask(path, "ping")

    run(check())


def test_socket_of_a_living_daemon_is_left_alone(tmp_path: Path, run: Run) -> None:
    async def check() -> None:
        path = tmp_path / "s"
        async with serving(path, status=status):
            with pytest.raises(ControlError, match="another daemon answers"):
                async with serving(path):
                    pass
            assert await ask(path, "status")

    run(check())


def test_file_that_is_no_socket_is_left_alone(tmp_path: Path, run: Run) -> None:
    async def check() -> None:
        path = tmp_path / "s"
        path.write_text("precious")
        with pytest.raises(ControlError, match="no socket"):
            async with serving(path):
                pass
        assert path.read_text() == "precious"

    run(check())


def test_successors_socket_survives_the_close_of_its_predecessor(tmp_path: Path, run: Run) -> None:
    async def check() -> None:
        path = tmp_path / "s"
        first = ControlServer(path, {})
        await first.start()
        path.unlink()
        async with serving(path, status=status):
            await first.close()
            assert await ask(path, "status")

    run(check())


def test_path_too_long_for_a_socket_is_said_in_one_line(tmp_path: Path, run: Run) -> None:
    async def check() -> None:
        with pytest.raises(ControlError, match=r"too long.*--control-socket") as caught:
            await ControlServer(tmp_path / ("x" * 120), {}).start()
        assert "\n" not in str(caught.value)

    run(check())


def test_missing_daemon_is_said_with_where_to_look(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match=r"is tunneld running\?"):
        request(tmp_path / "nobody", "status")


def test_silent_daemon_is_given_up_on(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        with pytest.raises(ControlError, match=r"did not answer 'status' within 0.2 s"):
            request(tmp_path / "s", "status", timeout_s=0.2)


@pytest.mark.parametrize("answer", [b"220 smtp ready\n", b"", b"[1]\n", b'{"ok":true}\n'])
def test_stranger_on_the_socket_is_recognised(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(tmp_path / "s"))
        stranger.listen()

        def speak() -> None:
            connection, _ = stranger.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=speak)
        thread.start()
        try:
            with pytest.raises(ControlError, match="no tunneld"):
                request(tmp_path / "s", "status")
        finally:
            thread.join()


def test_an_operation_is_told_what_else_its_request_says(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "control.sock"

    def switch(order: Any) -> dict[str, Any]:
        if order.get("enabled") is None:
            raise ControlError("enabled is missing")
        return {order["name"]: order["enabled"]}

    async def check() -> None:
        server = ControlServer(path, {}, {"offload": switch})
        await server.start()
        try:
            order = {"name": "udp_gso", "enabled": False}
            answer = await asyncio.to_thread(request, path, "offload", order)
            assert answer == {"udp_gso": False}
            with pytest.raises(ControlError, match="enabled is missing"):
                await ask(path, "offload")
            with pytest.raises(ControlError, match="expected one of offload, ping"):
                await ask(path, "offloads")
        finally:
            await server.close()

    run(check())
