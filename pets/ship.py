"""Make a network of a DVC experiment the one that ships: `python -m pets.ship EXPERIMENT NETWORK`.

Needs the pipeline's packages, and the experiment's export and test records in DVC's cache.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tensorflow as tf
import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.scm import SCMError
from dvc.utils.flatten import flatten

from pets.segmenter import WEIGHTS, LiteRT, network_files
from recipes.__main__ import load_recipe, names
from stages.evaluate.measurement import Measurement, measure
from stages.evaluate.results import results
from stages.metrics.comparison import differences
from stages.plot import report
from stages.records.manifest import BASELINE_FILE, Manifest, file_sha256, read_arrays, read_manifest
from stages.stage import StageError, replacing, run_stage

DATASET = "oxford_iiit_pet"


def main() -> None:
    """Ships what the command line names, with a card of what was measured here and now."""
    parser = argparse.ArgumentParser(prog="python -m pets.ship", description=__doc__)
    parser.add_argument("experiment", help="a DVC experiment, or any other revision")
    parser.add_argument("network", help="unet or conv_deconv")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        ship(options.experiment, options.network, Path(scratch))


def ship(experiment: str, network: str, scratch: Path) -> None:
    """Measures an experiment's small export, and the network that ships; replaces it if not worse.

    Raises:
        StageError: The experiment lacks a file, was not measured on the real dataset, or the paired
            95 % interval of the difference of the mean IoU lies below zero.
    """
    file, records = scratch / f"{network}.tflite", scratch / "records"
    commit = _fetch(experiment, network, file, records)
    params = yaml.safe_load((scratch / "params.yaml").read_bytes())
    manifest = read_manifest(records)
    if manifest.dataset != DATASET:
        raise StageError(f"{experiment} was measured on {manifest.dataset}; {DATASET} is asked for")
    shipped = network_files().get(network)
    if shipped and file_sha256(shipped) == file_sha256(file):
        raise StageError(f"{shipped.name} is this very network")
    measured = _measured(file, records, manifest)
    comparison = ""
    if shipped:
        earlier = _measured(shipped, records, manifest)
        gap = differences(measured.images, earlier.images, params["seed"])["mean_iou",]
        value, low, high = map(report.signed, gap)
        comparison = f"{value} ({low} to {high}) against {shipped.stem}"
        if max(gap) < 0:
            raise StageError(f"{network} of {experiment} is worse, mean IoU {comparison}")
    version = int(shipped.stem.partition("-")[2]) + 1 if shipped else 1
    target = WEIGHTS / f"{network}-{version}.tflite"
    found = SimpleNamespace(
        name=network,
        title=f"{network}, version {version}",
        results=results(measured, manifest, params["seed"]),
        tested=f"{len(measured.images)} test images",
    )
    flipped = results(_measured(file, records, manifest, flip=True), manifest, params["seed"])
    text = report.render(
        "shipped.md.j2",
        network=found,
        flipped=flipped,
        params=SimpleNamespace(network=params.get),
        manifest=manifest,
        dataset=f"{manifest.dataset} {manifest.version}",
        splits=", ".join(f"{s.examples:,} {name} images" for name, s in manifest.splits.items()),
        origin={
            "DVC experiment": experiment,
            "Commit": commit,
            "Recipe": _recipe(params),
            "Mean IoU, paired": comparison or "the first to ship",
        },
        file=target.name,
        bytes=file.stat().st_size,
        sha256=file_sha256(file),
    )
    with replacing(target) as new:
        shutil.copy(file, new)
    target.with_suffix(".md").write_text(text, encoding="utf-8")
    if shipped:
        shipped.unlink()
        shipped.with_suffix(".md").unlink()
    print(f"{target.name}: mean IoU {found.results.mean_iou:.3f} {comparison}; card beside it")


def _fetch(experiment: str, network: str, file: Path, records: Path) -> str:
    """Copies what is needed out of Git and DVC's cache; returns the commit of the code."""
    records.mkdir()
    wanted = {
        "params.yaml": file.with_name("params.yaml"),
        f"models/{network}.export/{network}.dynamic.tflite": file,
        "data/records/manifest.json": records / "manifest.json",
        f"data/records/{BASELINE_FILE}": records / BASELINE_FILE,
    }
    try:
        with Repo(rev=experiment) as repo:
            for path, target in wanted.items():
                repo.dvcfs.get_file(path, str(target))
            for shard in read_manifest(records).splits["test"].shards:
                repo.dvcfs.get_file(f"data/records/{shard.file}", str(records / shard.file))
            revision = repo.get_rev()
            # The experiment's own commit holds results; the code is that of the one below it.
            return repo.experiments.get_baseline(revision) or revision
    except (OSError, DvcException, SCMError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise StageError(f"{experiment} cannot be read ({reason}); try `dvc pull`") from error


def _measured(file: Path, records: Path, manifest: Manifest, flip: bool = False) -> Measurement:
    baseline = read_arrays(records, manifest, BASELINE_FILE)
    return measure(_Model(file), records, manifest, baseline, flip=flip)


class _Model:
    """A LiteRT file in the place of a Keras model."""

    def __init__(self, file: Path) -> None:
        self.name = file.stem
        self._network = LiteRT(file)

    def __call__(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        """From uint8 [batch, height, width, 3] to logits."""
        del training
        logits = tf.numpy_function(self._network.logits, [images], tf.float32)
        return tf.ensure_shape(logits, (*images.shape[:3], 3))


def _recipe(params: dict[str, Any]) -> str:
    """The recipe whose values an experiment has."""
    values = flatten(params)
    for name in names():
        if all(values.get(key) == value for key, value in load_recipe(name).items()):
            return f"recipes/{name}.yaml"
    return "none of recipes/"


if __name__ == "__main__":
    run_stage("ship", main)
