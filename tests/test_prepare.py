from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from stages.params import Params
from stages.prepare import __main__ as prepare
from stages.prepare.__main__ import IN_MEMORY, in_parallel, write_records
from stages.prepare.scaling import in_validation, resized
from stages.prepare.source import RawExample, open_dataset
from stages.records.manifest import Manifest, file_sha256, read_manifest
from stages.records.tfrecords import batches, load_split


def _digests(folder: Path) -> dict[str, str]:
    return {path.name: file_sha256(path) for path in folder.iterdir()}


def test_the_manifest_tells_what_was_written(
    params: Params, manifest: Manifest, records: Path
) -> None:
    assert (manifest.dataset, manifest.image_size) == ("synthetic_pets", params.image_size)
    assert manifest.species_names == ["Cat", "Dog"]
    train, validation, test = (split.examples for split in manifest.splits.values())
    assert (train + validation, test) == (12, 6)
    listed = dict(manifest.other_files)
    for name, split in manifest.splits.items():
        assert sum(shard.examples for shard in split.shards) == split.examples
        assert all(shard.examples <= params.shard_size for shard in split.shards)
        listed |= {shard.file: shard.sha256 for shard in split.shards}
        _, masks = load_split(records, manifest, name)
        shares = np.bincount(masks.ravel(), minlength=3) / masks.size
        np.testing.assert_allclose(list(split.class_shares.values()), shares, atol=1e-6)
    files = _digests(records)
    del files["manifest.json"]
    assert listed == files


def test_the_baseline_and_the_reports_examples_are_those_of_the_stored_images(
    manifest: Manifest, records: Path
) -> None:
    examples = np.load(records / "examples.npz")
    images, masks = load_split(records, manifest, "test")
    # At even distances: the first, one in the middle and the last.
    np.testing.assert_array_equal(examples["test_images"], images[[0, 2, 5]])
    np.testing.assert_array_equal(examples["test_masks"], masks[[0, 2, 5]])
    assert examples["train_images"].shape == images[:3].shape
    _, masks = load_split(records, manifest, "train")
    votes = [np.count_nonzero(masks == number, axis=0) for number in range(3)]
    np.testing.assert_array_equal(np.load(records / "baseline.npy"), np.argmax(votes, axis=0))


def test_results_keep_their_order_and_few_are_in_memory() -> None:
    taken = []

    def numbers() -> Iterator[int]:
        for number in range(10 * IN_MEMORY):
            taken.append(number)
            yield number

    results = in_parallel(pow, numbers(), 2)
    assert [next(results) for _ in range(5)] == [number**2 for number in range(5)]
    assert len(taken) == IN_MEMORY
    assert list(results) == [number**2 for number in range(5, 10 * IN_MEMORY)]


def test_records_are_the_same_on_every_run_and_only_train_has_a_size_of_its_own(
    params: Params, tmp_path: Path
) -> None:
    digests, manifests = {}, {}
    for sizes in ((32, 32), (32, 47), (47, 47)):
        changes = {"image_size": sizes[0], "train_image_scale": sizes[1] / sizes[0]}
        folder = tmp_path / str(sizes)
        folder.mkdir()
        manifests[sizes] = write_records(params.model_copy(update=changes), folder, tmp_path)
        assert read_manifest(folder) == manifests[sizes]
        digests[sizes] = _digests(folder)
    manifest = manifests[32, 47]
    assert (manifest.image_size, manifest.train_image_size) == (32, 47)
    for split, size in (("train", 47), ("validation", 32), ("test", 32)):
        assert manifest.split_image_size(split) == size
        assert manifest.splits[split] == manifests[size, size].splits[split]
    del digests[32, 47]["manifest.json"]
    for name, digest in digests[32, 47].items():
        assert digest == digests[(47, 47) if name.startswith("train") else (32, 32)][name], name


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    trimap=hnp.arrays(
        np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=300), elements=st.integers(1, 3)
    ),
    image_size=st.sampled_from([32, 64, 128]),
)
def test_masks_are_resized_like_tensorflows_nearest_neighbor(
    trimap: np.ndarray, image_size: int
) -> None:
    image = Image.new("RGB", trimap.shape[::-1])
    _, mask = resized(image, Image.fromarray(trimap), image_size)
    size = (image_size, image_size)
    expected = tf.image.resize(trimap[:, :, None], size, "nearest")[:, :, 0].numpy() - 1
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) <= set(np.unique(trimap) - 1)
    # Where a pixel's center falls on an edge between two, either of them is the nearest.
    assert np.mean(mask == expected) > 0.98 or trimap.size < 64**2


@pytest.mark.parametrize(("height", "width"), [(256, 256), (200, 333), (500, 375), (90, 60)])
def test_images_are_resized_like_tensorflows_antialiased_bilinear(height: int, width: int) -> None:
    rng = np.random.default_rng(height)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    resized_image, _ = resized(Image.fromarray(image), Image.new("L", (width, height)), 128)
    expected = tf.image.resize(image, (128, 128), "bilinear", antialias=True).numpy()
    assert np.abs(resized_image - expected).max() <= 1.01  # one step of rounding


def test_validation_images_are_those_of_the_hash_and_a_larger_share_holds_out_more(
    params: Params, records: Path, manifest: Manifest
) -> None:
    names = [f"cat_{number}.jpg" for number in range(10_000)]
    small, large = ([in_validation(name, share) for name in names] for share in (0.15, 0.3))
    assert (np.mean(small), np.mean(large)) == pytest.approx((0.15, 0.3), abs=0.01)
    assert np.all(np.asarray(small) <= large)
    stored = {}
    for split in manifest.splits:
        (batch,) = batches(records, manifest, split, 100).as_numpy_iterator()
        stored[split] = {name.decode() for name in batch["file_name"]}
    share = params.validation_share
    assert all(in_validation(name, share) for name in stored["validation"])
    assert not any(in_validation(name, share) for name in stored["train"])
    assert stored["test"].isdisjoint(stored["train"] | stored["validation"])


def test_an_interrupted_prepare_leaves_the_previous_records_as_they_were(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data" / "records"
    small = params.model_copy(update={"image_size": 32})
    builder = open_dataset(small.dataset, tmp_path / "drawn")
    monkeypatch.setattr(prepare, "open_dataset", lambda *_: builder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepare, "load_params", lambda: small)
    prepare.main()
    before = _digests(folder)
    read_split = prepare.read_split

    def interrupted(*args: Any) -> Iterator[RawExample]:
        yield from list(read_split(*args))[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "read_split", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare.main()
    monkeypatch.setattr(prepare, "read_split", read_split)
    assert _digests(folder) == before
    (tmp_path / "data" / f"{prepare.SCRATCH_PREFIX}killed").mkdir()
    prepare.main()
    assert _digests(folder) == before
    assert list((tmp_path / "data").iterdir()) == [folder]
