"""Batches: what is in them, in which order, and that no process, worker or restart changes them."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import tiny

from rdfer_jax import sharding
from rdfer_jax.pipeline import loader, sampling, source
from rdfer_jax.pipeline.feed import close, feed
from rdfer_jax.pipeline.source import open_split


@pytest.fixture(scope="module")
def split(tiny_data):
    return open_split(source.find(tiny_data), "train")


def train(split, data, *, seed=0, process=0, processes=1, batch=4, start=0):
    return loader.train_loader(
        split, data, seed=seed, local_batch_size=batch // processes, process=process,
        processes=processes, start=start,
    )  # fmt: skip


def evaluation(split, data, *, process=0, processes=1, local=2):
    return loader.eval_loader(
        split, data, local_batch_size=local, process=process, processes=processes
    )


def take(batches, number):
    iterator = iter(batches)
    found = list(itertools.islice(iterator, number))
    close(iterator)
    return found


def assert_equal(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def joined(batches, key):
    return np.concatenate([batch[key] for batch in batches])


def test_an_element_is_what_the_record_says(split, tiny_data):
    (batch,) = take(train(split, tiny_data), 1)
    assert batch["frames"].shape == (4, 6, 16, 16, 3) and batch["frames"].dtype == np.uint8
    assert batch["label"].dtype == batch["index"].dtype == np.int32
    assert batch["mask"].dtype == bool and batch["mask"].all()
    assert batch["votes"].dtype == np.float32
    for row in range(4):
        record = split[int(batch["index"][row])]
        assert batch["clip_id"][row] == record["clip_id"].decode()
        assert batch["num_frames"][row] == len(record["frames"])
        for key in ("label", "votes", *source.TRUTH_KEYS):
            np.testing.assert_array_equal(batch[key][row], record[key])
        clip, frame = tiny.numbers(batch["frames"][row])
        assert (clip == int(batch["clip_id"][row].split("-")[1])).all()
        assert (np.diff(frame) >= 0).all() and frame.max() < len(record["frames"])


@pytest.mark.parametrize("snippet", [1, 3])
def test_evaluation_takes_the_middle_of_equal_parts(split, tiny_data, snippet):
    data = dataclasses.replace(tiny_data, snippet=snippet)
    batches = take(evaluation(split, data), 100)
    for batch in batches:
        for frames, num in zip(batch["frames"], batch["num_frames"], strict=True):
            expected = sampling.frame_indices(int(num), 6, snippet=snippet)
            np.testing.assert_array_equal(tiny.numbers(frames)[1], expected)


def test_every_epoch_holds_every_video_once_in_an_order_of_its_own(split, tiny_data):
    index = joined(take(train(split, tiny_data), 11), "index").reshape(4, 11)
    np.testing.assert_array_equal(np.sort(index, axis=1), np.broadcast_to(np.arange(11), (4, 11)))
    assert len({tuple(epoch) for epoch in index.tolist()}) == 4


def test_training_reads_whole_snippets(split, tiny_data):
    for batch in take(train(split, dataclasses.replace(tiny_data, snippet=2)), 6):
        frames = tiny.numbers(batch["frames"])[1].reshape(len(batch["index"]), 3, 2)
        for video, num in zip(frames, batch["num_frames"], strict=True):
            np.testing.assert_array_equal(np.diff(video), min(num - 1, 1))


def test_frames_are_drawn_anew_in_every_epoch(split, tiny_data):
    batches = take(train(split, tiny_data), 11)
    index, frames = joined(batches, "index"), joined(batches, "frames")
    longest = int(np.argmax([len(split[i]["frames"]) for i in range(11)]))
    drawn = tiny.numbers(frames[index == longest])[1]
    assert len({tuple(row) for row in drawn.tolist()}) > 1


def test_the_seed_decides_order_and_frames(split, tiny_data):
    one, again = (take(train(split, tiny_data, seed=1), 3) for _ in range(2))
    assert_equal(one, again)
    other = take(train(split, tiny_data, seed=2), 3)
    assert np.any(joined(one, "index") != joined(other, "index"))


def test_two_processes_together_read_what_one_reads(split, tiny_data):
    whole = take(train(split, tiny_data), 8)
    parts = [take(train(split, tiny_data, process=p, processes=2), 8) for p in (0, 1)]
    both = [
        {key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*parts, strict=True)
    ]
    assert_equal(both, whole)


@pytest.mark.e2e
def test_worker_processes_change_nothing(split, tiny_data):
    data = dataclasses.replace(tiny_data, num_workers=2)
    assert_equal(take(train(split, data), 7), take(train(split, tiny_data), 7))
    data = dataclasses.replace(tiny_data, num_workers=1)
    assert_equal(take(evaluation(split, data), 100), take(evaluation(split, tiny_data), 100))


@pytest.mark.parametrize("start", [1, 5])
@pytest.mark.parametrize(
    ("workers", "processes"), [(0, 1), pytest.param(2, 1, marks=pytest.mark.e2e), (0, 2)]
)
def test_a_later_start_goes_on_with_that_batch(split, tiny_data, start, workers, processes):
    expected = take(train(split, tiny_data), start + 4)[start:]
    data = dataclasses.replace(tiny_data, num_workers=workers)
    parts = [
        take(train(split, data, process=p, processes=processes, start=start), 4)
        for p in range(processes)
    ]
    found = [
        {key: np.concatenate([part[key] for part in rows]) for key in rows[0]}
        for rows in zip(*parts, strict=True)
    ]
    assert_equal(found, expected)


def test_feed_places_batches_on_the_devices(split, tiny_data):
    mesh = sharding.make_mesh(jax.devices()[:4])
    expected = take(train(split, tiny_data), 7)
    iterator = iter(feed(train(split, tiny_data), mesh, prefetch=3))

    def check(pair, wanted):
        batch, host = pair
        for key in ("frames", "label", "index", "mask"):
            array = getattr(batch, key)
            assert array.sharding == sharding.split_batch(mesh)
            np.testing.assert_array_equal(array, wanted[key])
        assert batch.flipped.sharding == sharding.split_batch(mesh) and batch.flipped.dtype == bool
        np.testing.assert_array_equal(batch.flipped, wanted["label"] != wanted["true_label"])
        assert host["clip_id"].tolist() == wanted["clip_id"].tolist()
        assert "frames" not in host

    for step in range(7):
        check(next(iterator), expected[step])
    close(iterator)


def test_feed_says_nothing_of_flips_where_nobody_knows(tmp_path):
    known = tiny.records()
    truth = set(source.TRUTH_KEYS)
    given = {
        split: [
            {key: value for key, value in record.items() if key not in truth} for record in part
        ]
        for split, part in known.items()
    }
    tiny.build(tmp_path, given)
    data = tiny.data(tmp_path)
    batches = train(open_split(source.find(data), "train"), data)
    iterator = iter(feed(batches, sharding.make_mesh(jax.devices()[:1]), prefetch=1))
    batch, _ = next(iterator)
    close(iterator)
    assert batch.flipped is None


@pytest.mark.parametrize("local", [1, 2, 3, 12])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_evaluation_sees_every_video_exactly_once(split, tiny_data, local, processes):
    parts = [
        take(evaluation(split, tiny_data, process=p, processes=processes, local=local), 100)
        for p in range(processes)
    ]
    assert len({len(part) for part in parts}) == 1
    assert len(parts[0]) == -(-11 // (local * processes))
    batches = [batch for part in parts for batch in part]
    assert all(len(batch["label"]) == local for batch in batches)
    mask, index = joined(batches, "mask"), joined(batches, "index")
    assert sorted(index[mask].tolist()) == list(range(11))
    assert (index[~mask] == 0).all()
    # In the order of the split, when the rows of the processes are put side by side.
    in_order = np.concatenate(
        [batch["index"] for step in zip(*parts, strict=True) for batch in step]
    )
    assert in_order[:11].tolist() == list(range(11))


def broken(root, frame):
    """A data set of which clip train-1, with 6 frames, has one that is no image."""
    records = tiny.records()
    records["train"][1]["frames"][frame] = b"not an image"
    tiny.build(root, records)
    return tiny.data(root)


def test_a_frame_that_cannot_be_decoded_is_named(tmp_path):
    data = broken(tmp_path, 2)
    split = open_split(source.find(data), "train")
    message = r"tiny_faces/default/1.0.0, split train: clip 'train-1': frame 2: 12 bytes are not"
    with pytest.raises(ValueError, match=message):
        take(evaluation(split, data), 100)
    with pytest.raises(ValueError, match=message):
        take(train(split, data), 10)


def test_only_the_sampled_frames_are_decoded(tmp_path):
    data = dataclasses.replace(broken(tmp_path, 2), frames=3)
    split = open_split(source.find(data), "train")
    assert sampling.frame_indices(6, 3).tolist() == [1, 3, 5]
    assert joined(take(evaluation(split, data), 100), "mask").sum() == 11


def test_a_data_set_without_truth_has_no_truth_in_its_batches(tmp_path):
    records = {
        "train": [
            {key: value for key, value in record.items() if key not in source.TRUTH_KEYS}
            for record in tiny.records()["train"]
        ]
    }
    tiny.build(tmp_path, records)
    data = tiny.data(tmp_path)
    split = open_split(source.find(data), "train")
    assert not split.has_truth
    (batch,) = take(train(split, data), 1)
    assert not set(batch) & set(source.TRUTH_KEYS)


def test_frames_of_another_size_are_resized(split, tiny_data):
    data = dataclasses.replace(tiny_data, image_size=24)
    (batch,) = take(train(split, data), 1)
    assert batch["frames"].shape == (4, 6, 24, 24, 3)


def test_the_part_for_validation_has_positions_of_its_own(split, tiny_data):
    rest, held = source.hold_out(split, 30.0)
    seen = joined(take(train(rest, tiny_data), 2), "clip_id").tolist()
    batches = take(evaluation(held, tiny_data), 100)
    mask = joined(batches, "mask")
    assert sorted(joined(batches, "index")[mask].tolist()) == list(range(len(held)))
    assert not set(seen) & set(joined(batches, "clip_id").tolist())
