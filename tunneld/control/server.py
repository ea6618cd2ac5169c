"""The control socket: a Unix socket on which the daemon answers the command line.

A request is one line of JSON, `{"op": "status"}`, with more members where an operation needs
them; so is the reply, `{"ok": true, "result": ...}` or `{"ok": false, "error": "..."}`. A
connection may carry several. Only the daemon's user may connect (mode 0600). What the operations do
is the daemon's business.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from tunneld.control.connections import Connections
from tunneld.errors import ControlError, TunneldError
from tunneld.host.text_file import make_directories

Handler = Callable[[], Awaitable[Any]]
Order = Callable[[Mapping[str, Any]], Any]
"""What an operation does that is told more in its request: takes that, returns the result."""

MAX_REQUEST_BYTES: Final = 65536
MAX_CONNECTIONS: Final = 64
IDLE_S: Final = 30.0
"""How long a connection may stay without a request."""
PATIENCE_S: Final = 1.0
"""How long a reply that is being made may still take when the server closes."""

_log = logging.getLogger("tunneld.control")


class ControlServer:
    """Serves operations by name. Each handler returns what goes into the reply as `result`."""

    def __init__(
        self, path: Path, handlers: Mapping[str, Handler], orders: Mapping[str, Order] | None = None
    ) -> None:
        self._path = path
        self._orders: dict[str, Order] = {**(orders or {})}
        self._handlers: dict[str, Handler] = {"ping": _ping, **handlers}
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._connections = Connections(self._serve, limit=MAX_CONNECTIONS)

    async def start(self) -> None:
        """Opens the socket; makes its directory, and takes the place of a dead daemon's.

        Raises:
            ControlError: another daemon answers there, or the socket cannot be made.
        """
        try:
            make_directories(self._path.parent, 0o755)
            await self._remove_stale()
            listener = self._bind()
        except OSError as error:
            raise ControlError(
                f"cannot open the control socket {self._path}: {error.strerror or error};"
                " expected a place where a Unix socket can be made; name one with --control-socket"
            ) from error
        self._server = await asyncio.start_unix_server(
            self._connections.accept, sock=listener, limit=MAX_REQUEST_BYTES
        )

    async def close(self) -> None:
        """Ends all connections and removes the socket, if it is still ours."""
        if self._server is None:
            return
        self._server.close()
        await self._connections.close(patience_s=PATIENCE_S)
        with suppress(FileNotFoundError):
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()
        self._server = None

    async def _remove_stale(self) -> None:
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(found.st_mode):
            raise ControlError(
                f"cannot open the control socket {self._path}: a file that is no socket is in its"
                " place; remove it, or name another with --control-socket"
            )
        try:
            async with asyncio.timeout(5):
                _, writer = await asyncio.open_unix_connection(str(self._path))
        except ConnectionRefusedError:
            self._path.unlink(missing_ok=True)
            return
        except TimeoutError:
            pass  # somebody listens, but is too busy to accept
        else:
            writer.close()
        raise ControlError(
            f"another daemon answers on the control socket {self._path}; stop it, or give this one"
            " its own with --control-socket and --state-dir"
        )

    def _bind(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self._path))
            # Nobody can connect before listen(), so there is no moment with a wider mode.
            self._path.chmod(0o600)
            self._inode = self._path.lstat().st_ino
            listener.listen(16)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
        return listener

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while self._server is not None and self._server.is_serving():
            try:
                async with asyncio.timeout(IDLE_S):
                    line = await reader.readline()
            except ValueError:  # beyond the limit: there is no telling where the next one begins
                writer.write(_failure(f"the request is longer than {MAX_REQUEST_BYTES} bytes"))
                return
            if not line:
                return
            with self._connections.answering():
                writer.write(await self._reply(line))
                async with asyncio.timeout(IDLE_S):
                    await writer.drain()

    async def _reply(self, line: bytes) -> bytes:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return _failure("the request is not JSON")
        op = request.get("op") if isinstance(request, dict) else None
        handler = self._handlers.get(op) if isinstance(op, str) else None
        order = self._orders.get(op) if isinstance(op, str) else None
        if handler is None and order is None:
            known = ", ".join(sorted([*self._handlers, *self._orders]))
            return _failure(f"unknown operation {op!r}; expected one of {known}")
        try:
            result = await handler() if handler else order(request) if order else None
            return _line({"ok": True, "result": result})
        except TunneldError as error:
            return _failure(str(error))
        except Exception:  # the daemon goes on, whatever a question does to it
            _log.exception("a request on the control socket failed", extra={"fields": {"kind": op}})
            return _failure(f"operation {op!r} failed; the daemon's log says why")


async def _ping() -> dict[str, int]:
    return {"pid": os.getpid()}


def _failure(error: str) -> bytes:
    return _line({"ok": False, "error": error})


def _line(reply: Mapping[str, Any]) -> bytes:
    return json.dumps(reply, separators=(",", ":")).encode() + b"\n"
