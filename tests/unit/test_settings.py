"""Settings: each name arrives, each one is read, bounds and units stand at the fields, and the page
that lists them is fresh."""

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pydantic
import pytest
from annotated_types import Interval

from coordinator import main as coordinator_main
from coordinator import settings_reference
from coordinator.config import Autopilot, CoordinatorConfig
from coordinator.migration.records import MoveOptions
from logstore.base.command_line import from_command_line, refusals
from logstore.meta.records import LogOptions
from logstore.meta.settings import MetadataSettings
from logstore.node import main as node_main
from logstore.node.config import NodeConfig
from sharder.config import PlannerConfig, RiskConfig
from sharder.placement import PlacementConfig
from sharder.settings import docstrings, limits_in, limits_of
from sharder.simulate.cluster import Settings

ROOT = Path(__file__).parents[2]
PACKAGES = ("profiler", "sharder", "logstore", "coordinator", "bench")
PROCESSES: tuple[type[MetadataSettings], ...] = (NodeConfig, CoordinatorConfig)
DATACLASSES: tuple[type[Any], ...] = (
    MoveOptions, LogOptions, PlannerConfig, RiskConfig, PlacementConfig, Settings,
)  # fmt: skip

OF_BOTH = {
    "metadata-user": ("u", "u"),
    "metadata-password": ("p,q", "p,q"),
    "metadata-tls-ca": ("/a", Path("/a")),
    "metadata-tls-cert": ("/b", Path("/b")),
    "metadata-tls-key": ("/c", Path("/c")),
    "advertise": ("[::1]:7", "[::1]:7"),
    "kafka": ("k:1,k:2", "k:1,k:2"),
    "report-interval-s": ("2.5", 2.5),
    "metrics-listen": ("h:0", "h:0"),
    "tls-ca": ("/d", Path("/d")),
    "tls-cert": ("/e", Path("/e")),
    "tls-key": ("/f", Path("/f")),
}
NODE = OF_BOTH | {
    "instance": ("null", "null"),
    "data": ("/g", Path("/g")),
    "listen": ("h:7", "h:7"),
    "metadata": ('["etcd://a:1,b:2"]', ["etcd://a:1,b:2"]),
    "coordinators": ('["c:1", "c:2"]', ["c:1", "c:2"]),
    "tier": ("fast", "fast"),
    "zone": ("a, b", "a, b"),
    "ops-per-s-max": ("1e3", 1e3),
    "bytes-per-s-max": ("1e4", 1e4),
    "burst-s": ("3", 3.0),
    "stored-bytes-max": ("7", 7),
    "follower-timeout-s": ("1.6", 1.6),
    "hand-over-timeout-s": ("5.5", 5.5),
    "stop-hand-over-s": ("0", 0.0),
    "lease-s": ("1.1", 1.1),
    "grace-s": ("1.7", 1.7),
    "heartbeat-interval-s": ("0.3", 0.3),
    "follower-read-stale-s": ("1.2", 1.2),
    "session-wait-s": ("0.6", 0.6),
    "retry-interval-s": ("0.2", 0.2),
    "copy-bytes-per-s": ("1e8", 1e8),
    "copy-bytes-per-s-min": ("1e6", 1e6),
    "copy-bytes-per-s-cluster": ("1e7", 1e7),
    "copy-p99-ratio-max": ("1.3", 1.3),
    "copy-p99-floor-ms": ("4", 4.0),
    "profile": ("false", False),
    "sample-keys-per-batch": ("17", 17),
    "scrub-interval-s": ("60", 60.0),
    "access-samples-per-s": ("50", 50),
    "scrub-bytes-per-s": ("2e6", 2e6),
    "metrics-shards-max": ("201", 201),
    "read-threads": ("3", 3),
    "replace": ("true", True),
    "accept-generation": ("0123456789abcdef", "0123456789abcdef"),
    "reclaim-interval-s": ("6", 6.0),
    "disk-free-share-min": ("0.1", 0.1),
}
COORDINATOR = OF_BOTH | {
    "data": ("/g", Path("/g")),
    "metadata": ("etcd://a:1,b:2", "etcd://a:1,b:2"),
    "cluster": ("0123", "0123"),
    "host": ("::1", "::1"),
    "port": ("0", 0),
    "cells": ("3", 3),
    "planning-period-s": ("30", 30.0),
    "alive-s": ("4", 4.0),
    "slot-s": ("31", 31.0),
    "wall-s-per-slot": ("32", 32.0),
    "seasons-slots": ("[24, 168]", (24, 168)),
    "horizon-slots": ("13", 13),
    "outlook-slots": ("14", 14),
    "history-slots": ("337", 337),
    "heatmap-buckets": ("128", 128),
    "autopilot": ("forecast-only", Autopilot.FORECAST_ONLY),
    "threshold": ("0.7", 0.7),
    "hysteresis": ("0.06", 0.06),
    "cooldown-s": ("901", 901.0),
    "flip-back-s": ("3601", 3601.0),
    "margin-periods": ("2", 2.0),
    "moves-max": ("4", 4),
    "seed": ("5", 5),
    "move": ('{"soak_s": 7, "feed": "direct"}', {"soak_s": 7, "feed": "direct"}),
    "replicas": ("3", 3),
    "lost-after-s": ("31", 31.0),
    "feed-sweep-s": ("32", 32.0),
}
"""Flag -> a text that it takes, and the value that the text means; as they were before there was
one mechanism. Names are kept for ever: what is added is added here."""

