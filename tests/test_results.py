import json
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.evaluate.measurement import Measurement
from stages.evaluate.results import PET_SIZES, SUMMARY, image_rows, results, summarized
from stages.metrics.boundary import boundary_counts, silhouette
from stages.metrics.calibration import BINS, image_reliability_counts
from stages.metrics.confusion import confusion_matrices
from stages.records.manifest import Manifest, Split
from stages.runs.headlines import HEADLINES, headline_intervals, headlines

NAMES = ["pet", "background", "border"]
MANIFEST = Manifest(
    dataset="pets",
    version="1.0.0",
    image_size=16,
    train_image_size=16,
    class_names=NAMES,
    label_names=["tabby", "beagle", "never"],
    species_names=["Cat", "Dog"],
    splits={"test": Split(examples=0, class_shares={}, shards=[])},
    other_files={},
)


def _measured(masks: np.ndarray, predictions: np.ndarray, seed: int = 0) -> Measurement:
    rng = np.random.default_rng(seed)
    images = len(masks)
    confidence = rng.uniform(1 / 3, 1, masks.shape).astype(np.float32)
    baseline = np.ones_like(masks)
    return Measurement(
        file_names=[f"{index}.jpg" for index in range(images)],
        labels=np.arange(images) % 2,
        species=np.arange(images) % 2,
        losses=rng.uniform(0, 2, images),
        matrices=confusion_matrices(masks, predictions, 3),
        boundaries=boundary_counts(silhouette(masks), silhouette(predictions)),
        reliability=image_reliability_counts(confidence, masks == predictions),
        baseline_matrices=confusion_matrices(masks, baseline, 3),
        baseline_boundaries=boundary_counts(silhouette(masks), silhouette(baseline)),
        worst=[],
        best=[],
    )


def _random(images: int, seed: int, agreement: float = 0.7) -> Measurement:
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 3, (images, 16, 16), dtype=np.uint8)
    guesses = rng.integers(0, 3, masks.shape, dtype=np.uint8)
    return _measured(masks, np.where(rng.random(masks.shape) < agreement, masks, guesses), seed)


def test_figures_are_those_of_keras_metrics() -> None:
    rng = np.random.default_rng(1)
    masks = rng.integers(0, 3, (7, 16, 16), dtype=np.uint8)
    predictions = np.where(rng.random(masks.shape) < 0.6, masks, 1).astype(np.uint8)
    figures = results(_measured(masks, predictions), MANIFEST, seed=0)

    def of_keras(metric: keras.metrics.Metric) -> float:
        metric.update_state(masks.ravel(), predictions.ravel())
        return float(metric.result())

    assert figures["images"] == 7
    assert figures["accuracy"] == pytest.approx(of_keras(keras.metrics.Accuracy()), abs=1e-5)
    assert figures["mean_iou"] == pytest.approx(of_keras(keras.metrics.MeanIoU(3)), abs=1e-5)
    for index, name in enumerate(NAMES):
        iou = of_keras(keras.metrics.IoU(3, [index]))
        assert figures["iou"][name] == pytest.approx(iou, abs=1e-5)
        assert figures["dice"][name] == pytest.approx(2 * iou / (1 + iou), abs=1e-5)
    assert np.sum(figures["confusion_matrix"]) == masks.size


@settings(deadline=None, max_examples=25, derandomize=True)
@given(images=st.integers(1, 12), seed=st.integers(0, 10_000), agreement=st.floats(0, 1))
def test_every_figure_is_json_lies_in_its_range_and_within_its_interval(
    images: int, seed: int, agreement: float
) -> None:
    figures = results(_random(images, seed, agreement), MANIFEST, seed=seed)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures

    def check(values: Any, intervals: Any) -> None:
        for name, interval in intervals.items():
            if isinstance(interval, dict):
                check(values[name], interval)
            elif values[name] is not None:
                low, high = interval
                assert low <= high
                assert name == "loss" or 0 <= low <= high <= 1
                # The calibration error is not linear: its bootstrap is biased upwards.
                if name != "calibration_error":
                    assert low - 1e-5 <= values[name] <= high + 1e-5 or images < 4

    check(figures, figures["intervals"])
    assert sum(figures["reliability"]["pixels"]) == images * 16 * 16


def test_one_image_has_intervals_of_no_width() -> None:
    figures = results(_random(1, 0), MANIFEST, seed=0)
    assert figures["intervals"]["mean_iou"] == [figures["mean_iou"]] * 2


