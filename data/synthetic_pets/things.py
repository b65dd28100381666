"""Things that are no pets: balls, boxes, cushions, plants, furniture, books, bowls."""

from collections.abc import Callable

import numpy as np

from data.synthetic_pets.canvas import Canvas
from data.synthetic_pets.drawing import (
    Size,
    choose,
    closed_curve,
    ellipse,
    pick,
    rectangle,
    scaled,
    tube,
)
from data.synthetic_pets.surfaces import COVERS, LEAVES, bricks, coat_like, planks, shaggy

# Draws a thing of about `size` pixels that stands at (x, y) on the ground.
Thing = Callable[[np.random.Generator, Canvas, float, float, float, bool], None]


def _patch(width: float, height: float) -> Size:
    return max(24, round(width)), max(24, round(height))


def _ground_shadow(canvas: Canvas, x: float, y: float, size: float) -> None:
    canvas.shadow(
        ellipse(x + canvas.light[0] * size * 0.2, y, size * 0.55, size * 0.1), 50, size * 0.08
    )


def ball(
    rng: np.random.Generator, canvas: Canvas, x: float, y: float, size: float, in_front: bool
) -> None:
    """A ball, plain or with a band."""
    _ground_shadow(canvas, x, y, size)
    radius = size * 0.4
    colour = coat_like(rng, 0.5)
    canvas.paint(
        [ellipse(x, y - radius, radius, radius)], colour, relief=radius * 0.7, is_in_front=in_front
    )
    band = tube(
        [
            (x - radius * 0.9, y - radius, radius * 0.1),
            (x, y - radius * 1.4, radius * 0.12),
            (x + radius * 0.9, y - radius, radius * 0.1),
        ]
    )
    canvas.paint(band, scaled(colour, 150 if sum(colour) < 300 else 55), is_in_front=in_front)


def box(
    rng: np.random.Generator, canvas: Canvas, x: float, y: float, size: float, in_front: bool
) -> None:
    """A cardboard box or a crate: a front, a side and a top."""
    _ground_shadow(canvas, x, y, size * 1.2)
    w, h, d = size * pick(rng, 0.5, 0.9), size * pick(rng, 0.4, 1.0), size * 0.22
    wood = planks(rng, _patch(w, h)) if rng.random() < 0.3 else coat_like(rng, 0.8)
    front = rectangle(x - w / 2, y - h, x + w / 2, y)
    side = np.array(
        [(x + w / 2, y), (x + w / 2 + d, y - d), (x + w / 2 + d, y - h - d), (x + w / 2, y - h)]
    )
    top = np.array(
        [
            (x - w / 2, y - h),
            (x + w / 2, y - h),
            (x + w / 2 + d, y - h - d),
            (x - w / 2 + d, y - h - d),
        ]
    )
    for outline, brightness in ((front, 100), (side, 66), (top, 114)):
        canvas.paint([outline], wood, brightness=brightness, is_in_front=in_front)
    tape = rectangle(x - w * 0.06, y - h, x + w * 0.06, y)
    canvas.paint([tape], coat_like(rng), is_in_front=in_front)


def cushion(
    rng: np.random.Generator, canvas: Canvas, x: float, y: float, size: float, in_front: bool
) -> None:
    """A cushion or a folded blanket."""
    _ground_shadow(canvas, x, y, size * 1.2)
    w, h = size * pick(rng, 0.55, 0.75), size * pick(rng, 0.3, 0.6)
    bulge = closed_curve(
        [
            (x - w, y),
            (x - w * 0.9, y - h * 0.5),
            (x - w, y - h),
            (x, y - h * 0.92),
            (x + w, y - h),
            (x + w * 0.9, y - h * 0.5),
            (x + w, y),
            (x, y - h * 0.06),
        ]
    )
    cover = COVERS[int(rng.integers(len(COVERS)))](rng, _patch(w * 2, h))
    canvas.paint(
        [bulge], cover, relief=size * 0.13, ruffle=pick(rng, 0, 2), contact=30, is_in_front=in_front
    )


def plush_heap(
    rng: np.random.Generator, canvas: Canvas, x: float, y: float, size: float, in_front: bool
) -> None:
    """A furry cushion, pouffe or rolled-up throw: lit and textured like a coat, but no animal."""
    _ground_shadow(canvas, x, y, size * 1.2)
    w, h = size * pick(rng, 0.45, 0.75), size * pick(rng, 0.35, 0.75)
    shape = closed_curve(
        [
            (x - w, y - h * 0.1),
            (x - w * 0.8, y - h * 0.75),
            (x - w * 0.1, y - h),
            (x + w * 0.7, y - h * 0.8),
            (x + w, y - h * 0.2),
            (x, y + h * 0.04),
        ]
    )
    canvas.paint(
        [shape],
        shaggy(rng, _patch(w * 2, h)),
        relief=size * 0.16,
        ruffle=2.0,
        contact=30,
        is_in_front=in_front,
    )


