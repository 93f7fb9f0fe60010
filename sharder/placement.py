"""Placement before the write: which instance and shard a new key goes to.

A draw by weighted rendezvous (Thaler and Ravishankar, 1998; weights by -ln(u)/w): instance i gets a
key with probability w_i / sum(w), the same key always draws the same instance, and a lost instance
does not move the keys of others. The weight is how many more such keys the instance can take by
forecast, so size and schema matter: small records are bounded by ops/s, large ones by bytes/s or
by space. With `randomness` below 1, 1 - `randomness` of the keys go to the emptier of their two
first draws (Mitzenmacher, The power of two choices, 2001). Observed loads correct the weights. All
of it is pure; the coordinator stores key -> virtual shard key.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated

import numpy as np
import xxhash
from annotated_types import Interval, Unit
from numpy.typing import NDArray

from sharder.draft import Draft
from sharder.keys import TOKEN_BYTES, KeyRange, RoutingKey
from sharder.load import BYTES, OPS, LoadTable
from sharder.risk import Floats
from sharder.settings import complaint
from sharder.view import View

CHUNK_KEYS = 512
"""Keys drawn against the same fill levels."""
SIZE_CLASSES = 48
"""Record sizes are classed by powers of two."""
SCHEMAS_MAX = 4_096
_TOKENS = 1 << (8 * TOKEN_BYTES)


@dataclass(frozen=True, slots=True)
class Headroom:
    """What an instance can still take: ops/s, bytes/s, bytes stored, cores; `inf` is unlimited."""

    ops_per_s: float = math.inf
    bytes_per_s: float = math.inf
    stored_bytes: float = math.inf
    cpu_share: float = math.inf

    def __post_init__(self) -> None:
        for item in fields(self):
            if math.isnan(value := getattr(self, item.name)):
                raise ValueError(f"headroom.{item.name} is {value}, it must be a number")


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected figures of a key of a schema: rate, record size, records kept, CPU per op (s)."""

    ops_per_s: float = 1.0
    record_bytes: float = 100.0
    records: float = 1_000.0
    cpu_s_per_op: float = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not 0 <= value < math.inf:
                raise ValueError(f"estimate.{item.name} is {value}, it must be at least 0")


@dataclass(frozen=True, slots=True)
class PlacementConfig:
    """How keys are drawn onto shards. Bounds are checked at construction."""

    randomness: Annotated[float, Interval(ge=0.0, le=1.0), Unit("(share)")] = 0.5
    """1: pure draws; 0: every key takes the emptier of its two first draws."""
    learning_rate: Annotated[float, Interval(ge=0.0, le=1.0), Unit("(share)")] = 0.3
    """How much of an observed error the next weights correct."""
    bias_max: Annotated[float, Interval(ge=1.0, le=1e6), Unit("(factor)")] = 4.0
    """Bound of the correction on either side."""
    seed: Annotated[int, Interval(ge=0, le=2**63 - 1), Unit("(seed)")] = 0
    """Seed of the draws."""

    def __post_init__(self) -> None:
        said = complaint(self)
        if said is not None:
            raise ValueError(f"placement.{said}")


@dataclass(frozen=True, slots=True)
class Slot:
    """An open shard that may take new keys: its instance and its range of virtual shard keys."""

    shard: str
    instance: str
    range: KeyRange = field(default_factory=KeyRange)


def headrooms(view: View) -> dict[str, Headroom]:
    """Forecast headroom of each live instance that is not draining: its limit less the upper bound
    of its load, in the period where the difference is least."""
    draft = Draft(view, LoadTable(view))
    least = (draft.limit[:, :, None] - draft.upper).min(axis=2)
    share = view.config.risk.threshold
    return {
        instance.id: Headroom(
            ops_per_s=max(float(least[i, OPS]), 0.0),
            bytes_per_s=max(float(least[i, BYTES]), 0.0),
            stored_bytes=max(
                share * (instance.capacity_stored_bytes or math.inf) - float(draft.stored[i]), 0.0
            ),
        )
        for i, instance in enumerate(draft.table.instances)
        if draft.open[i]
    }


