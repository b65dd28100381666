"""Stage `export`: a trained network as SavedModel, LiteRT and ONNX, compared with Keras."""

import argparse
import functools
import json
import shutil
import tempfile
import timeit
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from stages.export.formats import FORMATS, Classify, Images, convert, load_keras
from stages.metrics.confusion import confusion_matrices, mean_iou
from stages.networks.model_file import load_model
from stages.params import load_params
from stages.records.manifest import RECORDS_FOLDER, Manifest, file_sha256, read_manifest
from stages.records.photograph import network_input
from stages.records.tfrecords import batches
from stages.stage import StageError, progress_bar, replacing, run_stage

KERAS = "keras"  # the row of the Keras model, which the exports are compared with
BATCH_SIZE = 16
LATENCY_ROUNDS = 15  # whose median is shown


def main() -> None:
    """Export the network that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", help="a network that `train` has trained")
    network = parser.parse_args().network
    params, manifest = load_params().export, read_manifest()
    model_path, target = (Path("models", f"{network}.{kind}") for kind in ("keras", "export"))
    model = load_model(model_path)
    images = calibration_images(manifest, params.calibration_images)
    with tempfile.TemporaryDirectory(dir="models", prefix=".export-") as scratch:
        folder = Path(scratch) / "export"
        folder.mkdir()
        paths = convert(model, network, params.formats, folder, images)
        classifiers = {KERAS: load_keras(model)}
        classifiers |= {name: FORMATS[name].load(path) for name, path in paths.items()}
        table = compare(classifiers, manifest)
        table.insert(1, "bytes", [_bytes(path) for path in (model_path, *paths.values())])
        check(network, table, params.max_iou_loss)
        source = {"file": model_path.name, "sha256": file_sha256(model_path)}
        (folder / "source.json").write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")
        if target.exists():
            shutil.move(target, Path(scratch) / "previous")
        folder.rename(target)
    with replacing(Path("metrics", f"{network}.exports.csv")) as path:
        table.to_csv(path, lineterminator="\n")
    print(f"{network}: {len(paths)} exports in {target}; agreement with Keras on the test pixels:")
    for name, classify in classifiers.items():
        predict = functools.partial(classify, images[:1])
        # The first time compiles.
        times = timeit.repeat(predict, number=1, repeat=1 + LATENCY_ROUNDS)[1:]
        latency = 1000 * np.median(times)
        print(f"  {name:15} {table.agreement[name]:8.2%}   {latency:7.1f} ms an image")


def calibration_images(manifest: Manifest, number: int) -> Images:
    """Training images at even distances, or all of them, scaled to the network's size."""
    total, size = manifest.splits["train"].examples, manifest.image_size
    chosen = np.linspace(0, total - 1, min(number, total)).astype(int).tolist()
    examples = batches(RECORDS_FOLDER, manifest, "train", 1).as_numpy_iterator()
    found = [example["image"][0] for place, example in enumerate(examples) if place in chosen]
    return np.stack([network_input(Image.fromarray(image), size) for image in found])


def compare(classifiers: Mapping[str, Classify], manifest: Manifest) -> pd.DataFrame:
    """Measure the Keras model and the exports on the whole test split, a row for each.

    `agreement` is the share of the pixels whose class is that of the Keras model.
    """
    classes, total = len(manifest.class_names), manifest.splits["test"].examples
    matrices = {name: np.zeros((classes, classes), np.int64) for name in classifiers}
    agreement = dict.fromkeys(classifiers, 0.0)
    with progress_bar("compare exports", total) as progress:
        for batch in batches(RECORDS_FOLDER, manifest, "test", BATCH_SIZE).as_numpy_iterator():
            images, masks = batch["image"], batch["mask"]
            reference = classifiers[KERAS](images)
            for name, classify in classifiers.items():
                predicted = reference if name == KERAS else classify(images)
                matrices[name] += confusion_matrices(masks, predicted, classes).sum(axis=0)
                agreement[name] += (predicted == reference).mean(axis=(1, 2)).sum() / total
            progress.update(len(images))
    table = pd.DataFrame({"images": total, "agreement": agreement})
    table["mean_iou"] = [float(mean_iou(matrix)) for matrix in matrices.values()]
    table["iou_loss"] = table.mean_iou[KERAS] - table.mean_iou
    return table.rename_axis("format").round(6) + 0  # no -0.0


def check(network: str, table: pd.DataFrame, limit: float) -> None:
    """Raise a StageError if an export loses more mean IoU than the limit."""
    for name, score in table.mean_iou[table.iou_loss > limit].items():
        raise StageError(
            f"{network} as {name} has a mean IoU of {score:.4f}, the Keras model has"
            f" {table.mean_iou[KERAS]:.4f}: export.max_iou_loss ({limit}) allows less. Raise it or"
            " export.calibration_images in params.yaml, or take the format out of export.formats"
        )


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


if __name__ == "__main__":
    run_stage("export", main)
