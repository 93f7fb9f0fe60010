"""The address of an etcd and our login, from a URL."""

from dataclasses import dataclass
from urllib.parse import unquote

from logstore.base.address import checked_addresses, shown
from logstore.base.errors import ConfigError

SCHEMES = ("etcd", "etcds")
NAMESPACE = "/logstore"
_FORM = "etcd://[USER:PASSWORD@]HOST:PORT[,HOST:PORT…][/NAMESPACE], or etcds:// for TLS"


@dataclass(frozen=True, slots=True)
class EtcdTarget:
    """`endpoints` are `host:port`; every key is kept below `namespace`."""

    endpoints: tuple[str, ...]
    namespace: str = NAMESPACE
    user: str | None = None
    password: str | None = None
    tls: bool = False

    @classmethod
    def of(cls, url: str) -> "EtcdTarget":
        """Read `etcd://[USER:PASSWORD@]HOST:PORT[,HOST:PORT…][/NAMESPACE]`.

        Without a namespace it is `/logstore`. User and password may be percent-encoded.
        """
        scheme, _, rest = url.partition("://")
        where, slash, path = rest.partition("/")
        if scheme not in SCHEMES or set(rest) & set("?#"):
            raise ConfigError(f"metadata is not of the form {_FORM}")
        login, _, hosts = where.rpartition("@")
        try:
            endpoints = tuple(checked_addresses(hosts).split(","))
        except ValueError as e:
            raise ConfigError(
                f"metadata names the endpoints {shown(hosts)}: {e}; the form is {_FORM}"
            ) from None
        user, _, password = login.partition(":")
        return cls(
            endpoints,
            f"{slash}{path}".rstrip("/") or NAMESPACE,
            unquote(user) if login else None,
            unquote(password) if login else None,
            scheme == "etcds",
        )
