"""Timestamps of producers, compared with the primary's clock (`LogOptions`). No I/O.

Checked where the primary assigns offsets, after the dedupe: every append passes there
once, and a retry of a stored append is answered as a duplicate, whatever clocks did meanwhile.
Old stamps are accepted: history of past years is replayed, and time lines may start at 0, so
seconds or milliseconds, which fall into January 1970, cannot be recognised.
"""

import pyarrow as pa
import pyarrow.compute as pc

from logstore.base.errors import InvalidArgumentError
from logstore.base.types import TimestampPolicy
from logstore.engine.batch import encode_payload
from logstore.meta.records import LogOptions
from logstore.node.intake.appends import PendingAppend

_YEAR_S = 31_556_952.0
_UNITS = ((_YEAR_S, "years"), (86_400.0, "days"), (3600.0, "hours"), (1.0, "s"))
_SINCE_US = 946_684_800_000_000
"""2000-01-01: a unit is guessed only if the stamp is later than this in it."""


def admit_stamps(append: PendingAppend, options: LogOptions, now_us: int) -> None:
    """Refuse or clamp stamps that are further ahead of `now_us` than the log's options allow.

    One comparison for a batch: its largest stamp was found at arrival. InvalidArgumentError.
    """
    if append.time_max_us is None or options.timestamp_ahead_max_s is None:
        return
    limit_us = now_us + round(options.timestamp_ahead_max_s * 1e6)
    if append.time_max_us <= limit_us:
        return
    if options.timestamp_policy is TimestampPolicy.REFUSE:
        raise InvalidArgumentError(_refusal(append.time_max_us, now_us, options))
    _clamp(append, limit_us, options)


def _clamp(append: PendingAppend, limit_us: int, options: LogOptions) -> None:
    batch = append.batch
    times = pc.min_element_wise(batch.column("timestamp"), pa.scalar(limit_us, pa.int64()))
    columns = [times if n == "timestamp" else batch.column(n) for n in batch.schema.names]
    append.arrow = pa.RecordBatch.from_arrays(columns, schema=batch.schema)
    append.payload = encode_payload(append.arrow, options.compression.value)
    append.rows = ()
    bounds = pc.min_max(times).as_py()
    append.time_min_us, append.time_max_us = bounds["min"], bounds["max"]


def _refusal(stamp_us: int, now_us: int, options: LogOptions) -> str:
    ahead_s = (stamp_us - now_us) / 1e6
    size, unit = next((s, name) for s, name in _UNITS if ahead_s >= s or name == "s")
    guess = unit_guess(stamp_us, now_us)
    return (
        f"timestamp is {stamp_us} us, {ahead_s / size:,.1f} {unit} ahead of this instance's clock"
        f" ({now_us} us); the limit is {options.timestamp_ahead_max_s:g} s (timestamp_ahead_max_s)"
        + (f"; it looks like {guess}: give microseconds" if guess else "")
    )


def unit_guess(stamp_us: int, now_us: int) -> str:
    """Which unit `stamp_us` is in, if it would be a time of this century until now; else empty."""
    for name, per_us in (("nanoseconds", 1_000), ("picoseconds", 1_000_000)):
        if _SINCE_US <= stamp_us // per_us <= now_us + 86_400_000_000:
            return name
    return ""
