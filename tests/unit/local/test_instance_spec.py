"""`up --instance`: names, tiers, zones and capacities, kept for the next start."""

from pathlib import Path

import pytest

from coordinator.local.instance_spec import (
    InstanceSpec,
    instance_folders,
    parse_spec,
    specs_of,
    with_default_capacity,
)
from coordinator.local.survey import Before, ClusterStart, last_count
from logstore.base.env import Env
from logstore.base.errors import ConfigError
from logstore.node.instance.identity import FILE, IdentityFile, begin


def test_each_part_is_a_setting_of_the_instance() -> None:
    spec = parse_spec("name=fast,tier=nvme,zone=b,ops=500,bytes=1e6,stored=1e9", 1)
    assert spec == InstanceSpec("fast", "nvme", "b", 500.0, 1e6, 10**9)
    assert spec.settings() == {
        "tier": "nvme", "zone": "b", "ops_per_s_max": 500.0, "bytes_per_s_max": 1e6,
        "stored_bytes_max": 10**9,
    }  # fmt: skip
    assert parse_spec("zone=b", 2) == InstanceSpec("instance-2", zone="b")
    assert parse_spec("zone=b", 2).settings() == {"zone": "b"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("fast", "--instance has 'fast', its parts are name=…, tier=…"),
        ("cpu=3", "--instance has 'cpu=3', its parts are"),
        ("ops=1,ops=2", "gives ops twice, as 1 and as 2"),
        ("ops=-1", "ops is '-1', it must be a number above 0 and at most 1e15"),
        ("ops=nan", "ops is 'nan', it must be"),
        ("ops=many", "ops is 'many', it must be"),
        ("name=coordinator", "name is 'coordinator', it must be 1 to 64"),
        ("name=../x", "name is '../x', it must be"),
        ("name=", "name is '', it must be"),
        ("tier=" + "x" * 65, "--instance: tier"),
    ],
)
def test_a_wrong_part_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("…", ".")):
        parse_spec(text, 1)


def test_the_others_are_plain_and_no_name_is_there_twice() -> None:
    names = [s.name for s in specs_of(["name=instance-2", "name=b"], (), 4)]
    assert names == ["instance-2", "b", "instance-1", "instance-3"]
    with pytest.raises(ConfigError, match="gives the name instance-2 twice"):
        specs_of(["name=instance-2", "zone=b"], (), 4)  # the second is instance-2 by its place
    with pytest.raises(ConfigError, match="gives the name a twice"):
        specs_of(["name=a", "name=a"], (), 3)
    with pytest.raises(ConfigError, match="is given 2 times, --instances is 1"):
        specs_of(["name=a", "name=b"], (), 1)


def test_the_next_start_is_as_the_last_one() -> None:
    kept = (InstanceSpec("fast", tier="nvme"), InstanceSpec("slow"))
    past = Before(ClusterStart(1, None, kept), frozenset({"fast", "slow", "instance-1"}))
    count = last_count(past)
    assert [s.name for s in specs_of((), kept, count)] == ["fast", "slow", "instance-1"]
    assert [s.name for s in specs_of((), kept, 1)] == ["fast"]
    plain = Before(ClusterStart(1), frozenset({"instance-1", "instance-3"}))
    assert [s.name for s in specs_of((), (), last_count(plain))] == [
        "instance-1", "instance-2", "instance-3",
    ]  # fmt: skip


def test_what_is_given_for_all_yields_to_what_one_says() -> None:
    specs = with_default_capacity([InstanceSpec("a", ops=5.0), InstanceSpec("b")], 9.0, None)
    assert [s.ops for s in specs] == [5.0, 9.0]


def test_a_folder_is_an_instances_by_its_identity(tmp_path: Path) -> None:
    for name in ("coordinator", "logs", "instance-10", "instance-2", "fast", "copy", "broken"):
        (tmp_path / name).mkdir()
    for name in ("fast", "copy"):  # a person copied the folder of `fast`
        kept = IdentityFile(tmp_path / name)
        kept.save(begin(kept, "fast", Env()))
    (tmp_path / "broken" / FILE).write_text("{")
    assert [p.name for p in instance_folders(tmp_path)] == ["fast", "instance-2", "instance-10"]
    assert instance_folders(tmp_path / "none") == []
