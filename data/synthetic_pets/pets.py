"""Puts an animal together: coat, pose and head, placed in the picture and painted on it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from data.synthetic_pets import heads
from data.synthetic_pets.anatomy import Body, Part, portrait, sitting, sitting_profile, standing
from data.synthetic_pets.breeds import Breed
from data.synthetic_pets.canvas import Canvas
from data.synthetic_pets.coats import Coat, make_coat
from data.synthetic_pets.drawing import Box, Colour, Outline, Size, chance, ellipse, pick, rotated
from data.synthetic_pets.resting import curled, lying

P = TypeVar("P", Part, heads.HeadPart)

Pose = Callable[[np.random.Generator, Breed], Body]

# How often each pose is drawn, in percent.
_POSE_SHARES: tuple[tuple[Pose, int], ...] = (
    (sitting, 24),
    (sitting_profile, 15),
    (standing, 17),
    (lying, 16),
    (curled, 8),
    (portrait, 20),
)
_FACE: dict[str, Colour] = {
    "pupil": (14, 12, 14),
    "glint": (240, 242, 244),
    "tongue": (206, 112, 116),
}


class Placement(NamedTuple):
    """Where unit coordinates land in the picture: turn, mirror, scale, then shift."""

    x: float
    y: float
    scale: float  # pixels to one unit
    mirror: float = 1.0  # -1 looks to the left
    turn: float = 0.0  # degrees

    def apply(self, outline: Outline) -> Outline:
        """The outline in pixels: float64 [points, 2]."""
        turned = rotated(outline, self.turn)
        return turned * (self.scale * self.mirror, self.scale) + (self.x, self.y)


def choose_pose(rng: np.random.Generator) -> Pose:
    """A pose, by its share."""
    draw = int(rng.integers(100))
    for pose, share in _POSE_SHARES:
        if draw < share:
            return pose
        draw -= share
    raise AssertionError("_POSE_SHARES do not add up to 100")


def place(
    rng: np.random.Generator, pose: Pose, body: Body, size: tuple[int, int], ground: float
) -> Placement:
    """Chooses scale and position; now and then the frame cuts the animal off.

    Args:
        rng: the animal's own stream.
        pose: portraits fill the picture, the others stand on the ground.
        body: for its extent.
        size: the picture's width and height in pixels.
        ground: the row where the ground begins, in pixels.
    """
    width, height = size
    left, top, right, bottom = body.extent
    mirror = -1.0 if chance(rng, 0.5) else 1.0
    if pose is portrait:
        scale = min(width / (right - left), height / 0.95) * pick(rng, 0.72, 1.25)
        y = height + scale * pick(rng, -0.12, 0.2)
        x = width * pick(rng, 0.36, 0.64)
        return Placement(x, y, scale, mirror, pick(rng, -5, 5))
    fill = pick(rng, 0.76, 1.24) if chance(rng, 0.8) else pick(rng, 0.46, 0.72)
    scale = min(width / (right - left), height / (bottom - top)) * fill
    reach_x = (right - left) * scale
    slack = max(width - reach_x, 0.0) / 2 + 0.08 * width
    x = width / 2 + slack * pick(rng, -0.9, 0.9) - mirror * scale * (left + right) / 2
    highest = max(ground + 0.1 * (height - ground), -top * scale + 0.02 * height)
    y = pick(rng, min(highest, height * 0.97), height * 1.02) - bottom * scale * 0.5
    return Placement(x, y, scale, mirror, pick(rng, -3, 3))


def paint_pet(rng: np.random.Generator, canvas: Canvas, breed: Breed, ground: float) -> None:
    """Draws one animal and its shadow on the canvas.

    Args:
        rng: the animal's own stream.
        canvas: holds the background; afterwards its `pet` holds the animal's coverage.
        breed: what to draw.
        ground: the row where the ground begins, in pixels.
    """
    pose = choose_pose(rng)
    body = pose(rng, breed)
    placement = place(rng, pose, body, canvas.size, ground)
    in_profile = pose in (standing, sitting_profile) and chance(rng, 0.5)
    head_parts = (heads.in_profile if in_profile else heads.facing)(rng, breed)
    centre = placement.apply(np.array([body.head]))[0]
    head_placement = Placement(
        float(centre[0]),
        float(centre[1]),
        placement.scale * body.head_size,
        placement.mirror,
        placement.turn + pick(rng, -13, 13),
    )
    parts = [_placed(p, placement) for p in body.parts]
    head = [_placed(p, head_placement) for p in head_parts]
    front = [_placed(p, placement) for p in body.front_parts]
    box = _bounds([*parts, *head, *front], canvas.size)
    back, belly = (placement.y + placement.scale * v - box[1] for v in (body.back, body.belly))
    coat_size = (box[2] - box[0], box[3] - box[1])
    coat = make_coat(rng, breed, coat_size, placement.scale, back, belly)
    if pose is not portrait:
        _paint_ground_shadow(rng, canvas, body, placement)
    brush = _Brush(canvas, coat, box[:2], placement.scale, breed.fur * 0.0065)
    for part in parts:
        brush.body_part(part)
    for head_part in head:
        brush.head_part(head_part, head_placement.scale)
    for part in front:
        brush.body_part(part)


def _placed(part: P, placement: Placement) -> P:
    """The part with its outlines in pixels."""
    ends: list[int] = np.cumsum([len(outline) for outline in part.outlines]).tolist()
    points = placement.apply(np.concatenate(part.outlines))
    outlines = [points[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return part._replace(outlines=outlines)


def _bounds(parts: Sequence[Part | heads.HeadPart], size: Size) -> Box:
    """The part of the picture that the parts reach into, with room for tufts; never empty."""
    points = np.concatenate([o for part in parts for o in part.outlines])
    left, top = (np.floor(points.min(axis=0)).astype(int) - 16).tolist()
    right, bottom = (np.ceil(points.max(axis=0)).astype(int) + 16).tolist()
    left, top = min(max(left, 0), size[0] - 2), min(max(top, 0), size[1] - 2)
    return left, top, max(min(right, size[0]), left + 2), max(min(bottom, size[1]), top + 2)


class _Brush(NamedTuple):
    canvas: Canvas
    coat: Coat
    origin: tuple[int, int]  # of the coat in the picture
    scale: float  # pixels to one unit
    ruffle: float  # how far tufts reach, in units

    def body_part(self, part: Part) -> None:
        surface: Image.Image | None = getattr(self.coat, part.surface)
        if surface is None:  # a marking that this animal does not have
            return
        if part.surface == "chest":
            self.canvas.paint(
                part.outlines,
                surface,
                origin=self.origin,
                brightness=part.brightness,
                feather=self.scale * 0.025,
            )
            return
        self.canvas.paint(
            part.outlines,
            surface,
            origin=self.origin,
            brightness=part.brightness,
            relief=part.relief * self.scale,
            ruffle=self.scale * self.ruffle * (0.6 if part.surface == "paws" else 1.0),
            contact=28,
            is_pet=True,
        )

    def head_part(self, part: heads.HeadPart, unit: float) -> None:
        texture = _FACE.get(part.surface) or getattr(self.coat, part.surface)
        if texture is None:  # a marking that this animal does not have
            return
        self.canvas.paint(
            part.outlines,
            texture,
            origin=self.origin,
            brightness=part.brightness,
            relief=part.relief * unit,
            ruffle=self.scale * self.ruffle * 0.8 if part.is_outline else 0.0,
            contact=26 if part.is_outline else 0,
            feather=part.feather * unit,
            is_pet=part.is_outline,
        )


def _paint_ground_shadow(
    rng: np.random.Generator, canvas: Canvas, body: Body, placement: Placement
) -> None:
    left, _, right, bottom = body.extent
    lean = canvas.light[0] * 0.12
    spot = ellipse(
        (left + right) / 2 + lean * placement.mirror, bottom - 0.03, (right - left) * 0.46, 0.07
    )
    depth = int(rng.integers(35, 70))
    canvas.shadow(placement.apply(spot), depth, placement.scale * 0.05)
