"""One instance's disk: the Engine port, the stored batch, the RocksDB adapter and its memory twin.

Imports `logstore.base` only; rocksdict stays inside `engine.rocks`.
"""
