"""TLS options of listeners and channels; plain text when absent. Files are PEM."""

from dataclasses import dataclass
from pathlib import Path

from logstore.base.errors import ConfigError
from logstore.base.public import public


@public
@dataclass(frozen=True, slots=True)
class TlsOptions:
    """PEM files: `ca` verifies the other side; `cert` and `key` prove this side; `name` overrides
    the host. ConfigError when a file cannot be read.

    Example:
        tls = logstore.TlsOptions(ca=Path("ca.pem"))
    """

    ca: Path
    cert: Path | None = None
    key: Path | None = None
    name: str | None = None

    def read(self, field: str) -> bytes | None:
        """The bytes of one of the files; a missing or unreadable one is a ConfigError."""
        path: Path | None = getattr(self, field)
        if path is None:
            return None
        try:
            return path.read_bytes()
        except OSError as e:
            raise ConfigError(f"tls.{field} is {path}: {e.strerror}") from e
