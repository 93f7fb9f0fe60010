"""Router and lane (pure), appends, reads, the asynchronous and the synchronous client.

May import `logstore.engine.batch`, `logstore.meta.records`, `logstore.proto`, `logstore.base` and
`sharder`; not `logstore.node`.
"""

from logstore.proto import fork as fork  # before any import of grpc here
