"""The contract of every error class: its code is its own, it has a status and a remedy, and it
crosses a real wire as the same class with the same message and fields.
"""

import copy
import importlib
import pickle
import pkgutil
import re
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

import coordinator
import logstore
from logstore.base.error_reference import PAGE, reference
from logstore.base.errors import (
    BY_CODE,
    AppendManyError,
    CorruptStorageError,
    LogstoreError,
    OverloadedError,
    StorageFullError,
    UnavailableError,
)
from logstore.base.status import Status
from logstore.base.types import Ack
from logstore.proto.status import called, detail_of, error_of, served
from logstore.proto.v1 import common_pb2

RETRY_AFTER_MS = 7
CAUSES = re.compile(r"^\| [\w ]+ \| `(\w+)` \| `(\w+)` \| (.+) \| `(\w+)` \|$", re.MULTILINE)
"""Rows of the page that says how a class is chosen: base, status, retriable, example."""


def _classes() -> list[type[LogstoreError]]:
    """Every error class of our packages."""
    for package in (logstore, coordinator):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found = [LogstoreError]
    for cls in found:  # grows meanwhile
        found += cls.__subclasses__()
    return list(dict.fromkeys(found))


CLASSES = _classes()
WITH_CODE = [cls for cls in CLASSES if "code" in vars(cls)]
PUBLIC = [cls for cls in WITH_CODE if cls.__module__ == "logstore.errors"]


def example(cls: type[LogstoreError]) -> LogstoreError:
    """An error of the class whose every field is set."""
    message = f"shard 'ü/0' is {cls.__name__}, the limit is 5 bytes"
    if cls is AppendManyError:
        cause = CorruptStorageError("inside")
        cause.offset = 2**40
        return AppendManyError(
            message,
            retry_after_ms=RETRY_AFTER_MS,
            stored=[(0, 3), (5, 6)],
            not_stored=[(3, 5)],
            unknown=[(6, 9)],
            acks=[Ack("o/0", 7, -1, 3, None), Ack("o/1", 0, 2**62, 1, 4)],
            cause=cause,
        )
    error = cls(message, retry_after_ms=RETRY_AFTER_MS)
    if isinstance(error, CorruptStorageError):
        error.offset = 11
    assert all(getattr(error, name) is not None for name in cls.fields)
    return error


def facts(error: LogstoreError | None) -> Any:
    """What callers see of an error, in a form that compares."""
    if error is None:
        return None
    fields = {name: getattr(error, name) for name in error.fields}
    if "cause" in fields:
        fields["cause"] = facts(fields["cause"])
    kind = type(error)
    return kind, error.message, str(error), error.retry_after_ms, fields


