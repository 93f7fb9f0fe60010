"""Append Arrow columns, scan them back: `python examples/arrow_in_and_out.py ADDRESS`."""

import asyncio
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import logstore

LOG = "example-measurements"
ROWS = 10_000


async def main(address: str) -> None:
    keys = pa.array([b"device-%03d" % (i % 100) for i in range(ROWS)], pa.binary())
    values = pa.array([b"%d" % (i * i) for i in range(ROWS)], pa.binary())
    timestamps = 1_700_000_000_000_000 + np.arange(ROWS) * 1_000  # µs since 1970 UTC

    async with logstore.connect(address) as db:
        if LOG in await db.list_logs():
            await db.delete_log(LOG, now=True)
        log = await db.create_log(LOG, shards=4, compression="lz4")

        acks = await log.append_many(keys, values, timestamps)
        print(f"appended: {sum(ack.count for ack in acks)} rows to {log.name}")

        # Ranges are half open: [start, end).
        table = await log.scan(start=b"device-010", end=b"device-020").to_arrow()
        devices = pc.count_distinct(table["key"]).as_py()
        print(f"scanned: {table.num_rows} rows of {devices} devices")

        async with log.scan(key=b"device-042", limit=10).batches() as batches:
            rows = [row async for batch in batches for row in batch["value"].to_pylist()]
        print(f"device-042 begins with {b', '.join(rows[:3]).decode()}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
