import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.params import Params
from stages.stage import StageError
from stages.train.distribution import check_shares

# Two logical devices of one CPU: what TensorFlow has for machines without two GPUs.
TRAININGS = """
import json, sys
from pathlib import Path
import tensorflow as tf
from stages.manifest import read_manifest
from stages.params import Params
from stages.train import train
from tests.kept_run import KeptRun

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
given = Params.model_validate_json(sys.argv[1])
records = Path(sys.argv[2])
for changes in json.loads(sys.argv[3]):
    params = given.model_copy(update=changes)
    model, history = train("conv_deconv", params, read_manifest(records), records, KeptRun())
    weights = [float(abs(weight).sum()) for weight in model.get_weights()]
    print("FOUND" + json.dumps({"history": history, "weights": weights}))
"""


@pytest.fixture(scope="module")
def trainings(params: Params, records: Path) -> list[dict]:
    """On one device, on two, and on two in mixed precision with averaged weights.

    With cross-entropy alone: Dice of two shares is not Dice of the whole.
    """
    plain = params.loss.model_copy(update={"dice_weight": 0.0, "border_weight": 1.0})
    given = params.model_copy(update={"loss": plain})
    changes = [
        {"distribution": "none"},
        {"distribution": "mirrored"},
        {"distribution": "mirrored", "precision": "mixed_bfloat16", "ema_momentum": 0.5},
    ]
    command = [sys.executable, "-c", TRAININGS, given.model_dump_json(), str(records)]
    done = subprocess.run(
        [*command, json.dumps(changes)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[1],
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    return [json.loads(line.removeprefix("FOUND")) for line in lines]


def test_two_devices_train_what_one_trains(trainings: list[dict]) -> None:
    one, two, _ = trainings
    for row, other in zip(one["history"], two["history"], strict=True):
        for figure in ("loss", "val_loss"):
            assert other[figure] == pytest.approx(row[figure], rel=1e-4)
        for figure in ("val_accuracy", "val_mean_iou"):
            assert other[figure] == pytest.approx(row[figure], abs=2e-3)
    np.testing.assert_allclose(two["weights"], one["weights"], rtol=1e-3)


def test_two_devices_train_in_mixed_precision(trainings: list[dict]) -> None:
    one, _, mixed = trainings
    assert mixed["weights"] != one["weights"]
    assert mixed["history"][-1]["val_loss"] == pytest.approx(
        one["history"][-1]["val_loss"], rel=0.05
    )


@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 8))
def test_a_batch_without_enough_pictures_is_refused(
    examples: int, batch_size: int, devices: int
) -> None:
    """TensorFlow gives each device the same share, rounded up, as long as there are pictures."""
    batches = [list(range(examples))[at : at + batch_size] for at in range(0, examples, batch_size)]
    shares = [
        batch[device * -(-len(batch) // devices) :][: -(-len(batch) // devices)]
        for batch in batches
        for device in range(devices)
    ]
    if all(shares):
        check_shares(examples, "training", batch_size, devices)
    else:
        with pytest.raises(StageError, match=r"batch_size: .* devices without a picture"):
            check_shares(examples, "training", batch_size, devices)
