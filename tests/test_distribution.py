"""Training on two logical devices of one CPU: what TensorFlow has without two GPUs."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.params import Params, check_params
from stages.records.manifest import read_manifest
from stages.stage import StageError
from stages.train.loop import check_shares


def _trainings(values: list[dict[str, Any]], records: Path) -> list[Any]:
    import tensorflow as tf  # noqa: PLC0415  in a process of its own

    from stages.train import loop  # noqa: PLC0415
    from tests.faults import small_network  # noqa: PLC0415
    from tests.kept_run import KeptRun  # noqa: PLC0415

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    loop.build_network = small_network
    found = []
    for params in map(check_params, values):
        manifest = read_manifest(records)
        model, history = loop.train("conv_deconv", params, manifest, records, KeptRun())
        found.append((history, model.get_weights()))
    return found


def test_two_devices_train_what_one_trains_also_in_mixed_precision(
    processes: ForkServerContext, params: Params, records: Path
) -> None:
    """With cross-entropy alone: Dice of two shares is not Dice of the whole."""
    plain = params.loss.model_copy(update={"dice_weight": 0.0, "border_weight": 1.0})
    values = [
        params.model_copy(update={"loss": plain, "ema_momentum": 0.5, **changes}).model_dump()
        for changes in (
            {"distribution": "none"},
            {"distribution": "mirrored"},
            {"distribution": "mirrored", "precision": "mixed_float16"},
        )
    ]
    with ProcessPoolExecutor(1, mp_context=processes) as process:
        (history, weights), *others = process.submit(_trainings, values, records).result()
    for tolerance, (other_history, other_weights) in zip((1e-4, 0.02), others, strict=True):
        for row, other in zip(history, other_history, strict=True):
            assert other == pytest.approx(row, rel=tolerance, abs=tolerance)
        for mine, theirs in zip(weights, other_weights, strict=True):
            # Batch statistics included: they are those of the whole batch.
            np.testing.assert_allclose(theirs, mine, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("examples", "batch_size", "devices", "enough"),
    [(10, 4, 2, True), (9, 4, 2, False), (8, 4, 3, False), (8, 3, 3, False), (3, 40, 2, True),
     (3, 40, 4, False), (1, 1, 1, True)],
)  # fmt: skip
def test_a_batch_that_leaves_a_device_without_an_image_is_refused(
    examples: int, batch_size: int, devices: int, enough: bool
) -> None:
    """TensorFlow gives each device the same share, rounded up, as long as there are images."""
    if enough:
        check_shares(examples, batch_size, devices)
    else:
        with pytest.raises(StageError, match=r"batch_size: .* devices without an image"):
            check_shares(examples, batch_size, devices)
