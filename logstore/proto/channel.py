"""Channels and servers with our options: bounds on messages, keepalive, TLS from the start."""

import os
from collections.abc import Sequence

import grpc
import grpc.aio

from logstore.base.address import parse_address
from logstore.base.errors import AddressInUseError
from logstore.base.limits import MESSAGE_BYTES_MAX
from logstore.base.tls import TlsOptions
from logstore.proto import fork

Options = Sequence[tuple[str, int | str]]

USE_PROXY = "LOGSTORE_USE_PROXY"
"""Environment: with the value 1 calls go through the proxies of http_proxy and similar names."""

IDLE_S = 300.0
"""A connection without a call for so long is closed; the next call opens it again."""

OPTIONS: Options = (
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.http2.lookahead_bytes", 1 << 20),
)


def open_channel(
    address: str,
    tls: TlsOptions | None = None,
    *,
    options: Options = OPTIONS,
    idle_s: float = IDLE_S,
) -> grpc.aio.Channel:
    """A channel to `host:port`, for a call or two; what runs for long takes a `Transport`.

    It connects on first use and reconnects by itself. Channels are made here only: an address that
    is none is an InvalidArgumentError, no member is reached through a proxy of the environment
    unless LOGSTORE_USE_PROXY is 1, and a process that was forked from one that had used gRPC gets a
    ClientUseError.
    """
    fork.use()
    target = str(parse_address(address))
    held: list[tuple[str, int | str]] = list(options)
    held.append(("grpc.use_local_subchannel_pool", 1))
    held.append(("grpc.client_idle_timeout_ms", round(idle_s * 1e3)))
    held.append(("grpc.enable_http_proxy", int(os.environ.get(USE_PROXY) == "1")))
    if tls is None:
        return grpc.aio.insecure_channel(target, options=held)
    if tls.name is not None:
        held.append(("grpc.ssl_target_name_override", tls.name))
    credentials = grpc.ssl_channel_credentials(tls.read("ca"), tls.read("key"), tls.read("cert"))
    return grpc.aio.secure_channel(target, credentials, options=held)


def make_server(interceptors: Sequence[grpc.aio.ServerInterceptor] = ()) -> grpc.aio.Server:
    """A server without services; a second bind of the same port fails instead of sharing it."""
    fork.use()
    options = [*OPTIONS, ("grpc.so_reuseport", 0)]
    return grpc.aio.server(interceptors=list(interceptors), options=options)


def listen(server: grpc.aio.Server, address: str, tls: TlsOptions | None = None) -> int:
    """Bind `host:port` (port 0: any) and return the port; a taken one is AddressInUseError.

    InvalidArgumentError for an invalid address.
    """
    address = str(parse_address(address, "listen", port_min=0))
    try:
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            pair = (tls.read("key") or b"", tls.read("cert") or b"")
            port = server.add_secure_port(
                address, grpc.ssl_server_credentials([pair], tls.read("ca"), True)
            )
    except RuntimeError as e:
        raise AddressInUseError(f"cannot listen on {address}: the port is in use or barred") from e
    if port == 0:
        raise AddressInUseError(f"cannot listen on {address}: the port is in use or barred")
    return port
