"""From films in memory to a network. Knows neither MLflow nor Optuna."""

from pneumonia.training.loop import FitData, Fitted, fit, fit_data

__all__ = ["FitData", "Fitted", "fit", "fit_data"]
