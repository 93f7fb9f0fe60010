"""Seeded loads: which key is accessed when, how, and with how many bytes.

Everything here is pure numpy, except `open_loop`, which sends on time. Batches are `Accesses`.
"""

from bench.workload.accesses import APPEND, READ, Accesses, key_names, read_csv, write_csv
from bench.workload.generate import NAMED, generate, named
from bench.workload.open_loop import OpenLoopResult, open_loop
from bench.workload.records import RecordSet, digest_rows, make_records

__all__ = [
    "APPEND",
    "NAMED",
    "READ",
    "Accesses",
    "OpenLoopResult",
    "RecordSet",
    "digest_rows",
    "generate",
    "key_names",
    "make_records",
    "named",
    "open_loop",
    "read_csv",
    "write_csv",
]
