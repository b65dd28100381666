"""How fast networks train: over their batches, on one batch in memory, and beside plain Keras."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from recipes.__main__ import load_recipe, names
from stages.params import Params
from stages.records.tfrecords import load_split
from stages.train.batches import training_batches
from stages.train.loop import Trainer, prepare_devices
from tests.benchmarks import notebook
from tests.benchmarks.measuring import Row, changed, compared, records, seconds

# What makes the project's training of a frozen encoder that of the notebook: its batch size,
# cross-entropy, Adam without decay.
SAME_WORK = {
    "batch_size": notebook.BATCH_SIZE,
    "unet.train_encoder": False,
    "unet.encoder_weights": "none",
    "weight_decay": 0.0,
    "ema_momentum": 0.0,
    "loss.label_smoothing": 0.0,
    "loss.border_weight": 1.0,
    "loss.dice_weight": 0.0,
    "loss.lovasz_weight": 0.0,
}
Batch = tuple[tf.Tensor, tf.Tensor]


def compare(params: Params, scratch: Path, full: bool) -> list[Row]:
    """Measure every network of the parameters, and the frozen U-Net's step against plain Keras."""
    rounds, duration = (5, 10.0) if full else (3, 1.0)  # seconds
    if not full:
        splits = {"train_split": "train[:160]", "test_split": "test[:16]"}
        params = params.model_copy(update=splits)
    prepare_devices(params)
    rows: list[Row] = []
    for network in params.networks:
        chosen = changed(params, pipeline_of_recipe(network))
        step, batches = trainer_and_batches(network, chosen, scratch / network)
        batch = next(batches)
        actions = {
            "training": rate(batches, step, duration),
            "step on one batch": rate(itertools.repeat(batch), step, duration),
        }
        rows += compared(network, actions, rounds, 0.95)
    frozen = changed(params, SAME_WORK)
    step, batches = trainer_and_batches("unet", frozen, scratch / "frozen")
    images, masks = next(batches)
    model = notebook.compiled(frozen.unet, frozen.image_size, 3)
    plain = tf.cast(images, tf.float32) / 255, tf.cast(masks[..., None], tf.float32)
    actions = {
        "project's step": rate(itertools.repeat((images, masks)), step, duration),
        "plain Keras step": rate(itertools.repeat(plain), model.train_on_batch, duration),
    }
    return rows + compared("unet, frozen encoder", actions, rounds, 1.2)


def pipeline_of_recipe(network: str) -> dict[str, Any]:
    """What the recipe of a network's name says of its training images; nothing without one."""
    values = load_recipe(network) if network in names() else {}
    wanted = ("augmentation.", "train_image_scale")
    return {key: value for key, value in values.items() if key.startswith(wanted)}


def trainer_and_batches(
    network: str, params: Params, folder: Path
) -> tuple[Callable[[tf.Tensor, tf.Tensor], float], Iterator[Batch]]:
    """The training step of a network, and its batches without end, all of the same size."""
    folder, manifest = records(params, folder.parent, folder.name)
    images, masks = load_split(folder, manifest, "train")
    whole = len(images) // params.batch_size * params.batch_size
    endless = params.model_copy(update={"epochs": 1_000_000})
    batches = training_batches(images[:whole], masks[:whole], endless, params.image_size)
    return Trainer(network, params, manifest, 1).step, iter(batches)


def rate(
    batches: Iterator[Batch], step: Callable[..., object], duration: float
) -> Callable[[], float]:
    """What measures the images a second of steps that take about `duration` seconds, at least 4."""

    def run() -> float:
        size = len(next(batches)[0])
        once = seconds(lambda: step(*next(batches)))
        steps = max(4, round(duration / once))
        return size * steps / seconds(lambda: [step(*next(batches)) for _ in range(steps)])

    return run
