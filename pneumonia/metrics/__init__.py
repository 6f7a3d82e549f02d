"""Scores, and how sure one can be of them. Knows neither films nor networks."""

from pneumonia.metrics.scores import auc, confusion, score

__all__ = ["auc", "confusion", "score"]
