from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from stages.records import photograph
from stages.records.photograph import PhotographError, read_photograph
from tests.encoding import encoded

SIZE = (46, 30)
# How the image lies in the file for each EXIF orientation (EXIF 2.32, 4.6.4).
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: np.rot90,
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def _drawn() -> np.ndarray:
    """Four areas of plain colours, so that no two of its eight orientations are alike."""
    pixels = np.empty((*SIZE[::-1], 3), np.uint8)
    pixels[:14, :20], pixels[:14, 20:] = (210, 40, 40), (40, 190, 60)
    pixels[14:, :20], pixels[14:, 20:] = (50, 60, 200), (230, 220, 90)
    return pixels


def _read(content: bytes) -> np.ndarray:
    return np.asarray(read_photograph(content))


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [("PNG", 0), ("BMP", 0), ("TIFF", 0), ("GIF", 0), ("JPEG", 12), ("WEBP", 12), ("AVIF", 12),
     ("HEIF", 12)],
)  # fmt: skip
def test_every_format_gives_the_image(kind: str, tolerance: int) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif", reason="HEIC needs pillow-heif")
    options = {"quality": 95} if tolerance else {}
    # Beside the edges, where the formats that lose something lose it.
    inside = np.s_[2:11, 2:17]
    read = _read(encoded(_drawn(), kind, **options))
    assert read.shape == (30, 46, 3)
    np.testing.assert_allclose(read[inside].astype(int), _drawn()[inside], atol=tolerance)


@pytest.mark.parametrize("orientation", STORED)
def test_the_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](_drawn())))
    np.testing.assert_array_equal(_read(encoded(stored, "PNG", exif=exif)), _drawn())


@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_the_first_frame_of_an_animation_is_taken(kind: str) -> None:
    first, second = Image.fromarray(_drawn()), Image.new("RGB", SIZE, "white")
    animation = encoded(first, kind, save_all=True, append_images=[second])
    np.testing.assert_array_equal(_read(animation), _drawn())


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "TIFF"), ("P", "PNG"), ("RGBA", "WEBP")])
def test_colour_models_are_converted(mode: str, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    converted = Image.fromarray(_drawn()).convert(mode, palette=Image.Palette.ADAPTIVE)
    read = _read(encoded(converted, kind, **options))
    np.testing.assert_allclose(read.astype(int), _drawn(), atol=1)


@pytest.mark.parametrize(
    ("dtype", "factor", "kind"),
    [("uint8", 1, "PNG"), ("uint16", 257, "PNG"), ("uint16", 257, "TIFF"), ("int32", 257, "TIFF")],
)
def test_grey_images_have_three_equal_channels(dtype: str, factor: int, kind: str) -> None:
    ramp = np.arange(256).reshape(16, 16)
    content = encoded(Image.fromarray((ramp * factor).astype(dtype)), kind)
    np.testing.assert_array_equal(_read(content), np.repeat(ramp[..., None], 3, axis=-1))


def test_what_is_transparent_is_white() -> None:
    image = Image.fromarray(_drawn()).convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(np.array([0, 255], np.uint8), (30, 23))))
    read = _read(encoded(image, "PNG"))
    assert (read[:, ::2] == 255).all()
    np.testing.assert_array_equal(read[:, 1::2], _drawn()[:, 1::2])
    grey = Image.merge("LA", [Image.new("L", SIZE, 80), Image.new("L", SIZE, 0)])
    assert (_read(encoded(grey, "PNG")) == 255).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty, broken or of an unknown format"),
        (b"not an image at all", "of an unknown format"),
        (encoded(Image.effect_noise((64, 64), 80), "JPEG")[:-400], "truncated"),
        # Few bytes, and 95 million pixels.
        (encoded(Image.new("1", (9_500, 10_000)), "PNG"), "has more than"),
        # Ghostscript would run it.
        (encoded(Image.new("RGB", (8, 8)), "EPS"), "of an unknown format"),
        (encoded(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF"), "16 bits"),
    ],
)
def test_what_is_not_a_photograph_says_why(content: bytes, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "photograph.jpg"
    file.write_bytes(content)
    for source in (content, file):
        with pytest.raises(PhotographError, match=reason):
            read_photograph(source)


def test_a_heic_file_without_the_reader_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(photograph, "HEIC", False)
    monkeypatch.setattr(photograph, "FORMATS", ("JPEG", "PNG"))
    with pytest.raises(PhotographError, match="pip install pillow-heif"):
        read_photograph(b"\x00\x00\x00\x18ftypheic")


ENCODED = [encoded(_drawn(), kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF")]


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.data())
def test_whatever_is_broken_is_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(ENCODED)))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        image = read_photograph(bytes(content))
    except PhotographError:
        return
    assert image.mode == "RGB"
    assert image.width * image.height <= photograph.MAX_PIXELS


def test_the_profile_of_the_colours_is_kept_and_that_of_inks_is_not() -> None:
    image = Image.fromarray(_drawn())
    for mode, kind, kept in (("RGB", "PNG", b"p3"), ("RGBA", "PNG", b"p3"), ("CMYK", "TIFF", None)):
        content = encoded(image.convert(mode), kind, icc_profile=b"p3")
        assert read_photograph(content).info["icc_profile"] == kept
