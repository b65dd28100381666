"""Whether training waits for its pictures: the pipeline alone, and in the U-Net's training.

All of it with the full recipe's augmentation, the most that the pipeline has to do.
"""

import itertools
import time
from pathlib import Path

import tensorflow as tf

from stages.params import Params
from stages.records.manifest import Manifest
from stages.records.tfrecords import load_split
from stages.train.__main__ import build_network, compiled, prepare_devices
from stages.train.input_pipeline import steps_per_epoch, training_batches
from tests.benchmarks.setting import Setting, changed
from tests.benchmarks.timing import Result, Row, interleaved, pair
from tests.benchmarks.workload import FULL_RECIPE, Clock, shortened, written

EPOCHS = 50  # over which the memory has to stay as it is


def compare(setting: Setting) -> Result:
    """Measures rates, first and second epochs, and the memory of many epochs."""
    params = shortened(setting, changed(setting.params, FULL_RECIPE), 120, 16)
    folder, manifest = written(setting, params, "pipeline")
    prepare_devices(params)
    memory = _pipeline_alone(params, folder, manifest, EPOCHS)[1]
    images = manifest.splits["train"].examples
    steps = steps_per_epoch(images, params.batch_size)
    model = compiled("unet", params, build_network("unet", params, manifest), steps)

    def pipeline() -> list[float]:
        return _pipeline_alone(params, folder, manifest, 2)[0]

    def training() -> list[float]:
        clock, start = Clock(), time.perf_counter()
        batches = _batches(params, folder, manifest, 2)
        model.fit(
            batches, epochs=2, steps_per_epoch=steps, shuffle=False, callbacks=[clock], verbose=0
        )
        return [clock.epochs[0] - start, clock.epochs[1] - clock.epochs[0]]

    found = interleaved({"pipeline alone": pipeline, "U-Net training": training}, setting.rounds)
    rates = {name: [images / second for _, second in times] for name, times in found.items()}
    rows = pair(rates, ("pipeline alone", "U-Net training"), "images/s", ">= 20")
    # The training's step is traced in the warm-up: that is no work of the pipeline. What an epoch
    # does once, however many pictures there are, is too large a part of the quick form's.
    for name, goal in (
        ("U-Net training", "<= 1.1" if setting.full else ""),
        ("pipeline alone", ""),
    ):
        first, second = zip(*found[name], strict=True)
        epochs = {"first epoch with loading": first, "second epoch": second}
        rows += pair(epochs, ("first epoch with loading", "second epoch"), "s", goal, f"{name}: ")
    rows += [
        Row("resident memory after epoch 2", [memory[1]], "MB"),
        Row(f"resident memory after epoch {EPOCHS}", [memory[-1]], "MB"),
        Row(
            f"memory after epoch {EPOCHS} / after epoch 2", [memory[-1] / memory[1]], "", "<= 1.05"
        ),
    ]
    return Result(rows, {"images": images, "memory_mb_after_each_epoch": memory})


def _batches(params: Params, folder: Path, manifest: Manifest, epochs: int) -> tf.data.Dataset:
    images, masks = load_split(folder, manifest, "train")
    return training_batches(
        images,
        masks,
        epochs=epochs,
        batch_size=params.batch_size,
        seed=params.seed,
        augmentation=params.augmentation,
        image_size=manifest.image_size,
    )


def _pipeline_alone(
    params: Params, folder: Path, manifest: Manifest, epochs: int
) -> tuple[list[float], list[float]]:
    """Each epoch's seconds, the first with the reading of the records, and the memory after it."""
    times, memory = [time.perf_counter()], []
    steps = steps_per_epoch(manifest.splits["train"].examples, params.batch_size)
    for step, _ in enumerate(_batches(params, folder, manifest, epochs), 1):
        if step % steps == 0:
            times.append(time.perf_counter())
            memory.append(resident_memory())
    return [end - start for start, end in itertools.pairwise(times)], memory


def resident_memory() -> float:
    """The memory of this process that is in RAM, in MB (10^6 bytes)."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("/proc/self/status says nothing of VmRSS")
