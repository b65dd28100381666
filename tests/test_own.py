"""`dataset: own`: a folder gives what a TFDS dataset gives, and what is wrong costs one line."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.synthetic_pets.picture import draw
from stages.params import Own, Params
from stages.prepare.__main__ import write_records
from stages.prepare.own import find, read_mask
from stages.records.manifest import Manifest, read_manifest
from stages.records.tfrecords import batches
from stages.stage import StageError
from tests.encoding import encoded


def _write(folder: Path, split: str, count: int) -> Path:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for index in range(count):
        picture = draw(split, index)
        (folder / "images" / picture.file_name).write_bytes(picture.image)
        mask = (folder / "masks" / picture.file_name).with_suffix(".png")
        mask.write_bytes(picture.trimap)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four drawn pets."""
    return _write(tmp_path / "own", "train", 4)


def _params(params: Params, folder: Path) -> Params:
    own = Own(folder=str(folder), test_share=0.3, border_width=0.036)
    return params.model_copy(update={"dataset": "own", "own": own})


def test_a_folder_gives_the_records_of_the_same_images_in_tfds(
    params: Params, records: Path, manifest: Manifest, tmp_path: Path
) -> None:
    """All but what a folder does not have: breed and species."""
    own = _write(tmp_path / "own", "train", 12)
    _write(own / "test", "test", 6)
    (tmp_path / "records").mkdir()
    found = write_records(_params(params, own), tmp_path / "records", tmp_path)
    assert found.other_files == manifest.other_files
    for split in ("train", "validation", "test"):
        pairs = zip(
            batches(tmp_path / "records", found, split, 12).as_numpy_iterator(),
            batches(records, read_manifest(records), split, 12).as_numpy_iterator(),
            strict=True,
        )
        for one, other in pairs:
            for key in ("image", "mask", "file_name"):
                np.testing.assert_array_equal(one[key], other[key])


def test_test_images_are_chosen_by_a_table_or_by_their_names(folder: Path) -> None:
    names = sorted(path.name for path in (folder / "images").iterdir())
    by_name = find(folder, 0.5)
    assert {image.name for image, _ in by_name["train"] + by_name["test"]} == set(names)
    (folder / "images" / names[0]).unlink()  # changes nothing for the others
    (folder / "masks" / names[0]).with_suffix(".png").unlink()
    for split, pairs in find(folder, 0.5).items():
        assert pairs == [pair for pair in by_name[split] if pair[0].name != names[0]]
    rows = "".join(f"{name},{'test' if name == names[2] else 'train'}\n" for name in names[1:])
    (folder / "split.csv").write_text("file,split\n" + rows)
    assert [image.name for image, _ in find(folder, 0.5)["test"]] == [names[2]]
    (folder / "split.csv").write_text("file,split\n")
    with pytest.raises(StageError, match=rf"split\.csv: {names[1]} has no row"):
        find(folder, 0.5)


@pytest.mark.parametrize("values", [(0, 255), (0, 1)])
def test_a_binary_mask_gets_a_border_along_the_outline(
    tmp_path: Path, values: tuple[int, int]
) -> None:
    mask = np.full((40, 100), values[0], np.uint8)
    mask[:, 50:] = values[1]
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (row,) = np.unique(read_mask(tmp_path / "mask.png", (100, 40), 0.08), axis=0)
    assert row.tolist() == [2] * 46 + [3] * 8 + [1] * 46


PET = draw("train", 0)
WRONG = np.asarray(Image.open(io.BytesIO(PET.trimap))) + np.uint8(4)


def test_two_images_of_one_name_are_refused(folder: Path) -> None:
    (folder / "images" / PET.file_name).with_suffix(".png").touch()
    with pytest.raises(StageError, match=rf"{PET.file_name} and .*\.png share a name"):
        find(folder, 0.5)


@pytest.mark.parametrize(
    ("part", "content", "told"),
    [
        ("images", None, "no file of the same name in"),
        ("masks", None, "no file of the same name in"),
        ("images", b"x", "is empty, broken"),
        ("masks", b"x", "cannot be read"),
        ("masks", encoded(np.ones((2, 3), np.uint8)), "has 2 x 3 values, and its image"),
        ("masks", encoded(WRONG), r"holds the values \[5, 6, 7\]; allowed are 1"),
    ],
    ids=["no image", "no mask", "broken image", "broken mask", "size", "values"],
)
def test_what_is_wrong_is_told_with_the_files_name_and_nothing_is_written(
    params: Params, folder: Path, tmp_path: Path, part: str, content: bytes | None, told: str
) -> None:
    file = Path(PET.file_name).with_suffix(".jpg" if part == "images" else ".png")
    (folder / part / file).unlink()
    if content is not None:
        (folder / part / file).write_bytes(content)
    (tmp_path / "records").mkdir()
    with pytest.raises(StageError, match=told) as refused:
        write_records(_params(params, folder), tmp_path / "records", tmp_path)
    assert file.stem in str(refused.value)
    assert not list((tmp_path / "records").iterdir())


def test_a_folder_without_images_says_what_goes_there(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="images has no images: put photographs there"):
        find(tmp_path, 0.5)


def test_an_image_is_turned_as_its_exif_says_and_converted(
    params: Params, folder: Path, tmp_path: Path
) -> None:
    path = folder / "images" / PET.file_name
    found = []
    for kind in ("as it is", "turned"):
        if kind == "turned":
            with Image.open(path) as image:
                exif = Image.Exif()
                exif[0x0112] = 6  # stored a quarter turn to the left
                turned = image.transpose(Image.Transpose.ROTATE_90).convert("RGBA")
            turned.save(path, "PNG", exif=exif)  # Pillow goes by the content
        (tmp_path / kind).mkdir()
        found.append(
            write_records(_params(params, folder), tmp_path / kind, tmp_path / f"{kind} s")
        )
    assert found[0] == found[1]
