"""The training loop, against Keras' own `fit` and against what each part promises."""

import hashlib
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from stages.networks.model_file import save_model
from stages.params import Params
from stages.prepare.__main__ import write_records
from stages.records.manifest import Manifest
from stages.records.tfrecords import load_split
from stages.stage import StageError
from stages.train import loop, state
from stages.train.__main__ import HISTORY_COLUMNS, write_history
from stages.train.batches import training_batches
from stages.train.loop import Trainer, build_network, train
from stages.train.losses import segmentation_loss
from stages.train.optimizer import build_optimizer
from stages.train.state import StateFile
from tests.faults import small_network
from tests.kept_run import KeptRun

NETWORK = "conv_deconv"
STEPS = 3  # 10 training images in batches of 4


class KeptStates(StateFile):
    """Keeps every saved state, in memory."""

    def __init__(self) -> None:
        self.states: list[state.TrainingState] = []
        self.state = None

    def save(self, state: state.TrainingState) -> None:
        self.states.append(state)


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(state, "ROOT", tmp_path)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "build_network", small_network)


@pytest.mark.parametrize(
    ("build", "changes"),
    [
        (build_network, {}),
        (small_network, {"ema_momentum": 0.7, "learning_rate_schedule": "constant"}),
        (small_network, {"precision": "mixed_float16"}),
    ],
    ids=["conv_deconv", "averaged", "float16"],
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
    images, masks = load_split(records, manifest, "train")
    batches = training_batches(
        images,
        masks,
        epochs=2,
        batch_size=4,
        seed=params.seed,
        augmentation=params.augmentation,
        image_size=128,
    )
    fitted = plain.fit(
        batches,
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
        for name in HISTORY_COLUMNS[1:]:
            assert row[name] == pytest.approx(fitted[name][epoch], rel=1e-4, abs=1e-5), name
    best = int(np.argmin(fitted["val_loss"]))
    for mine, theirs in zip(model.get_weights(), validated[best], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=2e-6)


def test_each_function_is_traced_once_for_batches_of_all_sizes(
    small: None, params: Params, manifest: Manifest, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers: list[Trainer] = []

    def trainer(*arguments: Any) -> Trainer:
        trainers.append(Trainer(*arguments))
        return trainers[0]

    monkeypatch.setattr(loop, "Trainer", trainer)
    run = KeptRun()
    _, history = train(NETWORK, params, manifest, records, run)
    for function in (trainers[0]._train, trainers[0]._validate):
        assert function.experimental_get_tracing_count() == 1
    assert [row["val_loss"] for row in run.epochs] == [row["val_loss"] for row in history]
    assert all(row["seconds"] > 0 < row["images_per_second"] for row in run.epochs)


def test_the_best_epoch_by_validation_loss_is_kept(
    small: None, params: Params, manifest: Manifest, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = Trainer.validate

    def spoiled(self: Trainer, *arguments: Any) -> dict[str, float]:
        if int(self._optimizer.iterations) == 3 * STEPS:
            self.model.trainable_variables[-1].assign([0, 0, 9])  # border everywhere
        return validate(self, *arguments)

    monkeypatch.setattr(Trainer, "validate", spoiled)
    params = params.model_copy(update={"epochs": 3})
    model, history = train(NETWORK, params, manifest, records, KeptRun())
    losses = [row["val_loss"] for row in history]
    assert min(losses) < losses[-1], "the last epoch must not be the best for this test to tell"
    images, masks = load_split(records, manifest, "validation")
    found = float(segmentation_loss(params.loss, masks, model(images)))
    assert found == pytest.approx(min(losses), rel=1e-5)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    small: None, params: Params, manifest: Manifest, records: Path
) -> None:
    digests = []
    for seed in (0, 0, 1):
        keras.backend.clear_session()
        changed = params.model_copy(update={"epochs": 1, "seed": seed})
        model, history = train(NETWORK, changed, manifest, records, KeptRun())
        save_model(model, Path("model.keras"))
        write_history(history, Path("history.csv"))
        content = Path("model.keras").read_bytes() + Path("history.csv").read_bytes()
        digests.append(hashlib.sha256(content).hexdigest())
    assert digests[0] == digests[1] != digests[2]


def test_training_with_every_change_on_keeps_what_it_validated(
    params: Params, tmp_path: Path
) -> None:
    augmentation = {"crop_scale": 0.6, "crop_aspect": 1.3, "brightness": 0.2, "contrast": 0.2}
    loss = {"label_smoothing": 0.05, "lovasz_weight": 0.5}
    changes = {
        "image_size": 32,
        "train_image_scale": 1.5,
        "ema_momentum": 0.5,
        "augmentation": params.augmentation.model_copy(update=augmentation | {"saturation": 0.2}),
        "loss": params.loss.model_copy(update=loss),
    }
    changed = params.model_copy(update=changes)
    (tmp_path / "records").mkdir()
    manifest = write_records(changed, tmp_path / "records", tmp_path)
    model, history = train(NETWORK, changed, manifest, tmp_path / "records", KeptRun())
    assert model.input_shape == (None, 32, 32, 3)
    assert history[1]["loss"] < history[0]["loss"]
    images, masks = load_split(tmp_path / "records", manifest, "validation")
    kept = float(segmentation_loss(changed.loss, masks, model(images)))
    assert kept == pytest.approx(min(row["val_loss"] for row in history), rel=1e-4)


@pytest.mark.parametrize(
    ("method", "value", "found"),
    [("step", math.nan, "nan in epoch 2, step 2"), ("step", -math.inf, "inf in epoch 2, step 2"),
     ("validate", math.nan, "nan in epoch 2, validation")],
)  # fmt: skip
def test_a_loss_that_is_not_finite_stops_the_stage_and_keeps_the_state_before(
    small: None,
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
    with pytest.raises(ZeroDivisionError), saved:
        assert saved.epochs == 1
        assert saved.state is not None
        assert all(np.isfinite(values).all() for values in saved.state.variables)
        raise ZeroDivisionError  # or the state would be removed


def test_a_step_returns_the_loss_before_it(
    small: None, params: Params, manifest: Manifest, records: Path
) -> None:
    trainer = Trainer(NETWORK, params, manifest, STEPS)
    images, masks = load_split(records, manifest, "train")
    expected = segmentation_loss(params.loss, masks, trainer.model(images, training=True))
    # The warm-up's first step has a rate of 0.
    losses = [trainer.step(tf.constant(images), tf.constant(masks)) for _ in range(4)]
    assert losses[0] == losses[1] == pytest.approx(float(expected), rel=1e-5)
    assert losses[3] < losses[0]


def test_the_history_is_a_table_with_whole_epochs() -> None:
    row = dict.fromkeys(HISTORY_COLUMNS[1:], 1 / 3)
    write_history([{"epoch": 1} | row, row | {"epoch": 2}], Path("history.csv"))
    assert Path("history.csv").read_text().splitlines()[2] == "2" + 6 * ",0.333333"
    assert list(pd.read_csv("history.csv")) == HISTORY_COLUMNS
