"""`pets predict`: its arguments, its files, and what goes wrong."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pets import Segmenter, predict
from pets.__main__ import main
from pets.predict import ENDINGS, find_inputs
from stages.records.classes import class_rgb
from tests.color_networks import photograph

ROOT = Path(__file__).resolve().parents[1]
Pets = Callable[..., int]


@pytest.fixture
def pets(color_networks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pets:
    """Runs `pets predict` with a network of one layer in a folder of its own, into out/."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, network: str = "colors", out: str = "out") -> int:
        options = ["--models", str(color_networks), "--network", network, "--out", out]
        return main(["predict", *arguments, *options])

    return run


def _records(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def test_mask_overlay_cutout_and_record_are_of_the_photographs_size(
    pets: Pets, color_networks: Path, tmp_path: Path
) -> None:
    photograph().save("pet.png")
    assert pets("pet.png") == 0
    out = tmp_path / "out"
    assert {file.name for file in out.iterdir()} == {
        "pet.mask.png", "pet.overlay.jpg", "pet.cutout.png", "predictions.jsonl"
    }  # fmt: skip
    expected = Segmenter("colors", models=color_networks).segment(photograph())
    with Image.open(out / "pet.mask.png") as mask:
        assert (mask.mode, mask.size) == ("P", (90, 60))
        np.testing.assert_array_equal(np.asarray(mask), expected.mask)
        np.testing.assert_array_equal(mask.convert("RGB"), class_rgb()[expected.mask])
    np.testing.assert_array_equal(Image.open(out / "pet.cutout.png"), expected.cutout())
    shown = np.asarray(Image.open(out / "pet.overlay.jpg")).astype(int)
    assert np.abs(shown - expected.overlay())[28:32, 40:50].max() < 8
    (record,) = _records(out)
    assert record["file"] == "pet.png"
    assert (record["width"], record["height"]) == (90, 60)
    for name, share in expected.shares().items():
        assert record["shares"][name] == pytest.approx(share, abs=1e-6)
    assert 0.9 < record["confidence"] <= 1
    assert record["seconds"] > 0


def test_without_options_the_network_that_ships_writes_beside_the_photograph(
    tmp_path: Path,
) -> None:
    """In a process of its own, which imports nothing that takes long."""
    (tmp_path / "holiday").mkdir()
    photograph().save(tmp_path / "holiday/pet.png")
    program = (
        "import sys; from pets.__main__ import main\n"
        "code = main(['predict', *sys.argv[1:]])\n"
        "print(code, sorted({'tensorflow', 'keras', 'pandas', 'pydantic', 'dvc'} & {*sys.modules}))"
    )
    for code in (0, 1):  # the second time its own files are no photographs, and in the way
        ran = subprocess.run(
            [sys.executable, "-c", program, "holiday"], cwd=tmp_path, check=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        )  # fmt: skip
        *records, last = ran.stdout.splitlines()
        assert last == f"{code} []"
        if code == 0:
            (record,) = map(json.loads, records)
    assert "holiday/pet.mask.png is already there" in ran.stderr
    assert record["network"].startswith("unet-")
    names = {file.name for file in (tmp_path / "holiday").iterdir()}
    assert names == {"pet.png", *record["outputs"].values()}


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
    whole = {f"pet2{ending}" for ending in ENDINGS.values()}
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
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
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
    paths = [folder / "out" / f"{i.stem}{end}" for i in inputs for end in ENDINGS.values()]
    assert len(inputs) == len(set(files) & {str(f) for f in folder.iterdir()})
    assert len({str(path).casefold() for path in paths}) == len(paths)
    for path in paths:
        assert path.resolve().parent == (folder / "out").resolve()
        assert len(path.name.encode()) <= 240


def test_a_network_that_is_missing_or_broken_writes_no_mask(
    pets: Pets, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph().save("pet.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/predictions.jsonl").write_text("earlier")
    assert pets("pet.png", "--force", network="unet") == 1
    assert "there is broken, colors, seen" in capsys.readouterr().err
    assert (tmp_path / "out/predictions.jsonl").read_text() == "earlier"
    assert pets("pet.png", "--force", network="broken") == 1
    assert "no finite numbers" in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.png"))
