"""All models, by name."""

from types import ModuleType

from tests.models import (
    core,
    dedupe,
    feed,
    forward,
    lease,
    merge,
    migration,
    producer_table,
    reads,
    seal,
    tail,
)

MODELS: dict[str, ModuleType] = {
    "core": core,
    "producer-table": producer_table,
    "reads": reads,
    "lease": lease,
    "forward": forward,
    "seal": seal,
    "merge": merge,
    "dedupe": dedupe,
    "tail": tail,
    "feed": feed,
    "migration": migration,
}
"""Each module has `Rules` (what can be dropped), `CASES` (small, every rule dropped once) and
`LARGE` (all rules, larger bounds)."""
