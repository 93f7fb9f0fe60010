"""`logstore up`, `node`, `coordinator`, `demo`: commands that run processes."""

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from coordinator.cli.common import AsJson, check_writable, note, print_json, run
from coordinator.cli.logs import parse_option
from coordinator.limits import (
    CELLS,
    COORDINATORS,
    INSTANCES,
    PLANNING_PERIOD_S,
    PORT,
    REPLICAS,
    span,
)
from logstore.base.background import Background

_PASSED_ON = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}

Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A coordinator setting; repeat it."),
]


Metadata = Annotated[
    str | None,
    typer.Option(metavar="URL", help="etcd://HOST:PORT,… instead of the embedded metadata store."),
]


def register(app: typer.Typer) -> None:
    app.command("up")(up)
    app.command("demo")(demo)
    app.command("node", context_settings=_PASSED_ON)(node)
    app.command("coordinator", context_settings=_PASSED_ON)(coordinator)


def up(
    instances: Annotated[
        int | None,
        typer.Option(
            **span(INSTANCES),
            help="How many instances; default: those of the data, at least --replicas.",
        ),
    ] = None,
    data: Annotated[Path, typer.Option(help="Directory of the data.")] = Path("logstore-data"),
    port: Annotated[
        int, typer.Option(**span(PORT), help="The coordinator's; 0 takes a free one.")
    ] = 7400,
    ops_per_s: Annotated[
        float | None, typer.Option(min=1e-3, max=1e15, help="Capacity of each instance.")
    ] = None,
    bytes_per_s: Annotated[
        float | None, typer.Option(min=1e-3, max=1e15, help="Capacity of each instance.")
    ] = None,
    autopilot: Annotated[str | None, typer.Option(help="on, forecast-only or off")] = None,
    planning_period_s: Annotated[
        float | None,
        typer.Option(**span(PLANNING_PERIOD_S), help="Seconds between plans; default 300."),
    ] = None,
    metadata: Metadata = None,
    kafka: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT,…", help="A Kafka that moves feed through."),
    ] = None,
    instance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE,…",
            help="Describe an instance: name, tier, zone, ops, bytes, stored; repeat it.",
        ),
    ] = None,
    replicas: Annotated[
        int, typer.Option(**span(REPLICAS), help="Copies of a log that does not say.")
    ] = 1,
    coordinators: Annotated[
        int,
        typer.Option(**span(COORDINATORS), help="How many share the cells; more need --metadata."),
    ] = 1,
    cells: Annotated[
        int | None,
        typer.Option(**span(CELLS), help="Slices of the shards, each led by one; with --metadata."),
    ] = None,
    setting: Setting = None,
    as_json: AsJson = False,
) -> None:
    """Run a whole cluster here until Ctrl-C; the next `up` goes on with its data.

    Prints one line `ready ADDRESS` when it serves (with several coordinators all their addresses),
    and on standard error what has changed: instances of the data that are not started, what is
    missing without them, new instances. What `--instance` describes is kept for the next start.

    Example: logstore up --instances 3 --instance name=fast,tier=fast,zone=b,ops=500
    """
    from coordinator.local import instance_spec, survey
    from coordinator.local.cluster import ClusterOptions, running

    given = dict(parse_option(text) for text in setting or ())
    past = survey.before(data)
    survey.check_metadata(data, past, metadata)
    count = instances or max(1, replicas, survey.last_count(past), len(instance or ()))
    kept = past.run.instances if past.run is not None else ()
    specs = instance_spec.specs_of(instance or (), kept, count)
    described = tuple(specs[: len(instance)]) if instance else kept
    options = ClusterOptions(
        data=data,
        instances=count,
        port=port,
        specs=instance_spec.with_default_capacity(specs, ops_per_s, bytes_per_s),
        coordinator_settings=_for_coordinator(
            {"planning_period_s": planning_period_s, "cells": cells, **given}, metadata, kafka
        ),
        replicas=replicas,
        coordinators=coordinators,
        autopilot=autopilot,
        metadata=metadata,
        kafka=kafka,
    )

    run_now = survey.ClusterStart(replicas, metadata, described)

    async def work() -> None:
        stopped = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        tasks = Background("the cluster")
        serving, stopping = tasks.answer(_serve(options, stopped)), tasks.answer(stopped.wait())
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        if started.is_set():  # else it is Ctrl-C while it starts
            await asyncio.wait([serving])
        await tasks.stop()
        if not serving.cancelled():
            serving.result()

    started = asyncio.Event()

    async def _serve(options: ClusterOptions, stopped: asyncio.Event) -> None:
        async with running(options) as cluster:
            started.set()
            names = cluster.instance_addresses.keys()
            told = await survey.told(cluster.address, past, run_now, names)
            survey.keep(data, run_now)
            if as_json:
                print_json(
                    {
                        "ready": cluster.address,
                        "coordinators": cluster.coordinator_addresses,
                        "instances": cluster.instance_addresses,
                        "pids": cluster.pids,
                        "data": str(data),
                        "notes": told,
                    }
                )
            else:
                typer.echo(f"ready {','.join(cluster.coordinator_addresses)}")
            for sentence in told:
                note(sentence)
            sys.stdout.flush()
            await stopped.wait()

    run(work())


def _for_coordinator(
    given: dict[str, object], metadata: str | None, kafka: str | None
) -> dict[str, object]:
    from coordinator.cli.settings import coordinator_settings

    beside = {"metadata": metadata, "kafka": kafka}
    checked = coordinator_settings(beside | given)
    return {name: value for name, value in checked.items() if name in given}


def demo(
    seed: Annotated[int, typer.Option(help="Changes shards, arrival times and reads.")] = 1,
    no_autopilot: Annotated[
        bool, typer.Option("--no-autopilot", help="The same stream without moves.")
    ] = False,
    report: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("demo-report.json"),
    data: Annotated[
        Path | None, typer.Option(help="Keep the data here; default: a temporary directory.")
    ] = None,
    days: Annotated[int, typer.Option(min=2, max=60, help="Days to replay.")] = 6,
    metadata: Metadata = None,
    replicas: Annotated[int, typer.Option(min=1, max=3, help="Copies of each shard.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Replay real flights: a hot shard is forecast, moved live, and every record accounted for.

    Example: logstore demo --seed 2
    """
    from coordinator.local.demo.run import DemoOptions, run_demo

    check_writable("--report", report)
    options = DemoOptions(
        seed=seed,
        autopilot=not no_autopilot,
        report=report,
        data=data,
        days=days,
        as_json=as_json,
        metadata=metadata,
        replicas=replicas,
    )
    raise typer.Exit(run(run_demo(options)))


def node(context: typer.Context) -> None:
    """Run one instance in this process; takes the flags of logstore.node.main.

    Example: logstore node --instance a --data ./a --metadata 127.0.0.1:7400
    """
    from logstore.node.main import main

    _hand_over(context, main)


def coordinator(context: typer.Context) -> None:
    """Run one coordinator in this process; takes the flags of coordinator.main.

    Example: logstore coordinator --data ./coordinator --port 7400
    """
    from coordinator.main import main

    _hand_over(context, main)


def _hand_over(context: typer.Context, main: Callable[[list[str]], int]) -> None:
    if "--help" in context.args:
        typer.echo(f"{(context.command.help or '').strip()}\n")
    raise typer.Exit(main(list(context.args)))
