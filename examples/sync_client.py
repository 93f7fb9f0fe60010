"""The same calls without asyncio, shared by threads: `python examples/sync_client.py ADDRESS`."""

import sys
from concurrent.futures import ThreadPoolExecutor

import logstore

LOG = "example-audit"
THREADS, RECORDS_PER_THREAD = 4, 25


def main(address: str) -> None:
    with logstore.connect_sync(address) as db:
        if LOG in db.list_logs():
            db.delete_log(LOG, now=True)
        log = db.create_log(LOG, split_keys=[b"thread-2"])

        def work(thread: int) -> int:
            key = b"thread-%d" % thread
            for i in range(RECORDS_PER_THREAD):
                log.append(key, b"action %d" % i)
            return sum(1 for _ in log.read(key=key))

        with ThreadPoolExecutor(THREADS) as pool:
            counts = list(pool.map(work, range(THREADS)))
        print(f"records of each thread: {counts}")

        for shard in log.shard_map().open_shards:
            count = sum(1 for _ in log.read(shard=shard.id))
            print(f"{shard.id} on {shard.primary}: {count} records")


if __name__ == "__main__":
    main(sys.argv[1])
