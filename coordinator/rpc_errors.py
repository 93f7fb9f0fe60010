"""Shared by every service of the coordinator: our errors as gRPC status, answers as JSON."""

import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import grpc.aio

from coordinator.answers.base import encode
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb
from logstore.proto.status import served

Context = grpc.aio.ServicerContext[Any, Any]
_S = TypeVar("_S")
_Q = TypeVar("_Q")
_A = TypeVar("_A")


def unary(
    method: Callable[[_S, _Q, Context], Awaitable[_A]],
) -> Callable[[_S, _Q, Context], Coroutine[Any, Any, _A]]:
    """A unary call's body, with our errors sent as status and details."""

    @functools.wraps(method)
    async def call(self: _S, request: _Q, context: Context) -> _A:
        async with served(context):
            return await method(self, request, context)
        raise AssertionError("served() neither returned nor raised")

    return call


def answered(answer: object) -> pb.JsonResponse:
    """An answer of `coordinator.answers`, or a list of them."""
    return pb.JsonResponse(json=encode(answer))
