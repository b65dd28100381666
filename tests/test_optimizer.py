import keras
import numpy as np
import pytest
import tensorflow as tf

from stages.params import Params
from stages.train.optimizer import build_optimizer, learning_rate

RATE = 0.01


@pytest.fixture
def constant(params: Params) -> Params:
    """Plain Adam at one learning rate."""
    changes = {"learning_rate_schedule": "constant", "weight_decay": 0.0, "ema_momentum": 0.0}
    group = params.conv_deconv.model_copy(update={"learning_rate": RATE})
    return params.model_copy(update=changes | {"conv_deconv": group})


def _moved(
    optimizer: keras.optimizers.Optimizer, steps: int, scale: float = 1.0
) -> dict[str, np.ndarray]:
    """The variables of a small model after steps, with the same gradients for each optimizer."""
    keras.utils.set_random_seed(0)
    features = keras.Input((4,))
    x = keras.layers.Dense(5, name="first")(features)
    x = keras.layers.BatchNormalization(name="norm")(x)
    model = keras.Model(features, keras.layers.Dense(2, name="last")(x))
    variables = model.trainable_variables
    draw = np.random.default_rng(1)
    for _ in range(steps):
        gradients = [draw.normal(size=variable.shape) for variable in variables]
        optimizer.apply([tf.constant(scale * g, tf.float32) for g in gradients], variables)
    return {variable.path: variable.numpy() for variable in variables}


@pytest.mark.parametrize(
    ("decay", "factors"), [(0.0, {}), (0.5, {"first/kernel": 1.0, "norm/gamma": 1.0})]
)
def test_without_factors_the_steps_are_those_of_keras_adamw(
    constant: Params, decay: float, factors: dict[str, float]
) -> None:
    params = constant.model_copy(update={"weight_decay": decay})
    adamw = keras.optimizers.AdamW(RATE, weight_decay=decay)
    adamw.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    mine = _moved(build_optimizer("conv_deconv", params, 10, factors), 5)
    for path, expected in _moved(adamw, 5).items():
        np.testing.assert_allclose(mine[path], expected, rtol=1e-6, atol=1e-6, err_msg=path)


def test_decay_shrinks_kernels_and_leaves_biases_and_normalizations_alone(
    constant: Params,
) -> None:
    params = constant.model_copy(update={"weight_decay": 0.5})
    start = _moved(build_optimizer("conv_deconv", params, 10, {}), 0)
    decayed = _moved(build_optimizer("conv_deconv", params, 10, {}), 3, scale=0)
    for path, values in start.items():
        shrunk = (1 - RATE * 0.5) ** 3 if path.endswith("kernel") else 1
        np.testing.assert_allclose(decayed[path], shrunk * values, rtol=1e-6, err_msg=path)
    assert {path.split("/")[-1] for path in start} == {"kernel", "bias", "gamma", "beta"}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "mixed_float16"},  # with loss scaling
        {"learning_rate_schedule": "cosine", "epochs": 4, "warmup_epochs": 1},
    ],
)
def test_a_factor_scales_how_far_its_variables_move_and_no_others(
    constant: Params, changes: dict[str, object]
) -> None:
    params = constant.model_copy(update=changes)
    factors = {"first/kernel": 0.1, "norm/beta": 0.5}
    start = _moved(build_optimizer("conv_deconv", params, 2, {}), 0)
    whole, partly = (
        _moved(build_optimizer("conv_deconv", params, 2, chosen), 4) for chosen in ({}, factors)
    )
    for path, values in whole.items():
        expected = factors.get(path, 1.0) * (values - start[path])
        np.testing.assert_allclose(partly[path] - start[path], expected, atol=3e-7, err_msg=path)
        assert np.abs(values - start[path]).max() > RATE / 100


def test_the_learning_rate_warms_up_and_comes_down_to_nothing(params: Params) -> None:
    peak = params.unet.learning_rate
    ten = params.model_copy(update={"epochs": 10, "warmup_epochs": 2})
    schedule = learning_rate("unet", ten, steps=5)
    assert callable(schedule)
    rates = [float(schedule(step)) for step in range(51)]
    assert rates[:11] == pytest.approx(np.linspace(0, peak, 11))
    cosine = peak * (1 + np.cos(np.pi * np.arange(41) / 40)) / 2
    assert rates[10:] == pytest.approx(cosine, abs=1e-8)
    flat = ten.model_copy(update={"learning_rate_schedule": "constant"})
    assert learning_rate("unet", flat, steps=5) == peak
    cold = learning_rate("unet", ten.model_copy(update={"warmup_epochs": 0}), steps=5)
    assert callable(cold)
    assert float(cold(0)) == pytest.approx(peak)
    short = ten.model_copy(update={"epochs": 2, "warmup_epochs": 5})
    rising = learning_rate("unet", short, steps=5)
    assert callable(rising)
    assert [float(rising(step)) for step in range(10)] == pytest.approx(peak * np.arange(10) / 10)
