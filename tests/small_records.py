"""Records of a handful of random images, written in milliseconds."""

from pathlib import Path

import numpy as np

from stages.records.manifest import (
    BASELINE_FILE,
    EXAMPLES_FILE,
    Manifest,
    file_sha256,
    write_manifest,
)
from stages.records.tfrecords import Example, ShardWriter
from tests import stub_stages

SIDE = 16


def write_records(folder: Path, images: int = 6) -> Manifest:
    """Writes a test split of images and masks of SIDE x SIDE pixels in two files."""
    rng = np.random.default_rng(7)
    writer = ShardWriter(folder, "test", (images + 1) // 2)
    for index in range(images):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        mask = rng.choice(3, (SIDE, SIDE), p=[0.2, 0.7, 0.1]).astype(np.uint8)
        mask[: 2 * index] = index % 2 * 2
        writer.write(Example(pixels, mask, f"pet_{index}.jpg", index % 3, index % 2))
    np.save(folder / BASELINE_FILE, rng.integers(0, 3, (SIDE, SIDE), dtype=np.uint8))
    np.savez(
        folder / EXAMPLES_FILE, test_images=rng.integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    )
    files = {file: file_sha256(folder / file) for file in (BASELINE_FILE, EXAMPLES_FILE)}
    own: dict[str, object] = {"image_size": SIDE, "train_image_size": SIDE, "other_files": files}
    own |= {"label_names": ["tabby", "beagle", 'a,"b"', "never"], "species_names": ["Cat", "Dog"]}
    own |= {"splits": {"test": writer.close()}}
    manifest = stub_stages.manifest().model_copy(update=own)
    write_manifest(manifest, folder)
    return manifest
