import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.records.manifest import (
    BASELINE_FILE,
    EXAMPLES_FILE,
    Manifest,
    file_sha256,
    read_arrays,
    read_manifest,
    write_arrays,
)
from stages.records.tfrecords import Example, ShardWriter, batches, load_split, parse, serialize
from stages.stage import StageError


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    size=st.sampled_from([1, 32, 64]),
    name=st.text(max_size=20),
    label=st.integers(-1, 36),
    species=st.integers(-1, 1),
    seed=st.integers(0, 1000),
)
def test_what_is_serialized_is_parsed(
    size: int, name: str, label: int, species: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
    mask = rng.integers(0, 3, (size, size), dtype=np.uint8)
    serialized = serialize(Example(image, mask, name, label, species))
    parsed = {key: value[0].numpy() for key, value in parse([serialized], size).items()}
    np.testing.assert_array_equal(parsed["image"], image)
    np.testing.assert_array_equal(parsed["mask"], mask)
    assert parsed["file_name"].decode() == name
    assert (parsed["label"], parsed["species"]) == (label, species)


@pytest.mark.parametrize(("examples", "files"), [(1, 1), (4, 1), (5, 2)])
def test_shards_have_their_size_and_their_names(tmp_path: Path, examples: int, files: int) -> None:
    writer = ShardWriter(tmp_path, "train", 4)
    for number in range(examples):
        mask = np.full((2, 2), number % 3, np.uint8)
        writer.write(Example(np.zeros((2, 2, 3), np.uint8), mask, str(number), -1, -1))
    split = writer.close()
    assert split.examples == examples
    assert [(shard.file, shard.examples) for shard in split.shards] == [
        (f"train-{index:05d}-of-{files:05d}.tfrecord", min(4, examples - 4 * index))
        for index in range(files)
    ]
    paths = [tmp_path / shard.file for shard in split.shards]
    assert sorted(tmp_path.iterdir()) == paths
    assert [shard.sha256 for shard in split.shards] == [file_sha256(path) for path in paths]
    records = tf.data.TFRecordDataset([str(path) for path in paths]).batch(100)
    (names,) = (parse(batch, 2)["file_name"].numpy().astype(int).tolist() for batch in records)
    assert names == list(range(examples))


def test_batches_hold_every_example_once_in_order(records: Path, manifest: Manifest) -> None:
    read = [batch["image"] for batch in batches(records, manifest, "test", 4)]
    assert [len(batch) for batch in read] == [4, 2]
    images, masks = load_split(records, manifest, "test")
    np.testing.assert_array_equal(images, np.concatenate(read))
    assert masks.shape == images.shape[:3]
    assert masks.max() == 2


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped bit", "foreign"])
@pytest.mark.parametrize("file", ["test-00001-of-00002.tfrecord", BASELINE_FILE, EXAMPLES_FILE])
def test_a_damaged_file_is_named_before_anything_is_read(
    records: Path, manifest: Manifest, tmp_path: Path, file: str, damage: str
) -> None:
    for path in records.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = bytearray((records / file).read_bytes())
    if damage == "missing":
        (tmp_path / file).unlink()
    elif damage == "truncated":
        (tmp_path / file).write_bytes(content[: len(content) // 2])
    elif damage == "foreign":  # whole, but another one
        foreign = {BASELINE_FILE: EXAMPLES_FILE, EXAMPLES_FILE: BASELINE_FILE}
        other = foreign.get(file, "test-00000-of-00002.tfrecord")
        (tmp_path / file).write_bytes((records / other).read_bytes())
    else:
        content[len(content) // 2] ^= 1
        (tmp_path / file).write_bytes(content)
    for_arrays = (read_arrays, tmp_path, manifest, file)
    for_shards = (batches, tmp_path, manifest, "test", 4)
    read, *arguments = for_shards if file.endswith(".tfrecord") else for_arrays
    with pytest.raises(StageError, match=rf"{file} .*dvc repro -f prepare"):
        read(*arguments)


def test_arrays_that_hold_objects_are_not_read(manifest: Manifest, tmp_path: Path) -> None:
    """Even with the right checksum: reading objects would run what their pickle says."""
    np.save(tmp_path / BASELINE_FILE, np.array([{}], object), allow_pickle=True)
    checksums = {BASELINE_FILE: file_sha256(tmp_path / BASELINE_FILE)}
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_arrays(tmp_path, manifest.model_copy(update={"other_files": checksums}), BASELINE_FILE)


def test_archives_have_the_same_bytes_under_every_python(tmp_path: Path) -> None:
    """NumPy's own do not: that of 3.11.2 differs from that of 3.11.7."""
    write_arrays(tmp_path / "a.npz", {"x": np.arange(12, dtype=np.uint8).reshape(3, 4)})
    assert file_sha256(tmp_path / "a.npz") == (
        "64b5f59a0c2948df2bfc717a5826b0a8358269dc4790d1b746b3f625d00ce3da"
    )
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["x"], np.arange(12).reshape(3, 4))


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/b", "", ".hidden", "a\nb", None])
def test_a_manifest_that_is_missing_or_names_files_elsewhere_is_refused(
    manifest: Manifest, tmp_path: Path, name: str | None
) -> None:
    if name is not None:
        content = manifest.model_dump()
        content["splits"]["train"]["shards"][0]["file"] = name
        (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(StageError, match="is missing or not a manifest; `dvc repro -f prepare`"):
        read_manifest(tmp_path)
