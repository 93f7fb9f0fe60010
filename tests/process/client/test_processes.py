"""Clients in processes of their own: Ctrl-C, threads, forks, exits and loops that leave one open.

Each script runs beside a cluster of this process. Nothing may hang, and nothing may be written on
standard error.
"""

import asyncio
import os
import sys

import pytest

from tests.support.clients import Starter

LIMIT_S = 40.0
HEAD = """
import asyncio, os, signal, sys, threading
import logstore
from logstore import errors
address = sys.argv[1]
def connect_sync():
    return logstore.connect_sync(address, client_group="tests", timeout_s=60)
def waited(pid):
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print("child", code)
"""

SCRIPTS = {
    "close ends the calls of other threads": """
db = connect_sync()
with db:
    log = db.log("orders")
    log.append(b"k", b"v")
    begun, said = threading.Barrier(4), []
    def tail(records):
        begun.wait()
        try:
            for _ in records: pass
        except errors.ClientClosedError as e:
            said.append(e)
    tails = [log.tail(), log.tail(from_start=True), log.tail(idle_timeout_s=600)]
    threads = [threading.Thread(target=tail, args=(t,)) for t in tails]
    for t in threads: t.start()
    begun.wait()
    for t in tails: t.poll(0.05)
    db.close()
for t in threads: t.join()
for e in said: print(e)
""",
    "ctrl-c interrupts a tail, which goes on": """
with connect_sync() as db:
    log = db.log("orders")
    tail = log.tail(from_start=True)
    tail.poll(0.01)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        for record in tail: print("record")
    except KeyboardInterrupt:
        print("KeyboardInterrupt")
    log.append(b"k", b"after")
    print([r.value for r in tail.poll(30)])
""",
    "ctrl-c ends a program with its own error": """
with connect_sync() as db:
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        for record in db.log("orders").tail(from_start=True): pass
    finally:
        print(type(sys.exc_info()[1]).__name__)
        os._exit(0)
""",
    "a client that is left open does not hold the program": """
db = connect_sync().__enter__()
log = db.log("orders")
log.append(b"k", b"v")
tail, read = log.tail(), log.read()
tail.poll(0.01), next(read)
threading.Thread(target=lambda: list(log.tail()), daemon=True).start()
print("done")
""",
    "a client that is dropped is silent": """
def use():
    db = connect_sync().__enter__()
    next(db.log("orders").tail(from_start=True))
connect_sync().__enter__()
with connect_sync() as db: db.log("orders").append(b"k", b"v")
use()
print("done")
""",
    "loops that leave clients open are silent": """
kept = []
async def use(number):
    db = await logstore.connect(address, client_group="tests").__aenter__()
    log = await db.log("orders")
    await log.append(b"k", b"v")
    tail, read = log.tail(), log.read()
    await tail.poll(0.01)
    await anext(read)
    if number % 2: kept.append((db, log, tail, read))
for number in range(6): asyncio.run(use(number))
async def again():
    for call in (kept[0][1].append(b"k", b"v"), anext(kept[0][2]), kept[0][0].list_logs()):
        try: await call
        except errors.ClientClosedError as e: print(e.code)
    await kept[0][0].close()
    await kept[0][2].aclose()
asyncio.run(again())
""",
    "a loop that fails with a client open is silent": """
async def use():
    db = await logstore.connect(address, client_group="tests").__aenter__()
    tail = (await db.log("orders")).tail()
    await tail.poll(0.01)
    raise ZeroDivisionError
try: asyncio.run(use())
except ZeroDivisionError: print("ZeroDivisionError")
""",
    "the command line refuses what is out of range": """
from coordinator.cli.main import main
sys.stderr = sys.stdout
for command in ("read", "tail"):
    for option in ("--since", "--limit", "--offset"):
        shard = ["--shard", "orders/0"] if option == "--offset" else []
        status = main([command, "orders", option, str(2**63), "--address", address, *shard])
        print(status)
""",
    "a fork before the first client has its own": """
connect_sync()
if not (pid := os.fork()):
    with connect_sync() as db: print(db.log("orders").append(b"k", b"v").count, flush=True)
    os._exit(0)
waited(pid)
with connect_sync() as db: print(db.list_logs())
""",
    "a fork with an open client refuses it and new ones": """
with connect_sync() as db:
    log = db.log("orders")
    log.append(b"k", b"v")
    tail = log.tail()
    tail.poll(0.01)
    if not (pid := os.fork()):
        def fresh():
            with connect_sync() as new: new.list_logs()
        async def async_fresh():
            async with logstore.connect(address) as new: await new.list_logs()
        calls = [lambda: log.append(b"k", b"v"), lambda: next(tail), lambda: next(log.read()),
                 lambda: tail.poll(1), db.list_logs, fresh, lambda: asyncio.run(async_fresh())]
        for call in calls:
            try: print("no error", call())
            except errors.ClientUseError as e: print("spawn" in e.message, flush=True)
        tail.close()
        db.close()
        os._exit(7)
    waited(pid)
    print(log.append(b"k", b"v").count)
""",
    "a fork after a client was closed refuses too": """
with connect_sync() as db: db.list_logs()
if not (pid := os.fork()):
    try:
        with connect_sync() as db: db.list_logs()
    except errors.ClientUseError as e: print("does not survive a fork" in e.message, flush=True)
    os._exit(7)
waited(pid)
""",
    "the fork handlers of gRPC are off before it is imported": """
class Look:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc": print(os.environ.get("GRPC_ENABLE_FORK_SUPPORT"))
sys.meta_path.insert(0, Look())
logstore.connect("127.0.0.1:1")
""",
    "children that do not use it are not harmed": """
with connect_sync() as db:
    log = db.log("orders")
    found = set()
    for number in range(20):
        log.append(b"k", b"v")
        if not (pid := os.fork()):
            os._exit(0)
        found.add(os.waitpid(pid, 0)[1])
    print(found)
""",
    "a child that leaves by sys.exit ends": """
with connect_sync() as db:
    log = db.log("orders")
    log.append(b"k", b"v")
    pid = os.fork()
    if not pid: sys.exit(7)
    waited(pid)
""",
}
SAYS = {
    "close ends the calls of other threads": [
        "the client is closed: it was closed during this call"
    ]
    * 3,
    "ctrl-c interrupts a tail, which goes on": ["KeyboardInterrupt", "[b'after']"],
    "ctrl-c ends a program with its own error": ["KeyboardInterrupt"],
    "a client that is left open does not hold the program": ["done"],
    "a client that is dropped is silent": ["done"],
    "loops that leave clients open are silent": ["client_closed"] * 3,
    "a loop that fails with a client open is silent": ["ZeroDivisionError"],
    "the command line refuses what is out of range": [
        line
        for _ in range(2)
        for option in ("since", "limit", "offset")
        for line in (f"error: --{option} is {2**63}, the limit is 64 bits", "2")
    ],
    "a fork before the first client has its own": ["1", "child 0", "['orders']"],
    "a fork with an open client refuses it and new ones": ["True"] * 7 + ["child 7", "1"],
    "a fork after a client was closed refuses too": ["True", "child 7"],
    "the fork handlers of gRPC are off before it is imported": ["0"],
    "children that do not use it are not harmed": ["{0}"],
    "a child that leaves by sys.exit ends": ["child 7"],
}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_process_ends_as_it_should(start: Starter, name: str) -> None:
    cluster = await start()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-c",
        HEAD + SCRIPTS[name],
        cluster.addresses["a"],
        env={name: v for name, v in os.environ.items() if name != "GRPC_ENABLE_FORK_SUPPORT"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert err.decode() == ""
    assert out.decode().splitlines() == SAYS[name]
    assert process.returncode == 0
