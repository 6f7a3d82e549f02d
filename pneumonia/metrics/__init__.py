"""Scores with their uncertainty. Knows neither films nor networks."""

from pneumonia.metrics.scores import auc, confusion, score

__all__ = ["auc", "confusion", "score"]
