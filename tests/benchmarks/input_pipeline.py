"""Whether training waits for its images: the pipeline alone, and the U-Net's training.

With every augmentation, on training images that are larger than the network's: the most that the
pipeline has to do.
"""

import resource
from collections.abc import Callable

from stages.records.tfrecords import load_split
from stages.train.batches import steps_per_epoch
from stages.train.loop import Trainer, prepare_devices
from tests.benchmarks import measuring
from tests.benchmarks.measuring import Row, Setting, changed, pair, seconds

ALL_AUGMENTATIONS = {
    "train_image_scale": 1.5,
    "augmentation.horizontal_flip": True,
    "augmentation.crop_scale": 0.6,
    "augmentation.crop_aspect": 1.15,
    "augmentation.brightness": 0.2,
    "augmentation.contrast": 0.2,
    "augmentation.saturation": 0.2,
}
EPOCHS = 50  # over which the memory has to stay as it is


def compare(setting: Setting) -> list[Row]:
    """Measure the rates, and the memory of many epochs."""
    params = setting.shortened(changed(setting.params, ALL_AUGMENTATIONS), 120, 16)
    folder, manifest = setting.records(params, "pipeline")
    prepare_devices(params)
    split = load_split(folder, manifest, "train")
    count = len(split[0])

    def rate(step: Callable[..., object], epochs: int = 2) -> float:
        batches = measuring.batches_of(params, manifest, split, epochs)
        return epochs * count / seconds(lambda: [step(*batch) for batch in batches])

    memory = []  # the most of this process so far, in MB
    for epochs in (2, EPOCHS):
        rate(_no_step, epochs)
        memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
    step = Trainer("unet", params, manifest, steps_per_epoch(count, params.batch_size)).step
    actions = {
        "pipeline alone": lambda: rate(_no_step, EPOCHS),  # its start takes as long as an epoch
        "U-Net training": lambda: rate(step),
    }
    return [
        *pair(measuring.interleaved(actions, setting.rounds), actions, ">= 20"),
        Row(f"most memory until epoch {EPOCHS}", memory[1:], "MB"),
        Row(f"memory after epoch {EPOCHS} / after 2", [memory[1] / memory[0]], "", "<= 1.05"),
    ]


def _no_step(*batch: object) -> None:
    pass
