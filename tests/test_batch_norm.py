import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from stages.train.batch_norm import StatisticsEstimator, estimate_statistics


@pytest.fixture
def model() -> keras.Model:
    """Two normalisations, one of them in a model of its own, between layers of other kinds."""
    keras.utils.set_random_seed(0)
    images = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(5, 3, name="conv")(images)
    x = keras.layers.BatchNormalization(momentum=0.9, name="outer")(x)
    x = keras.layers.ReLU(name="relu")(x)
    inner = keras.Sequential(
        [keras.layers.Dense(2, name="dense"), keras.layers.BatchNormalization(name="norm")],
        name="inner",
    )
    return keras.Model(images, inner(x))


def _batches(*sizes: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    # Each batch has a mean and a spread of its own, so that pooling their variances needs both.
    return [
        (rng.normal(size=(size, 4, 4, 3)) * (number + 1) + number).astype(np.float32)
        for number, size in enumerate(sizes)
    ]


def _statistics(model: keras.Model) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {
        layer.name: (layer.moving_mean.numpy(), layer.moving_variance.numpy())
        for layer in (model.get_layer("outer"), model.get_layer("inner").get_layer("norm"))
    }


def _normalised(values: np.ndarray) -> np.ndarray:
    return (values - values.mean(axis=(0, 1, 2))) / np.sqrt(values.var(axis=(0, 1, 2)) + 1e-3)


def _activations(model: keras.Model, batches: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """What comes to the two normalisations in training, batch by batch."""
    dense = model.get_layer("inner").get_layer("dense")
    gamma, beta, *_ = (variable.numpy() for variable in model.get_layer("outer").variables)
    outer = [np.asarray(model.get_layer("conv")(images)) for images in batches]
    normalised = [gamma * _normalised(values) + beta for values in outer]
    return {
        "outer": outer,
        "norm": [np.asarray(dense(np.maximum(values, 0))) for values in normalised],
    }


def test_statistics_of_equal_batches_are_those_of_all_their_activations(
    model: keras.Model,
) -> None:
    batches = _batches(6, 6, 6)
    estimate_statistics(model, iter(batches))
    for name, activations in _activations(model, batches).items():
        together = np.concatenate(activations)
        mean, variance = _statistics(model)[name]
        assert_allclose(mean, together.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
        assert_allclose(variance, together.var(axis=(0, 1, 2)), rtol=1e-4)


def test_batches_of_different_sizes_count_alike(model: keras.Model) -> None:
    batches = _batches(8, 2)
    estimate_statistics(model, batches)
    for name, activations in _activations(model, batches).items():
        means = [values.mean(axis=(0, 1, 2)) for values in activations]
        squares = [(values**2).mean(axis=(0, 1, 2)) for values in activations]
        mean, variance = _statistics(model)[name]
        assert_allclose(mean, np.mean(means, axis=0), rtol=1e-4, atol=1e-5)
        assert_allclose(variance, np.mean(squares, axis=0) - mean**2, rtol=1e-3)


def test_measured_on_one_batch_the_network_gives_for_it_what_it_gives_in_training(
    model: keras.Model,
) -> None:
    (images,) = _batches(8)
    in_training = np.asarray(model(images, training=True))
    assert np.abs(np.asarray(model(images, training=False)) - in_training).max() > 0.1
    estimate_statistics(model, [images])
    assert_allclose(model(images, training=False), in_training, atol=1e-5)


def test_what_was_there_before_does_not_count_and_nothing_else_changes(
    model: keras.Model,
) -> None:
    weights = [variable.numpy() for variable in model.trainable_variables]
    batches = _batches(4, 4)
    estimate_statistics(model, batches)
    fresh = _statistics(model)
    estimate_statistics(model, _batches(7))
    estimate_statistics(model, batches)
    for name, values in _statistics(model).items():
        assert_allclose(values, fresh[name], rtol=1e-6)
    for variable, before in zip(model.trainable_variables, weights, strict=True):
        assert_array_equal(variable, before)
    momenta = model.get_layer("outer").momentum, model.get_layer("inner").get_layer("norm").momentum
    assert momenta == (0.9, 0.99)


def test_normalisations_that_do_not_train_keep_their_statistics(model: keras.Model) -> None:
    model.get_layer("outer").trainable = False
    before = _statistics(model)
    estimate_statistics(model, _batches(4, 4))
    after = _statistics(model)
    assert_array_equal(after["outer"], before["outer"])
    assert np.abs(after["norm"][0] - before["norm"][0]).min() > 1e-3


def test_where_no_normalisation_trains_no_batch_is_used(model: keras.Model) -> None:
    model.trainable = False
    before = _statistics(model)
    batches = iter(_batches(4))
    estimate_statistics(model, batches)
    assert len(list(batches)) == 1
    for name, values in _statistics(model).items():
        assert_array_equal(values, before[name])


def test_a_batch_that_does_not_fit_leaves_the_momentum_as_it_was(model: keras.Model) -> None:
    with pytest.raises(ValueError, match="shape"):
        estimate_statistics(model, [np.zeros((2, 4, 4, 7), np.float32)])
    assert model.get_layer("outer").momentum == 0.9


def test_each_validation_is_done_with_statistics_of_the_weights_of_that_moment(
    model: keras.Model,
) -> None:
    batches = _batches(6, 6)
    images = batches[0]
    targets = 3 * np.random.default_rng(1).normal(size=(6, 2, 2, 2)).astype(np.float32)
    seen: list[dict[str, tuple[np.ndarray, np.ndarray]]] = []
    expected: list[dict[str, list[np.ndarray]]] = []

    def keep(epoch: int, logs: dict) -> None:
        del epoch
        seen.append(_statistics(model))
        expected.append(_activations(model, batches))
        loss = np.mean((np.asarray(model(images, training=False)) - targets) ** 2)
        assert logs["val_loss"] == pytest.approx(float(loss), rel=1e-4)

    model.compile(keras.optimizers.SGD(0.5), "mse")
    model.fit(
        images,
        targets,
        validation_data=(images, targets),
        epochs=2,
        batch_size=2,
        verbose=0,
        # A generator: the batches are kept for all epochs.
        callbacks=[
            StatisticsEstimator(batch for batch in batches),
            keras.callbacks.LambdaCallback(on_epoch_end=keep),
        ],
    )
    for statistics, activations in zip(seen, expected, strict=True):
        for name, (mean, variance) in statistics.items():
            together = np.concatenate(activations[name])
            assert_allclose(mean, together.mean(axis=(0, 1, 2)), rtol=1e-3, atol=1e-4)
            assert_allclose(variance, together.var(axis=(0, 1, 2)), rtol=1e-3)
    assert np.abs(seen[1]["norm"][0] - seen[0]["norm"][0]).max() > 1e-2
