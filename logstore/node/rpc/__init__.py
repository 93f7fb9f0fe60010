"""The calls that an instance serves: of clients, of other instances, of the coordinator.

`services` puts them together: `log_service`, `peer_service`, `admin_service`. Imports all other
rooms; a call decides nothing that another way into the instance would need too.
"""
