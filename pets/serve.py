"""`pets serve`: registers a network with MLflow and serves it with `mlflow models serve`."""

import os
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec

from stages.networks.trained import check_network
from stages.runs.contents import MODEL_TAG
from stages.runs.registry import REGISTERED_TAG, registered_name
from stages.runs.tracking import file_md5, open_experiment
from stages.stage import StageError

ROOT = Path(__file__).resolve().parents[1]
# What the served code imports; any build of TensorFlow will do.
PACKAGES = ("keras", "mlflow", "numpy", "pillow")


def serve(models: Path, network: str, port: int) -> int:
    """Serves a network on this machine alone, until it is stopped.

    Args:
        models: The folder of its file.
        network: Its name.
        port: The port on 127.0.0.1.

    Returns:
        1 if there is no such network; otherwise this process becomes MLflow's server.
    """
    try:
        uri = register(models / f"{network}.keras")
    except (StageError, mlflow.MlflowException) as error:
        print(f"pets: {(str(error).splitlines() or ['MLflow failed'])[0]}", file=sys.stderr)
        return 1
    print(f"pets: {uri} at http://127.0.0.1:{port}/invocations", file=sys.stderr, flush=True)
    os.environ["MLFLOW_TRACKING_URI"] = mlflow.get_tracking_uri()
    # MLflow starts uvicorn by its name, also where the environment is not activated.
    programs = (str(Path(sys.executable).parent), os.environ.get("PATH", ""))
    os.environ["PATH"] = os.pathsep.join(programs)
    arguments = ["models", "serve", "--model-uri", uri, "--env-manager", "local"]
    arguments += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *arguments])  # noqa: S606  no input of others


def register(path: Path) -> str:
    """The model of a network's file in MLflow's registry, where it is put on first use.

    Args:
        path: What `train` has written.

    Returns:
        `models:/pet-segmentation-<network>-server/<version>`.

    Raises:
        StageError: There is no such file.
    """
    check_network(path)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Beside the network's own registered model, which `mlflow.keras` loads.
    experiment, md5, name = (
        open_experiment(),
        file_md5(path),
        f"{registered_name(path.stem)}-server",
    )
    client = mlflow.MlflowClient()
    for known in client.search_model_versions(f"name = '{name}'"):
        if known.tags.get(MODEL_TAG) == md5:
            return f"models:/{name}/{known.version}"
    text = Schema([TensorSpec(np.dtype("str"), (-1,))])
    # In no run: the last model that the training's run has logged is the network itself.
    mlflow.set_experiment(experiment_id=experiment)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an example of an input would be somebody's photograph
        logged = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(ROOT / "pets" / "served_model.py"),
            artifacts={"network": str(path)},
            code_paths=[str(ROOT / "pets"), str(ROOT / "stages")],
            signature=ModelSignature(text, text),
            pip_requirements=[
                *(f"{package}=={version(package)}" for package in PACKAGES),
                f"tensorflow=={_tensorflow_version()}",
            ],
        )
    try:
        client.create_registered_model(name)
    except mlflow.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    runs = client.search_runs(
        [experiment], f"tags.`{MODEL_TAG}` = '{md5}'", order_by=["attributes.start_time DESC"]
    )
    registered = [run.data.tags[REGISTERED_TAG] for run in runs if REGISTERED_TAG in run.data.tags]
    made = client.create_model_version(
        name,
        logged.model_uri,
        tags={MODEL_TAG: md5},
        description=f"Photographs to masks, by {(registered or [path.name])[0]}",
    )
    return f"models:/{name}/{made.version}"


def _tensorflow_version() -> str:
    import tensorflow as tf  # noqa: PLC0415

    return str(tf.__version__)
