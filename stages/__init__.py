"""The pipeline: a folder for each DVC stage, and rooms for what stages share."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's errors, without its notes
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

# Whatever the log level, TensorFlow's libraries say that oneDNN is on when they are loaded.
if os.environ.get("DVC_STAGE", "plot") != "plot":
    errors = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        import tensorflow  # noqa: F401
    finally:
        os.dup2(errors, 2)
