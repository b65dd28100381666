"""The pipeline: a module for each DVC stage, and what they share."""

import os

# Keeps TensorFlow's notes on this machine's processor out of the stages' output; errors still show.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# MLflow would report its use over the network.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
