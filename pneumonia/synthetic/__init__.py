"""Synthetic chest films, drawn by the program."""

from pneumonia.synthetic.dataset import write

__all__ = ["write"]
