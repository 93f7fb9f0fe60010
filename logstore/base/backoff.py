"""How long to wait before the next try."""

from collections.abc import Callable

Draw = Callable[[], float]
"""A number of 0..1, evenly: `Random.random` of an `Env`."""


class Backoff:
    """Waits that double from `first_s` to `max_s`, both in seconds, until `reset`.

    With `draw` each wait is drawn between its half and its whole, so that clients
    which failed together come again apart. It neither sleeps nor reads a clock.
    """

    __slots__ = ("_draw", "_first_s", "_max_s", "_wait_s", "tries")

    def __init__(self, first_s: float, max_s: float, draw: Draw | None = None) -> None:
        self._first_s, self._max_s, self._draw = first_s, max_s, draw
        self.reset()

    def reset(self) -> None:
        """A try succeeded: begin anew."""
        self.tries = 0
        """Tries that have failed since."""
        self._wait_s = min(self._first_s, self._max_s)

    def failed(self) -> None:
        """Count a try that needs no wait."""
        self.tries += 1
        self._wait_s = min(2 * self._wait_s, self._max_s)

    def next_s(self) -> float:
        """Count a failed try; the seconds to wait before the next one."""
        wait_s = self._wait_s
        self.failed()
        return wait_s if self._draw is None else wait_s * (0.5 + self._draw() / 2)
