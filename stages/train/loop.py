"""The training loop: steps, validation, the best weights, and the state after each epoch."""

import importlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from stages.params import Params
from stages.records.manifest import Manifest
from stages.records.tfrecords import load_split
from stages.stage import StageError, progress_bar
from stages.train.batches import steps_per_epoch, training_batches
from stages.train.devices import check_shares, prepare_devices, strategy, synchronize
from stages.train.losses import segmentation_loss
from stages.train.optimizer import build_optimizer
from stages.train.state import StateFile, TrainingState


class EpochLog(Protocol):
    """Receives per-epoch metrics: the MLflow run."""

    @property
    def run_id(self) -> str:
        """By which a resumed training finds the run."""

    def log_epoch(
        self, row: Mapping[str, float], *, seconds: float, images_per_second: float
    ) -> None:
        """Takes a row of the history, the epoch's time, and the rate without validation."""


class Totals:
    """Loss, accuracy and mean IoU over batches, a batch weighted by its pixels."""

    def __init__(self, num_classes: int) -> None:
        """Starts without a batch."""
        self._loss = 0.0
        self._counts = np.zeros((num_classes, num_classes), np.int64)

    def add(self, loss: float, counts: np.ndarray) -> None:
        """Adds a batch: its loss, and pixel counts [class (true), class (predicted)]."""
        self._loss += loss * float(counts.sum())
        self._counts += counts

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """The metrics; the mean IoU is over the classes in truth or prediction."""
        right, pixels = np.diagonal(self._counts), self._counts.sum()
        union = self._counts.sum(axis=0) + self._counts.sum(axis=1) - right
        return {
            f"{prefix}loss": self._loss / float(pixels),
            f"{prefix}accuracy": float(right.sum() / pixels),
            f"{prefix}mean_iou": float(np.mean(right[union > 0] / union[union > 0])),
        }


