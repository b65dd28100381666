"""How much longer the evaluation's pass takes than bare prediction over the same batches.

On the records and the networks of this workspace, whatever dataset they are of.
"""

import numpy as np
import tensorflow as tf

from stages.evaluate.measurement import BATCH_SIZE, forward_function, measure_with
from stages.networks.model_file import load_model
from stages.records.manifest import BASELINE_FILE, RECORDS_FOLDER, Manifest, read_manifest
from stages.records.tfrecords import batches
from stages.train.__main__ import MODELS_FOLDER
from tests.benchmarks.setting import Setting
from tests.benchmarks.timing import Result, Row, interleaved, pair, seconds


def compare(setting: Setting) -> Result:
    """Measures every network of the parameters over the whole test split."""
    manifest = read_manifest()
    rows: list[Row] = []
    for network in setting.params.networks:
        rows += _compare_network(network, manifest, setting.rounds)
    images = manifest.splits["test"].examples
    return Result(rows, {"images": images, "batch_size": BATCH_SIZE, "dataset": manifest.dataset})


def _compare_network(network: str, manifest: Manifest, rounds: int) -> list[Row]:
    model = load_model(MODELS_FOLDER / f"{network}.keras")
    baseline = np.load(RECORDS_FOLDER / BASELINE_FILE)
    forward = tf.function(lambda images: model(images, training=False))
    counting = forward_function(model)

    def predict() -> None:
        for batch in batches(RECORDS_FOLDER, manifest, "test", BATCH_SIZE):
            forward(batch["image"]).numpy()

    def evaluate() -> None:
        measure_with(counting, network, RECORDS_FOLDER, manifest, baseline, extremes=4)

    actions = {
        "evaluation": lambda: seconds(evaluate),
        "bare prediction": lambda: seconds(predict),
    }
    found = interleaved(actions, rounds)
    return pair(found, ("evaluation", "bare prediction"), "s", about=f"{network}: ")
