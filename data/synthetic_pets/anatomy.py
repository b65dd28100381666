"""Bodies of cats and dogs sitting, standing or seen close by, in units of the animal's size.

The ground is y = 0, up is negative, the animal looks towards +x unless it faces the viewer.
Parts are listed from back to front.
"""

from typing import Literal, NamedTuple

import numpy as np

from data.synthetic_pets.breeds import Breed
from data.synthetic_pets.drawing import Outline, closed_curve, ellipse, mirrored_curve, pick, tube

Surface = Literal["body", "limbs", "head", "ears", "muzzle", "chest", "paws", "tail"]


class Part(NamedTuple):
    """Some outlines painted as one surface."""

    surface: Surface
    outlines: list[Outline]  # each [points, 2]
    brightness: int = 100  # percent; limbs on the far side are darker
    relief: float = 0.1  # how rounded, in units of the animal's size


class Body(NamedTuple):
    """A body without its head.

    Attributes:
        parts: from back to front.
        front_parts: those painted after the head (paws in front of the chin).
        head: x, y of the head's centre.
        head_size: half the head's width.
        back: y of the back, for coats that are darker above.
        belly: y of the belly.
        extent: left, top, right, bottom, for placing the animal in the picture.
    """

    parts: list[Part]
    front_parts: list[Part]
    head: tuple[float, float]
    head_size: float
    back: float
    belly: float
    extent: tuple[float, float, float, float]


def paw(x: float, y: float, size: float) -> Outline:
    """A paw around (x, y), wider than high."""
    return ellipse(x, y, size * 1.25, size * 0.72)


def head_size(breed: Breed) -> float:
    """Half the width of a breed's head, in units of the animal's size."""
    return (0.185 if breed.species == "Cat" else 0.17) * breed.head


def sitting(rng: np.random.Generator, breed: Breed) -> Body:
    """Sitting and facing the viewer."""
    is_cat = breed.species == "Cat"
    width = pick(rng, 0.86, 1.12) + 0.04 * breed.fur
    tall = breed.legs * pick(rng, 0.95, 1.05)
    lean = pick(rng, -0.03, 0.03)
    half = [(0.0, -0.74), (0.11, -0.7), (0.185, -0.56), (0.2, -0.4), (0.29, -0.24), (0.31, -0.08)]
    half += [(0.24, -0.005), (0.0, -0.005)]
    trunk = mirrored_curve(half) * (width, tall)
    side = 1 if rng.random() < 0.5 else -1
    reach = pick(rng, 0.4, 0.62)
    lift = pick(rng, 0.0, 0.22)
    thick = 0.045 + 0.012 * breed.fur
    tail = tube(
        [
            (side * 0.2, -0.05, thick),
            (side * 0.36, -0.05, thick),
            (side * reach, -0.06 - lift * 0.4, thick),
            (side * (reach + 0.04), -0.08 - lift, thick * 0.7),
        ]
    )
    legs = []
    paws = []
    for s in (-1, 1):
        x = s * 0.088 * width
        legs += tube([(x * 1.15, -0.46 * tall, 0.075), (x, -0.24 * tall, 0.058), (x, -0.04, 0.05)])
        paws.append(paw(x + s * 0.008, -0.03, 0.058))
    hind = [paw(s * 0.25 * width, -0.032, 0.082) for s in (-1, 1)]
    thighs = [ellipse(s * 0.225 * width, -0.15, 0.1, 0.15, s * -14) for s in (-1, 1)]
    chest = closed_curve(
        [
            (0, -0.68 * tall),
            (0.1, -0.55 * tall),
            (0.06, -0.36 * tall),
            (0, -0.28 * tall),
            (-0.06, -0.36 * tall),
            (-0.1, -0.55 * tall),
        ]
    )
    parts = [
        Part("tail", tail, 88, 0.05),
        Part("body", [trunk], 100, 0.13),
        Part("body", thighs, 97, 0.08),
        Part("chest", [chest], 100, 0.05),
        Part("paws", hind, 92, 0.03),
        Part("limbs", legs, 100, 0.05),
        Part("paws", paws, 104, 0.025),
    ]
    parts = [
        p._replace(outlines=[o + (lean * -o[:, 1:]) * (1, 0) for o in p.outlines]) for p in parts
    ]
    size = head_size(breed)
    height = -0.76 * tall - (0.02 if is_cat else 0.05)
    head = (lean * 0.76 + pick(rng, -0.03, 0.03), height)
    return Body(parts, [], head, size, -0.7 * tall, -0.1, (-0.36, height - 0.26, 0.36, 0.02))


