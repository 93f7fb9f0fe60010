from tests.support.clients import start

__all__ = ["start"]
