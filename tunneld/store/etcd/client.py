"""The calls of etcd's API v3 that tunneld makes, in terms of entries, changes and transactions.

Path of a lease: `store.etcd.transport` -> **store.etcd.client** -> `store.etcd.store`.
The only module that builds etcd's messages, so that the client can be exchanged.
Decides nothing: no retry, no state but the connection's.

Source: etcd `api/etcdserverpb/rpc.proto`, `server/etcdserver/api/v3rpc/rpctypes/error.go`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from grpclib.const import Status
from grpclib.exceptions import GRPCError, StreamTerminatedError

from tunneld.errors import GrantLostError, StoreError, StoreUnavailableError
from tunneld.store.etcd.history import COMPARED, Place, Sample, sample
from tunneld.store.etcd.transport import ANSWER_TIMEOUT_S, Transport
from tunneld.store.layout import MAX_CONFIG_BYTES, Change, Entry
from tunneld.store.proto import etcd_pb2 as pb
from tunneld.store.proto.etcd_grpc import KVStub, LeaseStub, WatchStub
from tunneld.store.transaction import Outcome, Transaction

FIRST_PAGE_SIZE = 16
PAGE_SIZE = 1_000
LARGE_PAGE_BYTES = 4 * 1024 * 1024


class CompactedError(StoreError):
    """etcd has forgotten the revision we asked for. A new listing helps."""


@dataclass(frozen=True, slots=True)
class News:
    """What one message of a watch brings; no changes when it only says that the watch began."""

    revision: int
    """Of the store, as far as whoever answers knows; 0: it does not say."""
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything under a prefix at one revision, sorted by name."""

    place: Place
    entries: tuple[Entry, ...]


