"""The training loop, against Keras' own `fit` and against what each part promises."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

from stages.params import Params
from stages.prepare.__main__ import write_records
from stages.records.manifest import Manifest, read_manifest
from stages.records.tfrecords import load_split
from stages.stage import StageError
from stages.train import loop, state
from stages.train.__main__ import write_history
from stages.train.batches import training_batches
from stages.train.loop import Trainer, build_network, train
from stages.train.losses import segmentation_loss
from stages.train.optimizer import build_optimizer
from stages.train.state import StateFile
from tests.faults import small_network
from tests.kept_run import KeptRun

NETWORK = "conv_deconv"
SIZE = 32
METRICS = [f"{split}{name}" for split in ("", "val_") for name in ("loss", "accuracy", "mean_iou")]
STEPS = 3  # 10 training images in batches of 4


class KeptStates(StateFile):
    """Keeps every saved state, in memory."""

    def __init__(self) -> None:
        self.states: list[state.TrainingState] = []
        self.state = None

    def save(self, state: state.TrainingState) -> None:
        self.states.append(state)


@pytest.fixture(scope="module")
def params(params: Params) -> Params:
    """Larger training images than the network's, every random change and every loss."""
    changes = {"crop_scale": 0.6, "crop_aspect": 1.3, "brightness": 0.2, "contrast": 0.2}
    augmentation = params.augmentation.model_copy(update=changes | {"saturation": 0.2})
    loss = params.loss.model_copy(update={"label_smoothing": 0.05, "lovasz_weight": 0.5})
    return params.model_copy(
        update={
            "seed": 3,
            "image_size": SIZE,
            "train_image_scale": 1.5,
            "augmentation": augmentation,
            "loss": loss,
        }
    )


