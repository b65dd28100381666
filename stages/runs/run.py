"""The MLflow run of a trained network: written alike by the stages and by `make sync`.

A run is found by its content: its tag `model.md5` is the checksum of the network's file in
dvc.lock. Tags that mark a part as complete are set last, after all of that part is written.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pandas as pd
from dvc.utils.flatten import flatten
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Param, Run
from mlflow.models import Model, ModelSignature
from mlflow.tracking.context.registry import resolve_tags
from mlflow.types import Schema, TensorSpec

from stages.metrics.results import Results
from stages.params import Params
from stages.records.manifest import EXAMPLES_FILE, RECORDS_FOLDER, Manifest
from stages.runs.registry import REGISTERED_TAG, model_id, register

COMMIT_TAG = "mlflow.source.git.commit"
MODEL_TAG = "model.md5"
EVALUATION_TAG = "evaluation.md5"


class Training(NamedTuple):
    """What was trained on what, where and when."""

    network: str
    params: Mapping[str, Any]  # from `training_params`, or the same keys of a dvc.lock
    manifest: Manifest | None  # None if the records are unavailable
    title: str  # follows the network in the run's name
    tags: Mapping[str, str]  # of the revision; without a commit, MLflow finds that of the checkout
    time: int | None = None  # milliseconds since 1970; None is now


def experiment_tags(name: str, baseline: str) -> dict[str, str]:
    """Tags of the run of a DVC experiment, which started from the commit `baseline`."""
    return {"dvc.experiment": name, "dvc.baseline": baseline, COMMIT_TAG: baseline}


def training_params(network: str, params: Params) -> dict[str, Any]:
    """The parameters of one network's training and evaluation: flat, its own without its name."""
    shared = params.model_dump(exclude={"networks", "export", *params.groups()})
    return flatten(shared) | flatten(params.network(network).model_dump())


def find_run(experiment: str, model_md5: str, test_time_flip: object) -> Run | None:
    """The newest run of a network's file that is evaluated with this `test_time_flip`."""
    query = f"tags.`{MODEL_TAG}` = '{model_md5}' and params.test_time_flip = '{test_time_flip}'"
    return next(iter(MlflowClient().search_runs([experiment], query, max_results=1)), None)


def start_run(experiment: str, training: Training, restored: bool = False) -> str:
    """Create a run with all that is known before the training, and return its id."""
    client, network, manifest = MlflowClient(), training.network, training.manifest
    params = {"network": network, **training.params}
    dataset = f"{manifest.dataset} {manifest.version}" if manifest else params.get("dataset", "")
    tags = {
        "network": network,
        "dataset": dataset,
        "dvc.stage": f"train@{network}",
        "mlflow.source.name": "stages/train",
        **({"restored": "true"} if restored else {}),
        **training.tags,
    }
    name = f"{network} · {training.title}"  # short, because MLflow's pages cut it off
    run_id: str = client.create_run(experiment, training.time, resolve_tags(tags), name).info.run_id
    if manifest:
        source = json.dumps({"mlflow.source.name": "stages/prepare"})
        digest = hashlib.md5(manifest.model_dump_json().encode()).hexdigest()  # noqa: S324
        data, context = Dataset(dataset, digest, "code", source), "mlflow.data.context"
        client.log_inputs(run_id, [DatasetInput(data, [InputTag(context, "training")])])
        params |= {f"{name}_examples": split.examples for name, split in manifest.splits.items()}
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in params.items()])
    return run_id


def log_epoch(run_id: str, row: Mapping[str, float], time: int | None = None) -> None:
    """Log a row of the history, under the names that Keras gives its columns."""
    metrics = {name: value for name, value in row.items() if name != "epoch"}
    mlflow.log_metrics(metrics, int(row["epoch"]), run_id=run_id, timestamp=time)


