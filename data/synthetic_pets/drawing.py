"""Outlines, noise fields and colour ramps: what every part of a picture is drawn with.

The same seed must give the same bytes on any machine. Hence random grids of bytes enlarged by
Pillow's fixed-point resize, outlines built from additions, products and square roots (exact in
IEEE arithmetic) and from a circle whose cosines are rounded, and integers wherever pixels mix.
"""

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]  # red, green, blue, each 0 to 255
Size = tuple[int, int]  # width, height in pixels
Box = tuple[int, int, int, int]  # left, upper, right, lower in pixels
Outline = npt.NDArray[np.float64]  # [points, 2], x to the right, y downwards
Points = Sequence[tuple[float, float]] | Outline

# Cosines and sines differ in the last bit between C libraries; on this grid they do not.
_TRIGONOMETRY_GRID = 4096
SMALL_SIDE = 72  # px; shapes below it are drawn at 4x, where eyes and noses need it


def cosine(degrees: float) -> float:
    """Cosine of an angle in degrees, rounded so that it is the same on every machine."""
    return round(math.cos(math.radians(degrees)) * _TRIGONOMETRY_GRID) / _TRIGONOMETRY_GRID


def sine(degrees: float) -> float:
    """Sine of an angle in degrees, rounded so that it is the same on every machine."""
    return round(math.sin(math.radians(degrees)) * _TRIGONOMETRY_GRID) / _TRIGONOMETRY_GRID


_CIRCLE = np.array([(cosine(a), sine(a)) for a in range(0, 360, 15)])  # [24, 2]


def pick(rng: np.random.Generator, low: float, high: float) -> float:
    """One number, uniform in [low, high)."""
    return low + (high - low) * float(rng.random())


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with the given probability, 0 to 1."""
    return bool(rng.random() < probability)


# Outlines


def rotated(points: Outline, degrees: float) -> Outline:
    """The points turned about (0, 0), from x towards y: float64 [points, 2]."""
    # Written out, since a matrix product may round differently from one processor to another.
    c, s = cosine(degrees), sine(degrees)
    x, y = points[:, 0], points[:, 1]
    return np.stack([x * c - y * s, x * s + y * c], axis=1)


def ellipse(
    x: float, y: float, half_width: float, half_height: float, tilt: float = 0.0
) -> Outline:
    """An ellipse around (x, y), turned by `tilt` degrees: float64 [24, 2]."""
    points = _CIRCLE * (half_width, half_height)
    return (rotated(points, tilt) if tilt else points) + np.array((x, y))


def rectangle(left: float, top: float, right: float, bottom: float) -> Outline:
    """An upright rectangle: float64 [4, 2]."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _between(
    before: Outline, start: Outline, end: Outline, after: Outline, steps: int
) -> npt.NDArray[np.float64]:
    """Catmull-Rom points from each `start` to its `end`: [segments, steps, columns]."""
    t = (np.arange(steps) / steps)[None, :, None]
    p0, p1, p2, p3 = (p[:, None, :] for p in (before, start, end, after))
    curve: npt.NDArray[np.float64] = 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t * t
        + (3 * p1 - p0 - 3 * p2 + p3) * t * t * t
    )
    return curve


def closed_curve(points: Points, steps: int = 5) -> Outline:
    """A smooth closed outline through the points: float64 [len(points) * steps, 2]."""
    p = np.asarray(points, dtype=np.float64)
    curve = _between(np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0), steps)
    return curve.reshape(-1, 2)


def mirrored_curve(half: Points, steps: int = 5) -> Outline:
    """A smooth closed outline, symmetric about x = 0, from its right half, top to bottom.

    Points of the half that lie on the axis are used once.
    """
    right = np.asarray(half, dtype=np.float64)
    left = right[::-1] * (-1.0, 1.0)
    return closed_curve(np.concatenate([right, left[np.abs(left[:, 0]) > 1e-9]]), steps)


def tube(path: Sequence[tuple[float, float, float]], steps: int = 3) -> list[Outline]:
    """A limb or tail: a smooth path of (x, y, radius) swept by a disc.

    Several overlapping convex outlines, because one outline would cross itself in a bend and
    leave a hole there.
    """
    p = np.asarray(path, dtype=np.float64)
    before, after = np.concatenate([p[:1], p[:-2]]), np.concatenate([p[2:], p[-1:]])
    curve = _between(before, p[:-1], p[1:], after, steps).reshape(-1, 3)
    curve = np.concatenate([curve, p[-1:]])
    centre, radius = curve[:, :2], np.maximum(curve[:, 2:], 1e-3)
    along = centre[1:] - centre[:-1]
    length = np.sqrt((along * along).sum(axis=1, keepdims=True)) + 1e-9
    across = along[:, ::-1] * (-1.0, 1.0) / length
    quads = np.stack(
        [
            centre[:-1] + across * radius[:-1],
            centre[1:] + across * radius[1:],
            centre[1:] - across * radius[1:],
            centre[:-1] - across * radius[:-1],
        ],
        axis=1,
    )
    discs = centre[:, None, :] + _CIRCLE[None, ::2] * radius[:, :, None]
    return [*quads, *discs]


