"""A read's call that goes on at another replica when the one that it asks does not answer.

Both replicas are asked for the same: the same offsets, the same mark that must be shown (P8).
"""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from logstore.base.errors import LogstoreError
from logstore.client.lifetime import Lifetime
from logstore.client.replicas import SILENT_S, Kind, Replicas
from sharder.shard_map import Shard

LOOP_LATE_S = 0.05
"""When a timer comes so late, it was this process that stood still: it waits once more."""

Open = Callable[[str], Any]
"""Start the call at an instance, from where the read is now."""


class HedgedCall:
    """`read` like a call of grpc.aio. Until a message comes the read may go over to another
    replica; the one that has the next message first is the one that is read on."""

    def __init__(
        self,
        replicas: Replicas,
        lifetime: Lifetime,
        shard: Shard,
        kind: Kind,
        instance: str,
        begin: Open,
    ) -> None:
        self._replicas, self._lifetime, self._loop = replicas, lifetime, lifetime.loop
        self._shard, self._kind, self._instance, self._begin = shard, kind, instance, begin
        self._asked_s = self._loop.time()
        self._first = True
        """Whether no message has come yet."""
        self._call = begin(instance)
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._hedge: asyncio.Task[None] | None = None
        self._over: asyncio.Future[None] | None = None
        """Done when the hedge has ended."""
        self._won: tuple[str, Any, Any] | None = None
        """Of the other replica: its name, its call and its message."""

    async def read(self) -> Any:
        """The next message, or grpc.aio.EOF. Errors of the call as grpc.aio raises them."""
        if not self._first:
            self._asked_s = self._loop.time()
        delay_s = self._replicas.delay_s(self._instance, self._kind) if self._first else SILENT_S
        self._wait(self._asked_s + delay_s)
        try:
            message = await self._next()
        finally:
            assert self._timer is not None
            self._timer.cancel()
            if self._hedge is not None:
                self._hedge.cancel()
                self._hedge = None
        now_s = self._loop.time()
        self._replicas.heard(self._instance, now_s)
        if self._first:
            self._first = False
            self._replicas.answered(self._instance, self._kind, now_s - self._asked_s)
        return message

    def cancel(self) -> None:
        self._call.cancel()

    async def _next(self) -> Any:
        task = asyncio.current_task()
        assert task is not None
        cancelled = task.cancelling()
        try:
            message = await self._call.read()
        except asyncio.CancelledError:
            if self._won is None or task.cancelling() > cancelled:
                raise
        except grpc.aio.AioRpcError:
            if self._over is not None:
                await self._over  # the other one may still answer
            if self._won is None:
                raise
        if self._won is None:
            return message
        return self._go_over(self._won)

    def _go_over(self, won: tuple[str, Any, Any]) -> Any:
        now_s = self._loop.time()
        if self._first:
            self._replicas.answered(self._instance, self._kind, now_s - self._asked_s)
        self._replicas.overtaken(self._instance, self._asked_s, now_s)
        self._won, self._first = None, False
        self._instance, self._call, message = won
        return message

    def _wait(self, due_s: float) -> None:
        self._due_s = due_s
        self._timer = self._loop.call_at(due_s, self._late)

    def _late(self) -> None:
        now_s = self._loop.time()
        if now_s > self._due_s + LOOP_LATE_S:
            self._wait(now_s + SILENT_S)
            return
        waited_s = now_s - self._asked_s
        silent = waited_s >= SILENT_S and self._replicas.is_silent(self._instance, self._asked_s)
        if silent or self._replicas.may_hedge():
            self._over = self._loop.create_future()
            self._hedge = self._lifetime.spawn(self._ask_others(now_s), self._hedged)
        else:
            self._wait(max(self._asked_s + SILENT_S, now_s + SILENT_S / 2))

    def _hedged(self, task: "asyncio.Task[None]", error: LogstoreError | None) -> None:
        """None of them answered: once more after a while."""
        if self._over is not None and not self._over.done():
            self._over.set_result(None)
        if self._hedge is task and self._won is None:
            self._hedge = self._over = None
            self._wait(self._loop.time() + SILENT_S)

    async def _ask_others(self, now_s: float) -> None:
        """The first that answers without an error has won."""
        for instance in self._replicas.others(self._shard, self._instance, now_s):
            call = self._begin(instance)
            try:
                message = await call.read()
                self._won = (instance, call, message)
                self._call.cancel()
                return
            except grpc.aio.AioRpcError:
                continue  # it refuses what is asked, or is not there
            finally:
                if self._won is None:
                    call.cancel()
