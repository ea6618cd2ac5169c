"""Talks to dockerd over its Unix socket. Blocks: it is for commands, not for the daemon.

The `docker` program is not needed. Paths carry no API version: dockerd takes its own then, and
what is used here is in every version since 1.41 (Docker 20.10).

Source: Docker Engine API, networks and system.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tunneld.errors import DockerError, UsageError

DEFAULT_HOST = "unix:///var/run/docker.sock"
"""As the docker program has it."""

TIMEOUT_S = 30.0


class NotFoundError(DockerError):
    """There is no such network."""


class DockerApi:
    """The dockerd behind one socket."""

    def __init__(self, host: str) -> None:
        """`host` is what DOCKER_HOST holds.

        Raises:
            UsageError: it names something else than a Unix socket.
        """
        scheme, _, path = host.partition("://")
        if scheme != "unix" or not path.startswith("/"):
            raise UsageError(
                f"the Docker host is {host!r}; expected unix:///PATH: bridges are made on this "
                "host, name its own dockerd with --docker-host"
            )
        self.socket_path = Path(path)

    def version(self) -> str:
        """Returns the version of dockerd, like `20.10.24+dfsg1`."""
        return str(self._request("GET", "/version")["Version"])

    def info(self) -> dict[str, Any]:
        """Returns what `docker info` shows."""
        info: dict[str, Any] = self._request("GET", "/info")
        return info

    def networks(self) -> list[dict[str, Any]]:
        """Returns all networks of the driver `bridge`, as `docker network inspect` shows them."""
        listed: list[dict[str, Any]] = self._request("GET", "/networks")
        return [network for network in listed if network.get("Driver") == "bridge"]

    def create_network(self, body: Mapping[str, Any]) -> None:
        """Makes a network.

        Raises:
            DockerError: dockerd refuses; the message holds its own.
        """
        self._request("POST", "/networks/create", body)

    def network(self, name: str) -> dict[str, Any] | None:
        """Returns the network of that name, whatever its driver; None when there is none."""
        try:
            found: dict[str, Any] = self._request("GET", f"/networks/{quote(name, safe='')}")
        except NotFoundError:
            return None
        # dockerd also takes the beginning of an id for a name.
        return found if found.get("Name") == name else None

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:  # noqa: ANN401 - by path
        connection = _UnixConnection(self.socket_path)
        try:
            if body is None:
                connection.request(method, path)
            else:
                headers = {"Content-Type": "application/json"}
                connection.request(method, path, json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise DockerError(
                f"no dockerd answers on {self.socket_path}: is Docker running? (systemctl status "
                "docker; another socket: --docker-host)"
            ) from error
        except PermissionError as error:
            raise DockerError(
                f"no permission to use Docker's socket {self.socket_path}; run the command as root"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            said = getattr(error, "strerror", None) or str(error) or type(error).__name__
            reason = " ".join(said.split())
            raise DockerError(
                f"dockerd on {self.socket_path} does not answer {method} {path}: {reason}; its "
                "log says why (journalctl -u docker)"
            ) from error
        finally:
            connection.close()
        return _result(self.socket_path, f"{method} {path}", response.status, text)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("docker", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


def _result(path: Path, what: str, status: int, text: bytes) -> Any:  # noqa: ANN401 - by path
    try:
        value = json.loads(text) if text.strip() else None
    except ValueError:
        raise DockerError(
            f"what answers {what} on {path} is no dockerd: it said {text[:80]!r}; name the right "
            "socket with --docker-host"
        ) from None
    if status < 400:
        return value
    message = value.get("message") if isinstance(value, dict) else None
    said = " ".join(str(message or f"status {status}").split())
    kind = NotFoundError if status == http.client.NOT_FOUND else DockerError
    raise kind(f"dockerd refuses {what}: {said}")
