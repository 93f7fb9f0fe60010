"""`logstore place`: where a key of a balanced log has its place, before its first write."""

from typing import Annotated

import typer

from coordinator.cli.common import ADDRESS, Address, AsJson, print_json, run, text
from coordinator.cli.keys import raw
from logstore.base.errors import InvalidArgumentError
from logstore.base.types import Placed
from logstore.client.client import connect
from logstore.client.options import PlaceOptions


def register(app: typer.Typer) -> None:
    app.command("place")(place)


def place(
    name: Annotated[str, typer.Argument(metavar="LOG", help="A balanced log.")],
    key: Annotated[bytes, typer.Argument(parser=raw, metavar="KEY", help="The key.")],
    size: Annotated[
        int | None, typer.Option(min=1, help="Bytes of a record of this key; default: learned.")
    ] = None,
    schema: Annotated[
        str, typer.Option(help="Whose learned rate and size count; default: the log's.")
    ] = "",
    randomness: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="1: by headroom alone; default: the log's option."),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="INSTANCE=FACTOR", help="Times its share, 0 excludes it; repeat it."),
    ] = None,
    address: Address = ADDRESS,
    as_json: AsJson = False,
) -> None:
    """Give a key of a balanced log its place, by predicted headroom; it keeps it for ever.

    A key that has its place already is only looked up.

    Example: logstore place carts user-1 --size 1000 --randomness 0.2
    """
    options: PlaceOptions = {"schema": schema, "size": size, "randomness": randomness}
    options["weights"] = dict(_factor(item) for item in weights or ())

    async def work() -> Placed:
        async with connect(address) as db:
            return await (await db.log(name)).place(key, **options)

    found = run(work())
    if as_json:
        print_json(found)
        return
    typer.echo(
        f"{text(key)}: shard {found.shard} on {found.instance}, virtual key"
        f" {found.virtual_key.hex()}"
    )


def _factor(item: str) -> tuple[str, float]:
    instance, equals, factor = item.rpartition("=")
    try:
        if not equals or not instance:
            raise ValueError
        return instance, float(factor)
    except ValueError:
        raise InvalidArgumentError(
            f"--weights is {item!r}, expected INSTANCE=FACTOR, such as instance-1=0.5"
        ) from None
