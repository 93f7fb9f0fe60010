"""What can be said of the container files without an engine."""

import importlib.util
import re
import tomllib
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
RULES = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()


@pytest.fixture(scope="module")
def image_lock() -> ModuleType:
    loader = SourceFileLoader("image_lock", str(ROOT / "scripts" / "image-lock"))
    spec = importlib.util.spec_from_loader("image_lock", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_image_gets_what_runs_and_nothing_else(image_lock: ModuleType) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    part = image_lock.part(lock, project, ["kafka", "etcd"])
    known, kept = image_lock.entries(lock), image_lock.entries(part)
    assert {image_lock.name_of(d) for d in project["dependencies"]} <= kept.keys()
    assert {"aiokafka", "aetcd"} <= kept.keys()
    dev = {image_lock.name_of(d) for d in project["optional-dependencies"]["dev"]}
    assert not kept.keys() & (dev | {"matplotlib", "confluent-kafka"})
    for name, (_, via) in known.items():  # closed: whatever a kept package needs is kept
        if {image_lock.name_of(v) for v in via if v != image_lock.OURS} & kept.keys():
            assert name in kept
    assert all(kept[n][0].count("--hash=") == known[n][0].count("--hash=") > 0 for n in kept)


def test_an_unknown_extra_is_refused(image_lock: ModuleType) -> None:
    project = {"dependencies": ["a"], "optional-dependencies": {}}
    with pytest.raises(KeyError):
        image_lock.part("a==1 --hash=sha256:0\n    # via logstore (pyproject.toml)", project, ["x"])


def test_rules_ask_for_metrics_that_exist() -> None:
    shown = "".join(
        (ROOT / p).read_text() for p in ("logstore/node/metrics.py", "coordinator/metrics.py")
    )
    families = set(re.findall(r'"(logstore_\w+)"', shown))
    figures = re.search(r"SHARD_FIGURES = \((.*?)\n\)", shown, re.DOTALL)
    assert figures is not None
    families |= {f"logstore_shard_{n}" for n in re.findall(r'\("(\w+)"', figures.group(1))}
    expressions = re.sub(r"(summary|runbook):.*", "", RULES)
    asked = {n.removesuffix("_total") for n in re.findall(r"\blogstore_\w+", expressions)}
    assert asked
    assert asked <= {f.removesuffix("_total") for f in families}


def test_every_rule_names_its_part_of_the_runbook() -> None:
    headings = re.findall(
        r"^##+ (.*)$", (ROOT / "docs" / "how-to" / "runbook.md").read_text(), re.MULTILINE
    )
    anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
    named = re.findall(r"runbook: docs/how-to/runbook\.md#(\S+)", RULES)
    assert len(named) == len(re.findall("- alert:", RULES))
    assert set(named) <= anchors


def test_every_party_of_the_compose_file_is_bounded() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    services = text[text.index("\nservices:") : text.index("\nnetworks:")]
    names = re.findall(r"^  (\w+):$", services, re.MULTILINE)
    assert names == ["e1", "e2", "e3", "kafka", "c1", "c2", "i1", "i2", "i3", "i4", "i5", "i6",
                     "prometheus"]  # fmt: skip
    for field in ("read_only: true", "cap_drop: [ALL]", "no-new-privileges:true", "pids_limit"):
        assert field in text[: text.index("\nservices:")]
