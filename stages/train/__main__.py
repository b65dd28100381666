"""Stage `train`: trains one network and keeps its best checkpoint by validation loss."""

import argparse
import csv
import functools
import importlib
import math
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, Protocol

import keras
import tensorflow as tf

from stages.networks.model_file import save_model
from stages.params import Params, check_network, load_params
from stages.records.manifest import RECORDS_FOLDER, Manifest, read_manifest
from stages.records.tfrecords import load_split
from stages.run_record import write_run_record
from stages.runs.tracking import TrainingRun
from stages.stage import StageError, progress_bar, replacing, run_stage
from stages.train.batch_norm import StatisticsEstimator
from stages.train.distribution import check_shares, strategy, synchronize
from stages.train.input_pipeline import steps_per_epoch, training_batches
from stages.train.losses import SegmentationLoss
from stages.train.optimizer import build_optimizer
from stages.train.resume import ResumePoint, StateKeeper, restore

MODELS_FOLDER = Path("models")
METRICS_FOLDER = Path("metrics")
HISTORY_COLUMNS = (
    "epoch",
    *("loss", "accuracy", "mean_iou"),  # over the epoch's batches, as they were trained on
    *("val_loss", "val_accuracy", "val_mean_iou"),
)


class EpochLog(Protocol):
    """What takes the figures of each epoch: the MLflow run, or another in its place."""

    @property
    def run_id(self) -> str:
        """What a training that goes on from this one's state finds the run by."""

    def log_epoch(
        self, row: Mapping[str, float], *, seconds: float, images_per_second: float
    ) -> None:
        """Takes a row of the history with the epoch's time and the rate of its training."""