GOLDEN: list[tuple[Any, str, dict[str, tuple[str, Any]]]] = [
    (node_main, "LOGSTORE_NODE_", NODE),
    (coordinator_main, "LOGSTORE_COORDINATOR_", COORDINATOR),
]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("LOGSTORE_") or name.upper() == "KAFKA":
            monkeypatch.delenv(name)


def arrived(made: MetadataSettings, names: dict[str, tuple[str, Any]]) -> dict[str, Any]:
    found = {name: getattr(made, name.replace("-", "_")) for name in names}
    found["metadata-password"] = made.metadata_password.get_secret_value()  # type: ignore[union-attr]
    return found


def flags_of(names: dict[str, tuple[str, Any]]) -> Iterator[str]:
    for name, (text, value) in names.items():
        yield f"--{name}"
        yield from value if isinstance(value, list) else [text]


@pytest.mark.parametrize(("main", "prefix", "names"), GOLDEN)
def test_every_flag_arrives(main: Any, prefix: str, names: dict[str, tuple[str, Any]]) -> None:
    made = main._config(list(flags_of(names)))
    assert arrived(made, names) == {name: value for name, (_, value) in names.items()}


@pytest.mark.parametrize(("main", "prefix", "names"), GOLDEN)
def test_every_environment_name_arrives(
    main: Any, prefix: str, names: dict[str, tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, (text, _) in names.items():
        monkeypatch.setenv(f"{prefix}{name.replace('-', '_').upper()}", text)
    made = main._config([])
    assert arrived(made, names) == {name: value for name, (_, value) in names.items()}
    assert set(type(made).model_fields) == {name.replace("-", "_") for name in names}


LEAST = {
    node_main: ["--instance=i", "--data=d", "--metadata", "h:1"],
    coordinator_main: ["--data=d"],
}


@pytest.mark.parametrize("main", LEAST)
def test_kafka_has_names_of_its_own_and_a_flag_goes_before_all(
    main: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOGSTORE_KAFKA", "KAFKA"):
        monkeypatch.setenv(name, f"{name.lower().replace('_', '-')}:1")
        assert main._config(LEAST[main]).kafka == f"{name.lower().replace('_', '-')}:1"
    assert main._config([*LEAST[main], "--kafka", "f:1"]).kafka == "f:1"
    with pytest.raises(SystemExit):
        main._config([*LEAST[main], "--LOGSTORE-KAFKA", "f:1"])


def test_flags_of_several_values_and_flags_alone() -> None:
    made = node_main._config(
        ["--instance", "i", "--data", "d", "--metadata", "h:1", "h:2", "--replace", "--profile=0"]
    )
    assert (made.metadata, made.coordinators) == (["h:1", "h:2"], ["h:1", "h:2"])
    assert (made.replace, made.profile) == (True, False)
    last = node_main._config([*LEAST[node_main], "--metadata", "h:3", "--tier", "a", "--tier=b"])
    assert (last.metadata, last.tier) == (["h:3"], "b")


@pytest.mark.parametrize(
    ("main", "flags", "said"),
    [
        (node_main, ["--lease-s", "61"], "lease_s is '61': Input should be less than or equal"),
        (node_main, ["--tier", "a\nb"], "tier is 'a\\nb': Value error"),
        (node_main, ["--metadata", "::1:7"], "metadata.0 is '::1:7': Value error"),
        (node_main, ["--lease-s=2", "--grace-s=2"], "grace_s is 2.0 s, the least is 1.1 x lease_s"),
        (coordinator_main, ["--port", "65536"], "port is '65536': Input should be less than"),
        (coordinator_main, ["--move", "{"], "move is '{': Input should be a valid dictionary"),
        (coordinator_main, ["--autopilot", "of"], "autopilot is 'of': Input should be 'on'"),
        (coordinator_main, ["--cells", "2"], "cells is 2, the embedded store has 1"),
    ],
)
def test_a_value_out_of_bounds_is_one_line(
    main: Any, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([*LEAST[main], *flags]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert said in line
    assert line.count("\n") == 1


def test_what_is_missing_is_named_and_no_secret_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOGSTORE_NODE_METADATA_PASSWORD", "hidden")
    assert node_main.main(["--instance", "i", "--metadata", "h:1"]) == 2
    assert capsys.readouterr().err == "error: data is missing: Field required\n"


def test_null_in_the_environment_is_an_empty_object_or_list(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOGSTORE_COORDINATOR_MOVE", "null")
    assert coordinator_main._config(["--data", "d"]).move == {}
    monkeypatch.setenv("LOGSTORE_NODE_COORDINATORS", "null")
    assert node_main._config(LEAST[node_main]).coordinators == ["h:1"]


def test_text_of_the_environment_that_is_no_json_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOGSTORE_COORDINATOR_SEASONS_SLOTS", "[24,")
    assert coordinator_main.main(["--data", "d"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: seasons_slots is '[24,': Input should be a valid tuple")
    assert said.count("\n") == 1


@pytest.mark.parametrize("settings", PROCESSES)
def test_every_bound_of_a_process_is_kept(settings: type[MetadataSettings]) -> None:
    least = {"instance": "i", "data": "d", "metadata": ["h:1"]}
    if settings is CoordinatorConfig:
        least = {"data": "d"}
    for name, field in settings.model_fields.items():
        interval = limits_in(tuple(field.metadata)).interval
        if interval is None:
            continue
        for value in beyond(interval):
            with pytest.raises(pydantic.ValidationError) as refused:
                settings(**(least | {name: value}))
            assert refusals(refused.value)[0].startswith(f"{name} is {value!r}: Input should be ")


def beyond(interval: Interval) -> Iterator[Any]:
    low = interval.ge if interval.gt is None else interval.gt
    yield low - 1  # type: ignore[operator]
    if interval.le is not None:
        yield interval.le + 1  # type: ignore[operator]


def described() -> Iterator[tuple[str, str, Any, tuple[Any, ...], str]]:
    """Owner, field, type, annotations and description of every setting."""
    for settings in PROCESSES:
        for name, field in settings.model_fields.items():
            said = field.description or ""
            yield settings.__name__, name, field.annotation, tuple(field.metadata), said
    for owner in DATACLASSES:
        hints, texts = (
            get_type_hints(owner, include_extras=True), docstrings(owner),
        )  # fmt: skip
        for setting in fields(owner):
            hint = hints[setting.name]
            kind = get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
            metadata = getattr(hint, "__metadata__", ())
            yield owner.__name__, setting.name, kind, metadata, texts[setting.name]


SETTINGS = list(described())
UNBOUNDED = {"retention_s", "retention_bytes", "min_in_sync"}
"""Numbers that `coordinator.catalog.catalog` refuses, or bounds by another field."""


@pytest.mark.parametrize(
    ("owner", "name", "kind", "metadata", "said"),
    SETTINGS,
    ids=[f"{s[0]}.{s[1]}" for s in SETTINGS],
)
def test_every_setting_says_what_it_does_in_which_unit_and_bound(
    owner: str, name: str, kind: Any, metadata: tuple[Any, ...], said: str
) -> None:
    assert said.endswith((".", "…")), said
    limits = limits_in(metadata)
    kinds = set(get_args(kind)) or {kind}
    if kinds & {int, float}:
        assert limits.unit
        assert (limits.interval is not None) != (name in UNBOUNDED)


def test_no_default_is_out_of_its_own_bounds() -> None:
    owner: Any  # mypy: `type[Any]` is not hashable
    for owner in DATACLASSES:
        made = Settings(1, 1.0, 1.0) if owner is Settings else owner()
        for name, limits in limits_of(owner).items():
            assert limits.complaint(name, getattr(made, name)) is None


# ---- every setting is read ---------------------------------------------------------------------

THROUGH = {
    "outlook_slots": "slots_ahead", "follower_timeout_s": "timing", "lease_s": "timing",
    "grace_s": "timing", "hand_over_timeout_s": "timing", "metadata_user": "open_metadata",
    "metadata_password": "open_metadata", "metadata_tls_ca": "open_metadata",
    "metadata_tls_cert": "open_metadata", "metadata_tls_key": "open_metadata",
}  # fmt: skip
"""A setting that its own model reads, and what the others ask the model for."""
REFUSED = {"retention_s", "retention_bytes"}
"""Refused until they act."""
READERS = {
    "NodeConfig": ("logstore", {"config", "_config", "node"}),
    "CoordinatorConfig": ("coordinator", {"config", "_config"}),
    "MoveOptions": ("coordinator", {"options"}),
    "LogOptions": ("", {"options"}),
    "PlannerConfig": ("sharder", {"config", "_config"}),
    "RiskConfig": ("sharder", {"config", "risk"}),
    "PlacementConfig": ("sharder", {"config"}),
    "Settings": ("sharder", {"settings", "s"}),
}
"""Model -> the package that reads it (empty: any), and what holds it there is called."""


def reads() -> set[tuple[str, str, str]]:
    """(package, name of the object, attribute) of every attribute that a package reads, and
    (package, "", text) of every text that may name one."""
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if path.name == "settings_reference.py" or "_pb2" in path.name:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    at = node.value
                    owner = at.attr if isinstance(at, ast.Attribute) else getattr(at, "id", "")
                    found.add((package, owner, node.attr))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add((package, "", node.value))
    return found


def test_every_setting_is_read() -> None:
    found, dead = reads(), []
    for owner, name, *_ in SETTINGS:
        package, places = READERS[owner]
        asked = THROUGH.get(name, name) if owner in ("NodeConfig", "CoordinatorConfig") else name
        if owner == "MoveOptions" and name.endswith("_timeout_s"):  # the transition table names it
            places = {*places, ""}
        packages = (package,) if package else PACKAGES
        if not any((p, place, asked) in found for p in packages for place in places):
            dead.append(f"{owner}.{name}")
    assert sorted(dead) == sorted(f"LogOptions.{name}" for name in REFUSED)


# ---- the page ----------------------------------------------------------------------------------


def test_the_page_is_fresh_and_lists_every_environment_name() -> None:
    assert settings_reference.main(["--check"]) == 0
    listed = settings_reference.PAGE.read_text()
    named = set()
    for path in itertools.chain.from_iterable((ROOT / p).rglob("*.py") for p in PACKAGES):
        named |= set(re.findall(r"\bLOGSTORE_[A-Z0-9_]*[A-Z0-9]\b", path.read_text()))
    named -= {"LOGSTORE_NODE", "LOGSTORE_COORDINATOR"}
    assert len(named) > 10
    assert [name for name in sorted(named) if f"`{name}`" not in listed] == []
    assert set(settings_reference.VARIABLES) <= named


def test_a_stale_page_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "settings.md"
    monkeypatch.setattr(settings_reference, "PAGE", page)
    assert settings_reference.main(["--check"]) == 1
    assert settings_reference.main([]) == 0
    assert settings_reference.main(["--check"]) == 0
    page.write_text(page.read_text().replace("1.5", "2.5"))
    assert settings_reference.main(["--check"]) == 1
    assert "settings.md is stale" in capsys.readouterr().out


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        from_command_line(NodeConfig, ["--help"], prog="logstore node", description="An instance.")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: logstore node ")
    assert [name for name in NODE if f"--{name} " not in said] == []
