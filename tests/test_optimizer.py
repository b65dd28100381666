from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from stages.params import Params
from stages.train.optimizer import GroupedAdam, build_optimizer, learning_rate

LEARNING_RATE = 0.01


@pytest.fixture
def constant(params: Params) -> Params:
    """Plain Adam at one learning rate."""
    group = params.conv_deconv.model_copy(update={"learning_rate": LEARNING_RATE})
    changes = {
        "learning_rate_schedule": "constant",
        "weight_decay": 0.0,
        "ema_momentum": 0.0,
        "conv_deconv": group,
    }
    return params.model_copy(update=changes)


def _model() -> keras.Model:
    keras.utils.set_random_seed(0)
    features = keras.Input((4,))
    x = keras.layers.Dense(5, name="first")(features)
    x = keras.layers.BatchNormalization(name="norm")(x)
    return keras.Model(features, keras.layers.Dense(2, name="last")(x))


def _gradients(model: keras.Model, step: int) -> list[tf.Tensor]:
    rng = np.random.default_rng(step)
    return [
        tf.constant(rng.normal(size=variable.shape).astype(np.float32))
        for variable in model.trainable_variables
    ]


def _moved(
    optimizer: keras.optimizers.Optimizer,
    steps: int,
    gradients: Callable[[keras.Model, int], list[tf.Tensor]] = _gradients,
) -> dict[str, np.ndarray]:
    """The variables of a small model after steps with the same gradients for each optimizer."""
    model = _model()
    for step in range(steps):
        optimizer.apply(gradients(model, step), model.trainable_variables)
    return {variable.path: variable.numpy() for variable in model.trainable_variables}


def _zeros(model: keras.Model, step: int) -> list[tf.Tensor]:
    del step
    return [tf.zeros(variable.shape) for variable in model.trainable_variables]


@pytest.mark.parametrize(
    ("decay", "factors"), [(0.0, {}), (0.5, {"first/kernel": 1.0, "norm/gamma": 1.0})]
)
def test_without_factors_the_steps_are_those_of_keras_adamw(
    constant: Params, decay: float, factors: dict[str, float]
) -> None:
    params = constant.model_copy(update={"weight_decay": decay})
    adamw = keras.optimizers.AdamW(LEARNING_RATE, weight_decay=decay)
    adamw.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    mine = _moved(build_optimizer("conv_deconv", params, 10, factors), 5)
    theirs = _moved(adamw, 5)
    assert mine.keys() == theirs.keys()
    for path, expected in theirs.items():
        # Five steps of 0.01; in float32 one may take 1 - 0.999 for 0.00100005.
        np.testing.assert_allclose(mine[path], expected, rtol=1e-6, atol=1e-6, err_msg=path)


def test_decay_shrinks_kernels_and_leaves_biases_and_normalisations_alone(
    constant: Params,
) -> None:
    params = constant.model_copy(update={"weight_decay": 0.5})
    start = _moved(build_optimizer("conv_deconv", params, 10, {}), 0)
    decayed = _moved(build_optimizer("conv_deconv", params, 10, {}), 3, _zeros)
    for path, values in start.items():
        shrunk = (1 - LEARNING_RATE * 0.5) ** 3 if path.endswith("kernel") else 1
        np.testing.assert_allclose(decayed[path], shrunk * values, rtol=1e-6, err_msg=path)
    assert {path.split("/")[-1] for path in start} == {"kernel", "bias", "gamma", "beta"}


@pytest.mark.parametrize("steps", [1, 4])
def test_a_factor_scales_how_far_its_variables_move_and_no_others(steps: int) -> None:
    start = _moved(GroupedAdam(factors={}), 0)
    whole = _moved(GroupedAdam(factors={}, learning_rate=LEARNING_RATE), steps)
    factors = {"first/kernel": 0.1, "norm/beta": 0.5}
    partly = _moved(GroupedAdam(factors=factors, learning_rate=LEARNING_RATE), steps)
    for path, values in whole.items():
        expected = factors.get(path, 1.0) * (values - start[path])
        np.testing.assert_allclose(partly[path] - start[path], expected, atol=2e-7, err_msg=path)
        assert np.abs(values - start[path]).min() > LEARNING_RATE / 100


