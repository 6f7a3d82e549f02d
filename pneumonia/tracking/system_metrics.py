"""MLflow's metrics of the machine (processor, memory, disk, network, GPU) for runs that a client opens.

MLflow's own switch and settings hold, MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=true and
MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL, but MLflow itself looks at them only where `mlflow.start_run` opens a run.
"""

import threading
from contextlib import suppress

import psutil
from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

END_SECONDS = 1.0  # that a meter may delay the end of a run, where the tracking server does not answer


class Meters:
    """The meters of the runs that this process has open: a thread each, which ends by itself if the store goes away."""

    def __init__(self) -> None:
        self._by_run: dict[str, SystemMetricsMonitor] = {}

    def start(self, run_id: str, uri: str) -> None:
        """Starts to measure the run, if the switch is on and it is not being measured."""
        meter = self._by_run.get(run_id)
        if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get() or (meter is not None and _lives(meter)):  # type: ignore[no-untyped-call]
            return
        with suppress(MlflowException, OSError, psutil.Error):  # no training fails for lack of a meter
            meter = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=uri)  # type: ignore[no-untyped-call]
            meter.start()  # type: ignore[no-untyped-call]
            self._by_run[run_id] = meter

    def stop(self, run_id: str) -> None:
        """Stops measuring the run; the measurements are in the store, if it answers within a second."""
        meter = self._by_run.pop(run_id, None)
        if meter is None:
            return
        ending = threading.Thread(target=meter.finish, name="end-of-system-metrics", daemon=True)
        ending.start()
        ending.join(END_SECONDS)


def _lives(meter: SystemMetricsMonitor) -> bool:
    return meter._process is not None and meter._process.is_alive()  # a thread, whatever its name
