"""Bodies of cats and dogs lying down; units and directions as in `anatomy`."""

import numpy as np

from data.synthetic_pets.anatomy import Body, Part, head_size, paw
from data.synthetic_pets.breeds import Breed
from data.synthetic_pets.drawing import closed_curve, ellipse, pick, tube


def lying(rng: np.random.Generator, breed: Breed) -> Body:
    """Lying on the belly with the forelegs stretched out, turned half towards the viewer."""
    high = pick(rng, 0.36, 0.46) + 0.015 * breed.fur
    long = pick(rng, 0.92, 1.12)
    trunk = closed_curve(
        np.array(
            [
                (-0.5, -0.02),
                (-0.58, -0.16),
                (-0.52, -high * 0.78),
                (-0.3, -high),
                (0.0, -high * 0.94),
                (0.2, -high * 1.12),
                (0.35, -high * 0.9),
                (0.4, -0.2),
                (0.36, -0.01),
                (0.0, 0.0),
            ]
        )
        * (long, 1)
    )
    thick = 0.04 + 0.014 * breed.fur
    tail = tube(
        [
            (-0.5 * long, -0.06, thick),
            (-0.68 * long, -0.05, thick),
            (-0.72 * long, 0.02, thick),
            (-0.52 * long, 0.04, thick * 0.6),
        ]
    )
    haunch = ellipse(-0.36 * long, -0.15, 0.2, 0.16, -12)
    far = tube([(0.3, -0.14, 0.08), (0.48, -0.06, 0.06), (0.62, -0.05, 0.05)])
    near = tube([(0.16, -0.12, 0.09), (0.3, -0.03, 0.07), (0.5, 0.005, 0.055)])
    parts = [
        Part("tail", tail, 90, 0.05),
        Part("body", [trunk], 100, 0.15),
        Part("body", [haunch], 102, 0.09),
        Part("paws", [ellipse(-0.26 * long, -0.03, 0.13, 0.04)], 96, 0.02),
        Part("chest", [ellipse(0.3, -0.27, 0.08, 0.14, -8)], 98, 0.05),
        Part("limbs", far, 84, 0.05),
        Part("paws", [paw(0.63, -0.05, 0.055)], 92, 0.02),
    ]
    front = [Part("limbs", near, 102, 0.05), Part("paws", [paw(0.52, 0.0, 0.06)], 104, 0.025)]
    size = head_size(breed) * 1.02
    head = (0.28 + pick(rng, -0.03, 0.05), -high * 1.12 - 0.08)
    return Body(parts, front, head, size, -high, -0.08, (-0.66, head[1] - 0.26, 0.7, 0.06))


def curled(rng: np.random.Generator, breed: Breed) -> Body:
    """Lying on the side or curled up, the head low."""
    high = pick(rng, 0.32, 0.42) + 0.02 * breed.fur
    trunk = closed_curve(
        [
            (-0.48, -0.08),
            (-0.5, -high * 0.7),
            (-0.28, -high * 1.05),
            (0.05, -high * 1.0),
            (0.34, -high * 0.75),
            (0.46, -high * 0.3),
            (0.4, 0.03),
            (0.05, 0.07),
            (-0.32, 0.05),
        ]
    )
    thick = 0.045 + 0.014 * breed.fur
    sweep = pick(rng, 0.05, 0.2)
    tail = tube(
        [
            (-0.44, -0.1, thick),
            (-0.46, 0.05, thick),
            (-0.25, 0.1, thick),
            (-0.25 + sweep, 0.09, thick * 0.7),
        ]
    )
    thigh = ellipse(-0.28, -0.13, 0.2, 0.16, 18)
    shin = tube([(-0.22, -0.03, 0.065), (-0.04, 0.05, 0.05), (0.1, 0.06, 0.045)])
    arm = tube([(0.3, -0.02, 0.075), (0.22, 0.08, 0.058), (0.06, 0.1, 0.05)])
    parts = [
        Part("body", [trunk], 100, 0.15),
        Part("body", [thigh], 103, 0.09),
        Part("limbs", shin, 98, 0.04),
        Part("tail", tail, 100, 0.05),
        Part("limbs", arm, 100, 0.05),
        Part("paws", [paw(0.05, 0.1, 0.05)], 104, 0.02),
    ]
    size = head_size(breed) * 1.05
    head = (0.36 + pick(rng, -0.04, 0.04), -high * 0.62)
    return Body(parts, [], head, size, -high, 0.0, (-0.56, -high - 0.12, 0.6, 0.14))
