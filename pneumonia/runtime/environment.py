"""What the environment says of this process's libraries, and how many cores it has."""

import os
import sys
import warnings


def quiet() -> None:
    """Libraries' warnings, which name files and lines of theirs, are kept from who types a command; -W and
    PYTHONWARNINGS have the last word, and the environment takes it to the processes that this one starts.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        os.environ["PYTHONWARNINGS"] = "ignore"
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # what it makes of a file is said by who asked it


def mlflow_defaults() -> None:
    """How MLflow should behave in a process of ours, unless the environment says otherwise."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that is away costs 5 s, not 247
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_UV_AUTO_DETECT", "false")  # a uv.lock in this folder is not the model's
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # three files at a time are no progress
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")  # its INFO and WARNING lines tear the progress bars
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
