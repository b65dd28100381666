import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pets import predict, prediction
from pets.__main__ import main
from pets.networks import litert_network
from pets.predict import ENDINGS, find_inputs
from pets.prediction import at_size, segment
from stages.evaluate.__main__ import predict as evaluate_masks
from stages.export.formats import convert
from stages.networks.model_file import load_model, prediction_function
from stages.records.classes import class_rgb
from stages.records.manifest import file_sha256
from stages.stage import StageError
from tests.color_networks import photograph

ROOT = Path(__file__).resolve().parents[1]
Pets = Callable[..., int]


@pytest.fixture(scope="module")
def exported(color_networks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The networks, and the LiteRT exports of `colors` and `seen`; to be copied."""
    models = tmp_path_factory.mktemp("exported") / "models"
    shutil.copytree(color_networks, models)
    for name in ("colors", "seen"):
        folder = models / f"{name}.export"
        folder.mkdir()
        model = load_model(models / f"{name}.keras")
        convert(model, name, ["litert_float32"], folder, np.zeros((0, 32, 32, 3), np.uint8))
        source = {"sha256": file_sha256(models / f"{name}.keras")}
        (folder / "source.json").write_text(json.dumps(source))
    return models


@pytest.fixture
def pets(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pets:
    """Runs `pets predict` in a folder of its own, into out/."""
    monkeypatch.chdir(tmp_path)

    def run(
        *arguments: str, network: str = "colors", out: str = "out", models: Path = exported
    ) -> int:
        options = ["--models", str(models), "--network", network, "--out", out]
        return main(["predict", *arguments, *options])

    return run


def _records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def test_mask_overlay_cutout_and_record_are_of_the_photographs_size(
    pets: Pets, tmp_path: Path
) -> None:
    photograph().save("pet.png")
    assert pets("pet.png") == 0
    out = tmp_path / "out"
    assert {file.name for file in out.iterdir()} == {
        "pet.mask.png", "pet.overlay.jpg", "pet.cutout.png", "predictions.jsonl"
    }  # fmt: skip
    mask = Image.open(out / "pet.mask.png")
    assert (mask.mode, mask.size) == ("P", (90, 60))
    classes = np.asarray(mask)
    # In the middle, on the outline, and in the corner.
    assert [classes[30, 45], classes[30, 26], classes[2, 2]] == [0, 2, 1]
    np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), class_rgb()[classes])
    pixels = np.asarray(photograph())
    expected = pixels / 2 + class_rgb()[classes] / 2
    shown = np.asarray(Image.open(out / "pet.overlay.jpg"))
    assert np.abs(shown - expected)[28:32, 40:50].max() < 8
    cut = np.asarray(Image.open(out / "pet.cutout.png"))
    assert cut.shape == (60, 90, 4)
    np.testing.assert_array_equal(cut[..., :3], pixels)
    assert (cut[classes == 0, 3] == 255).all()
    assert (cut[classes == 1, 3] == 0).all()
    (record,) = _records(out)
    assert record["file"] == "pet.png"
    assert (record["width"], record["height"]) == (90, 60)
    for index, name in enumerate(("pet", "background", "border")):
        assert record["shares"][name] == pytest.approx(np.mean(classes == index), abs=1e-6)
    assert 0.9 < record["confidence"] <= 1
    assert record["seconds"] > 0


@pytest.mark.parametrize("flip", [False, True])
def test_both_runtimes_predict_what_evaluate_measures(
    pets: Pets, color_networks: Path, tmp_path: Path, flip: bool
) -> None:
    """At the network's own size there is nothing to interpolate."""
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(f"{number}.png")
    expected = evaluate_masks(
        prediction_function(load_model(color_networks / "seen.keras"), flip), images
    )
    for runtime in ("keras", "litert"):
        options = [*["--flip"] * flip, "--write", "mask", "--runtime", runtime]
        assert pets("*.png", *options, network="seen", out=runtime) == 0
        written = [
            np.asarray(Image.open(tmp_path / runtime / f"{number}.mask.png")) for number in range(4)
        ]
        assert np.mean(np.stack(written) == expected) > 0.999
        assert {record["runtime"] for record in _records(tmp_path / runtime)} == {runtime}


def test_the_litert_export_runs_without_what_takes_long_to_import(
    exported: Path, tmp_path: Path
) -> None:
    photograph(70, 90).save(tmp_path / "pet.png")
    program = (
        "import sys; from pets.__main__ import main\n"
        "lazy = {'tensorflow', 'keras', 'pandas', 'pydantic', 'mlflow', 'joblib', 'numpy', 'PIL'}\n"
        "print(sorted(lazy & {*sys.modules}))\n"
        "print(main(sys.argv[1:]), sorted(lazy & {*sys.modules}))"
    )
    command = [sys.executable, "-c", program, "predict", "pet.png"]
    command += ["--models", str(exported), "--network", "seen", "--out", "out"]
    ran = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout.splitlines() == ["[]", "0 ['PIL', 'numpy']"]
    assert "1 of 1 photographs with litert in " in ran.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("change", "runtime", "told"),
    [
        (lambda models: None, "litert", ""),
        # Trained again, and not exported since.
        (
            lambda models: shutil.copy(models / "colors.keras", models / "seen.keras"),
            "keras",
            "seen.export was not made from this seen.keras; `dvc repro export@seen` makes it again",
        ),
        (
            lambda models: (models / "seen.export/source.json").unlink(),
            "keras",
            "seen.export was not made from this seen.keras",
        ),
        (
            lambda models: (models / "seen.export/source.json").write_text("[]"),
            "keras",
            "seen.export was not made from this seen.keras",
        ),
        (
            lambda models: (models / "seen.export/seen.float32.tflite").write_bytes(b"nothing"),
            "keras",
            "seen.float32.tflite is missing or broken",
        ),
        # Nothing is wrong with a network that has no export.
        (lambda models: shutil.rmtree(models / "seen.export"), "keras", ""),
    ],
    ids=["fits", "stale", "no source", "damaged source", "broken", "none"],
)
def test_the_export_runs_by_itself_only_if_it_is_of_this_very_network(
    pets: Pets, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], object], runtime: str, told: str,
) -> None:  # fmt: skip
    models = shutil.copytree(exported, tmp_path / "models")
    change(models)
    photograph().save("pet.png")
    assert pets("pet.png", network="seen", models=models) == 0
    (record,) = _records(tmp_path / "out")
    assert record["runtime"] == runtime
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pets: ")]
    assert len(lines) == bool(told)
    assert all(told in line and "Keras runs" in line for line in lines)


