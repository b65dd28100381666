"""Stage `evaluate`: measures one trained network on the whole test split."""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import Image

from stages import confusion
from stages.errors import StageError, run_stage
from stages.manifest import RECORDS_FOLDER, Manifest, read_manifest
from stages.model_file import load_model
from stages.palette import class_rgb
from stages.params import load_params
from stages.progress import progress_bar
from stages.records import batches
from stages.tracking import EvaluationRun

# Images in a batch; only a matter of speed.
BATCH_SIZE = 32
MODELS_FOLDER = Path("models")
METRICS_FOLDER = Path("metrics")


class Measurement(NamedTuple):
    """What one pass over a split accumulates."""

    matrices: npt.NDArray[np.int64]  # [image, class (true), class (predicted)], pixels
    loss: float  # mean cross-entropy of a pixel, nats


def main() -> None:
    """Evaluates the network that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", help="a network that `train` has trained")
    network = parser.parse_args().network
    params = load_params()
    manifest = read_manifest()
    model_path = MODELS_FOLDER / f"{network}.keras"
    model = load_model(model_path)
    measurement = measure(model, RECORDS_FOLDER, manifest)
    figures = summary(measurement, manifest.class_names)
    METRICS_FOLDER.mkdir(exist_ok=True)
    metrics_path = METRICS_FOLDER / f"{network}.json"
    metrics_path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    examples = np.load(RECORDS_FOLDER / "examples.npz")
    predictions = predict(model, examples["test_images"])
    write_masks(predictions, METRICS_FOLDER / f"{network}.examples.png")
    with EvaluationRun(network, params, manifest, model_path) as run:
        run.log_results(scalars(figures), metrics_path)
        colors = class_rgb()
        for image, mask, prediction, name in zip(
            examples["test_images"],
            examples["test_masks"],
            predictions,
            examples["test_names"],
            strict=True,
        ):
            picture = np.concatenate([image, colors[mask], colors[prediction]], axis=1)
            run.log_picture(picture, f"examples/{Path(str(name)).stem}.png")
    print(
        f"{network}: accuracy {figures['accuracy']:.4f}, mean IoU {figures['mean_iou']:.4f}"
        f" on {figures['images']} test images; {metrics_path}"
    )


def measure(model: keras.Model, records: Path, manifest: Manifest) -> Measurement:
    """Runs a network once over the test split; memory does not grow with the split.

    Args:
        model: From images [batch, height, width, 3] in [0, 255] to logits.
        records: The records' folder.
        manifest: The records' manifest.

    Returns:
        What was measured.

    Raises:
        StageError: The split is empty, a file of it is damaged, or a logit is not a number.
    """
    total = manifest.splits["test"].examples
    if not total:
        raise StageError("the test split has no examples; choose another test_split in params.yaml")

    @tf.function(reduce_retracing=True)
    def forward(images: tf.Tensor, masks: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = model(images, training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(masks, tf.int32), logits)
        return tf.argmax(logits, axis=-1, output_type=tf.int32), tf.reduce_mean(losses, (1, 2))

    matrices = np.empty((total, len(manifest.class_names), len(manifest.class_names)), np.int64)
    loss = 0.0
    done = 0
    with progress_bar(f"evaluate {model.name}", total) as progress:
        for batch in batches(records, manifest, "test", BATCH_SIZE):
            prediction, losses = forward(batch["image"], batch["mask"])
            image_losses = losses.numpy().astype(np.float64)
            if not np.isfinite(image_losses).all():
                worst = batch["file_name"].numpy()[np.argmin(np.isfinite(image_losses))].decode()
                raise StageError(f"{model.name} gives no finite number for {worst}: train it again")
            size = len(image_losses)
            matrices[done : done + size] = confusion.confusion_matrices(
                batch["mask"].numpy(), prediction.numpy(), len(manifest.class_names)
            )
            loss += image_losses.sum()
            done += size
            progress.update(size)
    return Measurement(matrices, loss / total)


def summary(measurement: Measurement, class_names: list[str]) -> dict[str, Any]:
    """The figures of a measurement, as metrics/<network>.json has them.

    A class that is in no mask and in no prediction has no IoU (null) and is left out of the mean.
    """
    matrix = measurement.matrices.sum(axis=0)
    return {
        "images": len(measurement.matrices),
        "loss": round(measurement.loss, 6),
        "accuracy": _rounded(confusion.pixel_accuracy(matrix)),
        "mean_iou": _rounded(confusion.mean_iou(matrix)),
        "iou": _by_class(confusion.iou(matrix), class_names),
        "dice": _by_class(confusion.dice(matrix), class_names),
        "confusion_matrix": matrix.tolist(),
    }


def scalars(figures: dict[str, Any]) -> dict[str, float]:
    """The single numbers among the figures; those of a class are named like `iou_pet`."""
    flat: dict[str, float] = {}
    for name, value in figures.items():
        if isinstance(value, dict):
            flat |= {f"{name}_{key}": number for key, number in value.items() if number is not None}
        elif isinstance(value, int | float):
            flat[name] = value
    return flat


def predict(model: keras.Model, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Predicts masks, uint8 [image, height, width], of images uint8 [image, height, width, 3]."""
    logits = np.concatenate([model(image[None], training=False) for image in images])
    return logits.argmax(axis=-1).astype(np.uint8)


def write_masks(masks: npt.NDArray[np.uint8], path: Path) -> None:
    """Writes masks [image, height, width] one below the other as a PNG with a palette."""
    picture = Image.fromarray(masks.reshape(-1, masks.shape[-1])).convert("P")
    picture.putpalette(class_rgb().tobytes())
    picture.save(path, optimize=True)


def _by_class(values: npt.NDArray[np.float64], names: list[str]) -> dict[str, float | None]:
    return {name: _rounded(value) for name, value in zip(names, values, strict=True)}


def _rounded(value: np.ndarray | float) -> float | None:
    return None if np.isnan(value) else round(float(value), 6)


if __name__ == "__main__":
    run_stage("evaluate", main)
