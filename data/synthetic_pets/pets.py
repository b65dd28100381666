"""Cats and dogs: breeds, poses, heads and coats."""

from typing import NamedTuple

import numpy as np
from PIL import Image

from data.synthetic_pets.drawing import (
    BLACK,
    WHITE,
    Brush,
    Color,
    Field,
    Layer,
    Point,
    mixed,
    noise,
    soft,
    varied,
)

PATTERNS = ("plain", "tabby", "spotted", "patched")
BREEDS = [f"{pattern}_{animal}" for animal in ("cat", "dog") for pattern in PATTERNS]
# The coat's main colour, and that of its markings.
COATS: list[tuple[Color, Color]] = [
    ((206, 132, 62), (246, 226, 198)),
    ((132, 130, 134), (66, 64, 70)),
    ((52, 46, 44), (232, 228, 222)),
    ((234, 228, 218), (176, 112, 62)),
    ((120, 80, 50), (222, 190, 150)),
    ((222, 190, 142), (130, 90, 60)),
]
EYES: list[Color] = [(120, 170, 60), (90, 150, 190), (214, 170, 50), (90, 60, 30)]
PINK, DARK, TONGUE = (222, 150, 150), (30, 26, 26), (226, 110, 120)


Tube = tuple[list[Point], list[float], int]  # line, radii along it, brightness


class Pose(NamedTuple):
    """A figure about 1 high, y down, its feet at y = 0."""

    width: float
    head: tuple[float, float, float]  # x, y, radius
    tail: list[Point]
    tubes: list[Tube]  # from back to front


POSES = {
    "standing": Pose(
        1.4,
        (0.48, -0.88, 0.19),
        [(-0.5, -0.6), (-0.7, -0.66), (-0.74, -0.96)],
        [
            ([(-0.3, -0.4), (-0.36, -0.22), (-0.31, -0.03)], [0.1, 0.06, 0.055], 205),
            ([(0.24, -0.42), (0.22, -0.2), (0.25, -0.03)], [0.09, 0.055, 0.055], 205),
            ([(-0.36, -0.52), (0, -0.5), (0.3, -0.54)], [0.18, 0.17, 0.2], 245),
            ([(-0.38, -0.42), (-0.46, -0.22), (-0.4, -0.03)], [0.13, 0.07, 0.06], 250),
            ([(0.32, -0.45), (0.34, -0.2), (0.34, -0.03)], [0.11, 0.06, 0.06], 250),
            ([(0.3, -0.58), (0.44, -0.78)], [0.17, 0.13], 250),
        ],
    ),
    "sitting": Pose(
        0.95,
        (0, -0.84, 0.22),
        [(0.26, -0.08), (0.5, -0.06), (0.58, -0.3)],
        [
            ([(0, -0.2), (0, -0.5), (0, -0.66)], [0.32, 0.24, 0.17], 240),
            ([(-0.22, -0.16), (-0.24, -0.06)], [0.15, 0.08], 225),
            ([(0.22, -0.16), (0.24, -0.06)], [0.15, 0.08], 225),
            ([(-0.1, -0.46), (-0.11, -0.05)], [0.1, 0.07], 252),
            ([(0.1, -0.46), (0.11, -0.05)], [0.1, 0.07], 252),
        ],
    ),
    "lying": Pose(
        1.7,
        (0.44, -0.6, 0.22),
        [(-0.6, -0.12), (-0.84, -0.06), (-1, -0.14)],
        [
            ([(-0.42, -0.22), (0, -0.24), (0.3, -0.25)], [0.22, 0.21, 0.2], 240),
            ([(-0.42, -0.2), (-0.3, -0.07), (-0.14, -0.05)], [0.19, 0.08, 0.06], 250),
            ([(0.24, -0.14), (0.42, -0.06), (0.62, -0.055)], [0.1, 0.07, 0.06], 228),
            ([(0.28, -0.34), (0.4, -0.5)], [0.19, 0.15], 245),
            ([(0.3, -0.12), (0.5, -0.05), (0.72, -0.05)], [0.1, 0.07, 0.06], 252),
        ],
    ),
    "close": Pose(
        1.1,
        (0, -0.55, 0.42),
        [],
        [
            ([(0, -0.1), (0, 0.4)], [0.42, 0.62], 225),
            ([(0, -0.35), (0, 0)], [0.3, 0.38], 245),
        ],
    ),
}


