"""Stage `evaluate`: measures one trained network on the whole test split."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from stages.evaluate.measurement import Pixels, measure
from stages.evaluate.results import results
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
from stages.runs.tracking import log_evaluation
from stages.stage import replacing, run_stage

SUMMARY = ("accuracy", "mean_iou", "boundary_f")  # the columns of `dvc exp show`


def main() -> None:
    """Evaluate the network that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", help="a network that `train` has trained")
    network = parser.parse_args().network
    params = load_params()
    check_network(network, params)
    manifest = read_manifest()
    model_path = Path("models", f"{network}.keras")
    model = load_model(model_path)
    baseline = read_arrays(RECORDS_FOLDER, manifest, BASELINE_FILE)
    examples = read_arrays(RECORDS_FOLDER, manifest, EXAMPLES_FILE)["test_images"]
    flip = params.test_time_flip
    measurement = measure(model, RECORDS_FOLDER, manifest, baseline, params.extremes, flip)
    found = results(measurement, manifest, params.seed)
    path = Path("metrics", network)
    path.parent.mkdir(exist_ok=True)
    found.write(path.with_suffix(".json"))
    headlines = found.headlines()
    summary = {name: headlines[name][0] for name in SUMMARY if headlines[name][0] is not None}
    with replacing(path.with_suffix(".summary.json")) as new:
        new.write_text(json.dumps({network: summary}, indent=2) + "\n", encoding="utf-8")
    with replacing(path.with_suffix(".images.csv")) as new:  # undefined values are empty
        measurement.images.to_csv(new, index=False, float_format="%.6f", lineterminator="\n")
    write_pictures(measurement.worst, path.with_suffix(".worst.png"))
    write_pictures(measurement.best, path.with_suffix(".best.png"))
    logits_of = prediction_function(model, flip)
    logits = np.concatenate([logits_of(image[None]) for image in examples])
    write_masks(logits.argmax(axis=-1).astype(np.uint8), path.with_suffix(".examples.png"))
    log_evaluation(network, params, manifest, model_path)
    print(f"{path}.json: accuracy {found.accuracy:.4f}, mean IoU {found.mean_iou:.4f}")


def write_masks(masks: Pixels, path: Path) -> None:
    """Write masks [image, height, width] one below the other as a PNG with a palette."""
    column = Image.fromarray(masks.reshape(-1, masks.shape[-1])).convert("P")
    column.putpalette(class_rgb().tobytes())
    with replacing(path) as new:
        column.save(new, optimize=True)


def write_pictures(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the `pixels` of the worst or the best images one below the other as PNG."""
    with replacing(path) as new:
        Image.fromarray(np.concatenate([row["pixels"] for row in rows])).save(new, optimize=True)


if __name__ == "__main__":
    run_stage("evaluate", main)
