"""How much longer the evaluation's pass takes than bare prediction over the same batches.

Run by `make bench` on the records and the networks of this workspace. The two take turns, so that
a machine that slows down slows both.
"""

import statistics
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from stages.manifest import BASELINE_FILE, RECORDS_FOLDER, read_manifest
from stages.measurement import BATCH_SIZE, forward_function, measure_with
from stages.model_file import load_model
from stages.params import load_params
from stages.records import batches

ROUNDS = 5


def main() -> None:
    """Prints a line for each network with the medians and the ratio."""
    manifest = read_manifest()
    baseline = np.load(RECORDS_FOLDER / BASELINE_FILE)
    total = manifest.splits["test"].examples
    print(f"{total} test images in batches of {BATCH_SIZE}, {ROUNDS} rounds, medians")
    for network in load_params().networks:
        model = load_model(Path("models") / f"{network}.keras")
        counting = forward_function(model)
        forward = tf.function(lambda images, model=model: model(images, training=False))

        def predict(forward: tf.types.experimental.PolymorphicFunction = forward) -> None:
            for batch in batches(RECORDS_FOLDER, manifest, "test", BATCH_SIZE):
                forward(batch["image"]).numpy()

        seconds: dict[str, list[float]] = {"prediction": [], "evaluation": []}
        for round_ in range(ROUNDS + 1):
            start = time.perf_counter()
            predict()
            middle = time.perf_counter()
            measure_with(counting, network, RECORDS_FOLDER, manifest, baseline, extremes=4)
            if round_:  # the first one traces and warms up
                seconds["prediction"].append(middle - start)
                seconds["evaluation"].append(time.perf_counter() - middle)
        ratios = [
            evaluation / prediction
            for prediction, evaluation in zip(*seconds.values(), strict=True)
        ]
        print(
            f"{network}: prediction {statistics.median(seconds['prediction']):.2f} s,"
            f" evaluation {statistics.median(seconds['evaluation']):.2f} s,"
            f" ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