def plant(
    rng: np.random.Generator, canvas: Canvas, x: float, y: float, size: float, in_front: bool
) -> None:
    """A pot plant with long leaves."""
    _ground_shadow(canvas, x, y, size)
    w, h = size * 0.26, size * 0.36
    pot = np.array([(x - w, y - h), (x + w, y - h), (x + w * 0.7, y), (x - w * 0.7, y)])
    colour = choose(rng, LEAVES)
    for i in range(9):
        lean = (i - 4) * pick(rng, 0.08, 0.15) * size
        rise = size * pick(rng, 0.5, 1.1)
        leaf = tube(
            [
                (x, y - h, 1.2),
                (x + lean * 0.5, y - h - rise * 0.7, size * 0.05),
                (x + lean * 1.5, y - h - rise * 0.85, 1.0),
            ],
            3,
        )
        canvas.paint(
            leaf, scaled(colour, 80 + 10 * (i % 5)), relief=size * 0.03, is_in_front=in_front
        )
    canvas.paint([pot], coat_like(rng), relief=w * 0.5, is_in_front=in_front)


def furniture_leg(
    rng: np.random.Generator, canvas: Canvas, x: float, y: float, size: float, in_front: bool
) -> None:
    """The leg of a table or chair, running out of the picture above."""
    _ground_shadow(canvas, x, y, size * 0.5)
    width = size * pick(rng, 0.06, 0.13)
    shape = np.array(
        [(x - width, -3.0), (x + width, -3.0), (x + width * 0.6, y), (x - width * 0.6, y)]
    )
    canvas.paint([shape], coat_like(rng, 0.9), relief=width * 0.6, contact=20, is_in_front=in_front)


def books(
    rng: np.random.Generator, canvas: Canvas, x: float, y: float, size: float, in_front: bool
) -> None:
    """A stack or a row of books."""
    _ground_shadow(canvas, x, y, size)
    if rng.random() < 0.5:
        for i in range(int(rng.integers(2, 6))):
            w, h = size * pick(rng, 0.35, 0.5), size * 0.12
            shape = rectangle(x - w, y - h * (i + 1), x + w, y - h * i - 1)
            canvas.paint([shape], coat_like(rng, 0.4), relief=h * 0.3, is_in_front=in_front)
        return
    left = x - size * 0.5
    for _ in range(int(rng.integers(4, 9))):
        w, h = size * pick(rng, 0.08, 0.16), size * pick(rng, 0.5, 0.8)
        canvas.paint(
            [rectangle(left, y - h, left + w - 1, y)],
            coat_like(rng, 0.4),
            relief=w * 0.3,
            is_in_front=in_front,
        )
        left += w


def bowl(
    rng: np.random.Generator, canvas: Canvas, x: float, y: float, size: float, in_front: bool
) -> None:
    """A feeding bowl."""
    _ground_shadow(canvas, x, y, size)
    w, h = size * 0.42, size * 0.26
    colour = coat_like(rng, 0.4)
    side = closed_curve([(x - w, y - h), (x + w, y - h), (x + w * 0.8, y), (x - w * 0.8, y)], 4)
    canvas.paint([side], colour, relief=h * 0.6, is_in_front=in_front)
    canvas.paint([ellipse(x, y - h, w, h * 0.32)], scaled(colour, 55), is_in_front=in_front)


def basket(
    rng: np.random.Generator, canvas: Canvas, x: float, y: float, size: float, in_front: bool
) -> None:
    """A woven basket."""
    _ground_shadow(canvas, x, y, size * 1.2)
    w, h = size * 0.55, size * pick(rng, 0.35, 0.6)
    side = np.array([(x - w, y - h), (x + w, y - h), (x + w * 0.82, y), (x - w * 0.82, y)])
    canvas.paint(
        [side], bricks(rng, _patch(w * 2, h)), relief=w * 0.35, contact=25, is_in_front=in_front
    )


THINGS: tuple[Thing, ...] = (
    ball,
    box,
    cushion,
    cushion,
    plush_heap,
    plush_heap,
    plant,
    furniture_leg,
    books,
    bowl,
    basket,
)
# What may stand between the viewer and the pet.
FRONT_THINGS: tuple[Thing, ...] = (ball, box, cushion, plant, furniture_leg, bowl, basket)
