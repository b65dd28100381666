"""The training loop: steps, validation, the best weights, and the state after each epoch."""

import importlib
import json
import math
import os
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
from stages.train.batches import training_batches
from stages.train.losses import segmentation_loss
from stages.train.optimizer import build_optimizer
from stages.train.state import StateFile, TrainingState, configuration_digest


class EpochLog(Protocol):
    """Receives per-epoch metrics: the MLflow run."""

    @property
    def run_id(self) -> str:
        """What a resumed training finds the run by."""

    def log_epoch(
        self, row: Mapping[str, float], *, seconds: float, images_per_second: float
    ) -> None:
        """Take a row of the history, the epoch's time, and the rate without validation."""


class Trainer:
    """Trains and validates a network on one device, or on all that are mirrored.

    An epoch has `steps` steps. Images [batch, height, width, 3] are in [0, 255], masks uint8
    [batch, height, width]; with several replicas they come from the strategy's distributed
    datasets. A network's module may have `training_form(model)`, a faster model of the same
    variables and function, and `learning_rate_factors(model, params)`, factors by variable path.
    """

    def __init__(self, network: str, params: Params, manifest: Manifest, steps: int) -> None:
        module = importlib.import_module(f"stages.networks.{network}.network")
        self.strategy = tf.distribute.get_strategy()  # of one device
        if params.distribution == "mirrored":  # all GPUs, or CPUs where there is none
            devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
            self.strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
        elif params.distribution == "multi_worker":  # all GPUs, or the CPU, of each machine
            self.strategy = join_workers(configuration_digest(network, params, manifest))
        with self.strategy.scope():
            classes = len(manifest.class_names)
            self.model = module.build(params.network(network), manifest.image_size, classes)
            for layer in self.model._flatten_layers():
                if isinstance(layer, keras.layers.BatchNormalization):
                    # Over the whole batch, not a replica's share.
                    layer.synchronized = self.strategy.num_replicas_in_sync > 1
            self._form = getattr(module, "training_form", lambda model: model)(self.model)
            factors: Mapping[str, float] = getattr(module, "learning_rate_factors", lambda *_: {})(
                self.model, params.network(network)
            )
            self.optimizer = build_optimizer(network, params, steps, factors)
            self.optimizer.build(self.model.trainable_variables)
        self._loss = params.loss
        self.variables = [*self.model.variables, *self.optimizer.variables]
        self.train_step = self._compiled(self._train)
        self.validation_step = self._compiled(self._measure)
        self._trained: list[tuple[tf.Tensor, tf.Tensor]] = []  # loss and counts of each batch

    def step(self, images: tf.Tensor, masks: tf.Tensor) -> float:
        """Train on a batch; returns the loss before."""
        self._trained.append(self.train_step(images, masks))
        return float(self._trained[-1][0])

    def epoch_metrics(self) -> dict[str, float]:
        """`loss`, `accuracy` and `mean_iou` over the steps since the last call."""
        trained, self._trained = self._trained, []
        return _metrics(trained)

    def validate(self, batches: Iterable[tuple[tf.Tensor, tf.Tensor]]) -> dict[str, float]:
        """`loss`, `accuracy` and `mean_iou` of the weights in place."""
        return _metrics([self.validation_step(*batch) for batch in batches])

    def _compiled(self, replica: Callable) -> Any:
        """A traced function of a whole batch, which adds up what each `replica` returns."""

        @tf.function(autograph=False)  # there is no control flow to convert
        def whole(images: tf.Tensor, masks: tf.Tensor) -> list[tf.Tensor]:
            parts = self.strategy.run(replica, (images, masks))
            return [self.strategy.reduce("SUM", part, axis=None) for part in parts]

        return whole

    def _train(self, images: tf.Tensor, masks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            loss, counts = self._measure(images, masks, training=True)
            scaled = self.optimizer.scale_loss(loss)  # in float16
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        self.optimizer.apply(gradients, variables)  # sums them over the replicas
        return loss, counts

    def _measure(
        self, images: tf.Tensor, masks: tf.Tensor, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """A replica's part of the loss, and pixel counts [class (true), class (predicted)]."""
        logits = self._form(images, training=training)
        pairs = tf.reshape(masks, [-1]), tf.reshape(tf.argmax(logits, axis=-1), [-1])
        counts = tf.math.confusion_matrix(*pairs, logits.shape[-1], dtype=tf.int64)
        if self.strategy.num_replicas_in_sync > 1:  # Dice of two shares is not Dice of the whole
            gather = tf.distribute.get_replica_context().all_gather
            masks = gather(tf.cast(masks, tf.int32), axis=0)
            logits = tf.ensure_shape(gather(logits, axis=0), logits.shape)
        loss = segmentation_loss(self._loss, masks, logits)
        return loss / self.strategy.num_replicas_in_sync, counts


def _metrics(batches: list[tuple[tf.Tensor, tf.Tensor]]) -> dict[str, float]:
    """Loss, accuracy and mean IoU (over the classes in truth or prediction) over all pixels."""
    counts = np.array([counts for _, counts in batches])
    total = counts.sum(axis=0)
    right, union = np.diag(total), total.sum(axis=0) + total.sum(axis=1) - np.diag(total)
    return {
        "loss": float(np.average([loss for loss, _ in batches], weights=counts.sum(axis=(1, 2)))),
        "accuracy": float(right.sum() / total.sum()),
        "mean_iou": float(np.mean(right[union > 0] / union[union > 0])),
    }


def prepare_devices(params: Params) -> None:
    """Seed every generator and set precision, determinism and GPU memory growth."""
    keras.utils.set_random_seed(params.seed)
    keras.mixed_precision.set_global_policy(params.precision)
    tf.config.experimental.enable_op_determinism()
    for device in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(device, True)  # or it takes all at once


def join_workers(configuration: str) -> tf.distribute.Strategy:
    """Wait for the machines of TF_CONFIG; nothing in the process may use TensorFlow before.

    Raises StageError if worker 0 has another configuration (a hexadecimal digest).
    """
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (tf.errors.InvalidArgumentError, tf.errors.UnknownError) as error:
        raise StageError(f"TF_CONFIG: {error.message}: is HOST:PORT right, and free?") from error
    digest = np.int64(int(configuration[:15], 16))
    if value_of_worker_0(strategy, digest) != digest:
        raise StageError("code, parameters, records and libraries must be those of worker 0")
    return strategy


def value_of_worker_0(strategy: tf.distribute.Strategy, value: Any) -> Any:
    """Worker 0's value on all machines, where it must have the same shape and dtype."""
    with strategy.scope():
        return tf.Variable(value).numpy()  # a variable starts with worker 0's value everywhere


def check_shares(examples: int, batch_size: int, replicas: int) -> None:
    """Raise StageError if a batch of a split leaves a replica without an image: its loss is NaN."""
    for size in {min(batch_size, examples), examples % batch_size or batch_size}:
        if -(-size // replicas) * (replicas - 1) >= size:
            raise StageError(
                f"params.yaml: batch_size: {batch_size} leaves one of {replicas} devices without an"
                f" image in a batch of {size} of {examples}: choose another, or distribution: none"
            )


def train(
    network: str,
    params: Params,
    manifest: Manifest,
    records: Path,
    run: EpochLog | None = None,
    saved: StateFile | None = None,
) -> tuple[keras.Model, list[dict[str, Any]]]:
    """Train a network on the records of a folder, on from the state in `saved`.

    Returns the network with the weights of the lowest validation loss, and the history: a row for
    each epoch, counted from 1. Raises StageError if the loss is not finite, or the network or
    records are unavailable.
    """
    prepare_devices(params)
    steps = math.ceil(manifest.splits["train"].examples / params.batch_size)
    trainer = Trainer(network, params, manifest, steps)  # joins other machines: nothing before it
    images, masks = load_split(records, manifest, "train")
    held_out = load_split(records, manifest, "validation")
    for split in (images, held_out[0]):
        check_shares(len(split), params.batch_size, trainer.strategy.num_replicas_in_sync)
    state = saved.state if saved else TrainingState()
    history, best = list(state.history), state.best or trainer.model.get_weights()
    finished = int(value_of_worker_0(trainer.strategy, len(history)))
    if finished:
        values = state.variables or [variable.numpy() for variable in trainer.variables]
        for variable, value in zip(trainer.variables, values, strict=True):
            variable.assign(value_of_worker_0(trainer.strategy, value))
    batches = training_batches(images, masks, params, manifest.image_size, finished)
    training = trainer.strategy.experimental_distribute_dataset(batches)
    validation = trainer.strategy.experimental_distribute_dataset(
        tf.data.Dataset.from_tensor_slices(held_out).batch(params.batch_size).prefetch(1)
    )
    # Traced here, once for batches of any size.
    trainer.train_step.get_concrete_function(*training.element_spec)
    trainer.validation_step.get_concrete_function(*validation.element_spec)

    def check_finite(loss: float, where: str) -> None:
        if not math.isfinite(loss):
            raise StageError(
                f"the loss of {network} is {loss} in epoch {epoch}, {where}:"
                f" lower {network}.learning_rate in params.yaml"
            )

    iterator = iter(training)
    with progress_bar(network, params.epochs * len(images)) as bar:
        for epoch in range(finished + 1, params.epochs + 1):
            start = time.perf_counter()
            for step in range(1, steps + 1):
                check_finite(trainer.step(*next(iterator)), f"step {step}")
                done = min(step * params.batch_size, len(images))
                bar.update((epoch - 1) * len(images) + done - bar.n)
            rate = len(images) / (time.perf_counter() - start)
            trained = trainer.model.get_weights()
            # The averages, if they are kept.
            trainer.optimizer.finalize_variable_values(trainer.model.trainable_variables)
            validated = trainer.validate(validation)
            check_finite(validated["loss"], "validation")
            if validated["loss"] < min((row["val_loss"] for row in history), default=math.inf):
                best = trainer.model.get_weights()
            trainer.model.set_weights(trained)
            metrics = {f"val_{name}": value for name, value in validated.items()}
            history.append({"epoch": epoch} | trainer.epoch_metrics() | metrics)
            bar.set_postfix({"epoch": epoch, **metrics})
            seconds = time.perf_counter() - start
            if run:
                run.log_epoch(history[-1], seconds=seconds, images_per_second=rate)
            if path := os.environ.get("EPOCH_LOG"):  # what a search follows (tools/search.py)
                with open(path, "a", encoding="utf-8") as log:
                    log.write(json.dumps(history[-1]) + "\n")
            if saved and run:
                values = [variable.numpy() for variable in trainer.variables]
                saved.save(TrainingState(values, best, list(history), run.run_id))
    trainer.model.set_weights(best)
    return trainer.model, history
