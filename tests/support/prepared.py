"""Fetches and builds what many tests need: real flanneld, the Dockers, their image, a kernel.

`make test` runs it once before them, so that the groups of tests, which begin together, find all in
the cache and no test's time has a download in it. What cannot be had is said; its tests fail with
the reason.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from tests.interop.esp.guest import kernel
from tests.interop.flanneld.build import BuildError, flanneld_binary
from tests.support.debian import UnpackError
from tests.support.docker import RELEASES, image, programs

WANTED: Mapping[str, Callable[[], object]] = {
    "flanneld": flanneld_binary,
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
            print(f"tests: {name} cannot be had: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
