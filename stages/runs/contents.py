"""What an MLflow run holds of a trained network: the same while it trains and when it is restored.

A run is found again by what it is of: the tag `model.md5` is the checksum of the network's file
that DVC has in dvc.lock. Tags that say that something is complete are set last, so a run that the
store lost half-way is not taken for a whole one.
"""

import contextlib
import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import numpy.typing as npt
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import Metric, Run
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from stages.params import Params, flat
from stages.records.manifest import Manifest
from stages.runs.headlines import headline_intervals, headlines

# What a run is found by, and what says which of its parts are complete.
MODEL_TAG = "model.md5"
EVALUATION_TAG = "evaluation.md5"
# In one request; MLflow takes up to 1,000.
BATCH = 1000


class Training(NamedTuple):
    """What was trained on what.

    Attributes:
        network: The network's name.
        params: The parameters that counted, flat: `loss.dice_weight`; the network's own without
            its name.
        manifest: Of the records; None where they cannot be had any more.
    """

    network: str
    params: Mapping[str, Any]
    manifest: Manifest | None


class Origin(NamedTuple):
    """Where and when it was trained.

    Attributes:
        title: What comes after the network in the run's name.
        commit: The Git commit; empty without one.
        experiment: The DVC experiment's name; empty without one.
        baseline: The commit that the experiment started from.
        time: When, in milliseconds since 1970; None is now.
    """

    title: str
    commit: str = ""
    experiment: str = ""
    baseline: str = ""
    time: int | None = None


class Evaluation(NamedTuple):
    """The files that `evaluate` writes of a network."""

    figures: Path  # metrics/<network>.json
    images: Path  # metrics/<network>.images.csv
    pictures: Sequence[Path]


def evaluation_of(network: str, folder: Path) -> Evaluation:
    """The names of a network's files in a folder."""
    pictures = [folder / f"{network}.{kind}.png" for kind in ("worst", "best")]
    return Evaluation(folder / f"{network}.json", folder / f"{network}.images.csv", pictures)


def counting_params(network: str, params: Params) -> dict[str, Any]:
    """The parameters that count for what is trained and measured of one network, flat."""
    shared = params.model_dump(exclude={"networks", "export", *params.groups()})
    return flat(shared) | flat(params.network(network).model_dump())


def find_run(experiment: str, model_md5: str, test_time_flip: object) -> Run | None:
    """The newest run of a network's file, if there is one.

    A network that was measured in another way (`test_time_flip`) is another run, since a run has
    one set of test figures and of parameters.
    """
    runs: list[Run] = mlflow.search_runs(
        [experiment],
        filter_string=(
            f"tags.`{MODEL_TAG}` = '{model_md5}' and params.test_time_flip = '{test_time_flip}'"
        ),
        max_results=1,
        order_by=["attributes.start_time DESC"],
        output_format="list",
    )
    return runs[0] if runs else None


def start_run(experiment: str, training: Training, origin: Origin, restored: bool = False) -> str:
    """Starts a run with all that is known before the training, and returns its id."""
    network, params, manifest = training
    dataset = f"{manifest.dataset} {manifest.version}" if manifest else params.get("dataset")
    all_tags = {
        "network": network,
        "dataset": dataset,
        "dvc.stage": f"train@{network}",
        "dvc.experiment": origin.experiment,
        "dvc.baseline": origin.baseline,
        "mlflow.source.name": "stages/train.py",
        "mlflow.source.git.commit": origin.commit,
        "restored": "true" if restored else "",
    }
    tags = {key: value for key, value in all_tags.items() if value}
    # Short, because the table of runs and the legends cut it off.
    name = f"{network} · {origin.title}"
    if origin.time is None:
        run = mlflow.start_run(experiment_id=experiment, run_name=name, tags=tags)
    else:
        made = mlflow.MlflowClient().create_run(experiment, origin.time, tags, name)
        run = mlflow.start_run(run_id=made.info.run_id)
    counts = {}
    if manifest:
        source = CodeDatasetSource({"mlflow.source.name": "stages/prepare.py"})
        digest = _md5(manifest.model_dump_json())
        data = MetaDataset(source, dataset, digest)  # type: ignore[abstract]  # it is not
        mlflow.log_input(data, context="training")
        counts = {f"{name}_examples": split.examples for name, split in manifest.splits.items()}
    mlflow.log_params({"network": network, **params, **counts})
    return run.info.run_id


def restore_run(
    experiment: str,
    training: Training,
    origin: Origin,
    *,
    model_md5: str,
    model: Any,
    history: Path | None,
    example: npt.NDArray[np.uint8] | None,
) -> str:
    """Makes the finished run of a training that was not logged, and returns its id.

    Args:
        experiment: The MLflow experiment's id.
        training: What was trained.
        origin: Where and when; the run gets this time, and lasts no time.
        model_md5: The checksum of the network's file.
        model: The network, from `load_network`, or None where it cannot be had.
        history: The history's file, or None.
        example: A picture of the test split, uint8 [height, width, 3], or None.
    """
    client = mlflow.MlflowClient()
    run_id = start_run(experiment, training, origin, restored=True)
    try:
        rows = read_history(history) if history else []
        points = [
            Metric(name, value, origin.time or 0, int(row["epoch"]))
            for row in rows
            for name, value in row.items()
            if name != "epoch"
        ]
        for first in range(0, len(points), BATCH):
            client.log_batch(run_id, points[first : first + BATCH])
        log_training(rows, history, origin.time)
        if model is not None:
            log_network(training.network, model, rows, example)
        mlflow.set_tag(MODEL_TAG, model_md5)
    except BaseException:
        # It was made here, and would be made again: half of it helps nobody.
        with contextlib.suppress(Exception):
            mlflow.end_run("FAILED")
            client.delete_run(run_id)
        raise
    mlflow.end_run()
    if origin.time is not None:
        client.set_terminated(run_id, "FINISHED", origin.time)
    return run_id


