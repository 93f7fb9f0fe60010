"""The last status of each instance, and when it came. `now_s` is monotonic."""

from dataclasses import dataclass

from profiler.types import DataStoreStatus

INSTANCES_MAX = 10_000


@dataclass(slots=True)
class _Heard:
    status: DataStoreStatus
    heard_s: float


class InstancesHeard:
    """By instance; one that was not heard for `alive_s` is not alive."""

    def __init__(self, alive_s: float) -> None:
        self._alive_s = alive_s
        self._states: dict[str, _Heard] = {}

    def take(self, instance: str, status: DataStoreStatus | None, now_s: float) -> None:
        """A report came."""
        if status is not None:
            if instance in self._states or len(self._states) < INSTANCES_MAX:
                self._states[instance] = _Heard(status, now_s)
        elif instance in self._states:
            self._states[instance].heard_s = now_s

    def alive(self, instance: str, now_s: float) -> bool:
        found = self._states.get(instance)
        return found is not None and now_s - found.heard_s <= self._alive_s

    def silent_s(self, instance: str, now_s: float) -> float | None:
        """Seconds since the instance's last report, 0 while it counts as alive; None: there was
        none."""
        found = self._states.get(instance)
        if found is None:
            return None
        unheard_s = now_s - found.heard_s
        return unheard_s if unheard_s > self._alive_s else 0.0

    def ever(self, instance: str) -> bool:
        """Whether it ever reported."""
        return instance in self._states

    def statuses(self) -> dict[str, DataStoreStatus]:
        return {name: found.status for name, found in dict(self._states).items()}
