"""A package of a tiny network, as the tests of what is served have it."""

from tests.served.conftest import films, folder, model

__all__ = ["films", "folder", "model"]
