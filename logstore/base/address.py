"""Addresses of processes: `host:port`, `[IPv6]:port`. The only module that parses them.

Every listener, advertised address and connection is parsed here, so that a text means the same
everywhere. `::1:7500` could be the host `::1` or the whole address: it is refused.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from logstore.base.errors import InvalidArgumentError

PORT_MAX = 65_535
HOST_CHARS_MAX = 253
"""The limit of a DNS name."""
ADDRESSES_MAX = 1_024
_SHOWN = 100
_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_ZONE = re.compile(r"[A-Za-z0-9_.-]*")
_FORM = "it must be host:port, an IPv6 host in brackets: [::1]:7500"


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """`host` is without brackets; `str` gives an address to connect to."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def ipv6(self) -> bool:
        """Whether the host is an IPv6 address (not a name)."""
        return ":" in self.host

    @classmethod
    def of(cls, text: str, *, port_min: int = 1) -> "Address":
        """Read `host:port`; `port_min` 0 allows "any free port". ValueError says what is wrong."""
        host, colon, port = text.rpartition(":")
        try:
            if not colon or text.endswith("]"):
                raise ValueError("the port is missing")
            if host.startswith("[") and host.endswith("]"):
                return cls(_host(host[1:-1], bracketed=True), _port(port, port_min))
            if ":" in host:
                raise ValueError("where the host ends and the port begins is ambiguous")
            return cls(_host(host), _port(port, port_min))
        except ValueError as e:
            raise ValueError(f"{e}; {_FORM}") from None


def parse_host(text: str) -> str:
    """A host alone: a name, an IPv4 or an IPv6 address, the latter with or without brackets.

    Returns it without brackets. ValueError says what is wrong.
    """
    if text.startswith("[") and text.endswith("]"):
        return _host(text[1:-1], bracketed=True)
    return _host(text, bracketed=":" in text)


def parse_address(text: str, field: str = "address", *, port_min: int = 1) -> Address:
    """Read `host:port`; InvalidArgumentError names the field, the value and the expected form."""
    try:
        return Address.of(text, port_min=port_min)
    except ValueError as e:
        raise InvalidArgumentError(f"{field} is {shown(text)}: {e}") from None


def parse_addresses(addresses: str | Sequence[str], field: str = "address") -> list[str]:
    """One `host:port`, several with commas, or a list: 1 to ADDRESSES_MAX, each of them once."""
    parts: list[object] = list(addresses.split(",") if isinstance(addresses, str) else addresses)
    texts = [part.strip() if isinstance(part, str) else part for part in parts]
    wrong = next((part for part in texts if not isinstance(part, str)), None)
    if wrong is not None:
        raise InvalidArgumentError(f"{field} is {repr(wrong)[:_SHOWN]}, {_FORM}")
    found = list(dict.fromkeys(str(parse_address(str(text), field)) for text in texts if text))
    if not 1 <= len(found) <= ADDRESSES_MAX:
        raise InvalidArgumentError(
            f"{field} has {len(found)} addresses, expected 1 to {ADDRESSES_MAX}"
        )
    return found


def checked_listen(text: str) -> str:
    """For settings: where to listen; port 0 takes a free one. ValueError."""
    return str(Address.of(text, port_min=0))


def checked_address(text: str) -> str:
    """For settings: one address to connect to. ValueError."""
    return str(Address.of(text))


def checked_addresses(text: str) -> str:
    """For settings: addresses separated by commas, each with a port. ValueError."""
    return ",".join(str(Address.of(part.strip())) for part in text.split(","))


def shown(text: str) -> str:
    """The text quoted, cut where it is long."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}… ({len(text)} characters)"


def _host(host: str, *, bracketed: bool = False) -> str:
    if not host:
        raise ValueError("the host is missing")
    if bracketed:
        literal, percent, zone = host.partition("%")
        try:
            ipaddress.IPv6Address(literal)
        except ValueError:
            raise ValueError(f"{shown(host)} is no IPv6 address") from None
        if percent and (not zone or not _ZONE.fullmatch(zone)):
            raise ValueError(f"{shown(zone)} is no name of a network interface")
        return host
    if len(host) > HOST_CHARS_MAX:
        raise ValueError(f"the host has {len(host)} characters, the limit is {HOST_CHARS_MAX}")
    if not _NAME.fullmatch(host):
        raise ValueError(f"{shown(host)} is no host name")
    return host


def _port(text: str, low: int) -> int:
    digits = text.isascii() and text.isdecimal() and len(text) <= len(str(PORT_MAX))
    if not digits or not low <= int(text) <= PORT_MAX:
        raise ValueError(f"the port is {shown(text)}, the limit is {low} to {PORT_MAX}")
    return int(text)
