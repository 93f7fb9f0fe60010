"""Where an etcd is and who we are to it, from a URL."""

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

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
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or parts.query or parts.fragment:
            raise ConfigError(f"metadata is not of the form {_FORM}")
        login, _, hosts = parts.netloc.rpartition("@")
        endpoints = tuple(hosts.split(","))
        for endpoint in endpoints:
            host, _, port = endpoint.rpartition(":")
            if not host or not port.isdecimal() or not 1 <= int(port) <= 65_535:
                raise ConfigError(f"metadata names the endpoint {endpoint!r}; the form is {_FORM}")
        user, _, password = login.partition(":")
        return cls(
            endpoints,
            parts.path.rstrip("/") or NAMESPACE,
            unquote(user) if login else None,
            unquote(password) if login else None,
            parts.scheme == "etcds",
        )
