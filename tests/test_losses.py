import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import approx_fprime
from sklearn.metrics import f1_score, jaccard_score

from stages.params import Loss
from stages.records.classes import BORDER, CLASS_NAMES
from stages.train.losses import lovasz_softmax, segmentation_loss

PLAIN = Loss(label_smoothing=0.0, border_weight=1.0, dice_weight=0.0, lovasz_weight=0.0)

MASKS = hnp.arrays(np.uint8, (2, 3, 4), elements=st.integers(0, 2))
LOGITS = hnp.arrays(np.float32, (2, 3, 4, 3), elements=st.floats(-8, 8, width=32))


def _loss(masks: np.ndarray, logits: np.ndarray, **changes: float) -> float:
    loss = segmentation_loss(PLAIN.model_copy(update=changes), masks, tf.constant(logits))
    assert loss.shape == ()
    return float(loss)


def _one_hot(classes: np.ndarray) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[classes]


def _hard(prediction: np.ndarray) -> np.ndarray:
    """Logits that are sure of a prediction."""
    return 200 * _one_hot(prediction)


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


@settings(deadline=None, max_examples=20, derandomize=True)
@given(masks=MASKS, logits=LOGITS)
def test_the_plain_loss_is_cross_entropy(masks: np.ndarray, logits: np.ndarray) -> None:
    expected = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(masks, logits)
    assert _loss(masks, logits) == pytest.approx(float(expected), rel=1e-5)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(masks=MASKS, logits=LOGITS, smoothing=st.floats(0.01, 0.9), weight=st.floats(0.1, 10))
def test_smoothing_and_the_weight_of_the_border_are_those_of_keras(
    masks: np.ndarray, logits: np.ndarray, smoothing: float, weight: float
) -> None:
    assert CLASS_NAMES[BORDER] == "border"
    mean = "mean_with_sample_weight"
    weights = np.where(masks == 2, weight, 1.0)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=mean)
    smooth = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=smoothing, reduction=mean
    )
    for changes, expected in (
        ({"label_smoothing": smoothing}, smooth(_one_hot(masks), logits)),
        ({"border_weight": weight}, plain(masks, logits, weights)),
        (
            {"label_smoothing": smoothing, "border_weight": weight},
            smooth(_one_hot(masks), logits, weights),
        ),
    ):
        assert _loss(masks, logits, **changes) == pytest.approx(float(expected), rel=1e-4)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(masks=MASKS, logits=LOGITS, dice=st.floats(0.1, 10), lovasz=st.floats(0.1, 10))
def test_dice_and_lovasz_are_added_with_their_weights(
    masks: np.ndarray, logits: np.ndarray, dice: float, lovasz: float
) -> None:
    truth, probabilities = _one_hot(masks), np.asarray(keras.ops.softmax(logits))
    overlap = 2 * np.sum(truth * probabilities, axis=(0, 1, 2))
    of_classes = 1 - overlap / (truth.sum(axis=(0, 1, 2)) + probabilities.sum(axis=(0, 1, 2)))
    plain = _loss(masks, logits)
    with_dice = plain + dice * np.mean(of_classes)
    with_lovasz = plain + lovasz * _lovasz_by_thresholds(truth, probabilities)
    assert _loss(masks, logits, dice_weight=dice) == pytest.approx(with_dice, rel=1e-4)
    assert _loss(masks, logits, lovasz_weight=lovasz) == pytest.approx(with_lovasz, rel=1e-4)
    both = with_dice + with_lovasz - plain
    assert _loss(masks, logits, dice_weight=dice, lovasz_weight=lovasz) == pytest.approx(
        both, rel=1e-4
    )


@settings(deadline=None, max_examples=20, derandomize=True)
@given(masks=MASKS, prediction=MASKS)
def test_for_hard_predictions_dice_is_1_minus_f1_and_lovasz_1_minus_iou(
    masks: np.ndarray, prediction: np.ndarray
) -> None:
    truth, hard = masks.ravel(), prediction.ravel()
    lovasz = float(lovasz_softmax(_one_hot(masks), _one_hot(prediction)))
    present = np.unique(truth)
    iou = jaccard_score(truth, hard, labels=present, average="macro")
    assert lovasz == pytest.approx(1 - iou, abs=1e-6)
    f1 = f1_score(truth, hard, labels=[0, 1, 2], average="macro", zero_division=0)
    plain = _loss(masks, _hard(prediction))
    dice = _loss(masks, _hard(prediction), dice_weight=100) - plain
    assert dice / 100 == pytest.approx(1 - f1, abs=1e-4)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(masks=MASKS, logits=LOGITS)
def test_lovasz_is_between_0_and_1_and_0_only_for_the_truth(
    masks: np.ndarray, logits: np.ndarray
) -> None:
    truth = _one_hot(masks)
    assert float(lovasz_softmax(truth, truth)) == 0
    assert float(lovasz_softmax(truth, np.roll(truth, 1, axis=-1))) == 1
    # No logit is so far above the others that a probability is 0 or 1.
    loss = float(lovasz_softmax(truth, np.asarray(keras.ops.softmax(logits))))
    assert 0 < loss < 1


def test_the_gradient_of_lovasz_is_that_of_finite_differences() -> None:
    rng = np.random.default_rng(0)
    truth = np.eye(3)[rng.integers(0, 3, (2, 3, 4))]
    probabilities = rng.dirichlet((1, 1, 1), (2, 3, 4))
    variable = tf.Variable(probabilities)
    with tf.GradientTape() as tape:
        loss = lovasz_softmax(tf.constant(truth), variable)
    numeric = approx_fprime(
        probabilities.ravel(),
        lambda values: _lovasz_by_thresholds(truth, values.reshape(truth.shape)),
        1e-7,
    )
    gradient = tape.gradient(loss, variable)
    np.testing.assert_allclose(np.ravel(gradient), numeric, atol=1e-6)
    assert np.abs(numeric).max() > 0.01


def test_lovasz_counts_the_pixels_of_all_images_together() -> None:
    """The loss of a batch is not the mean of those of its images."""
    rng = np.random.default_rng(1)
    truth = _one_hot(rng.integers(0, 3, (4, 3, 3)))
    probabilities = rng.dirichlet((1, 1, 1), (4, 3, 3)).astype(np.float32)
    together = float(lovasz_softmax(truth, probabilities))
    row = float(lovasz_softmax(truth.reshape(1, 1, 36, 3), probabilities.reshape(1, 1, 36, 3)))
    assert together == pytest.approx(row, rel=1e-6)
    alone = [float(lovasz_softmax(truth[[number]], probabilities[[number]])) for number in range(4)]
    assert together != pytest.approx(np.mean(alone), rel=1e-3)
