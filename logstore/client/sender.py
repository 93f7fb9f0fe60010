"""The edge of a lane: queues, sends, retries and re-routes the appends of one producer to one
shard.

Order of steps after a failure (the lane decides when): everything in flight is answered -> the
route is refreshed if an error asked for it -> a bounded, jittered wait, cut short by a newer map ->
all unacked batches are sent again in order. No loop here runs without such a wait.
"""

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Concatenate, ParamSpec, Protocol

from logstore.base.backoff import Backoff
from logstore.base.env import Env
from logstore.base.errors import LogstoreError, UnavailableError, UnknownLogError
from logstore.base.limits import PRODUCER_WINDOW
from logstore.base.types import Ack
from logstore.client.batching import Gathering, SingleSink
from logstore.client.directory import Directory
from logstore.client.lane import Failures, Lane, LaneEntry, LaneMode, given_up
from logstore.client.lifetime import as_ours
from logstore.client.router import append_instance
from logstore.client.stream import AppendStream
from logstore.proto.status import error_of
from logstore.proto.v1 import log_pb2
from sharder.shard_map import Shard

LANE_BYTES_MAX = 16 * 1024 * 1024
"""Payload bytes in flight per lane."""

GATHERED_IN_FLIGHT_MAX = 3
"""With this many batches in flight, single appends wait and gather: the fuller the stream, the
larger the batches."""

DRAIN_S = 1.0
"""How long an instance that left the map may take to answer batches in flight. One that is cut
off never does; its late answers are duplicates, or fenced off (P1, P10)."""

BACKOFF_FIRST_S = 0.005
BACKOFF_MAX_S = 1.0


class Host(Protocol):
    """What a sender needs of the appender that owns it."""

    directory: Directory
    env: Env

    def stream(self, address: str) -> AppendStream: ...
    def shown(self, shard: str, end: int) -> None:
        """This client was acked up to `end` (P8)."""
        ...

    def release(self, size: int) -> None: ...
    def discard(self, sender: "Sender") -> None:
        """The sender is of no more use: the next append of its lane gets a new one."""
        ...

    def stale(self, log: str) -> None:
        """An answer said that the map is old, without a failure."""
        ...

    def reroute(self, sender: "Sender", entries: list[LaneEntry]) -> None:
        """The shard is no longer open: send these where their keys belong now."""
        ...

    def waits_for(self, sender: "Sender") -> bool:
        """Whether a sender of an ancestor, with the same keys, is not resolved yet (S2)."""
        ...


P = ParamSpec("P")


