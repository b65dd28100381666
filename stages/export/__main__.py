"""Stage `export`: a trained network as SavedModel, LiteRT and ONNX, held to the Keras model."""

import argparse
import csv
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from stages.export import model_card
from stages.export.conversion import convert, size_in_bytes
from stages.export.export_files import write_source
from stages.export.runtimes import Classify, classify_with_keras, load_export, median_latencies
from stages.metrics import confusion
from stages.metrics.comparison import read_results
from stages.networks.model_file import load_model
from stages.params import load_params
from stages.records.manifest import RECORDS_FOLDER, Manifest, read_manifest
from stages.records.resizing import network_input
from stages.records.tfrecords import batches
from stages.run_record import write_run_record
from stages.stage import StageError, progress_bar, run_stage

MODELS_FOLDER = Path("models")
METRICS_FOLDER = Path("metrics")
# How the Keras model, which the exports are compared with, is called beside them.
KERAS = "keras"
# Pictures predicted at once, and pictures that the latency is the median of.
BATCH_SIZE = 16
LATENCY_ROUNDS = 15


def main() -> None:
    """Exports the network that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", help="a network that `train` has trained")
    network = parser.parse_args().network
    start = time.perf_counter()
    params = load_params()
    manifest = read_manifest()
    results = read_results(METRICS_FOLDER / f"{network}.json", f"evaluate@{network}")
    model_path = MODELS_FOLDER / f"{network}.keras"
    model = load_model(model_path)
    pictures = calibration_pictures(manifest, params.export.calibration_pictures)
    with tempfile.TemporaryDirectory(dir=MODELS_FOLDER, prefix=".export-") as scratch:
        folder = Path(scratch) / "export"
        folder.mkdir()
        paths = convert(model, network, params.export.formats, folder, pictures)
        classifiers = {KERAS: classify_with_keras(model)}
        classifiers |= {kind: load_export(kind, path) for kind, path in paths.items()}
        latencies = median_latencies(classifiers, pictures[:1], LATENCY_ROUNDS)
        sizes = {KERAS: size_in_bytes(model_path)}
        sizes |= {kind: size_in_bytes(path) for kind, path in paths.items()}
        figures = compare(classifiers, manifest, sizes)
        check(network, figures, params.export.max_iou_loss)
        files = {kind: path.name for kind, path in paths.items()}
        card = model_card.card(
            network,
            results,
            manifest,
            figures,
            files,
            flip=params.test_time_flip,
            encoder_weights=getattr(params.network(network), "encoder_weights", "none"),
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_source(folder, model_path)
        target = MODELS_FOLDER / f"{network}.export"
        if target.exists():
            shutil.move(target, Path(scratch) / "previous")
        folder.rename(target)
    path = METRICS_FOLDER / f"{network}.exports.csv"
    write_table(figures, path)
    write_run_record(f"export@{network}", time.perf_counter() - start, latency_ms=latencies)
    worst = min(value["agreement"] for value in figures["formats"].values())
    print(
        f"{network}: {len(paths)} exports in {target}, which agree with the Keras model on at"
        f" least {100 * worst:.2f} % of the test pixels; {path}"
    )


def calibration_pictures(manifest: Manifest, number: int) -> npt.NDArray[np.uint8]:
    """Training pictures at even distances over the split.

    Args:
        manifest: Of the records.
        number: How many; all of a smaller split.

    Returns:
        uint8 [picture, image_size, image_size, 3].
    """
    total = manifest.splits["train"].examples
    chosen = set(np.linspace(0, total - 1, min(number, total)).astype(int).tolist())
    pictures = []
    place = 0
    for batch in batches(RECORDS_FOLDER, manifest, "train", 64).as_numpy_iterator():
        for image in batch["image"]:
            if place in chosen:
                # They may be stored larger.
                pictures.append(network_input(Image.fromarray(image), manifest.image_size))
            place += 1
    return np.stack(pictures)


def compare(
    classifiers: Mapping[str, Classify], manifest: Manifest, sizes: Mapping[str, int]
) -> dict[str, Any]:
    """Measures the Keras model and the exports on the whole test split.

    Args:
        classifiers: By KERAS and by format.
        manifest: Of the records.
        sizes: Bytes, by the same.

    Returns:
        `images`, and in `formats` for each: bytes, agreement (share of the pixels whose class is
        that of the Keras model), mean_iou, and iou_loss, which is below 0 where it gains.
    """
    classes = len(manifest.class_names)
    total = manifest.splits["test"].examples
    matrices = {name: np.zeros((classes, classes), np.int64) for name in classifiers}
    agreeing = dict.fromkeys(classifiers, 0)
    pixels = 0
    with progress_bar("compare exports", total) as progress:
        for batch in batches(RECORDS_FOLDER, manifest, "test", BATCH_SIZE).as_numpy_iterator():
            images, masks = batch["image"], batch["mask"]
            reference = classifiers[KERAS](images)
            pixels += masks.size
            for name, classify in classifiers.items():
                predicted = reference if name == KERAS else classify(images)
                matrices[name] += confusion.confusion_matrices(masks, predicted, classes).sum(
                    axis=0
                )
                agreeing[name] += int((predicted == reference).sum())
            progress.update(len(images))
    scores = {name: float(confusion.mean_iou(matrix)) for name, matrix in matrices.items()}
    return {
        "images": total,
        "formats": {
            name: {
                "bytes": sizes[name],
                "agreement": round(agreeing[name] / pixels, 6),
                "mean_iou": round(score, 6),
                # No -0.0.
                "iou_loss": round(scores[KERAS] - score, 6) + 0.0,
            }
            for name, score in scores.items()
        },
    }


def write_table(figures: Mapping[str, Any], path: Path) -> None:
    """Writes what `compare` gives as CSV, a row for each format."""
    rows = [
        {"format": name, "images": figures["images"], **value}
        for name, value in figures["formats"].items()
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def check(network: str, figures: Mapping[str, Any], limit: float) -> None:
    """Holds the exports to a mean IoU.

    Raises:
        StageError: An export loses more than the limit.
    """
    formats = figures["formats"]
    if too_bad := [name for name, value in formats.items() if value["iou_loss"] > limit]:
        lines = [
            f"{network} as {name} has a mean IoU of {formats[name]['mean_iou']:.4f} against"
            f" {formats[KERAS]['mean_iou']:.4f} of the Keras model"
            for name in too_bad
        ]
        raise StageError(
            "; ".join(lines) + f": more than export.max_iou_loss ({limit}) allows. Calibrate with"
            " more pictures (export.calibration_pictures), leave the format out (export.formats),"
            " or raise the limit in params.yaml"
        )


if __name__ == "__main__":
    run_stage("export", main)
