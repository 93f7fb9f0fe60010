"""`python -m bench services up|down|status`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bench.services.base import Service, ServiceError
from bench.services.etcd import etcd
from bench.services.kafka import kafka
from bench.services.nats import nats
from bench.services.redis import redis
from bench.services.runs import SERVICES_FILE, end_run, open_run, run_processes, runs_root, sweep

app = typer.Typer(help="Start, list and end real services on loopback.", no_args_is_help=True)

JsonFlag = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


def _show(data: dict[str, object], lines: list[str], as_json: bool) -> None:
    typer.echo(json.dumps(data) if as_json else "\n".join(lines))


@app.command()
def up(
    kafka_brokers: Annotated[int, typer.Option("--kafka", help="Brokers: 0, 1 or 3.")] = 1,
    etcd_members: Annotated[int, typer.Option("--etcd", help="Members: 0, 1 or 3.")] = 3,
    with_nats: Annotated[bool, typer.Option("--nats", help="NATS JetStream too.")] = False,
    with_redis: Annotated[bool, typer.Option("--redis", help="Redis too.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Start services that stay until `down`. Example: python -m bench services up --kafka 3"""
    run = open_run(detached=True)
    wanted: list[Service] = []
    try:
        if kafka_brokers:
            wanted.append(kafka(kafka_brokers, run=run))
        if etcd_members:
            wanted.append(etcd(etcd_members, run=run))
        if with_nats:
            wanted.append(nats(run=run))
        if with_redis:
            wanted.append(redis(run=run))
        for service in wanted:
            service.start()
    except ServiceError as error:
        end_run(run.folder)
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    except BaseException:
        end_run(run.folder)
        raise
    found = {s.name: {"address": s.address, "source": s.source} for s in wanted}
    (run.folder / SERVICES_FILE).write_text(json.dumps(found))
    lines = [f"{name} {entry['address']} ({entry['source']})" for name, entry in found.items()]
    _show({"run": run.run_id, "services": found}, lines, as_json)


@app.command()
def down(as_json: JsonFlag = False) -> None:
    """End every service that `up` or a killed run left, and remove its data."""
    ended = sweep(detached_too=True)
    _show({"ended": ended}, [f"ended {run}" for run in ended] or ["nothing was up"], as_json)


@app.command()
def status(as_json: JsonFlag = False) -> None:
    """What is up, with addresses and process ids."""
    found: dict[str, object] = {}
    lines: list[str] = []
    root = runs_root()
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        pids = [process.pid for process in run_processes(folder)]
        services = _services(folder)
        found[folder.name] = {"pids": pids, "services": services}
        lines.append(f"{folder.name} pids {pids}")
        lines += [f"  {name} {entry['address']}" for name, entry in services.items()]
    _show({"runs": found}, lines or ["nothing is up"], as_json)


def _services(folder: Path) -> dict[str, dict[str, str]]:
    try:
        loaded: dict[str, dict[str, str]] = json.loads((folder / SERVICES_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return loaded