def sitting_profile(rng: np.random.Generator, breed: Breed) -> Body:
    """Sitting, seen from the side."""
    tall = breed.legs * pick(rng, 0.95, 1.05)
    plump = pick(rng, -0.03, 0.03) + 0.01 * breed.fur
    trunk = closed_curve(
        np.array(
            [
                (0.03, -0.77),
                (-0.07, -0.62),
                (-0.19 - plump, -0.42),
                (-0.29 - plump, -0.2),
                (-0.29, -0.03),
                (-0.1, -0.005),
                (0.06, -0.02),
                (0.15, -0.16),
                (0.24 + plump, -0.38),
                (0.26 + plump, -0.55),
                (0.2, -0.72),
            ]
        )
        * (1, tall)
    )
    far = tube([(0.2, -0.4 * tall, 0.07), (0.23, -0.2 * tall, 0.05), (0.235, -0.04, 0.042)])
    near = tube([(0.13, -0.42 * tall, 0.085), (0.15, -0.22 * tall, 0.06), (0.155, -0.04, 0.048)])
    curl = pick(rng, -0.02, 0.25)
    thick = 0.04 + 0.014 * breed.fur
    tail = tube(
        [
            (-0.22, -0.06, thick),
            (-0.4, -0.05, thick),
            (-0.55, -0.06 - curl * 0.5, thick),
            (-0.6, -0.1 - curl, thick * 0.6),
        ]
    )
    haunch = ellipse(-0.13, -0.16, 0.17, 0.155, -20)
    parts = [
        Part("tail", tail, 92, 0.05),
        Part("limbs", far, 72, 0.05),
        Part("paws", [paw(0.255, -0.03, 0.052)], 80, 0.02),
        Part("body", [trunk], 100, 0.14),
        Part("chest", [ellipse(0.215, -0.5 * tall, 0.06, 0.15, 8)], 100, 0.04),
        Part("limbs", near, 100, 0.05),
        Part("body", [haunch], 102, 0.09),
        Part("paws", [paw(0.18, -0.03, 0.056), ellipse(-0.0, -0.035, 0.13, 0.036)], 100, 0.02),
    ]
    size = head_size(breed)
    height = -0.85 * tall
    return Body(
        parts, [], (0.15, height), size, -0.6 * tall, -0.05, (-0.5, height - 0.26, 0.36, 0.02)
    )


