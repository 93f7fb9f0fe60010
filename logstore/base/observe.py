"""HTTP answers for operators' tools: `/metrics`, `/healthz`, `/readyz`.

The process's event loop makes the answers: a scrape sees one moment, and a loop that does not
answer is a process that is not alive. The HTTP server itself runs in threads.
"""

import asyncio
import concurrent.futures
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from logstore.base.address import Address
from logstore.base.errors import AddressInUseError, ConfigError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

ANSWER_S_MAX = 5.0
"""A loop that takes longer than this does not count as alive."""

NotReady = Callable[[], str | None]
"""None when the process can work, else the reason why not."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing: a line a scrape helps no reader."""


class Endpoint:
    """The HTTP server of one process. Start and stop it on the loop that owns the shown state."""

    def __init__(self, collectors: Iterable[Collector], not_ready: NotReady) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        for collector in collectors:
            self._registry.register(collector)
        self._not_ready = not_ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: WSGIServer | None = None

    def start(self, address: str) -> str:
        """Listen on "host:port" (port 0 takes a free one); returns the address.

        Errors: ConfigError for an invalid address, AddressInUseError.
        """
        try:
            door = Address.of(address, port_min=0)
        except ValueError as e:
            raise ConfigError(f"metrics_listen is {address!r}: {e}") from None
        self._loop = asyncio.get_running_loop()
        kind = _Server6 if door.ipv6 else _Server
        try:
            self._server = make_server(
                door.host, door.port, self._answer, server_class=kind, handler_class=_Quiet
            )
        except OSError as e:
            raise AddressInUseError(f"cannot listen on {address}: {e.strerror}") from e
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        return str(Address(door.host, self._server.server_port))

    async def stop(self) -> None:
        """Close the server; a call in progress ends by itself."""
        server, self._server = self._server, None
        if server is not None:
            await asyncio.to_thread(server.shutdown)
            server.server_close()

    def _answer(self, environ: dict[str, Any], start_response: "StartResponse") -> list[bytes]:
        status, kind, body = self._page(str(environ.get("PATH_INFO", "")))
        start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
        return [body]

    def _page(self, path: str) -> tuple[str, str, bytes]:
        text = "text/plain; charset=utf-8"
        try:
            if path == "/metrics":
                body = self._on_loop(lambda: generate_latest(self._registry))
                return "200 OK", CONTENT_TYPE_LATEST, body
            if path == "/healthz":
                self._on_loop(lambda: None)
                return "200 OK", text, b"ok\n"
            if path == "/readyz":
                why = self._on_loop(self._not_ready)
                if why is None:
                    return "200 OK", text, b"ready\n"
                return "503 Service Unavailable", text, f"{why}\n".encode()
        except (TimeoutError, RuntimeError) as e:
            why = str(e) or f"the process did not answer in {ANSWER_S_MAX:g} s"
            return "503 Service Unavailable", text, f"{why}\n".encode()
        return "404 Not Found", text, b"there are /metrics, /healthz and /readyz\n"

    def _on_loop(self, work: Callable[[], Any]) -> Any:
        """The result of `work`, run by the loop between its other work."""
        assert self._loop is not None
        done: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def run() -> None:
            try:
                done.set_result(work())
            except Exception as e:
                done.set_exception(RuntimeError(f"{type(e).__name__}: {e}"))

        self._loop.call_soon_threadsafe(run)
        return done.result(ANSWER_S_MAX)
