"""What happens to a store and to its clients. Each fault is over when it returns."""

from __future__ import annotations

import asyncio

from tests.sim.network import Fault, Network
from tests.sim.nodes import TTL_S
from tests.support.memory_store import LAYOUT


def spell_s(network: Network) -> float:
    """Returns how long something lasts: a moment, a while, or longer than a lease."""
    longest_s = network.rng.choice((1.0, 30.0, TTL_S / 2, 2.5 * TTL_S))
    return network.rng.uniform(0.0, longest_s)


async def store_is_cut_off(network: Network) -> str:
    """Nobody is answered, and grants run on."""
    network.server.leave()
    await asyncio.sleep(lasts_s := spell_s(network))
    network.server.come_back()
    return f"for {lasts_s:.1f} s"


async def store_is_down(network: Network) -> str:
    """Nobody is answered, and no grant ends."""
    network.server.leave(is_down=True)
    await asyncio.sleep(lasts_s := spell_s(network))
    network.server.come_back()
    return f"for {lasts_s:.1f} s"


async def nodes_are_cut_off(network: Network) -> str:
    """Some nodes have no way to the store."""
    cut = network.rng.sample(network.nodes, network.rng.randint(1, len(network.nodes) - 1))
    for node in cut:
        if node.store is not None:
            node.store.cut_off()
    await asyncio.sleep(lasts_s := spell_s(network))
    for node in cut:
        if node.store is not None:
            node.store.cut_off(False)
    return f"{[node.name for node in cut]} for {lasts_s:.1f} s"


async def clock_of_the_store_jumps(network: Network) -> str:
    """Grants end before their time, or after it."""
    by_s = network.rng.uniform(-2.0, 2.0) * TTL_S
    network.server.jump(by_s)
    # Grants that have less left than it takes until their next renewal end, too.
    await asyncio.sleep(TTL_S / 2)
    return f"by {by_s:.1f} s"


async def clock_of_a_node_jumps(network: Network) -> str:
    """A host was suspended: its clock has gone on, its timers have not."""
    node, by_s = network.node(), spell_s(network)
    node.ahead_s += by_s
    return f"{node.name} by {by_s:.1f} s"


async def nodes_restart(network: Network) -> str:
    """Processes are killed, and started again after a while; the store may be away meanwhile."""
    killed = network.rng.sample(network.nodes, network.rng.randint(1, 3))
    loses_disk = network.rng.random() < 0.3
    for node in killed:
        await node.kill(loses_disk=loses_disk)
    is_away = network.rng.random() < 0.5
    await asyncio.sleep(spell_s(network))
    if is_away:
        network.server.leave(is_down=network.rng.random() < 0.5)
    for node in killed:
        node.start()
    if is_away:
        await asyncio.sleep(spell_s(network))
        network.server.come_back()
    return f"{[node.name for node in killed]}, {loses_disk=}, {is_away=}"


async def answers_are_lost(network: Network) -> str:
    """Writes are done whose answers never come, while leases are written."""
    rng = network.rng
    for node in network.nodes:
        if node.store is not None:
            node.store.loses_answer = lambda: rng.random() < 0.5
    named = rng.sample([lease.key for lease in network.server.listing().leases], 2)
    for key in named:
        network.server.delete(LAYOUT.lease(key))
    await asyncio.sleep(rng.uniform(0.0, 10.0))
    for node in network.nodes:
        if node.store is not None:
            node.store.loses_answer = lambda: False
    return f"{[str(key) for key in named]}"


async def store_is_full(network: Network) -> str:
    """Nothing is written, while leases are lost that have to be written again."""
    network.server.is_full = True
    named = network.rng.sample([lease.key for lease in network.server.listing().leases], 2)
    for key in named:
        network.server.delete(LAYOUT.lease(key))
    await asyncio.sleep(lasts_s := spell_s(network))
    network.server.is_full = False
    return f"without {[str(key) for key in named]} for {lasts_s:.1f} s"


async def changes_are_forgotten(network: Network) -> str:
    """The store is compacted, or another member answers: everybody reads a listing."""
    network.server.list_anew()
    return "all list"


async def store_goes_back(network: Network) -> str:
    """The store is restored from a backup of before, or one is made, or it is wiped."""
    if network.backups and network.rng.random() < 0.6:
        network.server.restore(network.rng.choice(network.backups))
        return "restored"
    if network.rng.random() < 0.2:
        config = network.server.everything(LAYOUT.config)
        network.server.restore()
        for name, value in config.items():
            network.server.put(name, value)
        return "wiped"
    network.backups.append(network.server.backup())
    return "backed up"


async def keys_are_meddled_with(network: Network) -> str:
    """Somebody deletes leases and records, or writes over them what nobody can read."""
    rng, done = network.rng, []
    for name in rng.sample(sorted(network.server.everything(LAYOUT.root)), rng.randint(1, 3)):
        if name == LAYOUT.config:
            continue
        if rng.random() < 0.5:
            network.server.delete(name)
            done.append(f"deleted {name}")
        else:
            network.server.put(name, b"")
            done.append(f"emptied {name}")
    return ", ".join(done)


OUTAGES: list[Fault] = [
    store_is_cut_off,
    store_is_down,
    nodes_are_cut_off,
    clock_of_the_store_jumps,
    clock_of_a_node_jumps,
    changes_are_forgotten,
]

ALL: list[Fault] = [
    *OUTAGES,
    nodes_restart,
    answers_are_lost,
    store_is_full,
    store_goes_back,
    keys_are_meddled_with,
]
