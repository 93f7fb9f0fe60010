"""Keys on the command line: any bytes, as text, in hexadecimal or in base64.

As text a key is the bytes that the shell gave, whether they are UTF-8 or not.
"""

import base64
import binascii
import os
import re
from typing import Annotated

import typer

from logstore.base.errors import InvalidArgumentError

_HEX = re.compile(r"([0-9a-fA-F]{2})*")


def raw(text: str) -> bytes:
    """The bytes of an argument as the shell gave them."""
    return os.fsencode(text)


def from_hex(text: str) -> bytes:
    if not _HEX.fullmatch(text):
        raise typer.BadParameter(f"{_cut(text)} is not hexadecimal, such as 00ff")
    return bytes.fromhex(text)


def from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise typer.BadParameter(f"{_cut(text)} is not base64, such as AP8=") from None


def one_of(field: str, *forms: bytes | None) -> bytes | None:
    """The given form of the key: text, hexadecimal or base64."""
    given = [form for form in forms if form is not None]
    if len(given) > 1:
        raise InvalidArgumentError(
            f"{field} is given {len(given)} times: as text, --{field}-hex and --{field}-base64 "
            "exclude each other"
        )
    return given[0] if given else None


def _cut(text: str) -> str:
    return ascii(text) if len(text) <= 60 else f"{text[:60]!a}…"


Key = Annotated[
    bytes | None, typer.Option("--key", parser=raw, metavar="KEY", help="Only this key.")
]
KeyHex = Annotated[
    bytes | None,
    typer.Option("--key-hex", parser=from_hex, metavar="HEX", help="The key as 00ff."),
]
KeyBase64 = Annotated[
    bytes | None,
    typer.Option("--key-base64", parser=from_base64, metavar="BASE64", help="The key as AP8=."),
]
Start = Annotated[
    bytes | None,
    typer.Option("--start", parser=raw, metavar="KEY", help="Keys from here on."),
]
StartHex = Annotated[
    bytes | None,
    typer.Option("--start-hex", parser=from_hex, metavar="HEX", help="--start as 00ff."),
]
StartBase64 = Annotated[
    bytes | None,
    typer.Option(
        "--start-base64", parser=from_base64, metavar="BASE64", help="--start as AP8=."
    ),
]  # fmt: skip
End = Annotated[
    bytes | None, typer.Option("--end", parser=raw, metavar="KEY", help="Keys below this.")
]
EndHex = Annotated[
    bytes | None,
    typer.Option("--end-hex", parser=from_hex, metavar="HEX", help="--end as 00ff."),
]
EndBase64 = Annotated[
    bytes | None,
    typer.Option("--end-base64", parser=from_base64, metavar="BASE64", help="--end as AP8=."),
]
