"""The MetadataStore over etcd (3.4 or later): the production choice, agreed by Raft.

Only this package may import aetcd, and of it only the generated stubs: its client opens one plain
channel to one host. `calls` finds an endpoint that answers, `watch` follows changes,
`store` is the port.
"""

from logstore.meta.etcd.store import EtcdMetadataStore as EtcdMetadataStore
from logstore.meta.etcd.target import EtcdTarget as EtcdTarget
