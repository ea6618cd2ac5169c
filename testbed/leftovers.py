"""Takes away what test runs left that were killed, once, however many runs begin together.

What a run makes bears the number of its process. Whatever belongs to a living one stays: runs may
be at work beside each other, as the groups of `make test` are.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from testbed import docker, netns, systemd_machine
from testbed.cache import one_at_a_time
from tunneld.lab import build, namespaces

LAB = re.compile(r"tnl-(?P<name>t(?P<pid>\d+)x\d+)-")


def remove_all() -> None:
    """Removes namespaces and labs of dead test runs, which ends their processes, and cgroups."""
    if os.geteuid() != 0:
        return
    with one_at_a_time("leftovers"):
        netns.remove_leftovers()
        for found in {LAB.match(name) for name in namespaces.existing("tnl-t")}:
            if found is not None and not Path(f"/proc/{found['pid']}").exists():
                build.take_down(found["name"])
        systemd_machine.remove_leftover_cgroups()
        docker.remove_leftover_cgroups()
