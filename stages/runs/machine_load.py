"""The load of the machine during a training, as MLflow measures it.

MLflow's own monitor writes ten figures every ten seconds from a thread of its own: thousands of
rows in an hour, and a store that is down would be waited for twice. Here its measurements are taken
once in an epoch and go with the epoch's figures; their names are MLflow's, which has a tab of the
page for `system/`.
"""

import contextlib

from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor


class MachineLoad:
    """CPU and memory of the machine, and of each GPU where there is one."""

    def __init__(self) -> None:
        """Begins to measure, unless the user has turned MLflow's own monitor on."""
        self._monitors: list[BaseMetricsMonitor] = []
        if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
            return
        self._monitors.append(CPUMonitor())
        with contextlib.suppress(Exception):  # no GPU, no driver, or no package to ask it
            self._monitors.append(GPUMonitor())
        self.measured()

    def measured(self) -> dict[str, float]:
        """The figures by name: the CPU's mean since the last call, the others as they are now."""
        figures: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.clear_metrics()
            monitor.collect_metrics()
            figures |= monitor.aggregate_metrics()
        return {f"system/{name}": value for name, value in figures.items()}
