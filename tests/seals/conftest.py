from tests.client.conftest import start

__all__ = ["start"]