def guarded(
    step: Callable[Concatenate["Sender", P], None],
) -> Callable[Concatenate["Sender", P], None]:
    """For callbacks of the loop or a stream: a foreign exception there would leave the callers
    in the lane waiting. It fails them all at once, and the lane begins again."""

    @functools.wraps(step)
    def run(self: "Sender", /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            step(self, *args, **kwargs)
        except Exception as e:
            self.end(as_ours(e))

    return run


class Sender:
    """All appends of one lane. `conditional` lanes have one batch in flight (see Appender)."""

    def __init__(self, host: Host, shard: Shard, *, number: int = 0) -> None:
        conditional = number > 0
        self.shard = shard
        self.number = number
        """0: the main lane; above: a conditional one."""
        self.waiting = False
        self.lane = Lane(
            producer_id=host.env.new_id(),
            window=1 if conditional else PRODUCER_WINDOW,
            bytes_max=LANE_BYTES_MAX,
        )
        self._host = host
        self._draw = host.env.rng.random()
        self._pending: deque[LaneEntry | Gathering] = deque()
        self._stream: AppendStream | None = None
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._recovery: asyncio.Task[None] | None = None
        self._backoff = Backoff(BACKOFF_FIRST_S, BACKOFF_MAX_S, host.env.rng.random)
        self._gone = False
        self._closed = False
        self._address = self._wanted()

    @property
    def idle(self) -> bool:
        return not self._pending and not self.lane.unacked

    def gather(
        self,
        key: bytes,
        value: bytes,
        headers: Mapping[str, bytes] | None,
        timestamp: int | None,
        size: int,
        deadline: float,
    ) -> asyncio.Future[Ack]:
        """Add one record to what goes out next; the future becomes its ack."""
        last = self._pending[-1] if self._pending else None
        timed = timestamp is not None
        if not isinstance(last, Gathering) or not last.fits(timed, size):
            last = Gathering(timed, deadline)
            self._pending.append(last)
        if headers:
            last.headers[len(last.keys)] = headers
        last.keys.append(key)
        last.values.append(value)
        if timestamp is not None:
            last.times.append(timestamp)
        last.bytes += size
        future: asyncio.Future[Ack] = self._loop.create_future()
        last.futures.append(future)
        self._schedule()
        return future

    def put(self, entry: LaneEntry) -> None:
        """Queue a batch."""
        self._pending.append(entry)
        self._schedule()

    def put_first(self, entries: list[LaneEntry]) -> None:
        """Queue batches before all waiting ones: they were requested earlier."""
        self._pending.extendleft(reversed(entries))
        self._schedule()

    def go_on(self) -> None:
        """What this sender waits for may be over."""
        if self.waiting:
            self._schedule()

    @guarded
    def on_result(self, entry: LaneEntry, result: log_pb2.AppendResult) -> None:
        """An answer came over the stream."""
        if not entry.outstanding:
            return
        if result.HasField("error"):
            self._fail(self.lane.refused(entry, error_of(result.error)))
        elif result.count != entry.count:
            broken = LogstoreError(
                f"shard {self.shard.id} acked {result.count} records of a batch of {entry.count}"
            )
            self._fail(self.lane.refused(entry, broken))
        else:
            self._backoff.reset()
            self._host.shown(result.shard, result.base_offset + result.count)
            if self.lane.acked(entry):
                self._host.release(entry.charge)
                version = result.version if result.HasField("version") else None
                place, count = result.base_offset, result.count
                self._told(entry, Ack(result.shard, place, result.timestamp_us, count, version))
        if result.refresh_route:
            self._host.stale(self.shard.log)
        self._after()

    @guarded
    def on_broken(self, stream: AppendStream, error: LogstoreError) -> None:
        """A stream is gone; the lane ignores one that it has left already."""
        if self._stream is not stream:
            return
        self._stream = None
        if not error.retriable:
            self.end(error)
            return
        if self.lane.outstanding:
            self.lane.broken(error)
        self._after()

    @guarded
    def on_route(self, shard: Shard | None) -> None:
        """A newer map: follow the shard, once nothing is in flight to the old place."""
        if shard is None or not shard.is_open:
            self._gone = True
            self.shard = shard or self.shard
            self.lane.drain()
        else:
            self.shard = shard
            if self._wanted() != self._address and self.lane.mode is LaneMode.RUNNING:
                self.lane.drain()
        if self.lane.mode is LaneMode.DRAINING and self._wanted() != self._address:
            self._loop.call_later(DRAIN_S, self._leave, self._stream)
        self._after()

    @guarded
    def _leave(self, stream: AppendStream | None) -> None:
        """Batches in flight to an instance that left the map got no answer in time: as if the
        stream were broken."""
        moved = self._wanted() != self._address
        if self._closed or stream is not self._stream or not moved:
            return
        if stream is not None and self.lane.mode is LaneMode.DRAINING:
            stream.forget(self)
            left = f"instance at {stream.address} did not answer, and leads {self.shard.id} no more"
            self.on_broken(stream, UnavailableError(left))

    def fail_all(self, error: LogstoreError) -> None:
        """Queued batches and those in flight cannot succeed any more."""
        clear, failures = self.lane.abort(error)
        untouched = type(error)(f"not stored: {error.message}")
        untouched.__cause__ = error.__cause__
        self._fail([*failures, *((entry, untouched) for entry in clear)])
        pending = list(self._pending)
        self._pending.clear()
        for item in pending:
            if isinstance(item, Gathering):  # not built: that may be what failed
                self._host.release(item.bytes)
                SingleSink(item.futures).failed(untouched)
            else:
                self._fail([(item, untouched)])

    def end(self, error: LogstoreError) -> None:
        """Fail everything; this sender sends no more."""
        self._closed = True
        self._host.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._recovery is not None:
            self._recovery.cancel()
        if self._stream is not None:
            self._stream.forget(self)
        self.fail_all(error)

    def _wanted(self) -> str | None:
        return self.shard.addresses.get(append_instance(self.shard, self._draw))

    def _schedule(self) -> None:
        """Send on the next turn of the loop, so that appends of this turn go together."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    @guarded
    def _pump(self) -> None:
        self._scheduled = False
        if self._closed:
            return
        lane = self.lane
        self.waiting = self._host.waits_for(self)
        if self.waiting:
            self._arm()
            return
        while self._pending and lane.mode is LaneMode.RUNNING:
            head = self._pending[0]
            size = head.bytes if isinstance(head, Gathering) else len(head.payload)
            if not lane.can_send(size):
                break
            if isinstance(head, Gathering):
                last = len(self._pending) == 1
                if last and lane.outstanding >= GATHERED_IN_FLIGHT_MAX:
                    break
                head = head.build(self._compression())
            self._pending.popleft()
            lane.send(head)
            self._transmit(head)
        self._arm()

    def _compression(self) -> str:
        router = self._host.directory.cached(self.shard.log)
        return router.compression if router is not None else "none"

    def _transmit(self, entry: LaneEntry) -> None:
        try:
            stream = self._connected()
        except UnavailableError as e:
            self.lane.broken(e)
            self._after()
            return
        router = self._host.directory.cached(self.shard.log)  # of this log, else it had ended
        stream.send(
            self,
            entry,
            log_pb2.AppendBatch(
                shard=self.shard.id,
                epoch=self.shard.epoch,
                producer_id=self.lane.producer_id,
                sequence=entry.sequence,
                count=entry.count,
                flags=entry.flags,
                crc32c=entry.crc32c,
                payload=entry.payload,
                caller=self._host.directory.caller,
                expected_version=entry.expected_version,
                created_us=router.created_us if router is not None else 0,
                retry=entry.retry,
            ),
        )

    def _connected(self) -> AppendStream:
        if self._stream is None or self._stream.closed:
            if self._address is None:
                raise UnavailableError(
                    f"instance {self.shard.primary} of shard {self.shard.id} has no known address"
                )
            self._stream = self._host.stream(self._address)
        return self._stream

    def _after(self) -> None:
        """Go on: send more, resend, recover, or hand over batches that belong elsewhere now."""
        lane = self.lane
        if self._closed:
            return
        if lane.mode is LaneMode.RUNNING:
            if self._pending:
                self._schedule()
        elif lane.mode is LaneMode.PAUSED and self._recovery is None:
            if self._gone and not self._can_ask():
                self._hand_over()
            elif lane.trouble.backoff:
                spawn = self._host.directory.lifetime.spawn
                self._recovery = spawn(self._recover(), self._recovered)
            else:
                self._resume()

    def _can_ask(self) -> bool:
        """Whether the sealed shard can still decide an undecided batch (rule 5 of the lane)."""
        return self.lane.undecided and not self.shard.is_open

    async def _recover(self) -> None:
        trouble, before = self.lane.trouble, self.shard
        directory, log = self._host.directory, self.shard.log
        wait_s = self._backoff.next_s()
        if trouble.refresh_route:
            with contextlib.suppress(UnavailableError):
                await directory.refresh(log)
            self._look_up()
        moved = self.shard is not before and self._wanted() != self._address
        if self._gone and not self.lane.undecided:
            return
        if trouble.retry_after_ms:
            await asyncio.sleep(max(wait_s, trouble.retry_after_ms / 1000))
        elif not (moved and self._backoff.tries == 1):
            await directory.changed(log, wait_s)

    def _look_up(self) -> None:
        """Take the shard's newest route, also where its map came before this sender did."""
        router = self._host.directory.cached(self.shard.log)
        shard = router.map.get(self.shard.id) if router is not None else None
        if shard is not None and shard.is_open:
            self.shard = shard
        elif router is not None:
            self._gone = True
            self.shard = shard or self.shard

    @guarded
    def _recovered(self, _: "asyncio.Task[None]", error: LogstoreError | None) -> None:
        self._recovery = None
        if self._closed:
            return
        if error is not None:
            self.fail_all(error)
            if isinstance(error, UnknownLogError):
                self._host.directory.ended(self.shard.log, error)
        if self._gone and not self._can_ask():
            self._hand_over()
        elif self.lane.mode is LaneMode.PAUSED:
            self._resume()

    def _resume(self) -> None:
        wanted = self._wanted()
        if wanted != self._address:
            self._address, self._stream = wanted, None
        entries, failures = self.lane.resume(self._host.env.new_id())
        self._fail(failures)
        for entry in entries:
            if entry.outstanding:
                self._transmit(entry)
        if self._gone:
            self.lane.drain()  # no new batch goes to a sealed shard
            self._after()
        elif self.lane.mode is LaneMode.RUNNING:
            self._schedule()

    def _hand_over(self) -> None:
        clear, failures = self.lane.abort(UnavailableError(f"shard {self.shard.id} was sealed"))
        self._fail(failures)
        self._host.reroute(self, [*clear, *self._take_pending()])

    def _take_pending(self) -> list[LaneEntry]:
        taken = [
            item.build("none") if isinstance(item, Gathering) else item for item in self._pending
        ]
        self._pending.clear()
        return taken

    def _told(self, entry: LaneEntry, ack: Ack) -> None:
        """The lane has dropped the batch, so a failure to notify its callers is handled here."""
        try:
            entry.sink.stored(ack)
        except Exception as e:
            entry.sink.failed(as_ours(e))
            raise

    def _fail(self, failures: Failures) -> None:
        for entry, error in failures:
            self._host.release(entry.charge)
            entry.sink.failed(error)

    def _arm(self) -> None:
        """One timer, for the oldest batch; deadlines of a client grow with the order of calls."""
        if self._timer is None:
            alive = (e.deadline for e in self.lane.unacked if not e.abandoned)
            due = next(chain(alive, (item.deadline for item in self._pending)), None)
            if due is not None:
                self._timer = self._loop.call_at(due, self._expire)

    @guarded
    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        self._fail(self.lane.expire(now))
        while self._pending and self._pending[0].deadline <= now:
            item = self._pending.popleft()
            entry = item.build("none") if isinstance(item, Gathering) else item
            self._fail([(entry, given_up(entry))])
        self._arm()
