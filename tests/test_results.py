"""The metrics of a measurement, what is written of them and how it is read back."""

from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.evaluate.measurement import Measurement, counted
from stages.evaluate.results import results
from stages.metrics.bootstrap import confidence_interval
from stages.metrics.calibration import image_reliability_counts
from stages.metrics.comparison import differences
from stages.metrics.confusion import mean_iou
from stages.metrics.results import HEADLINES, Results, confusion_of
from stages.records.classes import CLASS_NAMES, class_rgb
from stages.records.manifest import Manifest

SIDE = 16
MANIFEST = Manifest(
    dataset="synthetic_pets", version="1.0.0", image_size=SIDE, train_image_size=SIDE,
    class_names=list(CLASS_NAMES), label_names=["tabby", "beagle", "never"],
    species_names=["Cat", "Dog"], splits={}, other_files={},
)  # fmt: skip


def measured(masks: np.ndarray, predictions: np.ndarray, **columns: Any) -> Measurement:
    """What `measure` gives of classes [image, height, width]; `columns` are put into its table."""
    rng = np.random.default_rng(0)
    numbers = np.arange(len(masks))
    described = {
        "file_name": [f"{number}.jpg" for number in numbers],
        "species": np.array(["Cat", "Dog"])[numbers % 2],
        "breed": np.array(["tabby", "beagle"])[numbers % 2],
        "pet_share": np.mean(masks != 1, axis=(1, 2)),
        "loss": rng.uniform(0, 2, len(masks)),
    }
    images = pd.DataFrame(described | columns).join(counted(masks, predictions))
    confidence = rng.uniform(1 / 3, 1, masks.shape)
    reliability = image_reliability_counts(confidence, masks == predictions)
    pixels = np.concatenate(class_rgb()[[masks, masks, predictions]], axis=2)
    rows = images.assign(pixels=list(pixels)).to_dict("records")
    baseline = counted(masks, np.ones_like(masks))
    return Measurement(images, baseline, reliability, rows[:3], rows[-3:])


def _random(images: int, seed: int, agreement: float = 0.7) -> Measurement:
    rng = np.random.default_rng(seed)
    masks, guesses = rng.integers(0, 3, (2, images, SIDE, SIDE), dtype=np.uint8)
    return measured(masks, np.where(rng.random(masks.shape) < agreement, masks, guesses))


def test_metrics_are_those_of_keras() -> None:
    rng = np.random.default_rng(1)
    masks = rng.integers(0, 3, (7, SIDE, SIDE), dtype=np.uint8)
    predictions = np.where(rng.random(masks.shape) < 0.6, masks, 1).astype(np.uint8)
    found = results(measured(masks, predictions), MANIFEST, seed=0)

    def of_keras(metric: keras.metrics.Metric) -> Any:
        metric.update_state(masks.astype(np.int32), predictions.astype(np.int32))
        return pytest.approx(float(metric.result()), abs=1e-5)

    assert found.images == 7
    assert found.accuracy == of_keras(keras.metrics.Accuracy())
    assert found.mean_iou == of_keras(keras.metrics.MeanIoU(3))
    left_out = keras.metrics.IoU(3, target_class_ids=[0], ignore_class=2)
    assert found.pet_iou["border_left_out"] == of_keras(left_out)
    for index, name in enumerate(CLASS_NAMES):
        assert found.iou[name] == of_keras(keras.metrics.IoU(3, [index]))
    assert np.sum(found.confusion_matrix) == masks.size
    assert [(extreme.file_name, extreme.breed) for extreme in found.best] == [
        ("4.jpg", "tabby"), ("5.jpg", "beagle"), ("6.jpg", "tabby")
    ]  # fmt: skip
    # A handful stands for them across runs.
    headlines = found.headlines()
    assert tuple(headlines) == HEADLINES
    assert found.loss == round(found.loss, 6)
    assert headlines["loss"] == (found.loss, found.intervals.loss)
    interval = found.intervals.pet_iou["border_as_pet"]
    assert headlines["pet_iou"] == (found.pet_iou["border_as_pet"], interval)


