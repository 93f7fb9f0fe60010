"""`python -m tests.models [NAME...] [--large]`: search; print the shortest way to a violation."""

import argparse
import time

from tests.models.catalog import MODELS


def main() -> int:
    """1 when a model with every rule on has a violation, or one with a rule off has none."""
    parser = argparse.ArgumentParser(prog="python -m tests.models")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)}")
    parser.add_argument(
        "--large",
        action="store_true",
        help="all rules on, larger bounds: minutes to hours, gigabytes",
    )
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in MODELS]
    if unknown:
        parser.error(f"no model is named {', '.join(unknown)}; there are {', '.join(MODELS)}")
    surprises = 0
    for name in given.names or MODELS:
        module = MODELS[name]
        for case in module.LARGE if given.large else module.CASES:
            began_s = time.process_time()
            found = case.run()
            took_s = time.process_time() - began_s
            rule = f", without {case.off}" if case.off else ""
            print(f"{name}, {case.name}{rule} ({took_s:.1f} s): {found}", flush=True)
            surprises += (found.violation is None) is not (case.off is None)
    return 1 if surprises else 0


if __name__ == "__main__":
    raise SystemExit(main())
