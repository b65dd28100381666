"""Training on two logical devices of one CPU: what TensorFlow has without two GPUs."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.params import Params
from stages.records.manifest import read_manifest
from stages.stage import StageError
from stages.train.devices import check_shares


def _trainings(params: Params, records: Path, changes: list[dict[str, Any]]) -> list[Any]:
    import tensorflow as tf  # noqa: PLC0415  in a process of its own

    from stages.train import loop  # noqa: PLC0415
    from tests.faults import small_network  # noqa: PLC0415
    from tests.kept_run import KeptRun  # noqa: PLC0415

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    found = []
    loop.build_network = small_network
    for change in changes:
        changed = params.model_copy(update=change)
        manifest = read_manifest(records)
        model, history = loop.train("conv_deconv", changed, manifest, records, KeptRun())
        found.append((history, model.get_weights()))
    return found


@pytest.fixture(scope="module")
def trainings(params: Params, records: Path) -> list[Any]:
    """On one device, on two, and on two in mixed precision; with averaged weights.

    With cross-entropy alone: Dice of two shares is not Dice of the whole.
    """
    plain = params.loss.model_copy(update={"dice_weight": 0.0, "border_weight": 1.0})
    plain_params = params.model_copy(update={"loss": plain, "ema_momentum": 0.5})
    changes = [
        {"distribution": "none"},
        {"distribution": "mirrored"},
        {"distribution": "mirrored", "precision": "mixed_float16"},
    ]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(_trainings, plain_params, records, changes).result()


@pytest.mark.parametrize(("number", "tolerance"), [(1, 1e-4), (2, 0.02)])
def test_two_devices_train_what_one_trains(
    trainings: list[Any], number: int, tolerance: float
) -> None:
    (history, weights), (other_history, other_weights) = trainings[0], trainings[number]
    for row, other in zip(history, other_history, strict=True):
        for name, value in row.items():
            assert other[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name
    for mine, theirs in zip(weights, other_weights, strict=True):
        # Batch statistics included: they are those of the whole batch.
        np.testing.assert_allclose(theirs, mine, rtol=10 * tolerance, atol=tolerance)


@settings(derandomize=True, max_examples=50)
@given(st.integers(1, 200), st.integers(1, 40), st.integers(1, 8))
def test_a_batch_that_leaves_a_device_without_an_image_is_refused(
    examples: int, batch_size: int, devices: int
) -> None:
    """TensorFlow gives each device the same share, rounded up, as long as there are images."""
    batches = [list(range(examples))[at : at + batch_size] for at in range(0, examples, batch_size)]
    shares = [
        batch[device * -(-len(batch) // devices) :][: -(-len(batch) // devices)]
        for batch in batches
        for device in range(devices)
    ]
    if all(shares):
        check_shares(examples, batch_size, devices)
    else:
        with pytest.raises(StageError, match=r"batch_size: .* devices without an image"):
            check_shares(examples, batch_size, devices)
