"""Make the Python code of every .proto: `python -m logstore.proto.generate [--check]`.

`--check` writes nothing and exits 1 when what is checked in differs from what would be made.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROTOS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "logstore/proto").rglob("*.proto"))


def generate(out: Path) -> None:
    """Run protoc with the Python, gRPC and type-stub plug-ins into `out`."""
    command = [
        sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}",
        f"--python_out={out}", f"--grpc_python_out={out}", f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet:{out}", *PROTOS,
    ]  # fmt: skip
    plugins = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"PATH": plugins})


def stale(made: Path) -> list[str]:
    """The generated files below `made` that differ from the checked-in ones."""
    files = (p.relative_to(made) for p in sorted(made.rglob("*")) if p.is_file())
    return [
        str(f)
        for f in files
        if not (ROOT / f).exists() or (ROOT / f).read_bytes() != (made / f).read_bytes()
    ]


def main() -> int:
    if "--check" not in sys.argv[1:]:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as made:
        generate(Path(made))
        differing = stale(Path(made))
    for name in differing:
        print(f"{name} is stale: run `make proto`", file=sys.stderr)
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())