def rasterise(
    outlines: Iterable[Outline], size: Size, margin: int = 3, factor: int = 0
) -> tuple[Image.Image, Box] | None:
    """The union of outlines (in pixels) as an antialiased mask, cropped to where it lies.

    Args:
        outlines: each float64 [points, 2].
        size: of the picture.
        margin: pixels kept free around the shape, for a blur or a roughened edge.
        factor: how much larger the shape is drawn before it is reduced; 0 decides by its size.

    Returns:
        A mask (mode L, 0 to 255) and its box in the picture, or None when no part of the
        outlines is inside a picture of `size`.
    """
    outlines = list(outlines)
    points = np.concatenate(outlines)
    ends = np.cumsum([len(outline) for outline in outlines]).tolist()
    left, top = (np.floor(points.min(axis=0)).astype(int) - margin).tolist()
    right, bottom = (np.ceil(points.max(axis=0)).astype(int) + margin).tolist()
    box = (max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1]))
    width, height = box[2] - box[0], box[3] - box[1]
    if width <= 0 or height <= 0:
        return None
    factor = factor or (4 if max(width, height) < SMALL_SIDE else 2)
    enlarged = Image.new("L", (width * factor, height * factor))
    draw = ImageDraw.Draw(enlarged)
    grid = np.rint((points - box[:2]) * factor).astype(int).ravel().tolist()
    for start, end in zip([0, *ends], ends, strict=False):
        draw.polygon(grid[2 * start : 2 * end], fill=255)
    return (enlarged if factor == 1 else enlarged.reduce(factor)), box


# Fields (mode L) and colours


def noise(rng: np.random.Generator, size: Size, cell: tuple[float, float]) -> Image.Image:
    """Smooth random brightness, mode L; `cell` is the width and height of a grain in px."""
    columns = max(2, round(size[0] / cell[0]) + 1)
    rows = max(2, round(size[1] / cell[1]) + 1)
    grid = rng.integers(0, 256, (rows, columns), dtype=np.uint8)
    # Bilinear is cheaper, and its creases show only between large grains.
    smooth = Image.Resampling.BILINEAR if min(cell) < 5 else Image.Resampling.BICUBIC
    return Image.fromarray(grid).resize(size, smooth)


def mix_fields(*weighted: tuple[int, Image.Image]) -> Image.Image:
    """The sum of (weight, field) in 1/16, around middle grey (128), clipped to 0 to 255."""
    # 16 bits are enough: the weights add up to less than 200.
    bias = 128 * 16 - 128 * sum(weight for weight, _ in weighted)
    total = np.full(weighted[0][1].size[::-1], bias, dtype=np.int16)
    for weight, field in weighted:
        total += np.multiply(np.asarray(field), np.int16(weight), dtype=np.int16)
    return Image.fromarray((total >> 4).clip(0, 255).astype(np.uint8))


def ramp(field: Image.Image, dark: Colour, light: Colour) -> Image.Image:
    """Colours a field: 0 becomes `dark`, 255 becomes `light`; mode RGB."""
    low, span = np.array(dark), np.array(light) - dark
    table = (low + span * np.arange(256)[:, None] // 255).astype(np.uint8)
    indexed = field.copy()
    indexed.putpalette(table.tobytes())
    return indexed.convert("RGB")


def look_up(field: Image.Image, table: bytes) -> Image.Image:
    """The field with every brightness v replaced by `table[v]` (256 bytes)."""
    return Image.frombytes("L", field.size, field.tobytes().translate(table))


@functools.cache
def steps_between(low: int, high: int) -> bytes:
    """A table for `look_up`: 0 up to `low`, 255 from `high`, a line between."""
    span = max(high - low, 1)
    return bytes(min(255, max(0, (v - low) * 255 // span)) for v in range(256))


@functools.cache
def levels(lowest: int, highest: int) -> bytes:
    """A table for `look_up`: a line from `lowest` at 0 to `highest` at 255."""
    return bytes(lowest + (highest - lowest) * v // 255 for v in range(256))


def dimmed(picture: Image.Image, light: Image.Image) -> Image.Image:
    """The picture (RGB) times the light (L, 255 leaves a pixel as it is)."""
    dim = Image.new("RGB", picture.size)
    dim.paste(picture, (0, 0), light)
    return dim


def scaled(colour: Colour, percent: int) -> Colour:
    """The colour at `percent` of its brightness, clipped at 255."""
    red, green, blue = (min(255, max(0, c * percent // 100)) for c in colour)
    return red, green, blue


def vary(rng: np.random.Generator, colour: Colour, amount: int = 14) -> Colour:
    """The colour, lighter or darker and a little off in hue, by up to `amount` (0 to 255)."""
    lightness = int(rng.integers(-amount, amount + 1))
    shift = rng.integers(-amount // 3, amount // 3 + 1, 3).tolist()
    red, green, blue = (
        min(255, max(0, c + lightness + s)) for c, s in zip(colour, shift, strict=True)
    )
    return red, green, blue


def choose(rng: np.random.Generator, colours: Sequence[Colour]) -> Colour:
    """One of the colours."""
    return colours[int(rng.integers(len(colours)))]


def blurred(field: Image.Image, radius: float) -> Image.Image:
    """A box blur, which Pillow does in fixed-point arithmetic."""
    if radius <= 0:
        return field
    if radius > 5:  # a wide blur looks the same at a quarter of the size, and is faster
        small = field.reduce(4).filter(ImageFilter.BoxBlur(radius / 4))
        return small.resize(field.size, Image.Resampling.BILINEAR)
    return field.filter(ImageFilter.BoxBlur(radius))