async def _raise(request: bytes, context: "grpc.aio.ServicerContext[Any, Any]") -> bytes:
    async with served(context):
        raise example(CLASSES[int(request)])


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server whose one call raises the class that is asked for."""
    server = grpc.aio.server()
    handler: Any = grpc.unary_unary_rpc_method_handler(_raise)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("errors.Errors", {"Raise": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened
    await server.stop(None)


def test_each_code_is_one_class_and_each_class_has_status_and_remedy() -> None:
    twice = [code for code, n in Counter(cls.code for cls in WITH_CODE).items() if n > 1]
    assert twice == []
    assert set(BY_CODE.values()) == set(WITH_CODE)
    assert len(WITH_CODE) >= 41
    for cls in WITH_CODE:
        assert re.fullmatch(r"[a-z_]+", cls.code)
        assert isinstance(vars(cls)["status"], Status), cls
        assert vars(cls)["remedy"].endswith("."), cls
        assert cls.__doc__, cls
        assert grpc.StatusCode[cls.status.name].value[0] > 0, cls


async def test_each_crosses_a_wire_as_it_is(channel: grpc.aio.Channel) -> None:
    call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    call = channel.unary_unary("/errors.Errors/Raise")
    for number, cls in enumerate(CLASSES):
        sent = example(cls)
        with pytest.raises(grpc.aio.AioRpcError) as raw:
            await call(b"%d" % number, timeout=20)
        assert raw.value.code() is grpc.StatusCode[cls.status.name], cls
        assert raw.value.details() == sent.message
        with pytest.raises(LogstoreError) as got:
            async with called():
                await call(b"%d" % number, timeout=20)
        kind = cls if cls in WITH_CODE else BY_CODE[cls.code]
        assert facts(got.value) == (kind, *facts(sent)[1:])
        assert (kind.retriable, kind.refresh_route) == (sent.retriable, sent.refresh_route)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_each_fits_in_a_message_of_a_stream(cls: type[LogstoreError]) -> None:
    sent = example(cls)
    detail = common_pb2.ErrorDetail.FromString(detail_of(sent).SerializeToString())
    assert facts(error_of(detail)) == (BY_CODE[cls.code], *facts(sent)[1:])
    assert bool(detail.fields_json) == bool(cls.fields)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_each_is_pickled_and_copied(cls: type[LogstoreError]) -> None:
    sent = example(cls)
    for again in (pickle.loads(pickle.dumps(sent)), copy.copy(sent)):
        assert facts(again) == facts(sent)
        assert repr(again) == repr(sent)
    assert repr(sent).startswith(f"{cls.__name__}(")


def test_what_a_retry_must_know_is_no_internal_fault_to_other_languages() -> None:
    assert BY_CODE["sealed"].status is Status.FAILED_PRECONDITION
    assert BY_CODE["outcome_unknown"].status is Status.DEADLINE_EXCEEDED
    assert BY_CODE["client_use"].status is Status.INVALID_ARGUMENT
    internal = {cls.code for cls in WITH_CODE if cls.status is Status.INTERNAL}
    assert internal == {"internal", "storage"}


@pytest.mark.parametrize("fields", [b"", b"{", b"[]", b'{"offset": "x"}', b'{"other": 1}'])
def test_fields_of_another_version_leave_the_error_readable(fields: bytes) -> None:
    detail = common_pb2.ErrorDetail(code="corrupt_storage", message="m", fields_json=fields)
    error = error_of(detail)
    assert isinstance(error, CorruptStorageError)
    assert (error.message, error.offset) == ("m", None)


def test_an_unknown_code_is_the_base_class() -> None:
    error = error_of(common_pb2.ErrorDetail(code="of_tomorrow", message="m", retry_after_ms=3))
    assert facts(error) == (LogstoreError, "m", "m", 3, {})


def test_a_class_cannot_forget_what_belongs_to_its_code() -> None:
    before = dict(BY_CODE)
    with pytest.raises(TypeError, match="has a code and no status and no remedy"):
        type("ForgetfulError", (UnavailableError,), {"code": "forgetful"})
    with pytest.raises(TypeError, match="has the code of OverloadedError: overloaded"):
        type(
            "AgainError",
            (LogstoreError,),
            {"code": "overloaded", "status": Status.ABORTED, "remedy": "None."},
        )
    assert before == BY_CODE


def test_the_public_module_has_each_and_says_where_it_belongs() -> None:
    module = importlib.import_module("logstore.errors")
    assert logstore.errors is module
    assert sorted(module.__all__) == sorted(cls.__name__ for cls in PUBLIC)
    assert all(getattr(module, cls.__name__) is cls for cls in PUBLIC)
    causes = (module.__doc__ or "").partition("and nothing was done:")[2]
    named = Counter(re.findall(r"\w+Error", causes))
    assert named == Counter(cls.__name__ for cls in PUBLIC if cls is not LogstoreError)


def test_the_reference_is_fresh() -> None:
    assert PAGE.read_text() == reference(), "run python -m logstore.base.error_reference"
    for cls in (OverloadedError, StorageFullError):
        assert f"| `{cls.code}`<br>`{cls.__name__}` |" in reference()


def test_the_causes_of_the_how_to_are_those_of_the_classes() -> None:
    page = PAGE.parents[1] / "how-to" / "add-an-error.md"
    rows = CAUSES.findall(page.read_text())
    assert len(rows) >= 8
    for base, status, retriable, code in rows:
        example = BY_CODE[code]
        assert base in [c.__name__ for c in example.__mro__], code
        assert example.status.name == status, code
        assert retriable in ("yes" if example.retriable else "no", "only if it can pass by itself")
