"""Stage `plot`: draws the figures and writes the report that compares the networks."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from stages import figures
from stages.errors import StageError, run_stage
from stages.manifest import RECORDS_FOLDER, Manifest, read_manifest
from stages.params import load_params

METRICS_FOLDER = Path("metrics")
REPORTS_FOLDER = Path("reports")


def main() -> None:
    """Writes the report of all networks of params.yaml into reports/."""
    params = load_params()
    manifest = read_manifest()
    examples = np.load(RECORDS_FOLDER / "examples.npz")
    results = {name: read_metrics(name) for name in params.networks}
    histories = {title(name): read_history(name) for name in params.networks}
    predictions = {title(name): read_masks(name, manifest.image_size) for name in params.networks}
    matrices = {
        title(name): np.array(metrics["confusion_matrix"]) for name, metrics in results.items()
    }
    REPORTS_FOLDER.mkdir(exist_ok=True)
    for name, figure in {
        "samples": figures.draw_samples(examples["train_images"], examples["train_masks"]),
        "curves": figures.draw_curves(histories),
        "predictions": figures.draw_predictions(
            examples["test_images"], examples["test_masks"], dict(reversed(predictions.items()))
        ),
        "confusion": figures.draw_confusion(matrices, manifest.class_names),
    }.items():
        figures.save(figure, REPORTS_FOLDER / f"{name}.png")
    page = REPORTS_FOLDER / "README.md"
    page.write_text(report(manifest, results), encoding="utf-8")
    print(f"report in {page}")


def title(network: str) -> str:
    """A network's name for people."""
    return {"conv_deconv": "Conv-Deconv", "unet": "U-Net"}.get(network, network)


def read_metrics(network: str) -> dict[str, Any]:
    """Reads metrics/<network>.json.

    Raises:
        StageError: The file is missing or not JSON.
    """
    path = METRICS_FOLDER / f"{network}.json"
    try:
        return json.loads(path.read_bytes())
    except (OSError, json.JSONDecodeError) as error:
        raise _missing(path, f"evaluate@{network}") from error


def read_history(network: str) -> dict[str, list[float]]:
    """Reads the columns of metrics/<network>.history.csv; epochs are whole numbers from 1.

    Raises:
        StageError: The file is missing.
    """
    path = METRICS_FOLDER / f"{network}.history.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise _missing(path, f"train@{network}") from error
    return {
        key: [int(row[key]) if key == "epoch" else float(row[key]) for row in rows]
        for key in rows[0]
    }


def read_masks(network: str, image_size: int) -> npt.NDArray[np.uint8]:
    """Reads the example predictions of a network: uint8 [image, height, width].

    Raises:
        StageError: The file is missing.
    """
    path = METRICS_FOLDER / f"{network}.examples.png"
    try:
        masks = np.asarray(Image.open(path))
    except OSError as error:
        raise _missing(path, f"evaluate@{network}") from error
    return masks.reshape(-1, image_size, image_size)


def report(manifest: Manifest, results: dict[str, dict[str, Any]]) -> str:
    """The report as Markdown.

    Args:
        manifest: What the networks were trained and tested on.
        results: By network, the contents of metrics/<network>.json.
    """
    sizes = {name: split.examples for name, split in manifest.splits.items()}
    best = max(results, key=lambda name: results[name]["mean_iou"])
    columns = ["accuracy", "mean IoU", *(f"IoU {name}" for name in manifest.class_names)]
    columns += [f"Dice {name}" for name in manifest.class_names] + ["loss"]
    lines = [
        "# Report",
        "",
        f"{title(best)} is best: mean IoU {results[best]['mean_iou']:.3f} and pixel accuracy"
        f" {results[best]['accuracy']:.3f} on {sizes['test']} test images.",
        "",
        f"Dataset: {manifest.dataset} {manifest.version}; {sizes['train']} images to train on,"
        f" {sizes['validation']} to choose the checkpoint, {sizes['test']} to test;"
        f" {manifest.image_size} x {manifest.image_size} pixels.",
        "",
        "| network | " + " | ".join(columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for name, metrics in results.items():
        values = [metrics["accuracy"], metrics["mean_iou"], *metrics["iou"].values()]
        values += [*metrics["dice"].values(), metrics["loss"]]
        shown = ["-" if value is None else f"{value:.3f}" for value in values]
        lines.append(f"| {title(name)} | " + " | ".join(shown) + " |")
    lines += [
        "",
        "Accuracy is the share of pixels whose class is right; IoU is the overlap of a class over"
        " its union, counted over all test pixels; the loss is the mean cross-entropy of a pixel.",
        "",
        "## Training",
        "",
        "![Loss and accuracy of each epoch, for training and validation](curves.png)",
        "",
        "## Predictions on test pictures",
        "",
        "![Pictures with their true masks and each network's prediction](predictions.png)",
        "",
        "## Confusion matrices",
        "",
        "Rows are true classes and add up to 100 %.",
        "",
        "![A confusion matrix for each network](confusion.png)",
        "",
        "## Training pictures",
        "",
        "![Training pictures and their masks](samples.png)",
        "",
    ]
    return "\n".join(lines)


def _missing(path: Path, stage: str) -> StageError:
    return StageError(f"{path} is missing or damaged; `dvc repro -f {stage}` makes it anew")


if __name__ == "__main__":
    run_stage("plot", main)
