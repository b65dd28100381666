"""Names and colors of the classes and of the networks, the same in every image and plot.

Colors from Okabe and Ito, "Color Universal Design" (2008): told apart with any color vision.
"""

import numpy as np
import numpy.typing as npt

# Trimap value minus 1, in Oxford-IIIT Pet's order: 1 pet, 2 background, 3 border.
CLASS_NAMES = ("pet", "background", "border")
PET, BACKGROUND, BORDER = range(3)
CLASS_COLORS = {"pet": "#e69f00", "background": "#56b4e9", "border": "#1b1b1b"}
# In the order of `networks` in params.yaml, from the first again after the last.
NETWORK_COLORS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#f0e442")
# The baseline, the diagonal of a reliability diagram, legends.
NEUTRAL = "#666666"


def class_rgb() -> npt.NDArray[np.uint8]:
    """Colors of the classes in their order: uint8 [class, 3]."""
    return np.array([tuple(bytes.fromhex(color[1:])) for color in CLASS_COLORS.values()], np.uint8)
