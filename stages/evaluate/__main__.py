"""Stage `evaluate`: measures one trained network on the whole test split."""

import argparse
import csv
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import Image

from stages.evaluate.measurement import Picture, measure
from stages.evaluate.results import image_rows, results, summarized
from stages.networks.model_file import load_model, prediction_function
from stages.params import check_network, load_params
from stages.records.classes import class_rgb
from stages.records.manifest import (
    BASELINE_FILE,
    EXAMPLES_FILE,
    RECORDS_FOLDER,
    read_arrays,
    read_manifest,
)
from stages.run_record import write_run_record
from stages.runs.contents import evaluation_of
from stages.runs.registry import register
from stages.runs.tracking import EvaluationRun
from stages.stage import replacing, run_stage

MODELS_FOLDER = Path("models")
METRICS_FOLDER = Path("metrics")


def main() -> None:
    """Evaluates the network that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", help="a network that `train` has trained")
    network = parser.parse_args().network
    start = time.perf_counter()
    params = load_params()
    check_network(network, params)
    manifest = read_manifest()
    model_path = MODELS_FOLDER / f"{network}.keras"
    model = load_model(model_path)
    baseline = read_arrays(RECORDS_FOLDER, manifest, BASELINE_FILE)
    examples = read_arrays(RECORDS_FOLDER, manifest, EXAMPLES_FILE)
    flip = params.test_time_flip
    measurement = measure(model, RECORDS_FOLDER, manifest, baseline, params.extremes, flip)
    figures = results(measurement, manifest, params.seed)
    METRICS_FOLDER.mkdir(exist_ok=True)
    metrics_path = METRICS_FOLDER / f"{network}.json"
    write_json(figures, metrics_path)
    # Below the network's name, because DVC then heads a column `unet.accuracy`.
    summary = {network: summarized(figures)}
    write_json(summary, METRICS_FOLDER / f"{network}.summary.json")
    write_rows(image_rows(measurement, manifest), METRICS_FOLDER / f"{network}.images.csv")
    write_pictures(measurement.worst, METRICS_FOLDER / f"{network}.worst.png")
    write_pictures(measurement.best, METRICS_FOLDER / f"{network}.best.png")
    predictions = predict(prediction_function(model, flip), examples["test_images"])
    write_masks(predictions, METRICS_FOLDER / f"{network}.examples.png")
    evaluation = evaluation_of(network, METRICS_FOLDER)
    with EvaluationRun(network, params, manifest, model_path) as run:
        run.log_results(evaluation)
        run.attempt(lambda: say(register(run.run, evaluation.images, manifest)))
    write_run_record(f"evaluate@{network}", time.perf_counter() - start)
    print(
        f"{network}: accuracy {figures['accuracy']:.4f}, mean IoU {figures['mean_iou']:.4f}"
        f" on {figures['images']} test images; {metrics_path}"
    )


def say(line: str) -> None:
    """Prints a line, unless it is empty."""
    if line:
        print(line)


def predict(
    network: Callable[[tf.Tensor], tf.Tensor], images: npt.NDArray[np.uint8]
) -> npt.NDArray[np.uint8]:
    """Predicts masks, uint8 [image, height, width], of images uint8 [image, height, width, 3]."""
    logits = np.concatenate([network(tf.constant(image[None])) for image in images])
    return logits.argmax(axis=-1).astype(np.uint8)


def side_by_side(picture: Picture) -> npt.NDArray[np.uint8]:
    """The image, its true mask and its prediction in one row: uint8 [height, 3 width, 3]."""
    colors = class_rgb()
    parts = [picture.image, colors[picture.mask], colors[picture.prediction]]
    return np.concatenate(parts, axis=1)


def write_json(figures: dict[str, Any], path: Path) -> None:
    """Writes figures as JSON, which has no NaN."""
    text = json.dumps(figures, indent=2, allow_nan=False)
    with replacing(path) as new:
        new.write_text(text + "\n", encoding="utf-8")


def write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes a table as CSV."""
    with replacing(path) as new, new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_masks(masks: npt.NDArray[np.uint8], path: Path) -> None:
    """Writes masks [image, height, width] one below the other as a PNG with a palette."""
    picture = Image.fromarray(masks.reshape(-1, masks.shape[-1])).convert("P")
    picture.putpalette(class_rgb().tobytes())
    with replacing(path) as new:
        picture.save(new, optimize=True)


def write_pictures(pictures: Sequence[Picture], path: Path) -> None:
    """Writes pictures one below the other, each beside its true mask and its prediction, as PNG."""
    rows = Image.fromarray(np.concatenate([side_by_side(picture) for picture in pictures]))
    with replacing(path) as new:
        rows.save(new, optimize=True)


if __name__ == "__main__":
    run_stage("evaluate", main)