def test_more_images_make_narrower_intervals() -> None:
    widths = []
    for images in (10, 160):
        low, high = results(_random(images, 0), MANIFEST, seed=0)["intervals"]["accuracy"]
        widths.append(high - low)
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.5)


def test_a_class_that_is_nowhere_has_no_iou_and_is_left_out_of_the_mean() -> None:
    background = np.ones((3, 16, 16), np.uint8)
    predictions = background.copy()
    predictions[:, :4] = 2
    figures = results(_measured(background, predictions), MANIFEST, seed=0)
    assert figures["iou"] == {"pet": None, "background": 0.75, "border": 0.0}
    assert figures["mean_iou"] == 0.375
    assert figures["recall"] == {"pet": None, "background": 0.75, "border": None}
    assert figures["intervals"]["iou"]["pet"] == [None, None]
    assert headlines(figures)["mean_iou"] == 0.375


def test_background_alone_found_as_such_has_no_boundary_to_score() -> None:
    background = np.ones((2, 16, 16), np.uint8)
    figures = results(_measured(background, background), MANIFEST, seed=0)
    assert figures["boundary_f"] == {"1px": None, "2px": None, "3px": None}
    assert figures["accuracy"] == 1
    assert "boundary_f" not in headlines(figures)
    assert all("boundary_f" not in ends for ends in headline_intervals(figures).values())


def test_the_baseline_is_measured_like_the_network() -> None:
    masks = np.random.default_rng(0).integers(0, 3, (5, 16, 16), dtype=np.uint8)
    always_background = np.ones_like(masks)
    figures = results(_measured(masks, always_background), MANIFEST, seed=0)
    for name, value in figures["baseline"].items():
        assert figures[name] == value
    for rows in figures["slices"].values():
        for row in rows.values():
            assert row["baseline_accuracy"] == row["accuracy"]
            assert row["baseline_mean_iou"] == row["mean_iou"]


def test_slices_have_their_counts_and_few_images_are_marked() -> None:
    masks = np.ones((24, 16, 16), np.uint8)
    # Shares of pet and border: 0, 4/16 (still small), 8/16 (medium), 12/16 (large).
    for index in range(24):
        masks[index, : 4 * (index % 4)] = index % 2 * 2
    figures = results(_measured(masks, masks), MANIFEST, seed=0)
    counts = {
        group: {name: (row["images"], row["few"]) for name, row in rows.items()}
        for group, rows in figures["slices"].items()
    }
    assert counts["species"] == {"Cat": (12, False), "Dog": (12, False)}
    assert counts["breed"] == {"tabby": (12, False), "beagle": (12, False)}
    assert counts["pet_size"] == {"small": (12, False), "medium": (6, True), "large": (6, True)}
    assert list(PET_SIZES) == ["small", "medium", "large"]


def test_datasets_without_breeds_have_no_such_slices() -> None:
    bare = MANIFEST.model_copy(update={"label_names": [], "species_names": []})
    measurement = _random(4, 0)._replace(labels=np.full(4, -1), species=np.full(4, -1))
    slices = results(measurement, bare, seed=0)["slices"]
    assert slices["species"] == slices["breed"] == {}
    assert {row["species"] for row in image_rows(measurement, bare)} == {""}


def test_a_row_for_each_image_holds_its_whole_confusion_matrix() -> None:
    measurement = _random(5, 2)
    rows = image_rows(measurement, MANIFEST)
    assert [row["file_name"] for row in rows] == measurement.file_names
    for row, matrix in zip(rows, measurement.matrices, strict=True):
        kept = [[row[f"{true}_as_{predicted}"] for predicted in NAMES] for true in NAMES]
        np.testing.assert_array_equal(kept, matrix)
        assert float(row["accuracy"]) == pytest.approx(np.trace(matrix) / 256, abs=1e-6)
        assert float(row["pet_share"]) == pytest.approx(1 - matrix[1].sum() / 256, abs=1e-6)


def test_the_headlines_are_a_handful() -> None:
    figures = results(_random(5, 2), MANIFEST, seed=0)
    assert set(headlines(figures)) == set(HEADLINES)
    assert headlines(figures)["boundary_f"] == figures["boundary_f"]["2px"]
    ends = headline_intervals(figures)
    assert set(ends["low"]) == set(ends["high"]) == set(HEADLINES)
    low, high = figures["intervals"]["pet_iou"]["border_as_pet"]
    assert (ends["low"]["pet_iou"], ends["high"]["pet_iou"]) == (low, high)
    assert list(summarized(figures)) == list(SUMMARY)
    assert len(figures["reliability"]["accuracy"]) == BINS
