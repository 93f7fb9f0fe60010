"""`logstore weight`: how likely the planner is to move a shard."""

from collections.abc import Sequence
from typing import Annotated

import typer

from coordinator.answers.plans import ShardWeight
from coordinator.cli.common import (
    ADDRESS,
    Address,
    AsJson,
    ask_coordinator,
    print_json,
    print_table,
    time_text,
)
from coordinator.cli.planner import By, user
from logstore.base.errors import InvalidArgumentError
from logstore.proto.coordinator_v1 import coordinator_pb2 as pb


def register(app: typer.Typer) -> None:
    app.command("weight")(weigh)


def weigh(
    name: Annotated[
        str | None, typer.Argument(metavar="LOG|SHARD", help="A log, or LOG/NUMBER; default all.")
    ] = None,
    weight: Annotated[
        float | None,
        typer.Argument(
            min=0, max=100, metavar="WEIGHT", help="1 is usual; 0: never moved by plans."
        ),
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Return to the weight that is learned.")
    ] = False,
    by: By = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Show or set migration weights: a shard of higher weight is likelier to be moved.

    A weight that was set acts from the next plan on instead of the learned one; the shards of a
    split or merge inherit it. Moves by hand are not affected.

    Example: logstore weight orders/0 0
    """
    if weight is None and not reset:
        rows = weights(address, name or "")
        print_json(rows) if as_json else _print_rows(rows)
        return
    if name is None or "/" not in name:
        raise InvalidArgumentError(f"shard is {name!r}, a weight is set for LOG/NUMBER")
    if weight is not None and reset:
        raise InvalidArgumentError("WEIGHT and --reset exclude each other: give one of them")
    request = pb.SetWeightRequest(shard=name, by=user() if by is None else by)
    if weight is not None:
        request.weight = weight
    found = ask_coordinator(address, "SetWeight", request, ShardWeight, "Plans")
    print_json(found) if as_json else _print_rows([found])


def weights(address: str, name: str = "") -> list[ShardWeight]:
    """The weights of all shards, of a log's, or of one shard."""
    log, slash, _ = name.rpartition("/")
    request = pb.WeightsRequest(log=log if slash else name)
    found = ask_coordinator(address, "Weights", request, list[ShardWeight], "Plans")
    rows = [row for row in found if not slash or row.shard == name]
    if slash and not rows:
        raise InvalidArgumentError(f"shard is {name!r}, log {log} has no open shard of this name")
    return rows


def _print_rows(rows: Sequence[ShardWeight]) -> None:
    print_table(
        "Migration weights: 1 is usual, higher is likelier to be moved, 0 is never moved",
        ("shard", "weight", "learned", "set", "by", "when", "for"),
        [
            (r.shard, r.weight, r.learned, r.set_weight, r.by, time_text(r.at_us),
             r.inherited_from)
            for r in rows
        ],
    )  # fmt: skip
