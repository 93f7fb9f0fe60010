"""How answers become JSON and are read back. The order of a struct's fields is that of its JSON."""

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON object. A field that is UNSET is left out; None is null; an infinity becomes null.

    Unknown fields are ignored, so that an older reader reads a newer answer.
    """


class Custom:
    """An answer that is not a struct and names its own JSON types."""

    def builtins(self) -> object:
        """The data to encode."""
        raise NotImplementedError

    @classmethod
    def of_builtins(cls, value: Any) -> "Custom":
        """The data that was encoded."""
        raise NotImplementedError


def encode(answer: object) -> bytes:
    """An answer, or a list of answers, as JSON."""
    return msgspec.json.encode(answer, enc_hook=_encoded)


def decode(data: bytes, kind: type[T]) -> T:
    """Decode `data`. `msgspec.DecodeError` if it is not an answer of this kind."""
    return msgspec.json.decode(data, type=kind, dec_hook=_decoded)


def fields_of(record: "DataclassInstance") -> dict[str, Any]:
    """The fields of a record by name, for an answer with the same fields."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def _encoded(value: object) -> object:
    if isinstance(value, Custom):
        return value.builtins()
    raise NotImplementedError(f"{type(value).__name__} is no answer")


def _decoded(kind: type[Any], value: object) -> object:
    if issubclass(kind, Custom):
        return kind.of_builtins(value)
    raise NotImplementedError(f"{kind.__name__} is no answer")
