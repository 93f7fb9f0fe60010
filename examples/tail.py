"""Follow a log while another task appends to it: `python examples/tail.py ADDRESS`."""

import asyncio
import sys

import logstore

LOG = "example-events"
RECORDS = 20


async def produce(log: logstore.Log) -> None:
    for i in range(RECORDS):
        await log.append(b"sensor-%d" % (i % 3), b"reading %d" % i)


async def follow(log: logstore.Log) -> dict[bytes, list[bytes]]:
    """What each key received, in the order of its appends."""
    seen: dict[bytes, list[bytes]] = {}
    # `from_start` gives what is stored already, too; without it a tail begins with what comes next.
    async for record in log.tail(from_start=True, idle_timeout_s=30):
        seen.setdefault(record.key, []).append(record.value)
        if sum(map(len, seen.values())) == RECORDS:
            break
    return seen


async def main(address: str) -> None:
    async with logstore.connect(address) as db:
        if LOG in await db.list_logs():
            await db.delete_log(LOG, now=True)
        log = await db.create_log(LOG, shards=3)
        seen, _ = await asyncio.gather(follow(log), produce(log))
    for key in sorted(seen):
        print(f"{key.decode()}: {len(seen[key])} records, the last is {seen[key][-1].decode()!r}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
