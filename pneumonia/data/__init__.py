"""Films: where they stand, whose they are, which split each is in, and what is kept of them on disk."""

from pneumonia.data.cache import Decoded, decode
from pneumonia.data.index import Index, scan

__all__ = ["Decoded", "Index", "decode", "scan"]
