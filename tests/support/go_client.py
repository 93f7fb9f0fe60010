"""The Go program of examples/go, made as its first lines say, once for these sources."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.services.base import ServiceError
from bench.services.install import cache_lock, may_install, program

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "go"
PROTOS = ("logstore/proto/v1/common.proto", "logstore/proto/v1/log.proto")
SOURCES = [*(f"examples/go/{p.name}" for p in sorted(EXAMPLE.iterdir()) if p.is_file()), *PROTOS]


def build() -> Path:
    """The program, built if these sources never were. ServiceError says what is missing."""
    digest = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in SOURCES)).hexdigest()
    with cache_lock(f"go-client/{digest[:16]}") as folder:
        binary = folder / "logstore-go"
        if binary.is_file():
            return binary
        go = program("go", packages=["golang-go"])
        if go is None or not may_install():
            raise ServiceError("Go is missing, which builds examples/go: install golang-go")
        with tempfile.TemporaryDirectory() as copied:
            for name in SOURCES:
                target = Path(copied) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, target)
            made = Path(copied) / "logstore-go"
            example = Path(copied) / "examples" / "go"
            _run(["./generate.sh"], example, go)
            _run(
                [str(go), "build", "-trimpath", "-buildvcs=false", "-o", str(made), "."],
                example,
                go,
            )
            shutil.copy(made, folder / "new")
        (folder / "new").replace(binary)
        return binary


def _run(command: list[str], where: Path, go: str | Path) -> None:
    environment = {
        **os.environ,
        "PROTOC": f"{sys.executable} -m grpc_tools.protoc",
        "GOFLAGS": "-mod=readonly -buildvcs=false",
        "PATH": os.pathsep.join([str(Path(go).parent), os.environ["PATH"]]),
    }
    done = subprocess.run(
        command, cwd=where, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ServiceError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