def test_a_runtime_that_is_asked_for_runs_whatever_the_export_is_of(
    pets: Pets, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = shutil.copytree(exported, tmp_path / "models")
    photograph().save("pet.png")
    arguments = ("pet.png", "--runtime", "litert", "--force")
    (models / "seen.export/source.json").unlink()
    assert pets(*arguments, network="seen", models=models) == 0
    assert [record["runtime"] for record in _records(tmp_path / "out")] == ["litert"]
    before = (tmp_path / "out/predictions.jsonl").read_bytes()
    assert pets(*arguments, network="unet", models=models) == 1
    assert (tmp_path / "out/predictions.jsonl").read_bytes() == before
    assert "unet.float32.tflite is missing or broken" in capsys.readouterr().err
    (models / "seen.export/seen.float32.tflite").write_bytes(b"nothing")
    assert pets(*arguments, network="seen", models=models) == 1
    assert "seen.float32.tflite is missing or broken" in capsys.readouterr().err


def test_with_flip_the_mirror_image_has_the_mirrored_mask(exported: Path) -> None:
    network = litert_network(exported / "seen.export/seen.float32.tflite")
    noise = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    one, other = (
        segment(network, Image.fromarray(pixels), (32, 32), flip=True)
        for pixels in (noise, noise[:, ::-1])
    )
    np.testing.assert_allclose(one.opacity, other.opacity[:, ::-1], atol=1)
    assert one.confidence == pytest.approx(other.confidence)


def test_files_folders_globs_and_standard_input(
    pets: Pets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "few/b.jpg", "few/deep/c.PNG", "more/d1.webp", "more/d[2].bmp"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        photograph().save(name)
    Path("few/notes.txt").write_text("not an image")
    Path("few/.hidden.png").write_bytes(b"")
    content = io.BytesIO()
    photograph().save(content, "JPEG")
    content.seek(0)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(content))
    # `a.png` twice, and the outputs are in a folder that is searched.
    given = ("a.png", "few", "more/d?.*", "more/d[2].bmp", "-", "./a.png")
    assert pets(*given, out="few/out") == 0
    records = _records(tmp_path / "few/out")
    names = ["a.png", "few/b.jpg", "few/deep/c.PNG", "more/d1.webp", "more/d[2].bmp", "-"]
    assert [record["file"] for record in records] == names
    assert pets("few", "--force", out="few/out") == 0
    assert len(_records(tmp_path / "few/out")) == 2


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_broken_file_costs_one_line_and_the_others_go_on(
    pets: Pets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph().save("first.png")
    photograph(300, 200).save("last.jpg")
    whole = Path("last.jpg").read_bytes()
    Path("cut.jpg").write_bytes(whole[: len(whole) // 2])
    Path("empty.png").touch()
    Path("text\n.jpg").write_text("not an image")
    Image.new("1", (9_500, 10_000)).save("bomb.png")
    os.mkfifo("pipe.jpg")
    Path("loop.jpg").symlink_to("loop.jpg")
    wrong = ["cut.jpg", "empty.png", "text\n.jpg", "bomb.png", "absent.jpg", "*.heic", "pipe.jpg"]
    wrong += ["x" * 300, "loop.jpg"]
    assert pets("first.png", *wrong, "last.jpg") == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("pets: ")]
    assert len(lines) == len(wrong)
    for name in wrong:
        assert sum(line.startswith((f"pets: {name} ", f"pets: {name!r} ")) for line in lines) == 1
    assert (tmp_path / "out/first.mask.png").exists()
    assert (tmp_path / "out/last.mask.png").exists()
    errors = {record["file"] for record in _records(tmp_path / "out") if "error" in record}
    assert errors == set(wrong)


def test_nothing_is_overwritten_without_force(
    pets: Pets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph().save("pet.png")
    photograph().save("another.png")
    out = tmp_path / "out"
    out.mkdir()
    (out / "pet.mask.png").write_bytes(b"precious")
    assert pets("another.png", "pet.png") == 1
    assert "pet.mask.png is already there; --force overwrites" in capsys.readouterr().err
    assert [file.name for file in out.iterdir()] == ["pet.mask.png"]
    assert (out / "pet.mask.png").read_bytes() == b"precious"
    # A link out of the folder is replaced, and what it points to stays.
    (tmp_path / "elsewhere").write_bytes(b"precious")
    for name in ("pet.cutout.png", "predictions.jsonl"):
        (out / name).symlink_to(tmp_path / "elsewhere")
    assert pets("pet.png", "--force") == 0
    assert Image.open(out / "pet.mask.png").size == (90, 60)
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"


def test_what_cannot_be_written_is_told_in_one_line(
    pets: Pets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph().save("pet.png")
    Path("file").touch()
    assert pets("pet.png", out="file/out") == 1
    assert "Not a directory: 'file/out'" in capsys.readouterr().err
    (tmp_path / "out/predictions.jsonl").mkdir(parents=True)
    assert pets("pet.png", "--force") == 1
    assert capsys.readouterr().err.endswith("Is a directory: 'out/predictions.jsonl'\n")


def test_a_full_disk_costs_a_line_for_each_photograph_and_leaves_no_part(
    pets: Pets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = Image.Image.save

    def full(image: Image.Image, path: Path, *kind: str, **options: Any) -> None:
        save(image, path, *kind, **options)
        if "pet.cutout" in path.name:
            raise OSError(28, "No space left on device")

    for name in ("pet.png", "pet2.png"):
        photograph().save(name)
    monkeypatch.setattr(Image.Image, "save", full)
    assert pets("pet.png", "pet2.png") == 1
    told = capsys.readouterr().err
    assert "pets: pet.png cannot be written to out: [Errno 28] No space left on device" in told
    assert "1 of 2 photographs" in told
    names = {file.name for file in (tmp_path / "out").iterdir()}
    whole = {f"pet2.{ending}" for ending in ENDINGS.values()}
    assert names == whole | {"pet.mask.png", "pet.overlay.jpg", "predictions.jsonl"}


def test_ctrl_c_drops_what_waits_and_leaves_whole_files(
    pets: Pets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(40):
        photograph().save(f"{number:02d}.png")

    class Interrupted(predict.tqdm):
        def update(self, n: float | None = 1) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(predict, "progress_bar", lambda *_: Interrupted(disable=True))
    monkeypatch.setattr(predict, "CORES", 1)
    assert pets("*.png", "--write", "mask") == 130
    assert "pets: interrupted" in capsys.readouterr().err
    masks = list((tmp_path / "out").glob("*.mask.png"))
    assert 1 <= len(masks) < 40
    assert all(np.asarray(Image.open(mask)).shape == (60, 90) for mask in masks)
    assert not list((tmp_path / "out").glob(".*"))


def test_inputs_of_one_name_have_outputs_of_their_own(pets: Pets, tmp_path: Path) -> None:
    names = ["a/pet.png", "b/pet.png", "b/PET.bmp", "b/pet-2.png"]
    for width, name in enumerate(names, start=50):
        Path(name).parent.mkdir(exist_ok=True)
        photograph(width).save(name)
    assert pets(*names, "--write", "mask,cutout") == 0
    outputs = [record["outputs"] for record in _records(tmp_path / "out")]
    assert len({file.lower() for files in outputs for file in files.values()}) == 8
    for width, files in enumerate(outputs, start=50):
        assert Image.open(tmp_path / "out" / files["mask"]).width == width
        assert set(files) == {"mask", "cutout"}


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.lists(
        st.text(st.characters(exclude_characters="/\0"), min_size=1, max_size=120), max_size=5
    ).map(lambda names: [*names, "..png", "...", "c:d\\e.jpg", ".png", "x" * 250])
)
def test_outputs_never_leave_their_folder(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("names")
    files = []
    for name in names:
        try:
            (folder / name).touch()
        except (OSError, UnicodeEncodeError):  # not a file's name here
            continue
        files.append(str(folder / name))
    inputs, _ = find_inputs(files, folder / "out")
    paths = [folder / "out" / f"{i.stem}.{end}" for i in inputs for end in ENDINGS.values()]
    assert len(inputs) == len(set(files) & {str(f) for f in folder.iterdir()})
    assert len({str(path).casefold() for path in paths}) == len(paths)
    for path in paths:
        assert path.resolve().parent == (folder / "out").resolve()
        assert len(path.name.encode()) <= 240


def test_a_network_that_is_missing_or_broken_writes_no_mask(
    pets: Pets, tmp_path: Path, color_networks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph().save("pet.png")
    assert pets("pet.png", network="unet", models=color_networks) == 1
    told = capsys.readouterr().err
    assert "unet.keras: `dvc pull` fetches" in told
    assert "`make repro`" in told
    assert "there is broken, colors, seen" in told
    # A stage says the same.
    with pytest.raises(StageError) as refused:
        load_model(color_networks / "unet.keras")
    assert told.endswith(f"pets: {refused.value}\n")
    assert pets("pet.png", "--force", network="broken") == 1
    assert "no finite numbers" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.png"))


def test_an_unknown_kind_of_output_is_refused(
    pets: Pets, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        pets("pet.png", "--write", "mask,video")
    assert stopped.value.code == 2
    assert "argument --write: choose from mask, overlay, cutout" in capsys.readouterr().err


def _probabilities(seed: int = 0, size: int = 16) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 2, (1, size, size, 3)).astype(np.float32)
    return tf.nn.softmax(logits)[0].numpy()


@pytest.mark.parametrize("size", [(16, 16), (50, 37), (7, 90), (300, 200), (1, 1), (1, 4000)])
def test_probabilities_are_interpolated_as_tensorflow_does_it(size: tuple[int, int]) -> None:
    probabilities = _probabilities()
    found = at_size(probabilities, size)
    width, height = size
    expected = tf.image.resize(
        probabilities[None], (height, width), "bilinear", antialias=True
    )[0].numpy()  # fmt: skip
    ordered = np.sort(expected, axis=-1)
    clear = ordered[..., 2] - ordered[..., 1] > 1e-4
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found.mask[clear], expected.argmax(axis=-1)[clear])
    assert found.confidence == pytest.approx(expected.max(axis=-1).mean(), rel=1e-4)


def test_a_large_photograph_is_worked_on_in_bands_of_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = at_size(_probabilities(), (301, 203))
    monkeypatch.setattr(prediction, "BAND_PIXELS", 4_000)
    banded = at_size(_probabilities(), (301, 203))
    assert np.mean(whole.mask == banded.mask) > 0.9999
    assert np.abs(whole.opacity.astype(int) - banded.opacity).mean() < 0.01
    assert whole.confidence == pytest.approx(banded.confidence, rel=1e-5)


def test_the_cutouts_edge_runs_within_the_border() -> None:
    """Along a row from pet to background the opacity falls on the border, and only there."""
    ramp = np.linspace(0, 1, 32, dtype=np.float32)
    border = np.where(np.abs(ramp - 0.5) < 0.2, 0.9, 0.0).astype(np.float32)
    row = np.stack([(1 - ramp) * (1 - border), ramp * (1 - border), border], axis=-1)
    found = at_size(np.broadcast_to(row, (32, 32, 3)), (32, 32))
    opacity = np.asarray(found.cutout(Image.new("RGB", (32, 32))))[5, :, 3].astype(int)
    classes = found.mask[5]
    assert (opacity[classes == 0] == 255).all()
    assert (opacity[classes == 1] == 0).all()
    assert (np.diff(opacity) <= 0).all()
    assert len(set(opacity[classes == 2].tolist())) > 5
