"""What a TrainJob starts in every process: the training, and on each node MLflow's own monitor of the machine.

Data at an `s3://` address is read from the store that the settings name. The run to write to is named by
`MLFLOW_TRACKING_URI` and `MLFLOW_RUN_ID`; without them nothing is monitored.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from instructdiffusion.components.away import reach
from instructdiffusion.components.tracking import hurry
from instructdiffusion.model.train_main import main

PATIENCE = 10.0  # seconds that the end of a training waits for a tracker that is slow


@contextmanager
def monitored(environment: Mapping[str, str]) -> Iterator[None]:
    """Send what the machine is doing, as `system/node-N/cpu_utilization_percentage` and others, within the block.

    The first process of a node does. A tracker that is down costs the metrics, never the training.
    """
    uri, run_id = environment.get("MLFLOW_TRACKING_URI"), environment.get("MLFLOW_RUN_ID")
    if not uri or not run_id or environment.get("LOCAL_RANK", "0") != "0":
        yield
        return
    hurry()
    from mlflow.system_metrics import system_metrics_monitor

    untyped: Any = system_metrics_monitor
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    node = f"node-{environment.get('GROUP_RANK', '0')}"
    monitor = untyped.SystemMetricsMonitor(run_id, node_id=node, resume_logging=True, tracking_uri=uri)
    monitor.start()
    try:
        yield
    finally:
        ending = threading.Thread(target=monitor.finish, daemon=True)
        ending.start()
        ending.join(PATIENCE)


if __name__ == "__main__":
    with monitored(os.environ):
        code = main(reach=reach)
    sys.exit(code)
