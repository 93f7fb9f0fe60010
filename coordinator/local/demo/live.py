"""The live view: a panel that is redrawn on a terminal, one line a quarter of a day elsewhere."""

import datetime
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from coordinator.local.demo.drive import Driver
from coordinator.local.demo.scene import HOUR_US, WALL_S_PER_SLOT, Scene
from coordinator.local.demo.watch import AHEAD_SLOTS, Watch

BAR = 30
LINE_EVERY_S = 6.0
SLOTS_SHOWN = 12


@dataclass(slots=True)
class LiveView:
    """Draws the state of a watch and a driver. `begin` and `end` hold the terminal."""

    console: Console
    scene: Scene
    watch: Watch
    driver: Driver
    mode: str = "forecast-only"
    _live: Live | None = field(default=None)
    _next_line_s: float = 0.0
    _lines: set[str] = field(default_factory=set)

    def begin(self) -> None:
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.start()

    def end(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def tick(self, now_s: float) -> None:
        """Once a second or so."""
        if self._live is not None:
            self._live.update(Panel(self._panel(now_s), title="logstore demo"))
            return
        self._tell_changes(now_s)
        if now_s >= self._next_line_s:
            self._next_line_s = now_s + LINE_EVERY_S
            self.console.print(f"{self._when(now_s)}  {self._rates(now_s)}  {self._loads()}")
            self.console.print(f"    heat {self._strip()}  {self._against(now_s)}")

    def _panel(self, now_s: float) -> RenderableType:
        lines = [
            Text(f"{self._when(now_s)}   autopilot {self.mode}   {self._rates(now_s)}"),
            *(Text(line) for line in self._bars()),
            Text(f"heat along the keys  {self._strip()}"),
            Text(self._against(now_s)),
            Text(f"plan: {self.watch.plan_reason or 'nothing to move'}"),
            *(Text(line) for line in self._moves()),
        ]
        return Group(*lines)

    def _when(self, now_s: float) -> str:
        at_us = self.driver.replay.start_us + int(now_s / WALL_S_PER_SLOT * HOUR_US)
        at = datetime.datetime.fromtimestamp(at_us / 1e6, datetime.UTC)
        return f"{at:%a %d %b %H:%M} UTC"

    def _rates(self, now_s: float) -> str:
        since = max(0.0, now_s - 5.0)
        span = max(now_s - since, 1.0)
        appends = self.driver.percentiles(False, [(since, now_s)])
        reads = self.driver.percentiles(True, [(since, now_s)])
        parts = [
            f"{found['count'] / span:5.1f} {name}/s p99 {found['p99']:5.1f} ms"
            for name, found in (("appends", appends), ("reads", reads))
            if found is not None
        ]
        return "  ".join(parts)

    def _statuses(self) -> list[tuple[str, float, int]]:
        found = self.watch.instances
        return [(name, s.ops_per_s, s.throttled) for name, s in found.items()]

    def _loads(self) -> str:
        capacity = self.scene.ops_per_s
        return "  ".join(
            f"{name.removeprefix('instance-')}: {ops / capacity:4.0%}" for name, ops, _ in
            self._statuses()
        )  # fmt: skip

    def _bars(self) -> list[str]:
        lines = []
        for name, ops, throttled in self._statuses():
            filled = min(BAR, round(BAR * ops / self.scene.ops_per_s))
            lines.append(
                f"{name} {'█' * filled}{'·' * (BAR - filled)} {ops:6.1f} of "
                f"{self.scene.ops_per_s:.1f} ops/s, throttled {throttled}"
            )
        return lines

    def _strip(self) -> str:
        heatmap = self.watch.heatmap
        return (heatmap.strip or "") if heatmap is not None else ""

    def _against(self, now_s: float) -> str:
        """The newest slot with statistics, of the shards that began on the hot instance."""
        homes = enumerate(self.scene.homes)
        shards = [f"{self.watch.log}/{i}" for i, home in homes if home == self.scene.hot]
        newest = max((slot for shard, slot in self.watch.came if shard in shards), default=0)
        for slot in range(newest, newest - SLOTS_SHOWN, -1):
            found = self.watch.against(shards, slot)
            if found is not None:
                said, came = found
                return (
                    f"hot shards: forecast {AHEAD_SLOTS} h before {said.mean:.0f} "
                    f"[{said.lower:.0f}, {said.upper:.0f}], came {came:.0f} "
                    f"(limit {self.scene.limit:.0f})"
                )
        return "hot shards: no forecast has come due yet"

    def _moves(self) -> list[str]:
        return [
            f"{m.id} {m.shard} {m.source} → {m.target}: {m.state}, p {m.p:.2f}, "
            f"ETA {m.eta_s:.1f} s, {m.bytes / 1e6:.1f} MB"
            for m in self.watch.migrations
        ]

    def _tell_changes(self, now_s: float) -> None:
        if self.watch.plan_reason and self.watch.plan_reason not in self._lines:
            if not any(line.startswith("plan:") for line in self._lines):
                self.console.print(f"    plan: {self.watch.plan_reason}")
                self._lines.add("plan:")
            self._lines.add(self.watch.plan_reason)
        for m in self.watch.migrations:
            label = f"{m.id} {m.state}"
            if label not in self._lines:
                self._lines.add(label)
                self.console.print(
                    f"    {self._when(now_s)} migration {m.id} {m.shard} {m.source} → "
                    f"{m.target}: {m.state}, p {m.p:.2f}, ETA {m.eta_s:.1f} s"
                )
                if label.endswith("preparing") or m.reason not in self._lines:
                    self._lines.add(m.reason)
                    self.console.print(f"    because {m.reason}")
