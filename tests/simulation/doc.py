"""Tables that a run writes into docs/measurements/simulation.md."""

from pathlib import Path

DOC = Path(__file__).resolve().parents[2] / "docs" / "measurements" / "simulation.md"


def write_between(name: str, text: str) -> None:
    """Replace what stands between the comments `name:begin` and `name:end`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    whole = DOC.read_text(encoding="utf-8")
    head, found, rest = whole.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{DOC.name} has no {begin} … {end}")
    DOC.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")
