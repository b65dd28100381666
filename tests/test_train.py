import csv
import hashlib
import json
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import jaccard_score

from stages.networks.model_file import load_model, save_model
from stages.params import Augmentation, Loss, NetworkParams, Params
from stages.prepare.__main__ import write_records
from stages.records.manifest import Manifest
from stages.records.tfrecords import load_split
from stages.stage import StageError, run_stage
from stages.train import __main__ as train_stage
from stages.train import resume
from stages.train.__main__ import HISTORY_COLUMNS, train, weight_callbacks, write_history
from stages.train.losses import SegmentationLoss
from stages.train.optimizer import build_optimizer
from tests.faults import small_network
from tests.kept_run import KeptRun


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()


def _train(
    network: str, params: Params, manifest: Manifest, records: Path, run: Any = None, **changes: Any
) -> tuple[keras.Model, list[dict[str, Any]]]:
    return train(network, params.model_copy(update=changes), manifest, records, run or KeptRun())


@pytest.mark.parametrize(("network", "epochs"), [("conv_deconv", 4), ("unet", 2)])
def test_training_lowers_the_loss_and_logs_each_epoch(
    network: str, epochs: int, params: Params, manifest: Manifest, records: Path
) -> None:
    run = KeptRun()
    _, history = _train(network, params, manifest, records, run, epochs=epochs)
    assert [row["epoch"] for row in history] == list(range(1, epochs + 1))
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(set(HISTORY_COLUMNS) <= set(row) for row in history)
    assert [row["epoch"] for row in run.epochs] == [row["epoch"] for row in history]
    assert all(row["images_per_second"] > 0 for row in run.epochs)
    assert all(row["seconds"] > 0 for row in run.epochs)
    assert not list(Path("models").iterdir())


def test_the_best_epoch_by_validation_loss_is_kept(
    params: Params, manifest: Manifest, records: Path
) -> None:
    class Spoiled(keras.callbacks.Callback):
        """Makes the fourth epoch begin with the border everywhere."""

        def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
            if epoch == 3:
                self.model.trainable_variables[-1].assign([0, 0, 9])

    short = params.model_copy(update={"epochs": 4})
    model, history = train(
        "conv_deconv", short, manifest, records, KeptRun(), callbacks=[Spoiled()]
    )
    losses = [row["val_loss"] for row in history]
    assert min(losses) < losses[-1], "the last epoch must not be the best for this test to tell"
    images, masks = load_split(records, manifest, "validation")
    logits = model(images)
    loss = SegmentationLoss(params.loss)(masks, logits)
    assert float(loss) == pytest.approx(min(losses), rel=1e-5)
    best = history[losses.index(min(losses))]
    predicted = np.argmax(logits, axis=-1).ravel()
    scores = jaccard_score(masks.ravel(), predicted, average=None)
    assert best["val_mean_iou"] == pytest.approx(scores.mean(), abs=1e-4)


def test_the_same_seed_gives_the_same_bytes(
    params: Params, manifest: Manifest, records: Path
) -> None:
    """The U-Net's are those of `test_resume.py`, which trains it twice too."""
    digests = set()
    for name in ("first", "second"):
        keras.backend.clear_session()
        model, history = _train("conv_deconv", params, manifest, records, epochs=1)
        save_model(model, Path(f"{name}.keras"))
        write_history(history, Path(f"{name}.csv"))
        content = Path(f"{name}.keras").read_bytes() + Path(f"{name}.csv").read_bytes()
        digests.add(hashlib.sha256(content).hexdigest())
    assert len(digests) == 1


def test_another_seed_gives_another_network(
    params: Params, manifest: Manifest, records: Path
) -> None:
    histories = [
        _train("conv_deconv", params, manifest, records, epochs=1, seed=seed)[1] for seed in (0, 1)
    ]
    assert histories[0] != histories[1]


def _small() -> keras.Model:
    keras.utils.set_random_seed(0)
    images = keras.Input((4, 4, 3))
    x = keras.layers.Conv2D(4, 1, name="conv")(images)
    x = keras.layers.BatchNormalization(name="norm")(x)
    return keras.Model(images, keras.layers.Conv2D(3, 1)(x))