@dataclass(frozen=True, slots=True)
class Preference:
    """What a log, or one call, wishes of its draws. `weights`: instance -> factor of its share, 1
    for others; where they leave no instance they do not count."""

    randomness: Annotated[float, Interval(ge=0.0, le=1.0), Unit("(share)")] = 0.5
    weights: Annotated[Mapping[str, float], Interval(ge=0.0, le=1e6), Unit("(factor)")] = field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        said = complaint(self)
        if said is not None:
            raise ValueError(said)


class Placement:
    """Draws slots for keys. Mutable: how far its draws filled each instance, learned corrections.

    ValueError when no slot is on an instance with a known headroom.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        headroom: Mapping[str, Headroom],
        config: PlacementConfig | None = None,
        schemas: Mapping[str, Estimate] | None = None,
    ) -> None:
        self.config = config or PlacementConfig()
        self.schemas = dict(schemas or {})
        self.instances: tuple[str, ...] = ()
        self._bias: Floats = np.ones(0)
        self._expected: Floats = np.zeros(0)
        self.renew(slots, headroom)

    def renew(self, slots: Sequence[Slot], headroom: Mapping[str, Headroom]) -> None:
        """Use the next forecast. An instance that is not in `headroom` is lost: it gets no keys,
        and the others get its weight.

        Learned corrections stay; fill levels start at 0 again, since the headroom includes them.
        """
        left = tuple(s for s in slots if s.instance in headroom)
        if not left:
            raise ValueError("there is no slot on an instance with headroom")
        bias = self.corrections
        meant = self.expected
        self.slots = left
        self.instances = tuple(sorted({*bias, *(s.instance for s in left)}))
        self._bias = np.array([bias.get(n, 1.0) for n in self.instances])
        self._expected = np.array([meant.get(n, 0.0) for n in self.instances])
        self._seeds = np.array(
            [xxhash.xxh3_64_intdigest(n.encode(), self.config.seed) for n in self.instances],
            dtype=np.uint64,
        )
        none = Headroom(0.0, 0.0, 0.0, 0.0)
        rooms = [headroom.get(n, none) for n in self.instances]
        self._room: Floats = np.array(
            [[h.ops_per_s, h.bytes_per_s, h.stored_bytes, h.cpu_share] for h in rooms]
        )
        self._slots_of = [
            np.array([k for k, s in enumerate(self.slots) if s.instance == n], dtype=np.int64)
            for n in self.instances
        ]
        self._holds = np.array([len(found) > 0 for found in self._slots_of])
        self.filled: Floats = np.zeros(len(self.instances))
        """Share of each instance's headroom that the keys drawn so far take."""

    def lose(self, instance: str) -> None:
        """Remove a lost instance: the others get its weight in proportion to their headroom."""
        if instance not in self.instances:
            raise ValueError(f"instance {instance} is not known")
        left = {
            n: Headroom(*row)
            for n, row in zip(self.instances, self._room.tolist(), strict=True)
            if n != instance
        }
        filled = self.filled
        self.renew([s for s in self.slots if s.instance != instance], left)
        self.filled = filled

    def observe(self, expected: Mapping[str, float], observed: Mapping[str, float]) -> None:
        """Correct the weights by the loads that drawn keys brought to instances, compared with the
        expected loads (any one unit each; only shares count).

        An instance whose keys bring twice their expected share approaches half its weight: the
        correction follows 1 / error by `learning_rate` a call, and so converges.
        """
        names = [n for n in self.instances if expected.get(n, 0) > 0 and n in observed]
        meant = np.array([expected[n] for n in names])
        came = np.array([observed[n] for n in names])
        if not len(names) or came.sum() <= 0:
            return
        error = np.clip((came / came.sum()) / (meant / meant.sum()), 1e-3, 1e3)
        at = np.array([self.instances.index(n) for n in names])
        rate, most = self.config.learning_rate, self.config.bias_max
        found = self._bias[at] ** (1.0 - rate) * error**-rate
        self._bias[at] = np.clip(found, 1.0 / most, most)

    @property
    def corrections(self) -> dict[str, float]:
        """The learned factor of each instance's weight."""
        return dict(zip(self.instances, self._bias.tolist(), strict=True))

    @property
    def expected(self) -> dict[str, float]:
        """Keys that each instance should have had by the target shares at the time of each draw."""
        return dict(zip(self.instances, self._expected.tolist(), strict=True))

    def learn(self, schema: str, seen: Estimate, rate: float = 0.1) -> None:
        """Train the estimate of a schema by an observed key, by `rate`."""
        held = self.schemas.get(schema)
        if held is None and len(self.schemas) >= SCHEMAS_MAX:
            raise ValueError(f"schemas are {len(self.schemas)}, the limit is {SCHEMAS_MAX}")
        names = [item.name for item in fields(Estimate)]
        values = [
            getattr(seen, n) if held is None
            else getattr(held, n) + rate * (getattr(seen, n) - getattr(held, n))
            for n in names
        ]  # fmt: skip
        self.schemas[schema] = Estimate(*values)

    def weights(
        self,
        size_bytes: float | None = None,
        schema: str = "",
        factors: Mapping[str, float] | None = None,
    ) -> Floats:
        """How many more such keys each instance can take, corrected, times `factors`, [I]; 0:
        none."""
        estimate = self.schemas.get(schema, Estimate())
        size = estimate.record_bytes if size_bytes is None else size_bytes
        need = np.array(
            [
                estimate.ops_per_s,
                estimate.ops_per_s * size,
                size * estimate.records,
                estimate.ops_per_s * estimate.cpu_s_per_op,
            ]
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            many = np.where(need > 0, self._room / np.where(need > 0, need, 1.0), np.inf)
        found = many.min(axis=1)
        if np.isinf(found).any():  # unlimited instances share the draws equally
            found = np.where(np.isinf(found), max(found[np.isfinite(found)].max(initial=1.0), 1.0),
                             found)  # fmt: skip
        found = np.where((found >= 1.0) & self._holds, found, 0.0)
        if not found.any():  # no room anywhere: a write is still placed, by what is left
            found = np.where(self._holds, np.maximum(many.min(axis=1), 1e-9), 0.0)
        found = found * self._bias
        wanted = found * np.array([(factors or {}).get(n, 1.0) for n in self.instances])
        return np.asarray(wanted if wanted.any() else found, dtype=np.float64)

    def shares(
        self,
        size_bytes: float | None = None,
        schema: str = "",
        factors: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """Target share of each instance for such keys; they sum to 1."""
        found = self.weights(size_bytes, schema, factors)
        return dict(zip(self.instances, (found / found.sum()).tolist(), strict=True))

    def draw(
        self,
        keys: Sequence[bytes],
        sizes: Sequence[float] | None = None,
        schema: str = "",
        wish: Preference | None = None,
    ) -> NDArray[np.int64]:
        """Index in `slots` for each key, [n]. `sizes`: bytes of a record of the key; None: the
        schema's estimate. `wish`: default the configuration's randomness, without factors."""
        wish = wish or Preference(self.config.randomness)
        if sizes is not None and len(sizes) != len(keys):
            raise ValueError(f"sizes has {len(sizes)} elements, keys has {len(keys)}")
        hashes = np.array([xxhash.xxh3_64_intdigest(k) for k in keys], dtype=np.uint64)
        classes = self._classes(sizes, len(keys))
        table = np.stack(
            [
                self.weights(None if c < 0 else 2.0**c, schema, wish.weights)
                for c in range(-1, SIZE_CLASSES)
            ]
        )  # fmt: skip
        found = np.empty(len(keys), dtype=np.int64)
        for first in range(0, len(keys), CHUNK_KEYS):
            part = slice(first, first + CHUNK_KEYS)
            found[part] = self._draw_some(hashes[part], table[classes[part] + 1], wish.randomness)
        return self._slot_of(found, hashes)

    def _classes(self, sizes: Sequence[float] | None, count: int) -> NDArray[np.int64]:
        """-1: the schema's size; else the power of two that is next above the size."""
        if sizes is None:
            return np.full(count, -1, dtype=np.int64)
        known = np.asarray(sizes, dtype=np.float64)
        if known.size and not (np.isfinite(known) & (known >= 0)).all():
            raise ValueError("sizes holds a value that is not a number of at least 0 bytes")
        return np.clip(np.ceil(np.log2(np.maximum(known, 1.0))), 0, SIZE_CLASSES - 1).astype(int)

    def _draw_some(
        self, hashes: NDArray[np.uint64], weights: Floats, randomness: float
    ) -> NDArray[np.int64]:
        """Instance of each key; `weights` [n, I]."""
        drawn = _uniform(_mixed(hashes[:, None] ^ self._seeds[None, :]))
        score = np.where(weights > 0, -np.log(drawn) / np.where(weights > 0, weights, 1.0), np.inf)
        rows = np.arange(len(hashes))
        first = score.argmin(axis=1)
        score[rows, first] = np.inf
        second = score.argmin(axis=1)
        free = _uniform(_mixed(hashes ^ np.uint64(self.config.seed) ^ _CHOICE))
        choosing = (free >= randomness) & np.isfinite(score[rows, second])
        chosen = np.where(choosing & (self.filled[second] < self.filled[first]), second, first)
        self._expected += (weights / weights.sum(axis=1, keepdims=True)).sum(axis=0)
        np.add.at(self.filled, chosen, 1.0 / weights[rows, chosen])
        return np.asarray(chosen, dtype=np.int64)

    def _slot_of(
        self, instances: NDArray[np.int64], hashes: NDArray[np.uint64]
    ) -> NDArray[np.int64]:
        """One of the slots of each key's instance, by the key's hash."""
        found = np.empty(len(instances), dtype=np.int64)
        spread = _mixed(hashes ^ _SLOT)
        for i, slots in enumerate(self._slots_of):
            mine = instances == i
            if mine.any():
                found[mine] = slots[(spread[mine] % np.uint64(len(slots))).astype(np.int64)]
        return found


_CHOICE = np.uint64(0x9E3779B97F4A7C15)
_SLOT = np.uint64(0xD1B54A32D192ED03)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea, Flood, 2014)."""
    with np.errstate(over="ignore"):
        z = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)), dtype=np.uint64)


def _uniform(values: NDArray[np.uint64]) -> Floats:
    """(0, 1) from the upper 53 bits."""
    return ((values >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def token_of(slot: Slot, key_hash: int) -> int:
    """The token of a key in a slot: inside its range, spread evenly by the key's hash, so a later
    split halves the keys. ValueError for a range too narrow for any token (`takes_keys`)."""
    low, high = _tokens_in(slot.range)
    if low >= high:
        raise ValueError(f"slot {slot.shard}: no token lies in {slot.range}")
    return low + key_hash * (high - low) // _TOKENS


def takes_keys(slot: Slot) -> bool:
    """Whether new keys can be placed in the slot: not in the narrow range around one hot key."""
    low, high = _tokens_in(slot.range)
    return low < high


def virtual_key(token: int, key: bytes) -> RoutingKey:
    """The virtual shard key: 8 bytes of token, then the key itself."""
    return token.to_bytes(TOKEN_BYTES, "big") + key


def _tokens_in(keys: KeyRange) -> tuple[int, int]:
    """Tokens [low, high) for which every virtual key lies in the range."""
    low = _token(keys.start, up=True)
    return low, _TOKENS if keys.end is None else _token(keys.end, up=False)


def _token(bound: bytes, *, up: bool) -> int:
    """The token at a bound; `up`: the first one whose bytes are not below it."""
    token = int.from_bytes(bound[:TOKEN_BYTES].ljust(TOKEN_BYTES, b"\x00"), "big")
    return token + 1 if up and len(bound) > TOKEN_BYTES else token
