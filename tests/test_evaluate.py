from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.evaluate.__main__ import (
    side_by_side,
    write_json,
    write_masks,
    write_pictures,
    write_rows,
)
from stages.evaluate.measurement import Picture
from stages.records.classes import class_rgb


def _picture(seed: int) -> Picture:
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 3, (2, 16, 16), dtype=np.uint8)
    return Picture(seed, rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), *masks)


def test_masks_come_back_from_their_picture(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).integers(0, 3, (4, 16, 16), dtype=np.uint8)
    path = tmp_path / "masks.png"
    write_masks(masks, path)
    picture = Image.open(path)
    assert picture.mode == "P"
    np.testing.assert_array_equal(np.asarray(picture).reshape(4, 16, 16), masks)


def test_pictures_stand_below_each_other_with_mask_and_prediction(tmp_path: Path) -> None:
    pictures = [_picture(0), _picture(1)]
    path = tmp_path / "worst.png"
    write_pictures(pictures, path)
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (32, 48, 3)
    np.testing.assert_array_equal(pixels[16:, :16], pictures[1].image)
    np.testing.assert_array_equal(pixels[16:, 32:], class_rgb()[pictures[1].prediction])
    np.testing.assert_array_equal(side_by_side(pictures[0]), pixels[:16])


def test_json_refuses_what_json_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json({"accuracy": float("nan")}, tmp_path / "unet.json")
    assert not (tmp_path / "unet.json").exists()


def test_a_table_has_a_header_and_quotes_what_needs_it(tmp_path: Path) -> None:
    path = tmp_path / "images.csv"
    write_rows([{"file_name": 'a,"b".jpg', "loss": "0.5"}], path)
    assert path.read_text() == 'file_name,loss\n"a,""b"".jpg",0.5\n'