def test_averaged_weights_and_statistics_of_them_are_validated_and_saved(params: Params) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.normal(size=(12, 4, 4, 3)).astype(np.float32)
    masks = rng.integers(0, 3, (12, 4, 4), dtype=np.uint8)
    batches = tf.data.Dataset.from_tensor_slices((pixels, masks)).batch(4)
    changes = {"ema_momentum": 0.8, "batch_norm_batches": 2, "learning_rate_schedule": "constant"}
    changed = params.model_copy(update=changes)
    model = _small()
    loss = SegmentationLoss(params.loss)
    model.compile(build_optimizer("conv_deconv", changed, 3, {}), loss)
    model.optimizer.build(model.trainable_variables)
    weights: list[list[np.ndarray]] = []
    keep = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: weights.append(
            [variable.numpy() for variable in model.trainable_variables]
        )
    )
    save = keras.callbacks.ModelCheckpoint("{epoch}.weights.h5", save_weights_only=True)
    callbacks = [*weight_callbacks(changed, batches), save, keep]
    history = model.fit(
        batches.repeat(2),
        epochs=2,
        steps_per_epoch=3,
        shuffle=False,
        validation_data=(pixels, masks),
        verbose=0,
        callbacks=callbacks,
    ).history

    average = weights[0]
    saved = _small()
    for step, now in enumerate(weights, 1):
        average = [0.8 * old + 0.2 * new for old, new in zip(average, now, strict=True)]
        if step % 3:
            continue
        saved.load_weights(f"{step // 3}.weights.h5")
        for variable, expected in zip(saved.trainable_variables, average, strict=True):
            np.testing.assert_allclose(variable, expected, atol=1e-5)
        assert np.abs(average[0] - now[0]).max() > 1e-3
        convolved = np.asarray(saved.get_layer("conv")(pixels[:8]))
        norm = saved.get_layer("norm")
        np.testing.assert_allclose(norm.moving_mean, convolved.mean(axis=(0, 1, 2)), atol=1e-4)
        np.testing.assert_allclose(norm.moving_variance, convolved.var(axis=(0, 1, 2)), rtol=1e-3)
        validated = history["val_loss"][step // 3 - 1]
        assert validated == pytest.approx(float(loss(masks, saved(pixels))), rel=1e-4)

    # The training itself goes on with the weights that are not averaged.
    plain = _small()
    plain.compile(
        build_optimizer(
            "conv_deconv", params.model_copy(update=changes | {"ema_momentum": 0.0}), 3, {}
        ),
        loss,
    )
    plain.fit(batches.repeat(2), epochs=2, steps_per_epoch=3, shuffle=False, verbose=0)
    for variable, expected in zip(plain.trainable_variables, weights[-1], strict=True):
        np.testing.assert_allclose(variable, expected, atol=1e-4)


def test_without_averages_and_batches_to_measure_nothing_is_put_in_place(params: Params) -> None:
    neither = params.model_copy(update={"ema_momentum": 0.0, "batch_norm_batches": 0})
    assert weight_callbacks(neither, tf.data.Dataset.range(0)) == []


def test_training_with_every_change_on_keeps_what_it_validated(
    params: Params, tmp_path: Path
) -> None:
    everything = {
        "image_size": 32,
        "train_image_scale": 1.5,
        "epochs": 2,
        "ema_momentum": 0.5,
        "batch_norm_batches": 1,
        "augmentation": Augmentation(
            horizontal_flip=True,
            crop_scale=0.6,
            crop_aspect=1.3,
            brightness=0.2,
            contrast=0.2,
            saturation=0.2,
        ),
        "loss": Loss(label_smoothing=0.05, border_weight=2.0, dice_weight=0.5, lovasz_weight=0.5),
    }
    changed = params.model_copy(update=everything)
    folder = tmp_path / "records"
    folder.mkdir()
    manifest = write_records(changed, folder, tmp_path)
    model, history = _train("conv_deconv", changed, manifest, folder)
    assert model.input_shape == (None, 32, 32, 3)
    images, masks = load_split(folder, manifest, "validation")
    kept = float(SegmentationLoss(changed.loss)(masks, model(images)))
    assert kept == pytest.approx(min(row["val_loss"] for row in history), rel=1e-4)


def test_a_loss_that_is_no_number_stops_the_stage_and_names_epoch_and_step(
    params: Params, manifest: Manifest, records: Path
) -> None:
    def broken(params: NetworkParams, size: int, classes: int) -> keras.Model:
        images = keras.Input((size, size, 3))
        logits = keras.layers.Conv2D(classes, 1, kernel_initializer="ones")(images)
        return keras.Model(images, keras.ops.log(-1 - logits))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.networks.conv_deconv.network.build", broken)
        with pytest.raises(StageError, match=r"loss of conv_deconv is nan in epoch 1, step 1"):
            _train("conv_deconv", params, manifest, records)


def test_a_training_that_goes_wrong_after_an_epoch_keeps_the_state_of_that_epoch(
    params: Params,
    manifest: Manifest,
    records: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bias that is no number any more, or infinite, after the first step of the second epoch."""
    monkeypatch.setattr(resume, "ROOT", tmp_path)
    monkeypatch.setattr(train_stage, "build_network", small_network)
    changed = params.model_copy(update={"image_size": 32, "epochs": 4})

    class Spoiled(keras.callbacks.Callback):
        def __init__(self, bias: float) -> None:
            super().__init__()
            self.bias = bias

        def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
            if int(self.model.optimizer.iterations) == 4:
                self.model.trainable_variables[-1].assign([self.bias, 0, 0])

    # The second begins after the first epoch.
    for bias, loss in ((math.nan, "nan"), (-math.inf, "inf")):
        with (
            pytest.raises(
                StageError,
                match=rf"loss of conv_deconv is {loss} in epoch 2, step 2: lower conv_deconv.learn"
                r".* the state after epoch 1 is kept, and comes here again",
            ),
            resume.ResumePoint("conv_deconv", changed, manifest) as point,
        ):
            train("conv_deconv", changed, manifest, records, KeptRun(), point, [Spoiled(bias)])
    with resume.ResumePoint("conv_deconv", changed, manifest) as point:
        assert point.finished_epochs == 1
        assert point.state is not None
        assert all(np.isfinite(values).all() for values in point.state.variables)


def test_a_validation_that_is_no_number_stops_too_and_keeps_the_state_before(
    params: Params,
    manifest: Manifest,
    records: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights that are no numbers any more after the last step of the second epoch."""
    monkeypatch.setattr(resume, "ROOT", tmp_path)
    changed = params.model_copy(update={"image_size": 32, "epochs": 4})

    class Spoiled(keras.callbacks.Callback):
        def on_test_begin(self, logs: dict | None = None) -> None:
            if int(self.model.optimizer.iterations) == 6:
                kernel = self.model.trainable_variables[0]
                kernel.assign(np.full(kernel.shape, np.nan))

    for _ in range(2):  # the second begins after the first epoch, and comes to the same end
        with (
            pytest.raises(
                StageError,
                match=r"loss of conv_deconv is nan in epoch 2, validation: lower conv_deconv.learn"
                r".* the state after epoch 1 is kept, and comes here again",
            ),
            resume.ResumePoint("conv_deconv", changed, manifest) as point,
        ):
            train("conv_deconv", changed, manifest, records, KeptRun(), point, [Spoiled()])
    with resume.ResumePoint("conv_deconv", changed, manifest) as point:
        assert point.finished_epochs == 1
        assert point.state is not None
        assert all(np.isfinite(values).all() for values in point.state.variables)


def test_a_saved_model_is_the_same_network_without_optimizer_or_time(
    params: Params, manifest: Manifest
) -> None:
    model = train_stage.build_network("conv_deconv", params, manifest)
    model.compile("adam", "mse")
    images = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    path = Path("model.keras")
    save_model(model, path)
    loaded = load_model(path)
    np.testing.assert_array_equal(loaded(images), model(images))
    assert not loaded.compiled
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("metadata.json"))["date_saved"] == ""
        assert {info.date_time[0] for info in archive.infolist()} == {1980}
    assert [file.name for file in Path().iterdir() if file.is_file()] == ["model.keras"]


def test_a_model_that_runs_code_is_refused() -> None:
    images = keras.Input((8, 8, 3))
    model = keras.Model(
        images, keras.layers.Lambda(lambda x: x + 1, output_shape=(8, 8, 3))(images)
    )
    model.save("evil.keras")
    with pytest.raises(StageError, match=r"evil\.keras is not a model that can be loaded safely"):
        load_model(Path("evil.keras"))
    Path("broken.keras").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(StageError, match=r"broken\.keras"):
        load_model(Path("broken.keras"))
    with pytest.raises(StageError, match=r"no nothing\.keras: .*`make repro` trains it here"):
        load_model(Path("nothing.keras"))


def test_a_file_that_does_not_fit_into_memory_is_not_called_damaged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    save_model(_small(), Path("whole.keras"))
    monkeypatch.setattr(zipfile.ZipFile, "read", full)
    monkeypatch.setattr(zipfile.ZipFile, "open", full)
    with pytest.raises(SystemExit, match=r"^evaluate: there is not enough memory"):
        run_stage("evaluate", lambda: load_model(Path("whole.keras")))


@pytest.mark.parametrize("kind", ["pickle", "function", "module", "hdf5"])
def test_a_file_that_would_run_code_when_it_is_loaded_is_refused(kind: str) -> None:
    """A pickle, a reference to a function, a class of any module, and HDF5 with a Lambda layer."""
    path, trace = Path("evil.keras"), Path("trace")

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (trace,)

    if kind == "pickle":
        path.write_bytes(pickle.dumps(Payload()))
    elif kind == "hdf5":
        images = keras.Input((8, 8, 3))
        keras.Model(images, keras.layers.Lambda(lambda x: x + 1)(images)).save("evil.h5")
        Path("evil.h5").rename(path)
    else:
        save_model(_small(), path)
        with zipfile.ZipFile(path) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        module, name = ("os", "mkdir") if kind == "function" else ("subprocess", "Popen")
        config = json.loads(contents["config.json"])
        config["config"]["layers"][1] |= {
            "module": module,
            "class_name": name if kind == "module" else "function",
            "config": {"args": ["touch", str(trace)]} if kind == "module" else name,
            "registered_name": name,
        }
        contents["config.json"] = json.dumps(config).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for file, content in contents.items():
                archive.writestr(file, content)
    with pytest.raises(StageError, match=r"evil\.keras is not a model that can be loaded safely"):
        load_model(path)
    assert not trace.exists()


def test_a_file_with_any_damage_is_refused_in_one_line() -> None:
    save_model(_small(), Path("whole.keras"))
    content = Path("whole.keras").read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 40):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        for damaged in (flipped, content[:place]):
            Path("damaged.keras").write_bytes(damaged)
            try:
                load_model(Path("damaged.keras"))  # a bit that is of no account may differ
            except StageError as error:
                assert str(error).startswith("damaged.keras is not a model")  # noqa: PT017
                assert "\n" not in str(error)  # noqa: PT017


def test_the_history_is_a_table_with_whole_epochs() -> None:
    row = {"loss": 0.5, "accuracy": 0.75, "val_loss": 1 / 3, "val_accuracy": 1.0}
    row |= {"mean_iou": 0.25, "val_mean_iou": 0.125}
    write_history([{"epoch": 1} | row, {"epoch": 2} | row], Path("history.csv"))
    with Path("history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [read["epoch"] for read in rows] == ["1", "2"]
    assert rows[1]["val_loss"] == "0.333333"
    assert list(rows[0]) == list(HISTORY_COLUMNS)
