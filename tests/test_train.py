"""The training loop, against Keras' own `fit` and against what each part promises."""

import json
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from stages.networks.conv_deconv import network as conv_deconv
from stages.networks.model_file import save_model
from stages.params import Params
from stages.prepare.__main__ import write_records
from stages.records.manifest import Manifest, read_manifest
from stages.records.tfrecords import load_split
from stages.stage import StageError, run_stage
from stages.train import state
from stages.train.batches import training_batches
from stages.train.loop import Trainer, check_shares, train
from stages.train.losses import segmentation_loss
from stages.train.optimizer import build_optimizer
from stages.train.state import StateFile, TrainingState
from tests.faults import small_network
from tests.kept_run import KeptRun

NETWORK = "conv_deconv"
SIZE = 32
STEPS = 3  # 10 training images in batches of 4
AVERAGED = {"ema_momentum": 0.7, "learning_rate_schedule": "constant", "precision": "mixed_float16"}


class KeptStates(StateFile):
    """Keeps every saved state, in memory."""

    def __init__(self, state: TrainingState) -> None:
        self.states: list[TrainingState] = []
        self.state = state

    def save(self, state: TrainingState) -> None:
        self.states.append(state)


@pytest.fixture(scope="module")
def params(params: Params) -> Params:
    """Larger training images than the network's, every random change and every loss."""
    changes = {"crop_scale": 0.6, "crop_aspect": 1.3, "brightness": 0.2, "contrast": 0.2}
    augmentation = params.augmentation.model_copy(update=changes | {"saturation": 0.2})
    loss = params.loss.model_copy(update={"label_smoothing": 0.05, "lovasz_weight": 0.5})
    sizes = {"image_size": SIZE, "train_image_scale": 1.5}
    return params.model_copy(
        update={"seed": 3, "augmentation": augmentation, "loss": loss, **sizes}
    )


@pytest.fixture(scope="module")
def records(params: Params, scratch: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    write_records(params, folder, scratch)
    return folder


@pytest.fixture(scope="module")
def manifest(records: Path) -> Manifest:
    return read_manifest(records)


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`conv_deconv` is a small network, in a folder as its repository."""
    monkeypatch.setattr(state, "ROOT", tmp_path)
    monkeypatch.setattr(conv_deconv, "build", small_network)


@pytest.mark.parametrize("changes", [{}, AVERAGED], ids=["float32", "averaged float16"])
def test_the_loop_trains_what_keras_fit_trains(
    changes: dict[str, Any], params: Params, manifest: Manifest, records: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    params = params.model_copy(update=changes)
    kept = KeptStates(TrainingState())
    monkeypatch.setenv("EPOCH_LOG", str(tmp_path / "epochs"))
    model, history = train(NETWORK, params, manifest, records, KeptRun(), kept)
    lines = (tmp_path / "epochs").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history  # what a search reads

    keras.utils.set_random_seed(params.seed)
    plain = small_network(params.conv_deconv, SIZE, 3)
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
        training_batches(*load_split(records, manifest, "train"), params, SIZE),
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
    rows = pd.DataFrame(history)
    assert list(rows.pop("epoch")) == [1, 2]
    np.testing.assert_allclose(rows, pd.DataFrame(fitted)[list(rows)], rtol=1e-4, atol=1e-5)
    best = int(np.argmin(fitted["val_loss"]))
    for mine, theirs in zip(model.get_weights(), validated[best], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=2e-6)


def test_the_best_epoch_by_validation_loss_is_kept_and_each_function_traced_once(
    params: Params, manifest: Manifest, records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the last batches are smaller."""
    validate = Trainer.validate

    def spoiled(self: Trainer, *arguments: Any) -> dict[str, float]:
        if int(self.optimizer.iterations) == 3 * STEPS:
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
    ("method", "at", "found"),
    [("step", STEPS + 1, "nan in epoch 2, step 2"), ("validate", 2 * STEPS, "nan in .*validation")],
)
def test_a_loss_that_is_not_finite_stops_the_stage_and_keeps_the_state_before(
    method: str,
    at: int,
    found: str,
    params: Params,
    manifest: Manifest,
    records: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bias that is spoiled in the second epoch."""
    original = getattr(Trainer, method)

    def spoiled(self: Trainer, *arguments: Any) -> Any:
        if int(self.optimizer.iterations) == at:
            self.model.trainable_variables[-1].assign([math.nan, 0, 0])
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, method, spoiled)
    message = f"the loss of conv_deconv is {found}: lower conv_deconv.learning_rate"
    saved = StateFile(NETWORK, params, manifest)
    with pytest.raises(StageError, match=message), saved:
        train(NETWORK, params, manifest, records, KeptRun(), saved)
    with saved:
        assert len(saved.state.history) == 1
        assert all(np.isfinite(values).all() for values in saved.state.variables)


@pytest.mark.parametrize(("network", "seed"), [("unet", 3), (NETWORK, 4)])
def test_a_resumed_training_ends_with_the_same_bytes_and_another_seed_with_others(
    network: str, seed: int, params: Params, manifest: Manifest, records: Path, tmp_path: Path
) -> None:
    unet = params.unet.model_copy(update={"train_encoder": False})  # quickly traced

    def trained(kept: KeptStates, seed: int) -> bytes:
        keras.utils.clear_session()  # it counts layers to name them
        changed = params.model_copy(update={"unet": unet, "seed": seed})
        model, _ = train(network, changed, manifest, records, KeptRun(), kept)
        save_model(model, tmp_path / "model.keras")
        return (tmp_path / "model.keras").read_bytes()

    whole = KeptStates(TrainingState())
    content = trained(whole, 3)
    start = whole.states[0] if seed == 3 else TrainingState()
    assert (trained(KeptStates(start), seed) == content) == (seed == 3)


@pytest.mark.parametrize(
    ("examples", "batch_size", "devices", "enough"),
    [(10, 4, 2, True), (9, 4, 2, False), (8, 4, 3, False), (8, 3, 3, False), (3, 40, 2, True),
     (3, 40, 4, False), (1, 1, 1, True)],
)  # fmt: skip
def test_a_batch_that_leaves_a_device_without_an_image_is_refused(
    examples: int, batch_size: int, devices: int, enough: bool
) -> None:
    """TensorFlow gives each device the same share, rounded up, as long as there are images."""
    if enough:
        check_shares(examples, batch_size, devices)
    else:
        with pytest.raises(StageError, match=r"batch_size: .* devices without an image"):
            check_shares(examples, batch_size, devices)


@pytest.mark.parametrize("error", [MemoryError(), tf.errors.ResourceExhaustedError(None, None, "")])
def test_too_little_memory_is_one_line(error: Exception) -> None:
    """As NumPy says it of a split, and TensorFlow in a step."""

    def allocate() -> None:
        raise error

    with pytest.raises(SystemExit, match=r"^train: there is not enough memory .*lower batch_size"):
        run_stage("train", allocate)


def test_any_other_error_keeps_its_stack_trace() -> None:
    with pytest.raises(ZeroDivisionError):
        run_stage("train", lambda: 1 / 0)
