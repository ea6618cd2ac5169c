"""This node among the others: it answers for its lease, and tells of hosts that are one too many.

Path of a lease: `lease.tracker` -> **`daemon.presence`** -> `lease.attendance`.
"""

from __future__ import annotations

import asyncio
import logging

from tunneld.daemon.membership import Membership
from tunneld.errors import LeaseError, StoreError
from tunneld.lease.doubles import doubles, sentence
from tunneld.lease.keeper import Keeper
from tunneld.log import Condition

PAUSE_S = 0.2
"""Between two looks at the table: a large network changes all the time."""

RETRY_S = 1.0
"""After a refusal of the store."""

_log = logging.getLogger("tunneld.daemon")


async def be_present(membership: Membership, keeper: Keeper) -> None:
    """Looks at the table after each change, for ever."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    crowded = Condition(
        _log, "two hosts have one address, or one host two leases", "each host has one lease again"
    )
    with membership.telling(changed.set):
        while True:
            await changed.wait()
            changed.clear()
            tracker = membership.tracker
            try:
                await keeper.answer(tracker)
            except (StoreError, LeaseError) as error:
                # The keeper and the store tell of it; a question is heard as long as it stands.
                _log.debug("cannot answer yet", extra={"fields": {"error": str(error)}})
                loop.call_later(RETRY_S, changed.set)
            found = doubles(tracker.leases)
            if (line := sentence(found)) is not None:
                crowded.set(loop.time(), line, count=len(found))
            else:
                crowded.clear()
            await asyncio.sleep(PAUSE_S)
