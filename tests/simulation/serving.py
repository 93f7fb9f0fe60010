"""What a process serves at its address, behind the interceptors that ship."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import grpc
import grpc.aio

from tests.simulation.loop import Process

Ended = tuple[grpc.StatusCode, str, tuple[Any, ...]]
KINDS = {"uu": "unary_unary", "us": "unary_stream", "su": "stream_unary", "ss": "stream_stream"}


@dataclass(frozen=True, slots=True)
class Server:
    """What a process serves at its address."""

    process: Process
    services: dict[str, Any]
    interceptors: Sequence[grpc.aio.ServerInterceptor] = ()

    async def handler(self, details: "CallDetails", kind: str) -> Any:
        """What serves a call, as its interceptors leave it; None: there is no such service."""
        service, _, method = details.method.strip("/").partition("/")
        servicer = self.services.get(service)
        if servicer is None or not self.interceptors:
            return servicer and getattr(servicer, method)
        make = getattr(grpc, f"{KINDS[kind]}_rpc_method_handler")

        async def found(_: Any) -> Any:
            return make(getattr(servicer, method))

        chain: Any = found
        for interceptor in reversed(self.interceptors):
            chain = partial(interceptor.intercept_service, chain)
        return getattr(await chain(details), KINDS[kind])


@dataclass(frozen=True, slots=True)
class CallDetails:
    """As interceptors see a call that comes."""

    method: str
    invocation_metadata: tuple[tuple[str, str], ...]


class ServerContext:
    """The part of grpc's servicer context that our services use."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.aborted: Ended | None = None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        found: tuple[tuple[str, str], ...] = self._call.details.invocation_metadata
        return found

    def time_remaining(self) -> float | None:
        until_s = self._call.until_s
        return None if until_s is None else max(0.0, until_s - self._call.network.world.now_s)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()
    ) -> NoReturn:
        self.aborted = (code, details, tuple(trailing_metadata))
        raise grpc.aio.AbortError
