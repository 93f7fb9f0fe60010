"""Settings of every process that talks to the metadata store itself."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from logstore.base.tls import TlsOptions
from logstore.meta.open import open_metadata
from logstore.meta.port import MetadataStore


class MetadataSettings(BaseSettings):
    """Login and TLS towards etcd; give the password in the environment, where nobody lists it."""

    metadata_user: str | None = Field(default=None, max_length=255, description="etcd's user")
    metadata_password: SecretStr | None = Field(default=None, description="etcd's password")
    metadata_tls_ca: Path | None = Field(
        default=None, description="CA of etcds://; default: tls_ca, tls_cert and tls_key"
    )
    metadata_tls_cert: Path | None = None
    metadata_tls_key: Path | None = None

    def open_metadata(self, addresses: Sequence[str], tls: TlsOptions | None) -> MetadataStore:
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
            etcd_tls=etcd_tls,
            user=self.metadata_user,
            password=password.get_secret_value() if password is not None else None,
        )
