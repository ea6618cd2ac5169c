"""Asks the running daemon over its control socket. Blocks: it is for commands, not for the daemon.

The other end is `control.server`.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunneld.errors import ControlError


class NotRunningError(ControlError):
    """No daemon listens on the control socket."""


def request(
    path: Path, op: str, arguments: Mapping[str, Any] | None = None, *, timeout_s: float = 10.0
) -> Any:  # noqa: ANN401 - by operation
    """Returns the daemon's answer to an operation.

    Raises:
        NotRunningError: nobody listens on `path`.
        ControlError: no permission, no answer in time, or the daemon answers with an error.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            connection.sendall(json.dumps({"op": op, **(arguments or {})}).encode() + b"\n")
            line = connection.makefile("rb").readline()
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NotRunningError(
            f"no daemon answers on {path}: is tunneld running?"
            " (systemctl status tunneld; another socket: --control-socket)"
        ) from error
    except PermissionError as error:
        raise ControlError(
            f"no permission to use the control socket {path}; run the command as root"
        ) from error
    except TimeoutError as error:
        raise ControlError(
            f"the daemon on {path} did not answer '{op}' within {timeout_s:g} s; its log says why"
        ) from error
    except OSError as error:
        raise ControlError(f"the control socket {path} fails: {error.strerror or error}") from error
    return _result(path, line)


def _result(path: Path, line: bytes) -> Any:  # noqa: ANN401 - by operation
    try:
        reply = json.loads(line)
        if reply["ok"]:
            return reply["result"]
        error = str(reply["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ControlError(
            f"what answers on {path} is no tunneld: it said {line[:80]!r}; name the right socket"
            " with --control-socket"
        ) from None
    raise ControlError(error)
