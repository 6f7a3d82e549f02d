"""Films: their files, patients and splits, and the decoded copies on disk."""

from pneumonia.data.cache import Decoded, decode
from pneumonia.data.index import Index, scan

__all__ = ["Decoded", "Index", "decode", "scan"]
