"""One streamed pass of a network over the test split: a table of images, and the extremes."""

from typing import NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from stages.metrics import confusion
from stages.metrics.boundary import boundary_counts, boundary_f_score, silhouette
from stages.metrics.calibration import image_reliability_counts
from stages.metrics.results import BOUNDARY_COLUMNS, COUNT_COLUMNS
from stages.networks.model_file import prediction_function
from stages.records.classes import CLASS_NAMES
from stages.records.manifest import RECORDS_FOLDER, Manifest
from stages.records.tfrecords import batches
from stages.stage import StageError, progress_bar

BATCH_SIZE = 32  # only a matter of speed

Pixels = npt.NDArray[np.uint8]


class Picture(NamedTuple):
    """A test image with its mask and prediction."""

    position: int  # in the split
    mean_iou: float
    image: Pixels  # [height, width, 3]
    mask: Pixels  # [height, width]
    prediction: Pixels  # [height, width]


class Measurement(NamedTuple):
    """What every metric is a function of, image by image in the split's order."""

    images: pd.DataFrame  # the contents of metrics/<network>.images.csv, unrounded
    baseline: pd.DataFrame  # as of `counted`
    reliability: npt.NDArray[np.float64]  # [image, bin, 3], as of image_reliability_counts
    worst: list[Picture]  # by mean IoU, the lowest first
    best: list[Picture]  # by mean IoU, the highest first


def forward_function(
    model: keras.Model, flip: bool = False
) -> tf.types.experimental.PolymorphicFunction:
    """Compile a network; with `flip`, its mean prediction for an image and its mirror image.

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
    model: keras.Model, manifest: Manifest, baseline: Pixels, extremes: int = 0, flip: bool = False
) -> Measurement:
    """Run a network once over the test split.

    Args:
        model: From images [batch, height, width, 3] in [0, 255] to logits.
        manifest: Of the records in RECORDS_FOLDER.
        baseline: Classes [height, width] that the baseline predicts for every image.
        extremes: Number of the worst and of the best images whose pixels are kept.
        flip: As for `forward_function`.

    Raises:
        StageError: The split is empty, a file of it is damaged, or a logit is not finite.
    """
    total = manifest.splits["test"].examples
    if not total:
        raise StageError("the test split has no examples; choose another test_split in params.yaml")
    forward = forward_function(model, flip)
    tables, baselines, reliability = [], [], []
    worst: list[Picture] = []
    best: list[Picture] = []
    done = 0
    with progress_bar(f"evaluate {model.name}", total) as progress:
        for batch in batches(RECORDS_FOLDER, manifest, "test", BATCH_SIZE).as_numpy_iterator():
            images, masks = batch["image"], batch["mask"]
            prediction, confidence, losses = (part.numpy() for part in forward(images, masks))
            table = _described(batch, manifest).assign(loss=losses)
            table = table.join(counted(masks, prediction))
            broken = table["file_name"][~np.isfinite(losses)]
            if len(broken):
                raise StageError(
                    f"{model.name} gives logits that are not finite for {broken.iloc[0]}: its"
                    " weights are broken; train it again with a lower learning rate"
                )
            tables.append(table)
            baselines.append(counted(masks, np.broadcast_to(baseline, masks.shape)))
            reliability.append(image_reliability_counts(confidence, prediction == masks))
            rows = zip(table["mean_iou"], images, masks, prediction, strict=True)
            pictures = [Picture(position, *row) for position, row in enumerate(rows, done)]
            worst = sorted(worst + pictures, key=lambda picture: picture.mean_iou)[:extremes]
            best = sorted(best + pictures, key=lambda picture: -picture.mean_iou)[:extremes]
            done += len(masks)
            progress.update(len(masks))
    table, of_baseline = (pd.concat(parts, ignore_index=True) for parts in (tables, baselines))
    return Measurement(table, of_baseline, np.concatenate(reliability), worst, best)


def counted(masks: Pixels, prediction: Pixels) -> pd.DataFrame:
    """What images.csv counts of classes [image, height, width], and the scores of these counts."""
    matrices = confusion.confusion_matrices(masks, prediction, len(CLASS_NAMES))
    boundaries = boundary_counts(silhouette(masks), silhouette(prediction))
    table = pd.DataFrame({"accuracy": confusion.pixel_accuracy(matrices)})
    table["mean_iou"] = confusion.mean_iou(matrices)
    table[BOUNDARY_COLUMNS] = boundary_f_score(boundaries)
    table[COUNT_COLUMNS] = matrices.reshape(len(masks), -1)
    return table


def _described(batch: dict[str, np.ndarray], manifest: Manifest) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "file_name": [name.decode() for name in batch["file_name"]],
            # Where the dataset has none, it is the last one: -1.
            "species": np.array([*manifest.species_names, ""])[batch["species"]],
            "breed": np.array([*manifest.label_names, ""])[batch["label"]],
            "pet_share": silhouette(batch["mask"]).mean(axis=(1, 2)),
        }
    )
