"""The search: a study of short trials, then the best configuration trained in full. The only importer of Optuna."""

from pneumonia.search.final import SearchError
from pneumonia.search.run import Outcome, search
from pneumonia.search.storage import StudyError
from pneumonia.search.study import check

__all__ = ["Outcome", "SearchError", "StudyError", "check", "search"]