class Trainer:
    """Trains and validates a network on the devices of its strategy.

    Attributes:
        model: The network.
        variables: All that a step changes, the optimizer's variables included.
    """

    def __init__(self, network: str, params: Params, manifest: Manifest, steps: int) -> None:
        """Builds the network and its optimizer; an epoch has `steps` steps.

        A network's module may have `training_form(model)`, a faster model of the same variables
        and function, and `learning_rate_factors(model, params)`, factors by variable path.
        """
        module = importlib.import_module(f"stages.networks.{network}.network")
        self.strategy = strategy(params)
        with self.strategy.scope():
            self.model = build_network(network, params, manifest)
            synchronize(self.model, self.strategy)
            form, factors = self.model, {}
            if hasattr(module, "training_form"):
                form = module.training_form(self.model)
            if hasattr(module, "learning_rate_factors"):
                factors = module.learning_rate_factors(self.model, params.network(network))
            self._optimizer = build_optimizer(network, params, steps, factors)
            self._optimizer.build(self.model.trainable_variables)
        self._form = form
        self._loss = params.loss
        self._ema = params.ema_momentum > 0
        self.variables = [*self.model.variables, *self._optimizer.variables]
        self._train = self._compiled(self._train_replica)
        self._validate = self._compiled(self._validate_replica)

    def totals(self) -> Totals:
        """Empty totals of this network's classes."""
        return Totals(self.model.output_shape[-1])

    def trace(self, training: Any, validation: Any) -> None:
        """Traces both functions for batches of any size, from the datasets' element_spec."""
        self._train.get_concrete_function(*training)
        self._validate.get_concrete_function(*validation)

    def step(self, images: tf.Tensor, masks: tf.Tensor, totals: Totals | None = None) -> float:
        """Trains on a batch.

        Args:
            images: Values in [0, 255], [batch, height, width, 3], or one such for each replica.
            masks: Classes, uint8 [batch, height, width], likewise.
            totals: Where the batch is added to.

        Returns:
            The loss before the step.
        """
        return self._run(self._train, images, masks, totals)

    def validate(
        self, batches: Iterable[tuple[tf.Tensor, tf.Tensor]], after_batch: Callable = lambda: None
    ) -> dict[str, float]:
        """Validates the weights in place: `val_loss`, `val_accuracy` and `val_mean_iou`."""
        totals = self.totals()
        for images, masks in batches:
            self._run(self._validate, images, masks, totals)
            after_batch()
        return totals.metrics("val_")

    def averaged(self) -> Callable[[], None]:
        """Puts the averaged weights in place, where there are any; returns what undoes it."""
        if not self._ema:
            return lambda: None
        trained = [variable.numpy() for variable in self.model.trainable_variables]
        self._optimizer.finalize_variable_values(self.model.trainable_variables)
        return lambda: assign(self.model.trainable_variables, trained)

    def _run(
        self, function: Callable, images: tf.Tensor, masks: tf.Tensor, totals: Totals | None
    ) -> float:
        loss, counts = function(images, masks)
        if totals is not None:
            totals.add(float(loss), counts.numpy())
        return float(loss)

    def _compiled(self, replica: Callable) -> Any:
        """A function of a whole batch that sums what `replica` returns over the replicas."""

        def whole(images: tf.Tensor, masks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            loss, counts = self.strategy.run(replica, (images, masks))
            return (
                self.strategy.reduce("SUM", loss, axis=None),
                self.strategy.reduce("SUM", counts, axis=None),
            )

        # XLA is four times slower on a CPU.
        return tf.function(whole, jit_compile=False)

    def _train_replica(self, images: tf.Tensor, masks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            logits = self._form(images, training=True)
            loss = self._replica_loss(masks, logits)
            scaled = self._optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        self._optimizer.apply(gradients, variables)  # sums them over the replicas
        return loss, _counts(masks, logits)

    def _validate_replica(self, images: tf.Tensor, masks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = self._form(images, training=False)
        return self._replica_loss(masks, logits), _counts(masks, logits)

    def _replica_loss(self, masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """A replica's part of the batch's loss; the parts are summed."""
        return segmentation_loss(self._loss, masks, logits) / self.strategy.num_replicas_in_sync


def _counts(masks: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    predicted = tf.reshape(tf.argmax(logits, axis=-1), [-1])
    return tf.math.confusion_matrix(
        tf.reshape(masks, [-1]), predicted, logits.shape[-1], None, "int64"
    )


def assign(variables: Iterable[keras.Variable], values: Iterable[np.ndarray]) -> None:
    """Sets variables to values."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def build_network(network: str, params: Params, manifest: Manifest) -> keras.Model:
    """Builds a network by its name: `build` of stages/networks/<network>/network.py."""
    module = importlib.import_module(f"stages.networks.{network}.network")
    return module.build(params.network(network), manifest.image_size, len(manifest.class_names))


def train(
    network: str,
    params: Params,
    manifest: Manifest,
    records: Path,
    run: EpochLog,
    saved: StateFile | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> tuple[keras.Model, list[dict[str, Any]]]:
    """Trains a network.

    Args:
        network: The network's name.
        params: All parameters.
        manifest: The records' manifest.
        records: The records' folder.
        run: Receives the metrics of each epoch.
        saved: Has the state to go on from, and keeps that after each epoch.
        interrupted: Asked after each batch whether to stop.

    Returns:
        The network with the weights of the epoch of the lowest validation loss, and the history,
        a row for each epoch, counted from 1.

    Raises:
        KeyboardInterrupt: `interrupted` said so.
        StageError: The loss is not finite, or the network or the records are unavailable.
    """
    prepare_devices(params)
    images, masks = load_split(records, manifest, "train")
    held_out = load_split(records, manifest, "validation")
    steps = steps_per_epoch(len(images), params.batch_size)
    trainer = Trainer(network, params, manifest, steps)
    devices = trainer.strategy.num_replicas_in_sync
    check_shares(len(images), "training", params.batch_size, devices)
    check_shares(len(held_out[0]), "validation", params.batch_size, devices)
    history: list[dict[str, Any]] = []
    best: list[np.ndarray] = []
    if saved is not None and saved.state is not None:
        assign(trainer.variables, saved.state.variables)
        history, best = list(saved.state.history), saved.state.best
    training = trainer.strategy.experimental_distribute_dataset(
        training_batches(
            images,
            masks,
            epochs=params.epochs,
            batch_size=params.batch_size,
            seed=params.seed,
            augmentation=params.augmentation,
            image_size=manifest.image_size,
            first_epoch=len(history),
        )
    )
    validation = trainer.strategy.experimental_distribute_dataset(
        tf.data.Dataset.from_tensor_slices(held_out)
        .batch(params.batch_size)
        .prefetch(tf.data.AUTOTUNE)
    )
    trainer.trace(training.element_spec, validation.element_spec)

    def stop_if_interrupted() -> None:
        if interrupted():
            raise KeyboardInterrupt

    def check_finite(loss: float, where: str) -> None:
        if not math.isfinite(loss):
            done = len(history)
            kept = f"; the state after epoch {done} is kept, and leads here again" if done else ""
            raise StageError(
                f"the loss of {network} is {loss} in epoch {done + 1}, {where}:"
                f" lower {network}.learning_rate in params.yaml{kept}"
            )

    batches = iter(training)
    with progress_bar(network, params.epochs * len(images)) as bar:
        for epoch in range(len(history) + 1, params.epochs + 1):
            bar.set_description(f"{network} epoch {epoch}/{params.epochs}", refresh=False)
            totals = trainer.totals()
            start = time.perf_counter()
            for step in range(1, steps + 1):
                check_finite(trainer.step(*next(batches), totals), f"step {step}")
                done = min(step * params.batch_size, len(images))
                bar.update((epoch - 1) * len(images) + done - bar.n)
                stop_if_interrupted()
            trained = time.perf_counter()
            restore = trainer.averaged()
            metrics = trainer.validate(validation, stop_if_interrupted)
            check_finite(metrics["val_loss"], "validation")
            if metrics["val_loss"] < min((row["val_loss"] for row in history), default=math.inf):
                best = trainer.model.get_weights()
            restore()
            history.append({"epoch": epoch} | totals.metrics() | metrics)
            bar.set_postfix_str(", ".join(f"{name} {metrics[name]:.3f}" for name in metrics))
            run.log_epoch(
                history[-1],
                seconds=time.perf_counter() - start,
                images_per_second=len(images) / (trained - start),
            )
            if saved is not None:
                values = [variable.numpy() for variable in trainer.variables]
                saved.save(TrainingState(values, best, list(history), run.run_id))
    trainer.model.set_weights(best)
    return trainer.model, history
