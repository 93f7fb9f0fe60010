"""The results of planning rounds, and their counts."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from sharder.operators import Operator, Plan, Refusal


@dataclass(frozen=True, slots=True)
class PlanNote:
    """A plan that was made, which of its moves were started, or why none was made."""

    at_us: int
    plan: Plan | None
    started: tuple[str, ...] = ()
    skipped: str = ""


class PlanCounts:
    """Plans since the start: how many, operators by trigger, candidates refused by reason.

    Every cell draws the same plan, so each counts its own part of it: sums over cells are true.
    """

    def __init__(self) -> None:
        self.rounds: Counter[str] = Counter()
        self.started = 0
        self.operators: Counter[tuple[str, str]] = Counter()
        """(kind, trigger) of operators due before the next plan, started or not."""
        self.refused: Counter[str] = Counter()

    def add(self, note: PlanNote, due: Iterable[Operator], refused: Iterable[Refusal]) -> None:
        """`due`, `refused`: the cell's own ones."""
        self.rounds["skipped" if note.plan is None else "made"] += 1
        self.started += len(note.started)
        self.refused.update(f"{r.reason.name.lower()}" for r in refused)
        self.operators.update((op.kind, op.trigger.value) for op in due)

    @classmethod
    def total(cls, parts: "Iterable[PlanCounts]") -> "PlanCounts":
        """The sum of several cells'."""
        found = cls()
        for part in parts:
            found.rounds.update(part.rounds)
            found.started += part.started
            found.operators.update(part.operators)
            found.refused.update(part.refused)
        return found