def log_training(run_id: str, training: Training, model: Any, history: Path, records: Path) -> None:
    """Log the history's file, the metrics of its best epoch, and the network (None leaves it out).

    The input example comes from the folder of records.
    """
    best: dict[str, float] = {}
    if rows := read_history(history):
        MlflowClient().log_artifact(run_id, str(history))
        # The table of runs shows the last epoch's metrics; the network is that of the best one.
        best = min(rows, key=lambda row: row["val_loss"])
        names = ("epoch", "val_loss", "val_accuracy", "val_mean_iou")
        metrics = {f"best_{name}": best[name] for name in names}
        mlflow.log_metrics(metrics, run_id=run_id, timestamp=training.time)
    if model is None:
        return
    import keras  # noqa: PLC0415  whoever has a model has loaded TensorFlow
    import tensorflow as tf  # noqa: PLC0415

    def schema(tensor: keras.KerasTensor) -> Schema:
        return Schema([TensorSpec(np.dtype("float32"), [size or -1 for size in tensor.shape])])

    example = None
    # What zipfile and zlib raise has no common base class.
    with contextlib.suppress(Exception), np.load(records / EXAMPLES_FILE) as examples:
        example = examples["test_images"][:1].astype(np.float32)
    Model.log(
        artifact_path=None,
        name=training.network,
        flavor=SimpleNamespace(__name__="mlflow.keras", save_model=_save_model),
        run_id=run_id,
        model=model,
        signature=ModelSignature(schema(model.inputs[0]), schema(model.outputs[0])),
        input_example=example,
        # MLflow would load the model in a new process to infer them. Any build of TensorFlow will
        # do; `tensorflow` is the one that every platform has.
        pip_requirements=[f"{part.__name__}=={part.__version__}" for part in (keras, np, tf)],
        step=int(best.get("epoch", 0)),
        # MLflow would load the network once more to try the example: 8 s for the U-Net.
        validate_serving_input=False,
    )


def _save_model(path: str, validate_serving_input: bool, **options: Any) -> None:
    """As `mlflow.keras`, which in 3.17.2 saves an input example before its folder exists."""
    Path(path).mkdir()
    mlflow.keras.save_model(path=path, **options)


def load_model(path: Path) -> Any:
    """The Keras model of a file."""
    import keras  # noqa: PLC0415  `make sync` loads TensorFlow only if a network must be logged

    return keras.models.load_model(path, compile=False)


def record(
    experiment: str, training: Training, run: Run | None, md5: str, model: Any, folder: Path
) -> list[str]:
    """Add to a run what it lacks of a trained network, or create it if it is None; returns what.

    The model is that of the file with the checksum `md5`, or None if it is unavailable or logged
    already; `folder` holds metrics/ and data/records/, and what they lack is left out.
    """
    client, added = MlflowClient(), []
    metrics, images, history, *pictures = (
        folder / "metrics" / f"{training.network}.{suffix}"
        for suffix in ("json", "images.csv", "history.csv", "worst.png", "best.png")
    )
    files = (training, model, history, folder / RECORDS_FOLDER)
    if run is None:
        run_id = start_run(experiment, training, restored=True)
        try:
            for row in read_history(history):
                log_epoch(run_id, row, training.time)
            log_training(run_id, *files)
            client.set_tag(run_id, MODEL_TAG, md5)
            client.set_terminated(run_id, "FINISHED", training.time)
        except BaseException:
            with contextlib.suppress(Exception):  # the next attempt creates another
                client.delete_run(run_id)
            raise
    else:
        run_id = run.info.run_id
        if model is not None:
            log_training(run_id, *files)
            added.append("network")
    run = client.get_run(run_id)
    if metrics.exists() and run.data.tags.get(EVALUATION_TAG) != file_md5(metrics):
        values = Results.read(metrics, f"evaluate@{training.network}").headlines()
        # MLflow's pages cut off the end of a chart's title.
        ends = {
            f"{part}/{name}": number
            for name, (value, (low, high)) in values.items()
            for part, number in (("test", value), ("test_low", low), ("test_high", high))
            if number is not None
        }
        mlflow.log_metrics(ends, run_id=run_id, timestamp=training.time, model_id=model_id(run))
        for file in (metrics, images):
            client.log_artifact(run_id, str(file))
        for file in pictures:
            client.log_artifact(run_id, str(file), "images")
        client.set_tag(run_id, EVALUATION_TAG, file_md5(metrics))
        added.append("test metrics")
    unregistered = model_id(run) and REGISTERED_TAG not in run.data.tags
    if metrics.exists() and training.manifest and unregistered:
        register(run, images, training.manifest)
        added.append("version in the registry")
    return added


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics/<network>.history.csv; none if it does not exist."""
    return pd.read_csv(path).to_dict("records") if path.exists() else []


def file_md5(path: Path) -> str:
    """MD5 checksum of a file in hexadecimal, as in dvc.lock."""
    return hashlib.md5(path.read_bytes()).hexdigest()  # noqa: S324
