"""Fetches and builds what many tests need: flanneld, wireguard-go, Dockers, an image, a kernel.

`make test` runs it once before them, so that the groups of tests, which begin together, find all in
the cache and no test's time has a download in it. What cannot be had is said; its tests fail with
the reason.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from testbed.debian import UnpackError
from testbed.docker import RELEASES, image, programs
from testbed.flanneld.build import flanneld_binary
from testbed.golang import BuildError
from testbed.guest import kernel
from testbed.wireguard.build import wireguard_go, wireguard_peer

WANTED: Mapping[str, Callable[[], object]] = {
    "flanneld": flanneld_binary,
    "a peer of wireguard-go": wireguard_peer,
    "wireguard-go": wireguard_go,
    "Docker": lambda: [programs(release) for release in RELEASES],
    "an image of busybox": image,
    "Linux' own ESP": kernel,
}


def main() -> int:
    """Returns the exit status: 1 when something is missing."""
    status = 0
    for name, made in WANTED.items():
        try:
            made()
        except (BuildError, UnpackError) as error:
            print(f"testbed: {name} cannot be had: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
