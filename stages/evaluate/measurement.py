"""One streamed pass of a network over a split: counts for each image, and a few pictures."""

import functools
import heapq
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from stages.metrics.boundary import TOLERANCES, boundary_counts, silhouette
from stages.metrics.calibration import BINS, image_reliability_counts
from stages.metrics.confusion import confusion_matrices, mean_iou
from stages.networks.model_file import prediction_function
from stages.records.manifest import Manifest
from stages.records.tfrecords import batches
from stages.stage import StageError, progress_bar

# Images in a batch; only a matter of speed.
BATCH_SIZE = 32


class Picture(NamedTuple):
    """A test picture with what a network made of it."""

    position: int  # its place in the split
    image: npt.NDArray[np.uint8]  # [height, width, 3]
    mask: npt.NDArray[np.uint8]  # [height, width]
    prediction: npt.NDArray[np.uint8]  # [height, width]


class Measurement(NamedTuple):
    """What is counted, image by image in the split's order; every figure is a function of it."""

    file_names: list[str]
    labels: npt.NDArray[np.int64]  # [image], breed; -1 where the dataset has none
    species: npt.NDArray[np.int64]  # [image], -1 where the dataset has none
    losses: npt.NDArray[np.float64]  # [image], mean cross-entropy of a pixel, nats
    matrices: npt.NDArray[np.int64]  # [image, class (true), class (predicted)], pixels
    boundaries: npt.NDArray[np.int64]  # [image, tolerance, 4], as of boundary.boundary_counts
    reliability: npt.NDArray[np.float64]  # [image, bin, 3], as of calibration.reliability_counts
    baseline_matrices: npt.NDArray[np.int64]  # [image, class (true), class (predicted)]
    baseline_boundaries: npt.NDArray[np.int64]  # [image, tolerance, 4]
    worst: list[Picture]  # by mean IoU, the lowest first
    best: list[Picture]  # by mean IoU, the highest first


