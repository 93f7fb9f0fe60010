"""What gRPC itself says, as one of our errors: what can never succeed is not tried again."""

from typing import Any

import grpc
import grpc.aio
import pytest

from logstore.base.errors import LimitExceededError, OverloadedError
from logstore.proto.status import detail_of, from_rpc


def failed(text: str, *trailer: Any) -> grpc.aio.AioRpcError:
    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    empty = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, empty, grpc.aio.Metadata(*trailer), text)


@pytest.mark.parametrize("who", ["", "CLIENT: ", "SERVER: "])
@pytest.mark.parametrize("way", ["Sent", "Received"])
def test_a_message_over_the_bound_is_a_limit(who: str, way: str) -> None:
    error = from_rpc(failed(f"{who}{way} message larger than max (30720318 vs. 16777216)"))
    assert isinstance(error, LimitExceededError)
    assert error.message == "message is 30720318 bytes, the limit is 16777216 bytes"
    assert not error.retriable


@pytest.mark.parametrize("text", ["", "Concurrent RPC limit exceeded!", "Bandwidth exhausted"])
def test_what_passes_is_tried_again(text: str) -> None:
    error = from_rpc(failed(text))
    assert isinstance(error, OverloadedError)
    assert error.retriable


def test_what_a_server_of_ours_says_counts() -> None:
    answer = OverloadedError("message larger than max (9 vs. 8) is queued", retry_after_ms=7)
    error = from_rpc(failed("", ("logstore-error-bin", detail_of(answer).SerializeToString())))
    assert isinstance(error, OverloadedError)
    assert error.retry_after_ms == 7
