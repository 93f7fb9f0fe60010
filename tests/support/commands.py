"""Every command of `logstore`, found by asking the parser, with arguments that are right."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from coordinator.cli.checked import kind as kind_of
from coordinator.cli.main import app

STARTING = ("up", "demo")
"""They run a cluster when all is well: given only what must be refused before."""
WAITING = (*STARTING, "tail")
PASSING_ON = ("node", "coordinator")
"""Their settings are pydantic fields: test_addresses.py and the fields' own bounds."""

BASE: dict[str, list[str]] = {
    "append": ["bounds", "k", "v"],
    "read": ["bounds", "--limit=1"],
    "tail": ["bounds", "--from-start", "--limit=1"],
    "log create": ["other"],
    "log describe": ["bounds"],
    "log count": ["bounds"],
    "log delete": ["nolog", "--yes"],
    "heatmap": ["bounds"],
    "accesses": ["bounds"],
    "correlation": ["bounds"],
    "move": ["bounds/0", "instance-2", "--dry-run"],
    "pause": ["m9"], "resume": ["m9"], "abort": ["m9"], "rollback": ["m9"], "complete": ["m9"],
    "drain": ["instance-2", "--dry-run"],
    "split": ["bounds/0", "--dry-run", "--at=m"],
    "merge": ["bounds/0", "bounds/1", "--dry-run"],
    "autopilot": ["off"],
    "planner get": [], "planner set": ["cooldown_s=1"], "planner reset": ["cooldown_s"],
    "planner history": [], "weight": ["bounds/0"], "place": ["bounds", "k"],
    "verify": ["bounds/0"],
    "calendar add": ["e", "--start=2026-01-01", "--end=2026-01-02"],
    "calendar remove": ["e"],
    "profiles set": ["g", "--expect=profile.csv"],
    "profiles remove": ["g"],
    "simulate": ["--series=series.csv", "--cache=cache"],
    "forecast": [], "migrations": [], "reshapes": [], "shards": [], "stats": [],
    "instances list": [], "instances latency": [], "instances retire": ["instance-2", "--dry-run"],
    "copies list": [], "copies adopt": ["instance-2", "17", "--dry-run"],
    "copies discard": ["instance-2", "17", "--dry-run"], "log restore": ["nolog", "--dry-run"],
    "doctor": [], "cells": [], "recover": ["--data=empty"],
    "plan": [], "calendar list": [], "profiles list": [], "log list": [], "up": [], "demo": [],
}  # fmt: skip
"""By command: arguments with which it ends by itself, on a cluster that has a log `bounds`."""
SIGNED = {"--timestamp", "--since", "--seed"}
"""Numbers without a lower bound of their own."""


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, child in getattr(command, "commands", {}).items():
        if getattr(child, "commands", None):
            yield from leaves(child, (*path, name))
        else:
            yield " ".join((*path, name)), child


COMMANDS = dict(leaves(typer.main.get_command(app)))
PARAMETERS = [
    (command, parameter)
    for command, found in COMMANDS.items()
    if command not in PASSING_ON
    for parameter in found.params
    if parameter.name not in ("help", "as_json", "address") and not getattr(parameter, "is_flag", 0)
]


def kind(parameter: Any) -> str:
    return {int: "number", float: "number", str: "text", Path: "path", bytes: "bytes"}[
        kind_of(parameter)
    ]


def bounds(parameter: Any) -> tuple[float | None, float | None]:
    answer = parameter.type_descriptor.parameter_info
    return answer.min, answer.max


def name_of(parameter: Any) -> str:
    if parameter.param_type_name == "option":
        return str(max(parameter.opts, key=len))
    return str(parameter.name)