def forward_function(
    model: keras.Model, flip: bool = False
) -> tf.types.experimental.PolymorphicFunction:
    """What is run on each batch: prediction, confidence and loss, computed beside the network.

    Args:
        model: The network.
        flip: Whether its answer is the mean of the probabilities that it gives for the image and,
            mirrored back, for the mirror image.

    Returns:
        A function from images uint8 [batch, height, width, 3] and masks uint8
        [batch, height, width] to predicted classes uint8 and top-label confidences float32, both
        [batch, height, width], and losses float32 [batch].
    """
    network = prediction_function(model, flip)

    @tf.function(reduce_retracing=True)
    def forward(images: tf.Tensor, masks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # Class by class: reductions over a last axis of three cost more than Conv-Deconv's layers.
        logits = tf.unstack(network(images), axis=-1)
        highest = functools.reduce(tf.maximum, logits)
        sums = tf.add_n([tf.exp(of_class - highest) for of_class in logits])
        last = len(logits) - 1
        prediction, true = tf.fill(tf.shape(masks), tf.constant(last, tf.uint8)), logits[last]
        for number in reversed(range(last)):  # of equal logits the first class wins, as in argmax
            of_class = logits[number]
            prediction = tf.where(of_class >= highest, tf.constant(number, tf.uint8), prediction)
            true = tf.where(masks == number, of_class, true)
        losses = tf.math.log(sums) + highest - true
        return prediction, 1 / sums, tf.reduce_mean(losses, (1, 2))

    return forward


def measure(
    model: keras.Model,
    records: Path,
    manifest: Manifest,
    baseline: npt.NDArray[np.uint8],
    extremes: int = 0,
    flip: bool = False,
) -> Measurement:
    """Runs a network once over the test split.

    Only counts are kept of an image, about 500 numbers, and the pictures asked for. They are made
    on a thread of their own while the network predicts the next batch.

    Args:
        model: From images [batch, height, width, 3] in [0, 255] to logits.
        records: The records' folder.
        manifest: The records' manifest.
        baseline: Classes [height, width] that the baseline predicts for every image.
        extremes: How many of the worst and of the best pictures to keep.
        flip: As of `forward_function`.

    Returns:
        What was counted.

    Raises:
        StageError: The split is empty, a file of it is damaged, or a logit is not a number.
    """
    forward = forward_function(model, flip)
    return measure_with(forward, model.name, records, manifest, baseline, extremes)


def measure_with(
    forward: tf.types.experimental.PolymorphicFunction,
    network: str,
    records: Path,
    manifest: Manifest,
    baseline: npt.NDArray[np.uint8],
    extremes: int = 0,
) -> Measurement:
    """`measure` with the function of `forward_function` already made and traced."""
    total = manifest.splits["test"].examples
    if not total:
        raise StageError("the test split has no examples; choose another test_split in params.yaml")
    counter = _Counter(total, len(manifest.class_names), baseline, extremes)
    counted: Future[None] | None = None
    with (
        progress_bar(f"evaluate {network}", total) as progress,
        ThreadPoolExecutor(max_workers=1) as thread,
    ):
        for batch in batches(records, manifest, "test", BATCH_SIZE):
            outputs = [output.numpy() for output in forward(batch["image"], batch["mask"])]
            arrays = {name: tensor.numpy() for name, tensor in batch.items()}
            _check(network, arrays["file_name"], *outputs)
            if counted is not None:
                counted.result()
            counted = thread.submit(counter.count, arrays, *outputs)
            progress.update(len(arrays["image"]))
        if counted is not None:
            counted.result()
    return counter.measurement()


class _Counter:
    def __init__(
        self, total: int, classes: int, baseline: npt.NDArray[np.uint8], extremes: int
    ) -> None:
        self._done = 0
        self._classes = classes
        self._baseline = baseline
        self._extremes = extremes
        # Heaps of (how far out, -position, picture): the least extreme one is at the top.
        self._worst: list[tuple[float, int, Picture]] = []
        self._best: list[tuple[float, int, Picture]] = []
        self._names: list[str] = []
        self._labels = np.empty(total, np.int64)
        self._species = np.empty(total, np.int64)
        self._losses = np.empty(total)
        self._matrices = np.empty((2, total, classes, classes), np.int64)
        self._boundaries = np.empty((2, total, len(TOLERANCES), 4), np.int64)
        self._reliability = np.empty((total, BINS, 3))

    def count(
        self,
        batch: dict[str, np.ndarray],
        prediction: npt.NDArray[np.uint8],
        confidence: npt.NDArray[np.float32],
        losses: npt.NDArray[np.float32],
    ) -> None:
        masks = batch["mask"]
        place = slice(self._done, self._done + len(masks))
        self._names += [name.decode() for name in batch["file_name"]]
        self._labels[place] = batch["label"]
        self._species[place] = batch["species"]
        self._losses[place] = losses
        regions = silhouette(masks)
        always = np.broadcast_to(self._baseline, masks.shape)
        for row, predicted in enumerate((prediction, always)):
            self._matrices[row, place] = confusion_matrices(masks, predicted, self._classes)
            self._boundaries[row, place] = boundary_counts(regions, silhouette(predicted))
        self._reliability[place] = image_reliability_counts(confidence, prediction == masks)
        if self._extremes:
            scores = mean_iou(self._matrices[0, place])
            for offset, score in enumerate(scores):
                picture = Picture(
                    self._done + offset, batch["image"][offset], masks[offset], prediction[offset]
                )
                _keep(self._worst, -score, picture, self._extremes)
                _keep(self._best, score, picture, self._extremes)
        self._done += len(masks)

    def measurement(self) -> Measurement:
        return Measurement(
            self._names,
            self._labels,
            self._species,
            self._losses,
            self._matrices[0],
            self._boundaries[0],
            self._reliability,
            self._matrices[1],
            self._boundaries[1],
            [picture for _, _, picture in sorted(self._worst, reverse=True)],
            [picture for _, _, picture in sorted(self._best, reverse=True)],
        )


def _keep(heap: list, extreme: float, picture: Picture, size: int) -> None:
    # Among equals the earlier picture stays; its position also keeps heapq from comparing arrays.
    entry = (extreme, -picture.position, picture)
    if len(heap) < size:
        heapq.heappush(heap, entry)
    else:
        heapq.heappushpop(heap, entry)


def _check(
    network: str,
    names: np.ndarray,
    prediction: np.ndarray,
    confidence: npt.NDArray[np.float32],
    losses: npt.NDArray[np.float32],
) -> None:
    del prediction
    # An infinite or missing logit makes the loss or a confidence of its image so.
    finite = np.isfinite(losses) & np.isfinite(confidence).all(axis=(1, 2))
    if not finite.all():
        name = names[np.argmin(finite)].decode()
        raise StageError(
            f"{network} gives no finite numbers for {name}: its weights are broken;"
            " train it again with a lower learning rate"
        )
