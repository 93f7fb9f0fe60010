"""Settings of every process that talks to the metadata store itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from annotated_types import MaxLen
from pydantic import AfterValidator, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from logstore.base.address import (
    checked_address,
    checked_addresses,
    checked_listen,
    parse_host,
)
from logstore.base.errors import InvalidArgumentError
from logstore.base.limits import PLACE_BYTES_MAX
from logstore.base.names import checked_name
from logstore.base.tls import TlsOptions
from logstore.meta.open import is_etcd, open_metadata
from logstore.meta.port import MetadataStore
from logstore.proto.transport import Transport

ListenText = Annotated[str, AfterValidator(checked_listen)]
"""`host:port`, port 0 takes a free one."""
AddressText = Annotated[str, AfterValidator(checked_address)]
"""`host:port` to connect to."""
AddressesText = Annotated[str, AfterValidator(checked_addresses)]
"""One or several of them, with commas."""
HostText = Annotated[str, AfterValidator(parse_host)]
"""A host alone."""


def _store_text(text: str) -> str:
    return text if is_etcd(text) else checked_address(text)


def _place_text(text: str) -> str:
    try:
        return checked_name("it", text, PLACE_BYTES_MAX)
    except InvalidArgumentError as e:
        raise ValueError(e.message) from None


PlaceText = Annotated[str, AfterValidator(_place_text)]
"""A tier or a zone."""
StoreText = Annotated[str, AfterValidator(_store_text)]
"""Where the metadata is: an etcd URL, or `host:port` of a coordinator."""


class MetadataSettings(BaseSettings):
    """Login and TLS towards etcd. A description is the docstring below its field."""

    model_config = SettingsConfigDict(use_attribute_docstrings=True)

    metadata_user: Annotated[str | None, MaxLen(255)] = None
    """etcd's user."""
    metadata_password: SecretStr | None = None
    """etcd's password; give it in the environment, where other users cannot list it."""
    metadata_tls_ca: Path | None = None
    """CA of etcds://; default: `tls_ca`, `tls_cert` and `tls_key`."""
    metadata_tls_cert: Path | None = None
    """This process's certificate towards etcd."""
    metadata_tls_key: Path | None = None
    """The key of `metadata_tls_cert`."""

    def open_metadata(
        self,
        addresses: Sequence[str],
        tls: TlsOptions | None,
        transport: Transport | None = None,
    ) -> MetadataStore:
        """The store at `addresses` (`logstore.meta.open`); `tls` is this process's own."""
        etcd_tls = tls
        if self.metadata_tls_ca is not None:
            etcd_tls = TlsOptions(
                self.metadata_tls_ca, self.metadata_tls_cert, self.metadata_tls_key
            )
        password = self.metadata_password
        return open_metadata(
            addresses,
            tls,
            transport=transport,
            etcd_tls=etcd_tls,
            user=self.metadata_user,
            password=password.get_secret_value() if password is not None else None,
        )
