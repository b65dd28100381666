"""How much longer the evaluation's pass takes than bare prediction over the same batches.

On the records and the networks of this workspace, whatever dataset they are of.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import keras
import tensorflow as tf

from stages.evaluate import measurement
from stages.networks.model_file import load_model
from stages.records.manifest import BASELINE_FILE, RECORDS_FOLDER, read_arrays, read_manifest
from stages.records.tfrecords import batches
from tests.benchmarks.measuring import Row, Setting, interleaved, pair, seconds


def compare(setting: Setting) -> list[Row]:
    """Measure every network of the parameters over the whole test split."""
    manifest = read_manifest()
    baseline = read_arrays(RECORDS_FOLDER, manifest, BASELINE_FILE)
    rows: list[Row] = []
    for network in setting.params.networks:
        model = load_model(Path("models") / f"{network}.keras")

        forward = tf.function(functools.partial(model, training=False))
        counting = measurement.forward_function(model)

        def predict(forward: Callable = forward) -> None:
            for batch in batches(RECORDS_FOLDER, manifest, "test", measurement.BATCH_SIZE):
                forward(batch["image"]).numpy()

        def evaluate(model: keras.Model = model, counting: Callable = counting) -> None:
            with mock.patch.object(measurement, "forward_function", return_value=counting):
                measurement.measure(model, RECORDS_FOLDER, manifest, baseline, extremes=4)

        actions = {
            "evaluation": lambda evaluate=evaluate: seconds(evaluate),
            "bare prediction": lambda predict=predict: seconds(predict),
        }
        found = interleaved(actions, setting.rounds)
        rows += pair(found, ("evaluation", "bare prediction"), "s", about=f"{network}: ")
    return rows