class EtcdClient:
    """About eight calls."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    async def list(self, root: str) -> Listing:
        """Returns all entries whose names start with `root`, at one revision.

        Raises:
            CompactedError: the revision was compacted between two pages.
        """
        key, range_end = _prefix_range(root)
        entries: list[Entry] = []
        header: pb.ResponseHeader | None = None
        limit = FIRST_PAGE_SIZE
        while True:
            request = pb.RangeRequest(
                key=key,
                range_end=range_end,
                limit=limit,
                revision=0 if header is None else header.revision,
            )
            with _answers():
                page = await self.transport.call(
                    lambda channel: KVStub(channel).Range, request, f"read {root}"
                )
            header = header or page.header
            entries += [_entry(item) for item in page.kvs]
            if not page.more:
                return Listing(_place(header), tuple(entries))
            key = page.kvs[-1].key + b"\0"
            limit = _next_limit(limit, page.ByteSize())

    async def sample(self, root: str, revision: int = 0) -> tuple[Place, Sample]:
        """Returns how many entries there were at a revision, and which were written last.

        Revision 0 stands for now, which the place that is returned says.

        Raises:
            CompactedError: the revision is compacted, or this history has not come to it yet.
        """
        key, range_end = _prefix_range(root)
        request = pb.RangeRequest(
            key=key,
            range_end=range_end,
            limit=COMPARED,
            revision=revision,
            sort_order=pb.RangeRequest.DESCEND,
            sort_target=pb.RangeRequest.MOD,
            keys_only=True,
        )
        with _answers():
            found = await self.transport.call(
                lambda channel: KVStub(channel).Range, request, f"read {root}"
            )
        written = {_name(item.key): item.mod_revision for item in found.kvs}
        return _place(found.header), sample(written, found.count)

    async def put(self, name: str, value: bytes) -> int:
        """Writes a key that stays; returns the revision."""
        request = pb.PutRequest(key=name.encode(), value=value)
        with _answers():
            answer = await self.transport.call(
                lambda channel: KVStub(channel).Put, request, f"write {name}"
            )
        return answer.header.revision

    async def transact(self, wanted: Transaction) -> Outcome:
        """Executes a transaction.

        Raises:
            GrantLostError: a grant of its puts is unknown.
        """
        read = [] if wanted.read is None else [_read_op(wanted.read)]
        # Deletes first: what takes the place of a lease comes after it is gone.
        writes = [
            *(
                pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=name.encode()))
                for name in wanted.deletes
            ),
            *(
                pb.RequestOp(
                    request_put=pb.PutRequest(
                        key=put.name.encode(), value=put.value, lease=put.grant_id
                    )
                )
                for put in wanted.puts
            ),
        ]
        request = pb.TxnRequest(
            compare=[_at_revision(name, revision) for name, revision in wanted.expected],
            success=[*writes, *read],
            failure=read,
        )
        with _answers():
            answer = await self.transport.call(
                lambda channel: KVStub(channel).Txn, request, _doing(wanted)
            )
        found = answer.responses[-1].response_range.kvs if read else []
        return Outcome(
            is_done=answer.succeeded,
            revision=answer.header.revision,
            entry=_entry(found[0]) if found else None,
        )

    async def grant(self, ttl_s: float) -> tuple[int, float]:
        """Returns the id of a new grant and its seconds: etcd knows whole ones only."""
        request = pb.LeaseGrantRequest(TTL=max(1, math.ceil(ttl_s)))
        with _answers():
            answer = await self.transport.call(
                lambda channel: LeaseStub(channel).LeaseGrant, request, "take a grant"
            )
        return answer.ID, answer.TTL

    async def keep_alive(self, grant_id: int) -> float:
        """Gives a grant its full time again; returns its seconds, 0 when it is unknown."""
        request = pb.LeaseKeepAliveRequest(ID=grant_id)
        with _answers():
            answer = await self.transport.exchange(
                lambda channel: LeaseStub(channel).LeaseKeepAlive, request, "keep a grant alive"
            )
        if answer is None:
            raise StoreUnavailableError(
                f"etcd at {self.transport.endpoint} ended a keep-alive without an answer; try again"
            )
        return max(0, answer.TTL)

    async def time_to_live(self, grant_id: int) -> float | None:
        """Returns the seconds left of a grant; None when it is unknown."""
        request = pb.LeaseTimeToLiveRequest(ID=grant_id)
        with _answers():
            answer = await self.transport.call(
                lambda channel: LeaseStub(channel).LeaseTimeToLive, request, "ask for a grant"
            )
        return None if answer.TTL < 0 else answer.TTL

    async def watch(self, root: str, start_revision: int) -> AsyncGenerator[News, None]:
        """Yields first that the watch began, then every change from `start_revision` on.

        Raises:
            CompactedError: the start was compacted.
            StoreUnavailableError, StoreRefusedError: the watch ended.
        """
        key, range_end = _prefix_range(root)
        create = pb.WatchCreateRequest(key=key, range_end=range_end, start_revision=start_revision)
        with _answers():
            async with self.transport.stream(
                lambda channel: WatchStub(channel).Watch, f"watch {root}"
            ) as stream:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await stream.send_message(pb.WatchRequest(create_request=create))
                    message = await stream.recv_message()
                while message is not None and not message.canceled:
                    changes = tuple(_change(event) for event in message.events)
                    yield News(message.header.revision, changes)
                    message = await stream.recv_message()
                if message is None:
                    # The stream's end knows the status that etcd ended it with.
                    raise StreamTerminatedError("the watch ended")
                if message.compact_revision:
                    raise CompactedError(f"revision {start_revision} is compacted")
                raise GRPCError(Status.UNAVAILABLE, message.cancel_reason)


@contextmanager
def _answers() -> Iterator[None]:
    """Translates what etcd says of the request itself."""
    try:
        yield
    except GRPCError as error:
        message = error.message or error.status.name
        if error.status is Status.NOT_FOUND:
            raise GrantLostError(
                f"grant is unknown to etcd: {message}; its time ran out"
            ) from error
        if error.status is Status.OUT_OF_RANGE:
            raise CompactedError(message) from error
        raise StoreError(
            f"etcd did not do what was asked: {error.status.name}: {message}; "
            "check that it is an etcd with API v3"
        ) from error


def _doing(wanted: Transaction) -> str:
    names = [*(put.name for put in wanted.puts), *wanted.deletes]
    return f"write {' and '.join(names[:2])}"


def _prefix_range(root: str) -> tuple[bytes, bytes]:
    """Returns the first key that starts with `root`, and the first one after all that do."""
    key = root.encode()
    end = key.rstrip(b"\xff")
    if not end:
        return b"\0", b"\0"
    return key, end[:-1] + bytes([end[-1] + 1])


def _place(header: pb.ResponseHeader) -> Place:
    return Place(header.cluster_id, header.raft_term, header.revision)


def _next_limit(limit: int, size_bytes: int) -> int:
    """Returns how many entries the next page may have, so that no page fills the memory."""
    if size_bytes > LARGE_PAGE_BYTES:
        return max(limit // 4, 1)
    return min(limit * 4, PAGE_SIZE) if size_bytes < LARGE_PAGE_BYTES // 8 else limit


def _at_revision(name: str, revision: int) -> pb.Compare:
    return pb.Compare(
        result=pb.Compare.EQUAL,
        target=pb.Compare.MOD,
        key=name.encode(),
        mod_revision=revision,
    )


def _read_op(name: str) -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=name.encode()))


def _name(key: bytes) -> str:
    # A foreign key may be any bytes; it must still have a name to log and count it by.
    return key.decode(errors="backslashreplace")


def _entry(item: pb.KeyValue) -> Entry:
    return Entry(
        name=_name(item.key),
        # What is too large to be read is not kept either, but is still too large.
        value=item.value[: MAX_CONFIG_BYTES + 1],
        grant_id=item.lease,
        create_revision=item.create_revision,
        mod_revision=item.mod_revision,
    )


def _change(event: pb.Event) -> Change:
    return Change(
        name=_name(event.kv.key),
        entry=_entry(event.kv) if event.type == pb.Event.PUT else None,
        revision=event.kv.mod_revision,
    )
