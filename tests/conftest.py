"""What every test stands on: no network beyond this machine, no usage reports, two threads at most."""

from __future__ import annotations

import os

# Read by the libraries when they are imported, hence before any test is.
os.environ.update(
    {
        "BENTOML_DO_NOT_TRACK": "True",
        "DO_NOT_TRACK": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "TOKENIZERS_PARALLELISM": "false",
    }
)
os.environ.setdefault("OMP_NUM_THREADS", "2")