class Head:
    """A head that looks at the camera, in radii from its middle."""

    def __init__(self, rng: np.random.Generator, cat: bool) -> None:
        self._cat, self._floppy = cat, bool(not cat and rng.random() < 0.6)
        self._ear = float(rng.uniform(0.85, 1.15))
        self._long = 1.0 if cat else float(rng.uniform(1.0, 1.2))
        self._eyes = varied(rng, EYES[rng.integers(3) + (not cat)])
        self._tongue = bool(not cat and rng.random() < 0.4)

    def outline(self, brush: Brush, shade: int) -> None:
        """The ears and the skull, in one brightness."""
        long, top = self._ear, -1.6 * self._ear
        ear = [(0.2, -0.75), (0.62, top), (0.74, top), (0.98, -0.2)]
        if self._floppy:
            ear = [(0.55, -0.75), (1.0, -0.8), (1.3, 0.1), (1.1, 0.75 * long), (0.75, 0.4)]
        for side in (-1, 1):
            points = [(side * x, y) for x, y in ear]
            brush.shape(points, shade - 40 * self._floppy, 3 if self._floppy else 1)
        half = [(0.75, -0.85), (1.1, -0.1), (0.95, 0.5), (0.45, 0.15 + 0.85 * self._long)]
        brush.shape([*half, *((-x, y) for x, y in reversed(half))], shade)

    def face(self, brush: Brush, light: Color) -> None:
        """Eyes, nose, mouth, muzzle and the insides of pricked ears."""
        long, nose = self._long, PINK if self._cat else DARK
        if self._tongue:
            brush.limb([(0.08, 0.62 * long), (0.1, 0.98 * long)], [0.13, 0.13], TONGUE)
        for side in (-1, 1):
            if not self._floppy:
                ear = [(0.42, -0.85), (0.65, -1.4 * self._ear), (0.82, -0.6)]
                brush.shape([(side * x, y) for x, y in ear], nose, 1)
            brush.oval(side * 0.42, -0.18, 0.2, 0.17, DARK)
            brush.oval(side * 0.42, -0.18, 0.16, 0.14, self._eyes)
            brush.oval(side * 0.42, -0.18, *((0.05, 0.13) if self._cat else (0.09, 0.09)), DARK)
            brush.oval(side * 0.42 - 0.05, -0.24, 0.035, 0.035, WHITE)
            muzzle = (0.23, 0.21) if self._cat else (0.3 * long, 0.28 * long)
            brush.oval(side * 0.18, 0.42 * long, *muzzle, light)
        brush.oval(0, 0.24 * long, *((0.12, 0.09) if self._cat else (0.2, 0.15)), nose)
        for side in (-1, 1):
            mouth = [(0, 0.3 * long), (0, 0.5 * long), (side * 0.16, 0.1 + 0.5 * long)]
            brush.line(mouth, 0.03, DARK)
            for rise in (-0.06, 0.06, 0.18) if self._cat else ():
                whisker = [(side * 0.3, 0.4 + rise / 2), (side * 1.2, 0.3 + 2 * rise)]
                brush.line(whisker, 0.012, WHITE)


def draw(
    rng: np.random.Generator, scene: Image.Image, breed: str, kind: str, feet: Point, scale: float
) -> Image.Image:
    """Draws a pet of BREEDS, in a pose of POSES, into a scene (RGB); returns its mask (L).

    `feet` is where it stands and `scale` the unit of the pose, both in pixels.
    """
    pattern, _, animal = breed.partition("_")
    pose, cat = POSES[kind], animal == "cat"
    coat, second = (varied(rng, color) for color in COATS[rng.integers(len(COATS))])
    head = Head(rng, cat)
    layers = [Layer(mode, scene.size) for mode in ("L", "L", "L", "RGBA")]
    mirrored, tilt = bool(rng.random() < 0.5), float(rng.uniform(-0.12, 0.12))
    brushes = [layer.brush(feet, scale, mirrored) for layer in layers]
    outline, shading, shadow, _ = brushes
    shadow.oval(0.05, -0.02, 0.48 * pose.width, 0.07, 150)
    tail = [(pose.tail, [0.055, 0.045] if cat else [0.07, 0.04], 225)] if pose.tail else []
    for points, radii, brightness in (*tail, *pose.tubes):
        line = (np.array(points) + rng.normal(0, 0.012, (len(points), 2))).tolist()
        outline.limb(line, radii, 255)
        # A part's own shadow sets it off from what lies behind it.
        shading.limb(line, [radius + 0.025 for radius in radii], brightness - 85)
        shading.limb(line, radii, brightness)
    on_outline, on_shading, _, on_face = (brush.within(*pose.head, tilt) for brush in brushes)
    head.outline(on_outline, 255)
    on_shading.oval(0, 0.25, 1.15, 1.15, 165)
    head.outline(on_shading, 255)
    light = second if sum(second) > sum(coat) else varied(rng, mixed(coat, WHITE))
    head.face(on_face, light)
    mask, shade, ground, face = (layer.finished() for layer in layers)
    scene.paste(BLACK, mask=soft(ground, 0.03 * scale))
    marked = _markings(rng, pattern, scene.size, scale)[..., None]
    body = (1 - marked) * np.array(coat) + marked * np.array(second)
    # Rounder: the outline is darker than the middle.
    depth = np.asarray(soft(mask, 0.035 * scale)) / 255
    lit = np.asarray(soft(shade, 0.008 * scale)) / 255 * (0.6 + 0.4 * np.minimum(1, 1.35 * depth))
    fur = 0.88 + 0.12 * noise(rng, scene.size, 1.5) + 0.12 * noise(rng, scene.size, 6)
    body = np.clip(body * (lit * fur)[..., None], 0, 255).astype(np.uint8)
    scene.paste(Image.alpha_composite(Image.fromarray(body).convert("RGBA"), face), mask=mask)
    return mask


def _markings(rng: np.random.Generator, pattern: str, size: tuple[int, int], scale: float) -> Field:
    """How much a coat has its second colour, 0 to 1, for a width and height."""
    wave = noise(rng, size, 0.25 * scale)
    if pattern == "tabby":
        rows, columns = np.mgrid[: size[1], : size[0]]
        stripes = np.sin((columns + rng.uniform(-0.5, 0.5) * rows) / scale * 50 + 9 * wave)
        return 0.6 * np.clip(3 * stripes - 1, 0, 1)
    if pattern == "spotted":
        return np.clip(12 * noise(rng, size, 0.075 * scale) - 8, 0, 1)
    return np.clip(20 * wave - 11, 0, 1) if pattern == "patched" else np.zeros(wave.shape)
