"""Brushes and noise: smooth shapes on layers of a drawing, in whole pixels."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Color = tuple[int, int, int]
Point = tuple[float, float]
Field = npt.NDArray[np.float64]  # [height, width]
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


class Brush:
    """Draws in the coordinates of a figure: where they begin, and their unit, in pixels."""

    def __init__(
        self, image: Image.Image, origin: Point, scale: float, flip: bool = False, tilt: float = 0
    ) -> None:
        self._image, self._draw = image, ImageDraw.Draw(image)
        self._origin, self._scale, self._flip = origin, scale, flip
        across = -scale if flip else scale
        self._matrix = np.array([[across, tilt * scale], [-tilt * across, scale]])

    def within(self, x: float, y: float, unit: float, tilt: float) -> "Brush":
        """A brush in the coordinates of a part: where it is, its unit, its slope."""
        (place,) = self._place([(x, y)]).tolist()
        return Brush(self._image, place, self._scale * unit, self._flip, tilt)

    def shape(self, points: Sequence[Point], color: Color | int, rounds: int = 3) -> None:
        """Fills an outline, its corners rounded; sharp ones with no rounds."""
        place = self._place(smooth(points, rounds, closed=True))
        self._draw.polygon(place.ravel().tolist(), color)

    def box(self, corner: Point, size: Point, color: Color, rounds: int = 0) -> None:
        """Fills a rectangle by its upper left corner."""
        (x, y), (width, height) = corner, size
        points = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        self.shape(points, color, rounds)

    def oval(self, x: float, y: float, width: float, height: float, color: Color | int) -> None:
        """Fills an ellipse by its middle and half axes."""
        half = np.rint(np.array([width, height]) * self._scale)
        corners = self._place([(x, y)]) + [[-1], [1]] * half
        self._draw.ellipse(corners.ravel().tolist(), color)

    def limb(self, points: Sequence[Point], radii: Sequence[float], color: Color | int) -> None:
        """Fills a tube along a line whose radius changes evenly: a leg, a tail, a body."""
        line = smooth(points, 3, closed=False)
        along = np.linspace(0, 1, 40)
        x, y, radius = (
            np.interp(along, np.linspace(0, 1, len(values)), values).tolist()
            for values in (*line.T, radii)
        )
        for place in zip(x, y, radius, radius, strict=True):
            self.oval(*place, color)

    def line(self, points: Sequence[Point], width: float, color: Color) -> None:
        """Draws a line of a width."""
        pixels = max(1, round(width * self._scale))
        self._draw.line(self._place(points).ravel().tolist(), color, pixels, joint="curve")

    def _place(self, points: npt.ArrayLike) -> npt.NDArray[np.int64]:
        return np.rint(np.asarray(points) @ self._matrix + self._origin).astype(np.int64)


class Layer:
    """What is drawn on at four times the size, for soft edges."""

    OVERSAMPLING = 4

    def __init__(self, mode: str, size: tuple[int, int]) -> None:
        width, height = size
        self._image = Image.new(mode, (self.OVERSAMPLING * width, self.OVERSAMPLING * height))

    def brush(self, origin: Point, scale: float, flip: bool) -> Brush:
        """A brush; its arguments are in pixels of the finished size."""
        place = (self.OVERSAMPLING * origin[0], self.OVERSAMPLING * origin[1])
        return Brush(self._image, place, self.OVERSAMPLING * scale, flip)

    def finished(self) -> Image.Image:
        """What was drawn, averaged down."""
        return self._image.reduce(self.OVERSAMPLING)


def smooth(points: Sequence[Point], rounds: int, closed: bool) -> Field:
    """Rounds the corners of a line [point, 2] (Chaikin, 1974)."""
    line = np.asarray(points, float)
    for _ in range(rounds):
        start, end = (line, np.roll(line, -1, axis=0)) if closed else (line[:-1], line[1:])
        cut = np.stack([0.75 * start + 0.25 * end, 0.25 * start + 0.75 * end], axis=1)
        line = cut.reshape(-1, 2) if closed else np.vstack([line[:1], *cut, line[-1:]])
    return line


def noise(rng: np.random.Generator, size: tuple[int, int], cell: float) -> Field:
    """Smooth noise in 0 to 1 for a width and height, with features of about `cell` pixels."""
    width, height = (max(2, round(side / cell) + 1) for side in size)
    coarse = Image.fromarray(rng.integers(0, 256, (height, width), np.uint8))
    return np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)) / 255


def textured(image: Image.Image, field: Field, strength: float) -> Image.Image:
    """An image made darker and lighter by noise, by up to a share `strength`."""
    factor = 1 + strength * (2 * field[..., None] - 1)
    return Image.fromarray(np.clip(np.asarray(image) * factor, 0, 255).astype(np.uint8))


def soft(image: Image.Image, radius: float) -> Image.Image:
    """A blurred image."""
    return image.filter(ImageFilter.BoxBlur(radius)).filter(ImageFilter.BoxBlur(radius))


def mixed(one: Color, other: Color) -> Color:
    """The colour between two."""
    red, green, blue = ((a + b) // 2 for a, b in zip(one, other, strict=True))
    return red, green, blue


def varied(rng: np.random.Generator, color: Color, by: int = 14) -> Color:
    """A colour near another."""
    changed = zip(color, rng.integers(-by, by + 1, 3).tolist(), strict=True)
    red, green, blue = (min(255, max(0, channel + change)) for channel, change in changed)
    return red, green, blue
