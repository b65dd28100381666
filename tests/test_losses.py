import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import approx_fprime
from sklearn.metrics import jaccard_score

from stages.params import Loss
from stages.train.losses import lovasz_softmax, segmentation_loss

PLAIN = Loss(label_smoothing=0.0, border_weight=1.0, dice_weight=0.0, lovasz_weight=0.0)
CLASSES = hnp.arrays(np.uint8, (2, 3, 4), elements=st.integers(0, 2))
DRAW = np.random.default_rng(0)
MASKS = DRAW.integers(0, 3, (2, 3, 4), dtype=np.uint8)
TRUTH = np.eye(3)[MASKS]
LOGITS = DRAW.normal(0, 3, (2, 3, 4, 3)).astype(np.float32)
PROBABILITIES = DRAW.dirichlet((1, 1, 1), (2, 3, 4))


def _loss(logits: np.ndarray = LOGITS, **changes: float) -> float:
    return float(segmentation_loss(PLAIN.model_copy(update=changes), MASKS, tf.constant(logits)))


def _lovasz_by_thresholds(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The integral over all thresholds of 1 - IoU, where pixels of larger errors are wrong."""
    losses = []
    for number in np.unique(np.argmax(truth, axis=-1)):
        true = truth[..., number].ravel() == 1
        errors = np.abs(true - probabilities[..., number].ravel())
        loss = 0.0
        for low, high in itertools.pairwise(np.unique([0, *errors])):
            wrong = errors >= high
            loss += (high - low) * (1 - np.sum(true & ~wrong) / np.sum(true | wrong))
        losses.append(loss)
    return float(np.mean(losses))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weight", [1.0, 2.5])
def test_cross_entropy_smoothing_and_the_weight_of_the_border_are_those_of_keras(
    smoothing: float, weight: float
) -> None:
    expected = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=smoothing, reduction="mean_with_sample_weight"
    )(TRUTH, LOGITS, np.where(MASKS == 2, weight, 1.0))
    found = _loss(label_smoothing=smoothing, border_weight=weight)
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_dice_and_lovasz_over_the_whole_batch_are_added_with_their_weights() -> None:
    probabilities = np.asarray(keras.ops.softmax(LOGITS))
    overlap = 2 * np.sum(TRUTH * probabilities, axis=(0, 1, 2))
    dice = np.mean(1 - overlap / (TRUTH + probabilities).sum(axis=(0, 1, 2)))
    expected = _loss() + 0.5 * dice + 3 * _lovasz_by_thresholds(TRUTH, probabilities)
    assert _loss(dice_weight=0.5, lovasz_weight=3) == pytest.approx(expected, rel=1e-5)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(masks=CLASSES, prediction=CLASSES)
def test_for_hard_predictions_lovasz_is_1_minus_iou(
    masks: np.ndarray, prediction: np.ndarray
) -> None:
    found = float(lovasz_softmax(np.eye(3)[masks], np.eye(3)[prediction]))
    truth = masks.ravel()
    iou = jaccard_score(truth, prediction.ravel(), labels=np.unique(truth), average="macro")
    assert found == pytest.approx(1 - iou, abs=1e-6)


def test_the_gradient_of_lovasz_is_that_of_finite_differences() -> None:
    variable = tf.Variable(PROBABILITIES)
    with tf.GradientTape() as tape:
        loss = lovasz_softmax(tf.constant(TRUTH), variable)
    numeric = approx_fprime(
        PROBABILITIES.ravel(),
        lambda values: _lovasz_by_thresholds(TRUTH, values.reshape(TRUTH.shape)),
        1e-7,
    )
    np.testing.assert_allclose(np.ravel(tape.gradient(loss, variable)), numeric, atol=1e-6)
    assert np.abs(numeric).max() > 0.01
