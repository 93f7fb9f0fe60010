"""docs/design/planner.md describes every policy that can be named, and no other."""

import re
from pathlib import Path

from sharder.config import PlannerConfig
from sharder.plan import POLICIES

PAGE = Path(__file__).resolve().parents[3] / "docs" / "design" / "planner.md"


def test_the_table_has_every_policy() -> None:
    table = PAGE.read_text().partition("| policy |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(rows) == sorted(POLICIES)
    named = [name for name in PlannerConfig().policies if name in rows]
    assert [name for name in rows if name in named] == named, "in the order of the default"