def standing(rng: np.random.Generator, breed: Breed) -> Body:
    """Standing or walking, seen from the side."""
    is_cat = breed.species == "Cat"
    leg = (0.36 if is_cat else 0.4) * breed.legs * pick(rng, 0.92, 1.06)
    deep = 0.3 + 0.012 * breed.fur + pick(rng, -0.02, 0.03)
    long = pick(rng, 0.95, 1.1)
    y = -leg  # the belly
    trunk = closed_curve(
        np.array(
            [
                (-0.44, y - deep * 0.82),
                (-0.25, y - deep * 0.98),
                (0.02, y - deep * 0.92),
                (0.26, y - deep * 1.06),
                (0.42, y - deep * 0.98),
                (0.47, y - deep * 0.5),
                (0.34, y + 0.02),
                (0.1, y + 0.03),
                (-0.15, y - 0.01),
                (-0.32, y - deep * 0.18),
                (-0.47, y - deep * 0.35),
            ]
        )
        * (long, 1)
    )
    stride = pick(rng, -0.09, 0.09)

    def fore(x: float, swing: float) -> list[Outline]:
        return tube(
            [
                (x, y - deep * 0.4, 0.09),
                (x + swing * 0.3, y * 0.75, 0.062),
                (x + swing * 0.8, y * 0.4, 0.044),
                (x + swing, -0.035, 0.042),
            ]
        )

    def hind(x: float, swing: float) -> list[Outline]:
        return tube(
            [
                (x, y - deep * 0.22, 0.1),
                (x + 0.03 + swing * 0.4, y * 0.82, 0.085),
                (x - 0.06 + swing * 0.8, y * 0.45, 0.05),
                (x - 0.03 + swing, -0.035, 0.042),
            ]
        )

    front, rear = 0.33 * long, -0.34 * long
    thick = 0.036 + 0.016 * breed.fur
    up = pick(rng, -0.1, 0.42)
    root = (rear - 0.08, y - deep * 0.78)
    tail = tube(
        [
            (*root, thick * 1.1),
            (root[0] - 0.14, root[1] - up * 0.35, thick),
            (root[0] - 0.26, root[1] - up * 0.8 + 0.06, thick),
            (root[0] - 0.3, root[1] - up * 1.15 + 0.08, thick * 0.55),
        ]
    )
    raised = pick(rng, 0.0, 0.12)
    head = (front + 0.22, y - deep * 1.05 - 0.1 - raised)
    neck = tube([(front - 0.05, y - deep * 0.62, 0.16), (head[0] - 0.04, head[1] + 0.04, 0.115)])
    parts = [
        Part("limbs", hind(rear + 0.06, -stride) + fore(front - 0.03, -stride), 66, 0.05),
        Part(
            "paws",
            [paw(rear + 0.045 - stride, -0.03, 0.05), paw(front - 0.02 - stride, -0.03, 0.05)],
            72,
            0.02,
        ),
        Part("tail", tail, 95, 0.05),
        Part("body", [trunk, *neck], 100, 0.14),
        Part("chest", [ellipse(front + 0.12, y - deep * 0.42, 0.06, 0.12, -18)], 98, 0.04),
        Part("limbs", hind(rear, stride) + fore(front, stride), 100, 0.05),
        Part("body", [ellipse(rear + 0.01, y - deep * 0.36, 0.14, deep * 0.5, 10)], 101, 0.07),
        Part(
            "paws",
            [
                paw(rear - 0.015 + stride, -0.028, 0.054),
                paw(front + 0.015 + stride, -0.028, 0.054),
            ],
            102,
            0.02,
        ),
    ]
    size = head_size(breed) * 0.98
    top = min(head[1] - 0.26, root[1] - up)
    return Body(parts, [], head, size, y - deep, y, (root[0] - 0.24, top, head[0] + 0.22, 0.02))


def portrait(rng: np.random.Generator, breed: Breed) -> Body:
    """Head and shoulders; the body runs out of the picture below."""
    width = pick(rng, 0.9, 1.15) + 0.05 * breed.fur
    drift = pick(rng, -0.12, 0.12)
    half = [(0.0, -0.72), (0.13, -0.66), (0.24, -0.5), (0.3, -0.25), (0.34, 0.1), (0.34, 0.5)]
    half += [(0.0, 0.55)]
    trunk = mirrored_curve(half) * (width, 1)
    trunk = trunk + (drift * (trunk[:, 1:] + 0.7)) * (1, 0)
    chest = closed_curve(
        [(0, -0.62), (0.13, -0.46), (0.13, -0.1), (0.0, 0.3), (-0.13, -0.1), (-0.13, -0.46)]
    )
    legs = [
        *tube([(-0.13, -0.2, 0.1), (-0.12, 0.2, 0.085), (-0.12, 0.5, 0.08)]),
        *tube([(0.13, -0.2, 0.1), (0.12, 0.2, 0.085), (0.12, 0.5, 0.08)]),
    ]
    parts = [
        Part("body", [trunk], 96, 0.16),
        Part("chest", [chest + np.array((drift * 0.4, 0.0))], 98, 0.06),
        Part("limbs", legs, 98, 0.06),
    ]
    size = head_size(breed) * 1.12
    head = (pick(rng, -0.04, 0.04), -0.76)
    return Body(parts, [], head, size, -0.7, 0.2, (-0.34, -1.06, 0.34, 0.0))
