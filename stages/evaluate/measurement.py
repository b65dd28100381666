"""One streamed pass of a network over the test split: a table of images, and the extremes."""

from pathlib import Path
from typing import Any, NamedTuple

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
from stages.records.classes import CLASS_NAMES, class_rgb
from stages.records.manifest import Manifest
from stages.records.tfrecords import batches
from stages.stage import StageError, progress_bar

BATCH_SIZE = 32  # only a matter of speed

Pixels = npt.NDArray[np.uint8]


class Measurement(NamedTuple):
    """What every metric is a function of, image by image in the split's order."""

    images: pd.DataFrame  # the contents of metrics/<network>.images.csv, unrounded
    baseline: pd.DataFrame  # as of `counted`
    reliability: npt.NDArray[np.float64]  # [image, bin, 3], as of image_reliability_counts
    # Rows of `images` with the lowest mean IoU first, and their `pixels`, uint8
    # [height, 3 width, 3]: image, true mask and prediction side by side.
    worst: list[dict[str, Any]]
    best: list[dict[str, Any]]  # the highest first


def forward_function(
    model: keras.Model, flip: bool = False
) -> tf.types.experimental.PolymorphicFunction:
    """Compile a network; with `flip`, its mean prediction for an image and its mirror image.

    Takes images uint8 [batch, height, width, 3] and masks uint8 [batch, height, width]; returns
    predicted classes uint8 and their probabilities float32, both [batch, height, width], and losses
    float32 [batch].
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
    model: keras.Model,  # from images [batch, height, width, 3] in [0, 255] to logits
    records: Path,
    manifest: Manifest,  # of the folder of records
    baseline: Pixels,  # classes [height, width] that the baseline predicts for every image
    extremes: int = 0,  # number of the worst and of the best images whose pixels are kept
    flip: bool = False,  # as for `forward_function`
) -> Measurement:
    """Run a network once over the test split; StageError if a file or a logit is damaged."""
    forward, colors = forward_function(model, flip), class_rgb()
    tables, baselines, reliability = [], [], []
    worst: list[dict[str, Any]] = []
    best: list[dict[str, Any]] = []
    with progress_bar(f"evaluate {model.name}", manifest.splits["test"].examples) as progress:
        for batch in batches(records, manifest, "test", BATCH_SIZE).as_numpy_iterator():
            images, masks = batch["image"], batch["mask"]
            prediction, confidence, losses = (part.numpy() for part in forward(images, masks))
            table = _described(batch, manifest).assign(loss=losses)
            if len(broken := table["file_name"][~np.isfinite(losses)]):
                raise StageError(
                    f"{model.name} gives logits that are not finite for {broken.iloc[0]}: its"
                    " weights are broken; train it again with a lower learning rate"
                )
            table = table.join(counted(masks, prediction))
            tables.append(table)
            baselines.append(counted(masks, np.broadcast_to(baseline, masks.shape)))
            reliability.append(image_reliability_counts(confidence, prediction == masks))
            pixels = np.concatenate([images, colors[masks], colors[prediction]], axis=2)
            rows = table.assign(pixels=list(pixels)).to_dict("records")
            worst = sorted(worst + rows, key=lambda row: row["mean_iou"])[:extremes]
            best = sorted(best + rows, key=lambda row: -row["mean_iou"])[:extremes]
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
