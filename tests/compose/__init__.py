"""The cluster of docker-compose.yml under faults and load: `make test-compose`, `make test-alerts`.

The same compose file, images and commands that a user has; clients, recorder and checkers are those
of `tests.cluster` and `tests.support`, on the host, outside the containers.
"""
