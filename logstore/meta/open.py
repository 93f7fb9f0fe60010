"""From settings to a store: `etcd://…`, or the addresses of the coordinators that embed one."""

from collections.abc import Sequence
from dataclasses import replace

from logstore.base.errors import ConfigError
from logstore.base.tls import TlsOptions
from logstore.meta.port import MetadataStore
from logstore.meta.remote import RemoteMetadataStore
from logstore.proto.transport import Transport


def is_etcd(address: str) -> bool:
    """Whether it is an etcd URL rather than `host:port`."""
    return address.startswith(("etcd://", "etcds://"))


def open_etcd(
    url: str,
    tls: TlsOptions | None = None,
    *,
    user: str | None = None,
    password: str | None = None,
) -> MetadataStore:
    """A client of the etcd at `url`; `user` and `password` go before those in the URL.

    `ConfigError` for a bad URL, or when the package aetcd is not installed.
    """
    try:
        from logstore.meta.etcd import EtcdMetadataStore, EtcdTarget
    except ModuleNotFoundError as e:
        raise ConfigError(f"metadata is etcd, which needs the extra 'etcd': no {e.name}") from e
    target = EtcdTarget.of(url)
    if user is not None:
        target = replace(target, user=user, password=password)
    return EtcdMetadataStore(target, tls)


def open_metadata(
    addresses: Sequence[str],
    tls: TlsOptions | None = None,
    *,
    transport: Transport | None = None,
    etcd_tls: TlsOptions | None = None,
    user: str | None = None,
    password: str | None = None,
) -> MetadataStore:
    """An instance's store: one etcd URL, or `host:port` of each coordinator.

    `transport`: shared, to those coordinators; None: one of the store's own, over `tls`. etcd's
    options differ, so its client has its own. `etcd_tls` defaults to `tls`.
    """
    if not any(is_etcd(address) for address in addresses):
        return RemoteMetadataStore(addresses, tls, transport=transport)
    if len(addresses) != 1:
        raise ConfigError(
            f"metadata names {len(addresses)} addresses, the limit is 1 when it is an etcd URL; "
            "its endpoints are separated by commas"
        )
    return open_etcd(addresses[0], etcd_tls or tls, user=user, password=password)
