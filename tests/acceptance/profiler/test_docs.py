"""The lines of docs/start/profiler-alone.md are run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_lines_of_the_page_make_a_heatmap_and_a_forecast(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "start" / "profiler-alone.md").read_text()
    block = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert block is not None
    code = block[1]
    assert 10 <= sum(bool(line.strip()) for line in code.splitlines()) <= 18
    rows = [f"{10 * i},user-{i * i % 97:03d},append,100" for i in range(1200)]
    (tmp_path / "accesses.csv").write_text("\n".join(["time_s,key,op,size", *rows]) + "\n")
    answer = "\nprint(len(said.mean), round(said.mean[0]), heatmap.split_key(b'', None).decode())\n"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code + answer], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    steps, mean, cut = done.stdout.split()
    assert (steps, mean) == ("12", "6")
    assert "user-0" < cut < "user-097"
    assert (tmp_path / "heatmap.png").read_bytes().startswith(b"\x89PNG")
