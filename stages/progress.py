"""The progress bar of every stage: images done, images/s and the time left."""

import sys

from tqdm import tqdm


def progress_bar(description: str, images: int) -> tqdm:
    """Opens a bar.

    Args:
        description: What stands before the bar.
        images: How many images there will be.
    """
    # A log file gets a line now and then instead of one for every movement.
    interval = 0.2 if sys.stderr.isatty() else 15
    return tqdm(
        desc=description, total=images, unit=" images", mininterval=interval, maxinterval=interval
    )
