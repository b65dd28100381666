"""How fast networks train: the real training against the bare step, and against the arithmetic.

For each network, `Model.fit` over the project's batches takes turns with `train_on_batch` of the
same model on one batch that stays in memory, and with a large matrix product, which shows how much
arithmetic the machine could do. The batches are augmented as the network's recipe in recipes/ has
it; the long form also does all that can be done, and what params.yaml has.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from recipes.__main__ import load_recipe, names
from stages.params import Params
from stages.records.manifest import Manifest
from stages.records.tfrecords import load_split
from stages.train.__main__ import build_network, compiled, prepare_devices
from stages.train.input_pipeline import training_batches
from tests.benchmarks import notebook_recipe
from tests.benchmarks.flops import forward_flops
from tests.benchmarks.setting import Setting, changed
from tests.benchmarks.timing import Result, Row, interleaved, pair, seconds
from tests.benchmarks.workload import FULL_RECIPE, Clock, shortened, written

SIDE = 2048
PRODUCTS = 4
# What makes the project's training of a frozen encoder that of the notebook.
SAME_WORK = {
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


def compare(setting: Setting) -> Result:
    """Measures every network of the parameters, and the U-Net's step against plain Keras."""
    duration = 10.0 if setting.full else 1.0
    params = shortened(setting, setting.params, 160, 16)
    prepare_devices(params)
    rows: list[Row] = []
    details: dict[str, Any] = {}
    for network in params.networks:
        changes = {"its recipe": pipeline_of_recipe(network)}
        if setting.full:  # two more functions of the U-Net to trace, 10 s each
            changes |= {"all augmentations": FULL_RECIPE, "params.yaml": {}}
        sources = {}
        for name, values in changes.items():
            chosen = changed(params, values)
            folder, manifest = written(setting, chosen, f"{network}, {name}")
            sources[name] = _batches(chosen, folder, manifest)
        plain = build_network(network, params, manifest)
        model = compiled(network, params, plain, 1)
        steps = _steps(model, next(iter(sources["its recipe"])), duration)
        actions: dict[str, Callable[[], float]] = {}
        for name, batches in sources.items():
            actions[f"fit, {name}"] = _fit(model, batches, steps)
            actions[f"bare step, {name}"] = _bare(model, next(iter(batches)), steps)
        actions["matmul"] = _matrix_product()
        found = interleaved(actions, setting.rounds)
        for name in sources:
            both = (f"fit, {name}", f"bare step, {name}")
            rows += pair(found, both, "images/s", ">= 0.95", f"{network}: ")
        gigaflops = forward_flops(plain).training_step / 1e9
        found["arithmetic"] = [gigaflops * rate for rate in found["bare step, its recipe"]]
        rows += pair(found, ("arithmetic", "matmul"), "GFLOP/s", about=f"{network}: ")
        details[network] = {"training_gflop_per_image": gigaflops, "steps": steps}
        keras.backend.clear_session()
    pictures = sources["its recipe"].unbatch()
    batch = next(iter(pictures.batch(notebook_recipe.BATCH_SIZE)))
    return Result([*rows, *_frozen_steps(setting, params, manifest, batch)], details)


def _frozen_steps(setting: Setting, params: Params, manifest: Manifest, batch: Batch) -> list[Row]:
    """The U-Net with a frozen encoder: the project's step against plain Keras.

    Both do the same: the notebook's batch size, cross-entropy, Adam without decay, accuracy as the
    only metric.
    """
    frozen = changed(params, SAME_WORK)
    images, masks = batch
    notebooks = notebook_recipe.compiled(
        frozen.unet, manifest.image_size, len(manifest.class_names)
    )
    plain_batch = tf.cast(images, tf.float32) / 255, tf.cast(masks[..., None], tf.float32)
    project = compiled("unet", frozen, build_network("unet", frozen, manifest), 1)
    project.compile(project.optimizer, project.loss, metrics=["accuracy"])
    steps = _steps(project, batch, 10.0 if setting.full else 1.0)
    both = ("project's step", "plain Keras step")
    actions = dict(
        zip(both, (_bare(project, batch, steps), _bare(notebooks, plain_batch, steps)), strict=True)
    )
    found = interleaved(actions, setting.rounds)
    return pair(found, both, "images/s", ">= 1.2", "unet, frozen encoder: ")


def pipeline_of_recipe(network: str) -> dict[str, Any]:
    """What the recipe of a network's name says of its training pictures; nothing without one."""
    values = load_recipe(network) if network in names() else {}
    return {
        key: value
        for key, value in values.items()
        if key.startswith("augmentation.") or key == "train_image_scale"
    }


def _batches(params: Params, folder: Path, manifest: Manifest) -> tf.data.Dataset:
    """`training_batches` without end, all of the same size."""
    images, masks = load_split(folder, manifest, "train")
    size = min(params.batch_size, len(images))
    whole = len(images) // size * size
    return training_batches(
        images[:whole],
        masks[:whole],
        epochs=1_000_000,
        batch_size=size,
        seed=params.seed,
        augmentation=params.augmentation,
        image_size=manifest.image_size,
    )


def _steps(model: keras.Model, batch: Batch, duration: float) -> int:
    """How many steps take about `duration` seconds; at least 4."""
    model.train_on_batch(*batch)  # traces
    return max(4, round(duration / seconds(lambda: model.train_on_batch(*batch))))


def _fit(model: keras.Model, batches: tf.data.Dataset, steps: int) -> Callable[[], float]:
    size = len(next(iter(batches))[0])

    def run() -> float:
        clock = Clock()
        model.fit(batches, steps_per_epoch=steps + 1, shuffle=False, callbacks=[clock], verbose=0)
        # The first step fills the pipeline, as it does once in a training.
        return size * steps / (clock.steps[-1] - clock.steps[0])

    return run


def _bare(model: keras.Model, batch: Batch, steps: int) -> Callable[[], float]:
    def run() -> float:
        model.train_on_batch(*batch)
        start = time.perf_counter()
        for _ in range(steps):
            model.train_on_batch(*batch)
        return len(batch[0]) * steps / (time.perf_counter() - start)

    return run


def _matrix_product() -> Callable[[], float]:
    factor = tf.random.stateless_uniform((SIDE, SIDE), (0, 1))

    def multiply() -> None:
        for _ in range(PRODUCTS):
            tf.matmul(factor, factor).numpy()

    return lambda: 2 * SIDE**3 * PRODUCTS / 1e9 / seconds(multiply)