def log_training(
    rows: Sequence[Mapping[str, float]],
    history: Path | None,
    time: int | None = None,
) -> None:
    """Logs the history's file and the figures of the best epoch to the active run."""
    if history:
        mlflow.log_artifact(str(history))
    if best := best_epoch(rows):
        # The table of runs shows the last epoch's figures; the network is that of the best.
        figures = ("epoch", "val_loss", "val_accuracy", "val_mean_iou")
        best = {f"best_{name}": best[name] for name in figures if name in best}
        mlflow.log_metrics(best, timestamp=time)


def load_network(path: Path) -> Any:
    """The Keras model of a file, for `log_network`."""
    # The stages that get here have TensorFlow loaded; others need not wait for it.
    import keras  # noqa: PLC0415

    return keras.models.load_model(path, compile=False)


def log_network(
    network: str,
    model: Any,
    rows: Sequence[Mapping[str, float]],
    example: npt.NDArray[np.uint8] | None,
) -> None:
    """Logs the network with its signature and an input example to the active run."""
    import keras  # noqa: PLC0415
    import tensorflow as tf  # noqa: PLC0415

    def schema(tensor: keras.KerasTensor) -> Schema:
        shape = [-1 if size is None else size for size in tensor.shape]
        return Schema([TensorSpec(np.dtype("float32"), shape)])

    best = best_epoch(rows)
    Model.log(
        artifact_path=None,
        name=network,
        flavor=_KerasFlavor,
        model=model,
        signature=ModelSignature(schema(model.inputs[0]), schema(model.outputs[0])),
        input_example=None if example is None else example[None].astype(np.float32),
        # Stated, because to find them out MLflow would load the model in a new process for seconds.
        # Any build of TensorFlow will do; `tensorflow` is the one that every platform has.
        pip_requirements=[f"{part.__name__}=={part.__version__}" for part in (keras, np, tf)],
        step=int(best["epoch"]) if best else 0,
        # To try the example out MLflow would load the network once more: 8 s for the U-Net.
        validate_serving_input=False,
    )


class _KerasFlavor:
    """`mlflow.keras`, which in MLflow 3.17.2 cannot take an input example.

    It writes the example before it has made the folder that the example lies in.
    """

    __name__ = "mlflow.keras"

    @staticmethod
    def save_model(path: str, validate_serving_input: bool, **options: Any) -> None:
        """Makes the folder, and saves as `mlflow.keras` does."""
        Path(path).mkdir()
        mlflow.keras.save_model(path=path, **options)


@contextlib.contextmanager
def reopened(run: Run) -> Iterator[None]:
    """Makes a finished run the active one; its status and its times stay as they are."""
    mlflow.start_run(run_id=run.info.run_id)
    try:
        yield
    finally:
        mlflow.end_run()
        client = mlflow.MlflowClient()
        client.set_terminated(run.info.run_id, run.info.status, run.info.end_time)


def log_evaluation(run: Run, evaluation: Evaluation, time: int | None = None) -> None:
    """Logs the test figures with the ends of their intervals, and the files."""
    client, run_id = mlflow.MlflowClient(), run.info.run_id
    tests = test_metrics(evaluation.figures)
    mlflow.log_metrics(tests, run_id=run_id, timestamp=time, model_id=model_id(run))
    for file in (evaluation.figures, evaluation.images):
        client.log_artifact(run_id, str(file))
    for picture in evaluation.pictures:
        client.log_artifact(run_id, str(picture), "pictures")
    client.set_tag(run_id, EVALUATION_TAG, file_md5(evaluation.figures))


def test_metrics(path: Path) -> dict[str, float]:
    """What a run has of a metrics/<network>.json, by the metric's name.

    `test/<name>`, and the ends of its 95 % interval as `test_low/<name>` and `test_high/<name>`.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: It is not such a file.
    """
    figures = json.loads(path.read_bytes())
    # Of a chart's title MLflow's pages show the beginning.
    parts = {"test": headlines(figures)}
    parts |= {f"test_{end}": values for end, values in headline_intervals(figures).items()}
    return {
        f"{part}/{name}": value for part, group in parts.items() for name, value in group.items()
    }


def model_id(run: Run) -> str | None:
    """The id of the network that a run has logged; None if it has none."""
    outputs = run.outputs.model_outputs if run.outputs else []
    return outputs[-1].model_id if outputs else None


def test_split_digest(manifest: Manifest) -> str:
    """The checksum of the test split: of its files, and of what their pixels mean."""
    split = manifest.splits["test"].model_dump_json()
    return _md5(f"{split} {manifest.image_size} {manifest.class_names}")


def example_picture(records: Path) -> npt.NDArray[np.uint8] | None:
    """The first example of the test split, uint8 [height, width, 3]; None if there is none."""
    try:
        with np.load(records / "examples.npz") as examples:
            picture: npt.NDArray[np.uint8] = examples["test_images"][0]
            return picture
    except Exception:  # what zipfile and zlib raise is no common kind of error
        return None


def best_epoch(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The row of the lowest validation loss; empty if there are no rows."""
    return dict(min(rows, key=lambda row: row["val_loss"], default={}))


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics/<network>.history.csv."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def file_md5(path: Path) -> str:
    """The MD5 checksum of a file in hexadecimal: what DVC has in dvc.lock."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()  # noqa: S324