def test_factors_hold_in_the_loss_scaling_of_float16() -> None:
    factors = {"first/kernel": 0.1}
    start = _moved(GroupedAdam(factors={}), 0)
    scaled, plain = (
        _moved(
            keras.optimizers.LossScaleOptimizer(
                GroupedAdam(factors=chosen, learning_rate=LEARNING_RATE)
            ),
            1,
        )
        for chosen in (factors, {})
    )
    for path, values in plain.items():
        expected = factors.get(path, 1.0) * (values - start[path])
        np.testing.assert_allclose(scaled[path] - start[path], expected, atol=2e-7, err_msg=path)


def test_factors_hold_for_each_rate_of_a_schedule(params: Params) -> None:
    warm = params.model_copy(
        update={"epochs": 4, "warmup_epochs": 2, "weight_decay": 0.0, "ema_momentum": 0.0}
    )
    factors = {"last/bias": 0.25}
    start = _moved(GroupedAdam(factors={}), 0)["last/bias"]
    whole, part = (
        _moved(build_optimizer("unet", warm, 2, chosen), 6)["last/bias"] - start
        for chosen in ({}, factors)
    )
    np.testing.assert_allclose(part, 0.25 * whole, atol=1e-7)
    assert np.abs(whole).max() > 1e-4


def test_the_average_of_the_weights_is_kept_only_if_asked_for(constant: Params) -> None:
    for momentum in (0.0, 0.75):
        params = constant.model_copy(update={"ema_momentum": momentum})
        optimizer = build_optimizer("conv_deconv", params, 10, {})
        model = _model()
        average: list[np.ndarray] = []
        for step in range(4):
            optimizer.apply(_gradients(model, step), model.trainable_variables)
            now = [variable.numpy() for variable in model.trainable_variables]
            average = [
                momentum * before + (1 - momentum) * value
                for before, value in zip(average or now, now, strict=True)
            ]
        kept = [variable for variable in optimizer.variables if "average" in variable.path]
        assert len(kept) == (len(average) if momentum else 0)
        for variable, expected in zip(kept, average, strict=False):
            np.testing.assert_allclose(variable, expected, atol=1e-6)


def test_the_learning_rate_warms_up_and_comes_down_to_nothing(params: Params) -> None:
    peak = params.unet.learning_rate
    ten = params.model_copy(update={"epochs": 10, "warmup_epochs": 2})
    course = learning_rate("unet", ten, steps=5)
    assert callable(course)
    rates = [float(course(step)) for step in range(51)]
    assert rates[:11] == pytest.approx(np.linspace(0, peak, 11))
    cosine = peak * (1 + np.cos(np.pi * np.arange(41) / 40)) / 2
    assert rates[10:] == pytest.approx(cosine, abs=1e-8)
    flat = ten.model_copy(update={"learning_rate_schedule": "constant"})
    assert learning_rate("unet", flat, steps=5) == peak
    cold = ten.model_copy(update={"warmup_epochs": 0})
    started_cold = learning_rate("unet", cold, steps=5)
    assert callable(started_cold)
    assert float(started_cold(0)) == pytest.approx(peak)


def test_a_warm_up_longer_than_the_training_rises_all_the_time(params: Params) -> None:
    peak = params.unet.learning_rate
    short = params.model_copy(update={"epochs": 2, "warmup_epochs": 5})
    course = learning_rate("unet", short, steps=5)
    assert callable(course)
    rates = [float(course(step)) for step in range(10)]
    assert rates == pytest.approx(peak * np.arange(10) / 10)
