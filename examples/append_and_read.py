"""Append records and read one key back, in order: `python examples/append_and_read.py ADDRESS`."""

import asyncio
import sys

import logstore
from logstore.errors import VersionConflictError

LOG = "example-orders"


async def main(address: str) -> None:
    async with logstore.connect(address) as db:
        if LOG in await db.list_logs():
            await db.delete_log(LOG, now=True)
        log = await db.create_log(LOG, shards=2)

        for total in (b"12 apples", b"7 pears", b"3 plums"):
            ack = await log.append(b"user-1", total, headers={"by": b"web"})
            print(f"stored in {ack.shard} at offset {ack.offset}")
        await log.append(b"user-2", b"1 melon")

        async for record in log.read(key=b"user-1"):
            print(f"{record.key.decode()}: {record.value.decode()}")

        # A conditional append is stored only if the key has exactly so many records.
        try:
            await log.append(b"user-1", b"9 figs", expected_version=2)
        except VersionConflictError as error:
            print(f"refused: {error.code}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
