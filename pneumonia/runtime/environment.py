"""Defaults for libraries by environment variables, and the number of cores."""

import os
import sys
import warnings


def quiet() -> None:
    """Hides the warnings of libraries from the user of a command, in this process and those that it starts; -W and
    PYTHONWARNINGS override it.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        os.environ["PYTHONWARNINGS"] = "ignore"
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # errors of decoding are raised where a film is read


def mlflow_defaults() -> None:
    """Settings for MLflow in a process of this program, unless the environment has others."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that is away costs 5 s, not 247
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")  # a uv.lock in this folder is not the model's
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # three files at a time are no progress
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # its INFO and WARNING lines tear the progress bars
    # MLflow prints on stdout, among JSON too, where a run is: with the password of the tracking server's address.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
