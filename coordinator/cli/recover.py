"""`logstore recover`: lost metadata, rebuilt from the copies on disk."""

import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from coordinator.cli.common import AsJson, print_json, print_table, run, text
from coordinator.config import CoordinatorConfig
from coordinator.recovery.disks import Disks, instance_directories
from coordinator.recovery.facts import DiskScan, decode_scan, encode_scan
from coordinator.recovery.plan import RecoveryPlan, make_plan
from coordinator.recovery.write import RecoveredGeneration, write_embedded, write_etcd
from logstore.base.env import Env
from logstore.base.errors import ConfigError, InvalidArgumentError, RefusedError
from logstore.meta.records import ShardRecord

COORDINATOR = "coordinator"
_WORDS = {
    "lost": "LOST",
    "possible": "POSSIBLE LOSS",
    "left": "NOT RECOVERED",
    "note": "note",
}


def register(app: typer.Typer) -> None:
    app.command("recover")(recover)


def recover(
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder of `logstore up`.")
    ] = None,
    instance_data: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="An instance's data directory; repeat it."),
    ] = None,
    coordinator: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the coordinator's folder goes; with --data: DIR/coordinator.",
        ),
    ] = None,
    metadata: Annotated[
        str | None, typer.Option(metavar="URL", help="etcd://HOST:PORT,… instead of a folder.")
    ] = None,
    facts: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="What --scan-to wrote on another machine; repeat it."),
    ] = None,
    scan_to: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Only read the directories, and write what is in them."),
    ] = None,
    fill_holes: Annotated[
        bool,
        typer.Option("--fill-holes", help="Open an empty shard where no copy of some keys is."),
    ] = False,
    replace: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="etcd: write what it holds to FILE, then take it out."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Write it without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """Rebuild lost metadata from the instances' data directories. Everything must be stopped.

    Shows what can be recovered and what cannot; writes only after --yes or a typed confirmation.
    A coordinator's folder that is there is moved aside, never deleted.

    Example: logstore recover --data ./data
    Example: logstore recover --instance-data /disk1/a --facts b.json --metadata etcd://e1:2379
    """  # fmt: skip
    given = [*(instance_directories(data) if data else ()), *(instance_data or ())]
    directories = list(dict.fromkeys(path.resolve() for path in given))
    home = coordinator or (data / COORDINATOR if data is not None else None)
    if scan_to is None and ((home is None and metadata is None) or (coordinator and metadata)):
        raise InvalidArgumentError(
            "give one place for the metadata: --coordinator DIR (or --data), or --metadata URL"
        )
    if replace is not None and metadata is None:
        raise InvalidArgumentError("--replace is about etcd: give --metadata too")
    with Disks(directories) as disks:
        scan = disks.scan()
        if scan_to is not None:
            scan_to.write_bytes(encode_scan(scan))
            typer.echo(f"{len(scan.copies)} copies in {len(scan.instances)} directories: {scan_to}")
            return
        for path in facts or ():
            scan = scan.joined(_read_facts(path))
        plan = make_plan(scan.instances, scan.copies, fill_holes=fill_holes)
        if not as_json:
            _show(plan, scan)
        if not (yes or _is_confirmed(plan, as_json=as_json)):
            if as_json:
                print_json(_told(plan, None))
            else:
                typer.echo("nothing was written; --yes writes it")
            return
        written = run(_write(plan, home if metadata is None else None, metadata, replace))
        disks.accept(plan.cluster, written.generation, written.revision)
    elsewhere = sorted({i.instance for i in scan.instances} - {i.instance for i in disks.scanned})
    if as_json:
        print_json({**_told(plan, written), "accept_by_hand": elsewhere})
    else:
        _say_written(plan, written, elsewhere)


def _say_written(plan: RecoveryPlan, written: RecoveredGeneration, elsewhere: list[str]) -> None:
    if written.aside:
        typer.echo(f"what was there before is in {written.aside}")
    typer.echo(f"recovered: generation {written.generation} of cluster {plan.cluster}")
    for name in elsewhere:
        typer.echo(f"start {name} once with --accept-generation {written.generation}")


async def _write(
    plan: RecoveryPlan, home: Path | None, metadata: str | None, replace: Path | None
) -> RecoveredGeneration:
    env = Env()
    if home is not None:
        return await write_embedded(home, plan, env)
    assert metadata is not None
    config = CoordinatorConfig(data=Path(), metadata=metadata)
    store = config.open_metadata([metadata], None)
    try:
        return await write_etcd(store, plan, env, replace)
    finally:
        await store.close()


def _read_facts(path: Path) -> DiskScan:
    try:
        return decode_scan(path.read_bytes())
    except (OSError, msgspec.DecodeError) as e:
        raise ConfigError(f"--facts {path}: {e}") from None


def _is_confirmed(plan: RecoveryPlan, *, as_json: bool) -> bool:
    """Confirmation typed by hand; only a terminal is asked."""
    if as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    typed = typer.prompt(f"Type {plan.cluster} to write this", default="", show_default=False)
    if typed.strip() not in ("", plan.cluster):
        raise RefusedError(f"{typed!r} is not the cluster's id; nothing was written")
    return bool(typed.strip())


def _show(plan: RecoveryPlan, scan: DiskScan) -> None:
    typer.echo(f"cluster {plan.cluster}")
    print_table(
        "Directories",
        ("instance", "directory", "copies"),
        [
            (i.instance, i.directory, sum(c.instance == i.instance for c in scan.copies))
            for i in scan.instances
        ],
    )
    print_table(
        "Logs to recover",
        ("log", "shards", "copies", "records"),
        [
            (
                log.name,
                sum(s.log == log.name for s in plan.shards),
                sum(len(s.members()) for s in plan.shards if s.log == log.name),
                plan.records[log.name],
            )
            for log in plan.logs
        ],
    )
    print_table("Shards", ("shard", "range", "status", "leader", "others", "epoch"),
                [_row(s) for s in plan.shards])  # fmt: skip
    for notice in plan.told:
        typer.echo(f"{_WORDS[notice.kind]}: {notice.subject}: {notice.text}")


def _row(shard: ShardRecord) -> tuple[object, ...]:
    keys = shard.range
    end = text(keys.end) if keys.end is not None else "∞"
    return (
        shard.shard,
        f"[{text(keys.start) or '-∞'}, {end})",
        shard.status.value,
        shard.primary.instance,
        [m.instance for m in shard.learners],
        shard.epoch,
    )


def _told(plan: RecoveryPlan, written: RecoveredGeneration | None) -> dict[str, Any]:
    return {
        "cluster": plan.cluster,
        "logs": [{"log": log.name, "records": plan.records[log.name]} for log in plan.logs],
        "shards": [msgspec.to_builtins(s) for s in plan.shards],
        "told": [msgspec.to_builtins(t) for t in plan.told],
        "written": msgspec.to_builtins(written) if written is not None else None,
    }
