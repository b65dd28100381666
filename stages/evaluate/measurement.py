"""One streamed pass of a network over the test split: counts for each image, and a few images."""

from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from stages.metrics.boundary import boundary_counts, silhouette
from stages.metrics.calibration import image_reliability_counts
from stages.metrics.confusion import confusion_matrices, mean_iou
from stages.networks.model_file import prediction_function
from stages.records.classes import CLASS_NAMES
from stages.records.manifest import Manifest
from stages.records.tfrecords import batches
from stages.stage import StageError, progress_bar

# Images in a batch; only a matter of speed.
BATCH_SIZE = 32


class Picture(NamedTuple):
    """A test image with its mask and prediction."""

    position: int  # in the split
    mean_iou: float
    image: npt.NDArray[np.uint8]  # [height, width, 3]
    mask: npt.NDArray[np.uint8]  # [height, width]
    prediction: npt.NDArray[np.uint8]  # [height, width]


class Measurement(NamedTuple):
    """What is counted, image by image in the split's order; every metric is a function of it."""

    file_names: npt.NDArray[Any]  # [image]
    labels: npt.NDArray[np.int64]  # [image], breed; -1 where the dataset has none
    species: npt.NDArray[np.int64]  # [image], -1 where the dataset has none
    losses: npt.NDArray[np.float64]  # [image], mean cross-entropy of a pixel, nats
    matrices: npt.NDArray[np.int64]  # [image, class (true), class (predicted)], pixels
    boundaries: npt.NDArray[np.int64]  # [image, tolerance, 4], of boundary_counts
    reliability: npt.NDArray[np.float64]  # [image, bin, 3], of image_reliability_counts
    baseline_matrices: npt.NDArray[np.int64]  # [image, class (true), class (predicted)]
    baseline_boundaries: npt.NDArray[np.int64]  # [image, tolerance, 4]
    worst: list[Picture]  # by mean IoU, the lowest first
    best: list[Picture]  # by mean IoU, the highest first


def forward_function(
    model: keras.Model, flip: bool = False
) -> tf.types.experimental.PolymorphicFunction:
    """Compile a network with what the pass needs of its logits.

    Args:
        model: From images [batch, height, width, 3] in [0, 255] to logits.
        flip: Average the prediction with that of the mirror image.

    Returns:
        A function from images uint8 [batch, height, width, 3] and masks uint8
        [batch, height, width] to predicted classes uint8 and their probabilities float32, both
        [batch, height, width], and losses float32 [batch].
    """
    network = prediction_function(model, flip)

    @tf.function(reduce_retracing=True)
    def forward(images: tf.Tensor, masks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        logits = network(images)
        prediction = tf.cast(tf.argmax(logits, axis=-1), tf.uint8)
        confidence = tf.reduce_max(tf.nn.softmax(logits), axis=-1)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(masks, tf.int32), logits)
        return prediction, confidence, tf.reduce_mean(losses, axis=(1, 2))

    return forward


def measure(
    model: keras.Model,
    records: Path,
    manifest: Manifest,
    baseline: npt.NDArray[np.uint8],
    extremes: int = 0,
    flip: bool = False,
) -> Measurement:
    """Run a network once over the test split.

    Of each image only counts are kept, about 500 numbers, and of the extremes the pixels.

    Args:
        model: As for `forward_function`.
        records: The records' folder.
        manifest: The records' manifest.
        baseline: Classes [height, width] that the baseline predicts for every image.
        extremes: Number of the worst and of the best images to keep.
        flip: As for `forward_function`.

    Raises:
        StageError: The split is empty, a file of it is damaged, or a logit is not finite.
    """
    total = manifest.splits["test"].examples
    if not total:
        raise StageError("the test split has no examples; choose another test_split in params.yaml")
    forward = forward_function(model, flip)
    counts: list[dict[str, np.ndarray]] = []
    worst: list[Picture] = []
    best: list[Picture] = []
    done = 0
    with progress_bar(f"evaluate {model.name}", total) as progress:
        for batch in batches(records, manifest, "test", BATCH_SIZE).as_numpy_iterator():
            outputs = [output.numpy() for output in forward(batch["image"], batch["mask"])]
            counts.append(_count(batch, *outputs, baseline))
            finite = np.isfinite(counts[-1]["losses"])
            if not finite.all():
                raise StageError(
                    f"the logits of {model.name} are not finite for"
                    f" {counts[-1]['file_names'][np.argmin(finite)]}: its weights are broken;"
                    " train it again with a lower learning rate"
                )
            for index, score in enumerate(mean_iou(counts[-1]["matrices"])):
                image, mask = batch["image"][index], batch["mask"][index]
                picture = Picture(done + index, score, image, mask, outputs[0][index])
                worst = sorted([*worst, picture], key=lambda p: p.mean_iou)[:extremes]
                best = sorted([*best, picture], key=lambda p: -p.mean_iou)[:extremes]
            done += len(batch["mask"])
            progress.update(len(batch["mask"]))
    arrays = {name: np.concatenate([part[name] for part in counts]) for name in counts[0]}
    return Measurement(**arrays, worst=worst, best=best)


def _count(
    batch: dict[str, np.ndarray],
    prediction: npt.NDArray[np.uint8],
    confidence: npt.NDArray[np.float32],
    losses: npt.NDArray[np.float32],
    baseline: npt.NDArray[np.uint8],
) -> dict[str, np.ndarray]:
    masks, classes = batch["mask"], len(CLASS_NAMES)
    region, always = silhouette(masks), np.broadcast_to(baseline, masks.shape)
    return {
        "file_names": np.array([name.decode() for name in batch["file_name"]]),
        "labels": batch["label"],
        "species": batch["species"],
        "losses": losses.astype(np.float64),
        "matrices": confusion_matrices(masks, prediction, classes),
        "boundaries": boundary_counts(region, silhouette(prediction)),
        "reliability": image_reliability_counts(confidence, prediction == masks),
        "baseline_matrices": confusion_matrices(masks, always, classes),
        "baseline_boundaries": boundary_counts(region, silhouette(always)),
    }
