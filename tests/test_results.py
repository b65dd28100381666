"""The metrics of a measurement, what is written of them and how it is read back."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.evaluate.measurement import Measurement, Picture, counted
from stages.evaluate.results import PET_SIZES, results
from stages.metrics.bootstrap import confidence_interval
from stages.metrics.calibration import image_reliability_counts
from stages.metrics.comparison import differences
from stages.metrics.confusion import mean_iou
from stages.metrics.results import HEADLINES, Results, confusion_of
from stages.records.classes import CLASS_NAMES
from stages.records.manifest import Manifest

MANIFEST = Manifest(
    dataset="pets",
    version="1.0.0",
    image_size=16,
    train_image_size=16,
    class_names=list(CLASS_NAMES),
    label_names=["tabby", "beagle", "never"],
    species_names=["Cat", "Dog"],
    splits={},
    other_files={},
)


def _measured(masks: np.ndarray, predictions: np.ndarray, seed: int = 0) -> Measurement:
    rng = np.random.default_rng(seed)
    columns = {
        "file_name": [f"{index}.jpg" for index in range(len(masks))],
        "species": [MANIFEST.species_names[index % 2] for index in range(len(masks))],
        "breed": [MANIFEST.label_names[index % 2] for index in range(len(masks))],
        "pet_share": np.mean(masks != 1, axis=(1, 2)),
        "loss": rng.uniform(0, 2, len(masks)),
    }
    images = pd.DataFrame(columns).join(counted(masks, predictions))
    confidence = rng.uniform(1 / 3, 1, masks.shape)
    reliability = image_reliability_counts(confidence, masks == predictions)
    picture = Picture(len(masks) - 1, 0.5, masks[-1], masks[-1], masks[-1])
    return Measurement(images, counted(masks, np.ones_like(masks)), reliability, [picture], [])


def _random(images: int, seed: int, agreement: float = 0.7) -> Measurement:
    rng = np.random.default_rng(seed)
    masks, guesses = rng.integers(0, 3, (2, images, 16, 16), dtype=np.uint8)
    return _measured(masks, np.where(rng.random(masks.shape) < agreement, masks, guesses), seed)


def test_metrics_are_those_of_keras() -> None:
    rng = np.random.default_rng(1)
    masks = rng.integers(0, 3, (7, 16, 16), dtype=np.uint8)
    predictions = np.where(rng.random(masks.shape) < 0.6, masks, 1).astype(np.uint8)
    found = results(_measured(masks, predictions), MANIFEST, seed=0)

    def of_keras(metric: keras.metrics.Metric) -> float:
        metric.update_state(masks.ravel(), predictions.ravel())
        return float(metric.result())

    assert found.images == 7
    assert found.accuracy == pytest.approx(of_keras(keras.metrics.Accuracy()), abs=1e-5)
    assert found.mean_iou == pytest.approx(of_keras(keras.metrics.MeanIoU(3)), abs=1e-5)
    for index, name in enumerate(CLASS_NAMES):
        iou = of_keras(keras.metrics.IoU(3, [index]))
        assert found.iou[name] == pytest.approx(iou, abs=1e-5)
        assert found.dice[name] == pytest.approx(2 * iou / (1 + iou), abs=1e-5)
    assert np.sum(found.confusion_matrix) == masks.size
    (worst,) = found.worst
    assert (worst.file_name, worst.breed) == ("6.jpg", "tabby")


@settings(deadline=None, max_examples=8, derandomize=True)
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
    assert sum(found.reliability.pixels) == images * 16 * 16


def test_a_class_that_is_nowhere_has_no_iou_and_is_left_out_of_the_mean() -> None:
    background = np.ones((3, 16, 16), np.uint8)
    predictions = background.copy()
    predictions[:, :4] = 2
    found = results(_measured(background, predictions), MANIFEST, seed=0)
    assert found.iou == {"pet": None, "background": 0.75, "border": 0.0}
    assert found.headlines()["mean_iou"][0] == 0.375
    assert found.recall == {"pet": None, "background": 0.75, "border": None}
    assert found.intervals.iou["pet"] == (None, None)


def test_background_alone_has_no_boundary_to_score() -> None:
    background = np.ones((2, 16, 16), np.uint8)
    found = results(_measured(background, background), MANIFEST, seed=0)
    assert found.accuracy == 1
    assert found.boundary_f == {"1px": None, "2px": None, "3px": None}
    assert found.headlines()["boundary_f"] == (None, (None, None))


def test_the_baseline_is_measured_like_the_network() -> None:
    masks = np.random.default_rng(0).integers(0, 3, (5, 16, 16), dtype=np.uint8)
    found = results(_measured(masks, np.ones_like(masks)), MANIFEST, seed=0)
    for name, value in found.baseline:
        assert getattr(found, name) == value
    for rows in found.slices.values():
        for row in rows.values():
            assert row.baseline_accuracy == row.accuracy
            assert row.baseline_mean_iou == row.mean_iou


def test_slices_have_their_counts_and_intervals_and_few_images_are_marked() -> None:
    masks = np.ones((24, 16, 16), np.uint8)
    # Shares of pet and border: 0, 4/16 (still small), 8/16 (medium), 12/16 (large).
    for index in range(24):
        masks[index, : 4 * (index % 4)] = index % 2 * 2
    predictions = masks.copy()
    predictions[:5, :8] = 0
    measurement = _measured(masks, predictions)
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
    assert list(PET_SIZES) == ["small", "medium", "large"]
    cats = confusion_of(measurement.images)[::2]
    assert slices["species"]["Cat"].mean_iou == pytest.approx(mean_iou(cats.sum(axis=0)), abs=1e-6)
    ends = confidence_interval(cats, mean_iou, seed=0)
    assert slices["species"]["Cat"].interval == pytest.approx(ends, abs=1e-6)


def test_datasets_without_breeds_have_no_such_slices() -> None:
    bare = MANIFEST.model_copy(update={"label_names": [], "species_names": []})
    slices = results(_random(4, 0), bare, seed=0).slices
    assert slices["species"] == slices["breed"] == {}


def test_differences_are_those_of_the_results() -> None:
    better, worse = _random(30, 0, 0.8), _random(30, 0, 0.6)
    found = differences(better.images, worse.images, seed=1)
    ours, theirs = (results(one, MANIFEST, seed=0).model_dump() for one in (better, worse))
    for (name, *key), difference in found.items():
        values = [one[name][key[0]] if key else one[name] for one in (ours, theirs)]
        assert difference.value == pytest.approx(values[0] - values[1], abs=2e-6)
        assert difference.low <= difference.value <= difference.high
    assert found["accuracy",].excludes_zero
    assert found["iou", "border"].excludes_zero
    assert not found["loss",].excludes_zero  # the same losses twice
    assert {name for name, *_ in found} == set(ours["intervals"]) - {"calibration_error"}


def test_headlines_are_a_handful_with_their_intervals() -> None:
    found = results(_random(5, 2), MANIFEST, seed=0)
    assert tuple(found.headlines()) == HEADLINES
    assert found.headlines()["boundary_f"][0] == found.boundary_f["2px"]
    interval = found.intervals.pet_iou["border_as_pet"]
    assert found.headlines()["pet_iou"] == (found.pet_iou["border_as_pet"], interval)


def test_results_are_written_rounded_and_the_same_each_time(tmp_path: Path) -> None:
    found = results(_random(3, 1), MANIFEST, seed=0)
    assert found.loss == round(found.loss, 6)
    found.write(tmp_path / "a.json")
    found.write(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert Results.read(tmp_path / "a.json", "evaluate@a") == found
