"""The metadata store: its port, the memory twin, embedded RocksDB, a remote one, etcd; records,
leases and elections on top. Imports base and proto.
"""
