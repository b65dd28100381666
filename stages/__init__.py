"""The pipeline: a folder for each DVC stage, and rooms for what stages share."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's errors, without its notes
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
