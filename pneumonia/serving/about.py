"""What is said at `/model` of the version that answers, which the page shows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """Empty what is not known."""

    name: str  # of the registered model, or what the model was called by
    version: str = ""
    link: str = ""  # to its card in MLflow's UI
