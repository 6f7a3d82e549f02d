"""Chest films that the program draws itself."""

from pneumonia.synthetic.dataset import write

__all__ = ["write"]
