"""The results of planning rounds, and their counts."""

from collections import Counter
from dataclasses import dataclass

from sharder.operators import Plan


@dataclass(frozen=True, slots=True)
class PlanNote:
    """A plan that was made, which of its moves were started, or why none was made."""

    at_us: int
    plan: Plan | None
    started: tuple[str, ...] = ()
    skipped: str = ""


class PlanCounts:
    """Plans since the start: how many, operators by trigger, candidates refused by reason."""

    def __init__(self) -> None:
        self.rounds: Counter[str] = Counter()
        self.started = 0
        self.operators: Counter[tuple[str, str]] = Counter()
        """(kind, trigger) of operators due before the next plan, started or not."""
        self.refused: Counter[str] = Counter()

    def add(self, note: PlanNote) -> None:
        self.rounds["skipped" if note.plan is None else "made"] += 1
        self.started += len(note.started)
        if note.plan is not None:
            self.refused.update(f"{r.reason.name.lower()}" for r in note.plan.refused)
            due = (op for op in note.plan.operators if op.due)
            self.operators.update((op.kind, op.trigger.value) for op in due)