def main() -> None:
    """Trains the network that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "network", help="a name of stages/networks/ that params.yaml has a group for"
    )
    network = parser.parse_args().network
    start = time.perf_counter()
    params = load_params()
    check_network(network, params)
    manifest = read_manifest()
    MODELS_FOLDER.mkdir(exist_ok=True)
    METRICS_FOLDER.mkdir(exist_ok=True)
    interruption = Interruption()
    interruption.listen()
    point = ResumePoint(network, params, manifest)
    try:
        with point, TrainingRun(network, params, manifest, *_earlier_run(point)) as run:
            if point.state:
                print(f"{network} goes on after epoch {point.finished_epochs} of {params.epochs}")
            callbacks = [interruption]
            model, history = train(network, params, manifest, RECORDS_FOLDER, run, point, callbacks)
            path = MODELS_FOLDER / f"{network}.keras"
            save_model(model, path)
            history_path = METRICS_FOLDER / f"{network}.history.csv"
            write_history(history, history_path)
            run.log_files(path, history_path)
    except KeyboardInterrupt:
        raise StageError(
            f"interrupted; `dvc repro` with the same parameters goes on after epoch"
            f" {point.finished_epochs} of {params.epochs}"
        ) from None
    write_run_record(f"train@{network}", time.perf_counter() - start)
    best = min(history, key=lambda row: row["val_loss"])
    print(
        f"{network}: best of {len(history)} epochs is epoch {best['epoch']}:"
        f" validation loss {best['val_loss']:.4f}, accuracy {best['val_accuracy']:.4f},"
        f" mean IoU {best['val_mean_iou']:.4f};"
        f" weights in {path}"
    )


def _earlier_run(point: ResumePoint) -> tuple[str, list[dict[str, Any]]]:
    """The MLflow run and the epochs of the training that this one goes on from."""
    return (point.state.run_id, point.state.history) if point.state else ("", [])


def train(
    network: str,
    params: Params,
    manifest: Manifest,
    records: Path,
    run: EpochLog,
    point: ResumePoint | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> tuple[keras.Model, list[dict[str, Any]]]:
    """Trains a network.

    Args:
        network: The network's name.
        params: All parameters; the group `network` is handed to the network's `build`.
        manifest: The records' manifest.
        records: The records' folder.
        run: Where the figures of each epoch are logged.
        point: Where the state after each epoch is saved, and what it goes on from.
        callbacks: Called with the weights that are validated in place.

    Returns:
        The network with the weights of the epoch of the lowest validation loss, and the history,
        one row of HISTORY_COLUMNS for each epoch, counted from 1.

    Raises:
        StageError: The loss is not a number, or the network or the records cannot be had.
    """
    prepare_devices(params)
    images, masks = load_split(records, manifest, "train")
    validation = load_split(records, manifest, "validation")
    steps = steps_per_epoch(len(images), params.batch_size)
    distribution = strategy(params)
    devices = distribution.num_replicas_in_sync
    check_shares(len(images), "training", params.batch_size, devices)
    check_shares(len(validation[0]), "validation", params.batch_size, devices)
    with distribution.scope():
        model = build_network(network, params, manifest)
        if devices > 1:
            synchronize(model)
        trained = compiled(network, params, model, steps)
    # Makes the metrics' variables. Keras would make them while it traces the training step, and
    # then trace it a second time: 10 s for the U-Net on two cores.
    trained.test_on_batch(validation[0][:devices], validation[1][:devices])
    earlier: list[dict[str, Any]] = []
    if point is not None and point.state is not None:
        restore(trained, point.state)
        earlier = point.state.history
    batches = functools.partial(
        training_batches,
        images,
        masks,
        epochs=params.epochs,
        batch_size=params.batch_size,
        seed=params.seed,
        augmentation=params.augmentation,
        image_size=manifest.image_size,
    )
    progress = Progress(network, params, len(images), run, earlier)
    keeper = StateKeeper(point, progress.history, run.run_id)
    trained.fit(
        batches(first_epoch=len(earlier)),
        initial_epoch=len(earlier),
        epochs=params.epochs,
        steps_per_epoch=steps,
        shuffle=False,  # the batches are already
        validation_data=tf.data.Dataset.from_tensor_slices(validation)
        .batch(params.batch_size)
        .prefetch(tf.data.AUTOTUNE),
        callbacks=[*weight_callbacks(params, batches()), *callbacks, progress, keeper],
        verbose=0,
    )
    trained.set_weights(keeper.best)
    return model, progress.history


def prepare_devices(params: Params) -> None:
    """Seeds every generator and sets precision, determinism and GPU memory growth."""
    keras.utils.set_random_seed(params.seed)
    keras.mixed_precision.set_global_policy(params.precision)
    tf.config.experimental.enable_op_determinism()
    for device in tf.config.list_physical_devices("GPU"):
        # Otherwise TensorFlow takes all of the GPU's memory at once.
        tf.config.experimental.set_memory_growth(device, True)


def build_network(network: str, params: Params, manifest: Manifest) -> keras.Model:
    """Builds a network by its name: `build` of stages/networks/<network>/network.py."""
    module = importlib.import_module(f"stages.networks.{network}.network")
    return module.build(params.network(network), manifest.image_size, len(manifest.class_names))


def compiled(network: str, params: Params, model: keras.Model, steps: int) -> keras.Model:
    """What trains a network: optimizer, loss and metrics, in the form that is fastest to train.

    A network's module may have `training_form(model)`, a model of the same variables and function,
    and `learning_rate_factors(model, params)`, what the learning rate is multiplied by for the
    variables of these paths.

    Args:
        network: The network's name.
        params: All parameters.
        model: What `build_network` has built; it shares its variables with the result.
        steps: Steps in an epoch.

    Returns:
        A compiled model whose optimizer has its variables.
    """
    module = importlib.import_module(f"stages.networks.{network}.network")
    factors = {}
    if hasattr(module, "learning_rate_factors"):
        factors = module.learning_rate_factors(model, params.network(network))
    trained = module.training_form(model) if hasattr(module, "training_form") else model
    trained.compile(
        optimizer=build_optimizer(network, params, steps, factors),
        loss=SegmentationLoss(params.loss),
        metrics=[
            "accuracy",
            keras.metrics.MeanIoU(model.output_shape[-1], sparse_y_pred=False, name="mean_iou"),
        ],
    )
    # Keras would make the variables while it traces the training step, and then trace it again.
    trained.optimizer.build(trained.trainable_variables)
    return trained


def weight_callbacks(params: Params, batches: tf.data.Dataset) -> list[keras.callbacks.Callback]:
    """What puts the weights in place that are validated and kept, in this order."""
    callbacks: list[keras.callbacks.Callback] = []
    if params.ema_momentum:
        callbacks.append(keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    if params.batch_norm_batches:
        some = batches.take(params.batch_norm_batches).as_numpy_iterator()
        callbacks.append(StatisticsEstimator(images for images, _ in some))
    return callbacks


class Interruption(keras.callbacks.Callback):
    """Makes a KeyboardInterrupt of SIGTERM as of Ctrl-C, and sees to it that it ends the training.

    Python drops what is raised in a destructor or in the callback of a weak reference, and a signal
    may come just then. So it is raised again after the batch.
    """

    def __init__(self) -> None:
        """Nothing has come yet."""
        super().__init__()
        self._came = False

    def listen(self) -> None:
        """Takes the signals from now on; Ctrl-C not where it is ignored, as after `nohup`."""
        signal.signal(signal.SIGTERM, self._interrupt)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> NoReturn:
        self._came = True
        raise KeyboardInterrupt

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Raises again what was dropped."""
        if self._came:
            raise KeyboardInterrupt

    def on_test_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Raises again what was dropped."""
        self.on_train_batch_end(batch)


class Progress(keras.callbacks.Callback):
    """A progress bar over the whole training with images/s and time left, and the history."""

    def __init__(
        self,
        network: str,
        params: Params,
        examples: int,
        run: EpochLog,
        history: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Prepares a bar over all epochs of `examples` images, of which `history` has been done."""
        super().__init__()
        self.history: list[dict[str, Any]] = [dict(row) for row in history]
        self._network = network
        self._epochs = params.epochs
        self._batch_size = params.batch_size
        self._examples = examples
        self._run = run

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Opens the bar."""
        self._bar = progress_bar(self._network, self._epochs * self._examples)
        self._bar.update(len(self.history) * self._examples)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Starts the epoch's clock."""
        self._bar.set_description(f"{self._network} epoch {epoch + 1}/{self._epochs}", False)
        self._start = self._train_end = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Moves the bar, and stops a training whose loss is no number any more.

        Raises:
            StageError: Names the epoch and the step, both counted from 1.
        """
        loss = (logs or {})["loss"]
        if not math.isfinite(loss):
            self._bar.close()
            raise self._no_number(loss, f"step {batch + 1}")
        done = min((batch + 1) * self._batch_size, self._examples)
        self._bar.update(len(self.history) * self._examples + done - self._bar.n)
        self._train_end = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Adds the epoch to the history and to the run."""
        row = {"epoch": epoch + 1} | {key: float(value) for key, value in (logs or {}).items()}
        if not math.isfinite(row["val_loss"]):
            self._bar.close()
            raise self._no_number(row["val_loss"], "validation")
        self.history.append(row)
        self._bar.set_postfix_str(
            f"val_loss {row['val_loss']:.3f}, val_accuracy {row['val_accuracy']:.3f},"
            f" val_mean_iou {row['val_mean_iou']:.3f}"
        )
        seconds = time.perf_counter() - self._start
        self._run.log_epoch(
            row,
            seconds=seconds,
            images_per_second=self._examples / (self._train_end - self._start),
        )

    def on_train_end(self, logs: dict | None = None) -> None:
        """Closes the bar."""
        self._bar.close()

    def _no_number(self, loss: float, where: str) -> StageError:
        epochs = len(self.history)
        kept = f"; the state after epoch {epochs} is kept, and comes here again" if epochs else ""
        return StageError(
            f"the loss of {self._network} is {loss} in epoch {epochs + 1}, {where}:"
            f" lower {self._network}.learning_rate in params.yaml{kept}"
        )


def write_history(history: list[dict[str, Any]], path: Path) -> None:
    """Writes the history as CSV, one row for each epoch."""
    with replacing(path) as new, new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, HISTORY_COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in history:
            writer.writerow(
                {key: row[key] if key == "epoch" else f"{row[key]:.6f}" for key in HISTORY_COLUMNS}
            )


if __name__ == "__main__":
    run_stage("train", main)
