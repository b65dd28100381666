"""How fast networks train: over their batches, on one batch in memory, and beside plain Keras."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from recipes.__main__ import load_recipe, names
from stages.params import Params
from stages.records.manifest import Manifest
from stages.records.tfrecords import load_split
from stages.train.loop import Trainer, prepare_devices
from tests.benchmarks import measuring, notebook
from tests.benchmarks.measuring import Row, Setting, changed, pair, seconds

# What makes the project's training of a frozen encoder that of the notebook.
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


def compare(setting: Setting) -> list[Row]:
    """Measure every network of the parameters, and the frozen U-Net's step against plain Keras."""
    params = setting.shortened(setting.params, 160, 16)
    prepare_devices(params)
    duration = 10 if setting.full else 1  # seconds
    rows: list[Row] = []
    for network in params.networks:
        chosen = changed(params, pipeline_of_recipe(network))
        folder, manifest = setting.records(chosen, network)
        batches = endless_batches(chosen, folder, manifest)
        batch = next(batches)
        step = Trainer(network, chosen, manifest, 1).step
        actions = {
            "training": rate(batches, step, duration),
            "step on one batch": rate(itertools.repeat(batch), step, duration),
        }
        found = measuring.interleaved(actions, setting.rounds)
        rows += pair(found, actions, ">= 0.95", f"{network}: ")
    # Both do the same: the notebook's batch size, cross-entropy, Adam without decay, accuracy.
    frozen = changed(params, SAME_WORK)
    folder, manifest = setting.records(frozen, "frozen")
    images, masks = next(endless_batches(frozen, folder, manifest))
    model = notebook.compiled(frozen.unet, manifest.image_size, len(manifest.class_names))
    plain = tf.cast(images, tf.float32) / 255, tf.cast(masks[..., None], tf.float32)
    step = Trainer("unet", frozen, manifest, 1).step
    actions = {
        "project's step": rate(itertools.repeat((images, masks)), step, duration),
        "plain Keras step": rate(itertools.repeat(plain), model.train_on_batch, duration),
    }
    found = measuring.interleaved(actions, setting.rounds)
    return rows + pair(found, actions, ">= 1.2", "unet, frozen encoder: ")


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


def pipeline_of_recipe(network: str) -> dict[str, Any]:
    """What the recipe of a network's name says of its training images; nothing without one."""
    values = load_recipe(network) if network in names() else {}
    wanted = ("augmentation.", "train_image_scale")
    return {key: value for key, value in values.items() if key.startswith(wanted)}


def endless_batches(params: Params, folder: Path, manifest: Manifest) -> Iterator[Batch]:
    """`batches_of` without end, all of the same size."""
    images, masks = load_split(folder, manifest, "train")
    whole = len(images) // params.batch_size * params.batch_size
    return iter(measuring.batches_of(params, manifest, (images[:whole], masks[:whole]), 1_000_000))