@pytest.fixture(scope="module")
def records(params: Params, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    write_records(params, folder, tmp_path_factory.mktemp("scratch"))
    return folder


@pytest.fixture(scope="module")
def manifest(records: Path) -> Manifest:
    return read_manifest(records)


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains `small_network`, in a folder as its repository."""
    monkeypatch.setattr(state, "ROOT", tmp_path)
    monkeypatch.setattr(loop, "build_network", small_network)


@pytest.mark.parametrize(
    ("build", "changes"),
    [
        (build_network, {}),
        (
            small_network,
            {
                "ema_momentum": 0.7,
                "learning_rate_schedule": "constant",
                "precision": "mixed_float16",
            },
        ),
    ],
    ids=["conv_deconv", "averaged float16"],
)
def test_the_loop_trains_what_keras_fit_trains(
    build: Any,
    changes: dict[str, Any],
    params: Params,
    manifest: Manifest,
    records: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    params = params.model_copy(update=changes)
    monkeypatch.setattr(loop, "build_network", build)
    kept = KeptStates()
    model, history = train(NETWORK, params, manifest, records, KeptRun(), kept)

    keras.utils.set_random_seed(params.seed)
    plain = build(NETWORK, params, manifest)
    plain.compile(
        build_optimizer(NETWORK, params, STEPS, {}),
        loss=lambda masks, logits: segmentation_loss(params.loss, masks, logits),
        metrics=["accuracy", keras.metrics.MeanIoU(3, sparse_y_pred=False, name="mean_iou")],
        jit_compile=False,
    )
    variables: list[list[np.ndarray]] = []
    validated: list[list[np.ndarray]] = []

    def after_batch(batch: int, logs: dict) -> None:
        if batch == STEPS - 1:
            everything = [*plain.variables, *plain.optimizer.variables]
            variables.append([variable.numpy() for variable in everything])

    callbacks: list[keras.callbacks.Callback] = [
        keras.callbacks.LambdaCallback(
            on_train_batch_end=after_batch,
            on_epoch_end=lambda epoch, logs: validated.append(plain.get_weights()),
        )
    ]
    if params.ema_momentum:
        callbacks.insert(0, keras.callbacks.SwapEMAWeights(swap_on_epoch=True))
    fitted = plain.fit(
        training_batches(
            *load_split(records, manifest, "train"),
            epochs=2,
            batch_size=4,
            seed=params.seed,
            augmentation=params.augmentation,
            image_size=SIZE,
        ),
        epochs=2,
        steps_per_epoch=STEPS,
        shuffle=False,
        validation_data=load_split(records, manifest, "validation"),
        callbacks=callbacks,
        verbose=0,
    ).history
    keras.mixed_precision.set_global_policy("float32")

    assert len(kept.states) == len(variables) == 2
    for saved, expected in zip(kept.states, variables, strict=True):
        for mine, theirs in zip(saved.variables, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=2e-6)
    for epoch, row in enumerate(history):
        assert row["epoch"] == epoch + 1
        for name in METRICS:
            assert row[name] == pytest.approx(fitted[name][epoch], rel=1e-4, abs=1e-5), name
    best = int(np.argmin(fitted["val_loss"]))
    for mine, theirs in zip(model.get_weights(), validated[best], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=2e-6)


def test_the_best_epoch_by_validation_loss_is_kept_and_each_function_traced_once(
    params: Params, manifest: Manifest, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the last batches are smaller."""
    validate = Trainer.validate

    def spoiled(self: Trainer, *arguments: Any) -> dict[str, float]:
        if int(self._optimizer.iterations) == 3 * STEPS:
            self.model.trainable_variables[-1].assign([0, 0, 9])  # border everywhere
        found = validate(self, *arguments)
        for function in (self.train_step, self.validation_step):
            assert function.experimental_get_tracing_count() == 1
        return found

    monkeypatch.setattr(Trainer, "validate", spoiled)
    run = KeptRun()
    params = params.model_copy(update={"epochs": 3})
    model, history = train(NETWORK, params, manifest, records, run)
    losses = [row["val_loss"] for row in history]
    assert min(losses) < losses[-1], "the last epoch must not be the best for this test to tell"
    images, masks = load_split(records, manifest, "validation")
    found = float(segmentation_loss(params.loss, masks, model(images)))
    assert found == pytest.approx(min(losses), rel=1e-5)
    assert [row["val_loss"] for row in run.epochs] == losses
    assert all(row["seconds"] > 0 < row["images_per_second"] for row in run.epochs)


@pytest.mark.parametrize(
    ("method", "value", "found"),
    [("step", -math.inf, "inf in epoch 2, step 2"), ("validate", math.nan, "nan in .*validation")],
)
def test_a_loss_that_is_not_finite_stops_the_stage_and_keeps_the_state_before(
    method: str,
    value: float,
    found: str,
    params: Params,
    manifest: Manifest,
    records: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bias that is spoiled in the second epoch; it comes to the same end when it goes on."""
    original = getattr(Trainer, method)
    at = STEPS + 1 if method == "step" else 2 * STEPS

    def spoiled(self: Trainer, *arguments: Any) -> Any:
        if int(self._optimizer.iterations) == at:
            self.model.trainable_variables[-1].assign([value, 0, 0])
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, method, spoiled)
    message = f"loss of conv_deconv is {found}: lower conv_deconv.learning_rate.* after epoch 1 is"
    for _ in range(2):
        saved = StateFile(NETWORK, params, manifest)
        with pytest.raises(StageError, match=message), saved:
            train(NETWORK, params, manifest, records, KeptRun(), saved)
    with saved:
        assert saved.epochs == 1
        assert saved.state is not None
        assert all(np.isfinite(values).all() for values in saved.state.variables)


def test_the_history_is_a_table_with_whole_epochs(tmp_path: Path) -> None:
    row = dict.fromkeys(METRICS, 1 / 3)
    write_history([{"epoch": 1} | row, {"epoch": 2} | row], tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_text().splitlines()[2] == "2" + 6 * ",0.333333"
    assert list(pd.read_csv(tmp_path / "history.csv")) == ["epoch", *METRICS]
