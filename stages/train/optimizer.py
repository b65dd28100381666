"""The optimizer: Adam with decoupled weight decay, and its learning-rate schedule."""

from collections.abc import Mapping

import keras
import tensorflow as tf

from stages.params import Params


class FactorAdam(keras.optimizers.Adam):
    """Adam with learning-rate factors by variable path, 1 where there is none.

    Scaled gradients would not do: Adam divides by the gradients' size.
    """

    factors: Mapping[str, float] = {}

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Update one variable."""
        path = self._trainable_variables[self._get_variable_index(variable)].path
        super().update_step(gradient, variable, learning_rate * self.factors.get(path, 1.0))


def build_optimizer(
    network: str, params: Params, steps: int, factors: Mapping[str, float]
) -> keras.optimizers.Optimizer:
    """Build the optimizer of a training of `steps` steps an epoch.

    Weight decay is decoupled from the gradient (Loshchilov and Hutter, ICLR 2019) and leaves out
    biases and normalizations.
    """
    optimizer = FactorAdam(
        learning_rate=learning_rate(network, params, steps),
        weight_decay=params.weight_decay or None,
        use_ema=params.ema_momentum > 0,
        ema_momentum=params.ema_momentum,
    )
    optimizer.factors = factors
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    scaled = params.precision == "mixed_float16"
    return keras.optimizers.LossScaleOptimizer(optimizer) if scaled else optimizer


def learning_rate(
    network: str, params: Params, steps: int
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The learning rate, or its schedule over all epochs of `steps` steps."""
    peak = params.network(network).learning_rate
    if params.learning_rate_schedule == "constant":
        return peak
    warmup = min(params.warmup_epochs, params.epochs) * steps
    # Linear, then Loshchilov and Hutter's SGDR (ICLR 2017) without restarts.
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        decay_steps=max(params.epochs * steps - warmup, 1),
        warmup_target=peak,
        warmup_steps=warmup,
    )
