"""What only aims do to a run, beside the faults that are drawn."""

import functools
from collections.abc import Sequence

from tests.simulation.faults import CUT_OFF_S, ROLES, Faults, drop
from tests.simulation.later_aims import ALL_AIMS, RESTART_S
from tests.simulation.metadata import STORE
from tests.simulation.node import SimNode
from tests.support.checkers.history import Silence

SLOW_S = 0.6


class Strikes(Faults):
    """Faults at an exact place; each gives way like the others, and ends at the heal."""

    def begin(self) -> None:
        super().begin()
        self.observer.aims = [ALL_AIMS[name](self) for name in self.style.aims]

    def heal(self) -> None:
        self.observer.aims = []
        super().heal()

    def may_add(self) -> bool:
        """Whether one more fault leaves room for work to get done."""
        return self.on and not self.tired and len(self._undo) <= self.style.open_max

    def hit(self, fault: str, node: SimNode, shard: str) -> None:
        """This fault at this instance, counted with its role for `shard`."""
        role = node.role(shard)
        if self.on and role in ROLES:
            self._on_node(fault, node, role, shard)

    def pause(self, node: SimNode, shard: str, seconds: float) -> None:
        role = node.role(shard)
        if self.on and role in ROLES:
            self._note("pause", role.value, node.name, shard)
            node.freeze(seconds)

    def stall(self, node: SimNode, shard: str, seconds: float) -> None:
        """The next write hangs: a synced one in its thread, any other one with the process."""
        if node.synced:
            node.process.stall_s = seconds
        else:
            self.pause(node, shard, seconds)

    def hang(self, node: SimNode, seconds: float) -> None:
        """The next synced write hangs in its thread."""
        if self.on:
            node.process.hang_s = seconds

    def break_calls(self, path: str, server: str | None) -> None:
        """Calls of clients under this path, to one instance or (None) to all, break now."""
        for call in list(self.cluster.network.calls.values()):
            if call.path.startswith(path) and server in (None, call.up.receiver):
                call.lose("connection reset")

    def end_coordinator(self, name: str) -> None:
        for coordinator in self.coordinators:
            if self.on and coordinator.name == name and coordinator.process.alive:
                self.world.tell(f"{name} ends")
                coordinator.kill()
                down_s = self.world.chaos.choice((0.05, 0.3, 1.5))
                self._for(f"{name} is gone", coordinator.start, down_s)

    def leave_only(self, node: SimNode, other: SimNode, seconds: float | None = None) -> None:
        """The instance reaches nobody but this one, and clients."""
        rest = [STORE, *(n.name for n in self.nodes if n not in (node, other))]
        pairs = [(node.name, o) for o in rest] + [(o, node.name) for o in rest]
        if seconds is None:
            seconds = self.world.chaos.uniform(*CUT_OFF_S)
        self._block(f"{node.name} reaches {other.name} only", pairs, seconds)

    def cut_between(self, names: Sequence[str], others: Sequence[str], seconds: float) -> None:
        """Nothing goes between the two groups, either way."""
        pairs = [(a, b) for a in names for b in others]
        pairs += [(b, a) for a, b in pairs]
        self._block(f"no way from {' '.join(names)} to {' '.join(others)}", pairs, seconds)

    def deafen(self, name: str, seconds: float) -> None:
        """The process asks the store and hears no answer and no event."""
        self._block(f"{name} hears nothing of the store", [(STORE, name)], seconds)

    def silence(self, node: SimNode, seconds: float) -> None:
        """Only clients reach the instance, as its readers are judged by."""
        others = [n.name for n in self.nodes if n is not node]
        others += [STORE, *(c.name for c in self.coordinators)]
        now_s = self.world.now_s
        self.world.history.silences.append(Silence(node.name, now_s, now_s + seconds))
        self.cut_between([node.name], others, seconds)

    def break_pushes(self, sender: str, receiver: str) -> None:
        """The streams of a primary to a peer break now."""
        for call in list(self.cluster.network.calls.values()):
            ends = call.up.sender, call.up.receiver
            if ends == (sender, receiver) and call.path.endswith("/Replicate"):
                call.lose("connection reset")

    def repeat(self, name: str, seconds: float) -> None:
        """The last messages of its calls that break come again."""
        repeating = self.cluster.network.repeating
        repeating[name] = 1.0
        self._for(f"repeat at {name}", lambda: drop(repeating, name), seconds)

    def silence_feeds(self) -> None:
        """Who feeds a learner says no more, and the learner hears no end of it."""
        for call in list(self.cluster.network.calls.values()):
            if self.on and call.path.endswith(("/Feed", "/Snapshot")) and call.task is not None:
                call.task.cancel()

    def restart(self, node: SimNode, shard: str) -> None:
        """The process is killed, and starts again at once."""
        role = node.role(shard)
        if self.on and role in ROLES:
            self._note("kill", role.value, node.name, shard)
            node.kill()
            self._for(f"{node.name} is down", node.start, RESTART_S)

    def fill(self, node: SimNode, shard: str, seconds: float) -> None:
        """The instance's disk is full for so long."""
        if self.on:
            role = node.role(shard)
            if role in ROLES:
                self._note("disk full", role.value, node.name, shard)
            node.engine.full = True
            self._for(
                f"disk of {node.name} is full", lambda: setattr(node.engine, "full", False), seconds
            )

    def lose_replies(self, name: str, seconds: float | None = None) -> None:
        """What the store answers to this process now is lost."""
        self.cluster.lost_replies[name] = 1.0
        if seconds is None:
            seconds = self.world.chaos.choice((0.01, 0.4))
        self._for(
            f"replies to {name} are lost", lambda: drop(self.cluster.lost_replies, name), seconds
        )

    def delay_writes(self, name: str) -> None:
        """What this process asks of the store comes late."""
        self.cluster.late_requests[name] = 1.0
        seconds = self.world.chaos.choice((0.05, 0.4))
        self._for(f"{name} asks late", lambda: drop(self.cluster.late_requests, name), seconds)

    def mute(self, node: SimNode, shard: str) -> None:
        """What the instance sends reaches clients only, and the store neither way; it hears all."""
        role = node.role(shard)
        if self.on and role in ROLES:
            self._note("one way out", role.value, node.name, shard)
            pairs = [(node.name, n.name) for n in self.nodes if n is not node]
            pairs += [(node.name, STORE), (STORE, node.name)]
            self._block(f"{node.name} is mute", pairs, self.world.chaos.uniform(*CUT_OFF_S))

    def slow_down(self, names: Sequence[str], seconds: float) -> None:
        slow = self.cluster.network.slow
        for name in names:
            slow[name] = SLOW_S
            self._for(f"{name} is slow", functools.partial(drop, slow, name), seconds)

    def reboot(self, node: SimNode, shard: str) -> None:
        """A power loss, also where it may take what was acked: then the loss is told."""
        role = node.role(shard)
        if self.on and role in ROLES:
            self._note("power loss", role.value, node.name, shard)
            self._down(node, lambda: node.lose_power(torn=False))
            self.observer.power_lost()
