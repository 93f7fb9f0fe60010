"""One watch at one endpoint: whole revisions, and a probe for life when it is quiet.

etcd keeps a watch open at a member that has frozen or that the network cut off. So after
`QUIET_S` without a message we ask for progress, and leave a member that does not answer within
`ANSWER_S`. The revision in such an answer is not taken as complete: before
etcd 3.5.9 it may overtake events.
"""

import asyncio
from collections.abc import AsyncIterator
from itertools import groupby
from operator import attrgetter
from typing import Any

import grpc
import grpc.aio
from aetcd import rpc

from logstore.base.background import Background
from logstore.base.errors import ConfigError, ConflictError, LogstoreError, UnavailableError
from logstore.meta.etcd.calls import EtcdCalls, from_etcd
from logstore.meta.port import WatchEvent

QUIET_S = 1.0
ANSWER_S = 1.5


async def follow(
    calls: EtcdCalls, at: int, start: tuple[bytes, bytes], after_revision: int, namespace: int
) -> AsyncIterator[tuple[WatchEvent, ...]]:
    """Changes in the key range `start` above a revision, from endpoint `at`.

    First an empty tuple once the watch is established, then one non-empty tuple a revision.
    `namespace`: how many bytes to cut from each key. Errors: `ConflictError` when compacted;
    `UnavailableError` when the endpoint fails, freezes, or lost its quorum.
    """
    channel, metadata = await calls.stream_at(at)
    stream = rpc.WatchStub(channel).Watch(metadata=metadata)
    reading = Background("a watch of etcd")
    held: list[WatchEvent] = []
    try:
        await stream.write(_create(start, after_revision))
        while True:
            reader = reading.answer(stream.read())
            await _alive(stream, reader, calls.endpoints[at])
            message = await reader
            if message is grpc.aio.EOF:
                raise UnavailableError(f"etcd at {calls.endpoints[at]} ended the watch")
            if message.canceled:
                raise _cancelled(calls, message, after_revision)
            if message.created:
                yield ()
            held += [_event(event, namespace) for event in message.events]
            for events in _whole(held, more=message.fragment):
                yield events
    except grpc.aio.AioRpcError as e:
        raise from_etcd(e, calls.endpoints[at]) from None
    except asyncio.CancelledError:
        calls.explain_cancel()
        raise
    except asyncio.InvalidStateError:  # written to after it ended
        raise UnavailableError(f"etcd at {calls.endpoints[at]} ended the watch") from None
    finally:
        stream.cancel()
        await reading.stop()


def _create(start: tuple[bytes, bytes], after_revision: int) -> Any:
    request = rpc.WatchCreateRequest(
        key=start[0], range_end=start[1], start_revision=after_revision + 1, fragment=True
    )
    return rpc.WatchRequest(create_request=request)


async def _alive(stream: Any, reader: "asyncio.Task[Any]", endpoint: str) -> None:
    """Return when `reader` is done; probe when it is quiet, UnavailableError without an answer."""
    # A read is never given a deadline of its own: cancelling it would cancel the whole stream.
    done, _ = await asyncio.wait({reader}, timeout=QUIET_S)
    if not done:
        await stream.write(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))
        done, _ = await asyncio.wait({reader}, timeout=ANSWER_S)
    if not done:
        raise UnavailableError(f"etcd at {endpoint} was silent for {QUIET_S + ANSWER_S:g} s")


def _whole(held: list[WatchEvent], *, more: bool) -> list[tuple[WatchEvent, ...]]:
    """Take the revisions that are complete out of `held`; the last may go on in a fragment."""
    groups = [tuple(events) for _, events in groupby(held, key=attrgetter("revision"))]
    rest = groups.pop() if more and groups else ()
    held[:] = rest
    return groups


def _event(event: Any, namespace: int) -> WatchEvent:
    deleted = event.type == event.DELETE
    key = event.kv.key[namespace:].decode()
    return WatchEvent(key, None if deleted else event.kv.value, event.kv.mod_revision)


def _cancelled(calls: EtcdCalls, message: Any, after_revision: int) -> LogstoreError:
    if message.compact_revision:
        return ConflictError(
            f"watch after revision {after_revision}: history up to {message.compact_revision} "
            "was compacted; range again"
        )
    reason = message.cancel_reason or "no reason given"
    if "ermission" in reason or "auth" in reason:
        calls.forget_token()  # a restarted member has forgotten it; it says no more than this
        return ConfigError(f"etcd ended a watch: {reason}")
    return UnavailableError(f"etcd ended a watch: {reason}")