@settings(deadline=None, max_examples=5, derandomize=True)
@given(images=st.integers(1, 12), seed=st.integers(0, 10_000), agreement=st.floats(0, 1))
def test_every_metric_lies_in_its_range_and_within_its_interval(
    images: int, seed: int, agreement: float
) -> None:
    found = results(_random(images, seed, agreement), MANIFEST, seed=seed)
    assert Results.model_validate_json(found.model_dump_json()) == found

    def check(values: dict[str, Any], intervals: dict[str, Any]) -> None:
        for name, interval in intervals.items():
            if isinstance(interval, dict):
                check(values[name], interval)
            elif values[name] is not None:
                low, high = interval
                assert 0 <= low <= high
                assert name == "loss" or high <= 1
                # The calibration error is not linear: its bootstrap is biased upwards.
                if name != "calibration_error":
                    assert low - 1e-5 <= values[name] <= high + 1e-5 or images < 4
                if images == 1:
                    assert low == high == values[name]

    check(found.model_dump(), found.intervals.model_dump())
    assert sum(found.reliability.pixels) == images * SIDE**2


def test_a_class_that_is_nowhere_has_no_iou_and_is_left_out_of_the_mean() -> None:
    background = np.ones((3, SIDE, SIDE), np.uint8)
    predictions = background.copy()
    predictions[:, :4] = 2
    found = results(measured(background, predictions), MANIFEST, seed=0)
    assert found.iou == {"pet": None, "background": 0.75, "border": 0.0}
    assert found.mean_iou == 0.375
    assert found.recall == {"pet": None, "background": 0.75, "border": None}
    assert found.intervals.iou["pet"] == (None, None)
    exact = results(measured(background, background), MANIFEST, seed=0)
    assert exact.boundary_f == {"1px": None, "2px": None, "3px": None}
    assert exact.headlines()["boundary_f"] == (None, (None, None))


def test_the_baseline_is_measured_like_the_network() -> None:
    masks = np.random.default_rng(0).integers(0, 3, (5, SIDE, SIDE), dtype=np.uint8)
    bare = MANIFEST.model_copy(update={"label_names": []})
    found = results(measured(masks, np.ones_like(masks)), bare, seed=0)
    for name, value in found.baseline:
        assert getattr(found, name) == value
    assert found.slices["breed"] == {}
    for row in found.slices["species"].values():
        assert (row.baseline_accuracy, row.baseline_mean_iou) == (row.accuracy, row.mean_iou)


def test_slices_have_their_counts_and_intervals_and_few_images_are_marked() -> None:
    masks = np.ones((24, SIDE, SIDE), np.uint8)
    # Shares of pet and border: 0, 4/16 (still small), 8/16 (medium), 12/16 (large).
    for index in range(24):
        masks[index, : 4 * (index % 4)] = index % 2 * 2
    predictions = masks.copy()
    predictions[:5, :8] = 0
    measurement = measured(masks, predictions)
    slices = results(measurement, MANIFEST, seed=0).slices
    counts = {
        group: {name: (row.images, row.few, row.pet_share) for name, row in rows.items()}
        for group, rows in slices.items()
    }
    assert counts["species"] == {"Cat": (12, False, (0, 0.5)), "Dog": (12, False, (0.25, 0.75))}
    assert list(counts["breed"]) == ["tabby", "beagle"]
    assert counts["pet_size"] == {
        "small": (12, False, (0, 0.25)),
        "medium": (6, True, (0.5, 0.5)),
        "large": (6, True, (0.75, 0.75)),
    }
    cats = confusion_of(measurement.images)[::2]
    assert slices["species"]["Cat"].mean_iou == pytest.approx(mean_iou(cats.sum(axis=0)), abs=1e-6)
    ends = confidence_interval(cats, mean_iou, seed=0)
    assert slices["species"]["Cat"].interval == pytest.approx(ends, abs=1e-6)


def test_differences_are_those_of_the_results() -> None:
    better, worse = _random(12, 0, 0.8), _random(12, 0, 0.6)
    found = differences(better.images, worse.images, seed=1)
    ours, theirs = (results(one, MANIFEST, seed=0).model_dump() for one in (better, worse))
    for (name, *key), (value, low, high) in found.items():
        values = [one[name][key[0]] if key else one[name] for one in (ours, theirs)]
        assert value == pytest.approx(values[0] - values[1], abs=2e-6)
        assert low <= value <= high
    assert found["accuracy",][1] > 0
    assert found["loss",] == (0, 0, 0)  # the same losses twice
    assert {name for name, *_ in found} == set(ours["intervals"]) - {"calibration_error"}
