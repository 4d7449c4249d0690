"""Class-balanced sampling, against a slow enumeration, and in batches."""

import collections
import dataclasses
import itertools
import logging

import numpy as np
import pytest
import tiny

from rdfer_jax.pipeline import loader, source
from rdfer_jax.pipeline.balanced import BalancedOrder
from rdfer_jax.pipeline.feed import close
from rdfer_jax.pipeline.source import open_split

#: As in DFEW, 201 videos; class 7 has none.
COUNTS = (42, 32, 46, 37, 25, 3, 15, 0, 1)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(len(COUNTS)), COUNTS))


def videos(order, start, stop):
    return [order[position] for position in range(start, stop)]


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_every_block_has_each_class_once(seed):
    order = BalancedOrder(LABELS, seed)
    for block in range(100):
        labels = sorted(int(LABELS[v]) for v in videos(order, 8 * block, 8 * block + 8))
        assert labels == [0, 1, 2, 3, 4, 5, 6, 8]


def test_an_epoch_has_each_class_equally_often():
    order = BalancedOrder(LABELS, 3)
    for epoch in range(6):
        start = epoch * len(LABELS)
        labels = LABELS[videos(order, start, start + len(LABELS))]
        counts = [count for count in collections.Counter(labels.tolist()).values()]
        assert len(counts) == 8 and set(counts) <= {24, 25, 26}


def test_a_class_shows_all_its_videos_before_any_again():
    order = BalancedOrder(LABELS, 4)
    seen = collections.defaultdict(list)
    for video in videos(order, 0, 8 * 100):
        seen[int(LABELS[video])].append(video)
    orders = set()
    for label, shown in seen.items():
        everyone = set(np.flatnonzero(label == LABELS).tolist())
        for turn in range(100 // len(everyone)):
            part = shown[turn * len(everyone) : (turn + 1) * len(everyone)]
            assert set(part) == everyone
            orders.add(tuple(part))
    # In an order of their own each time; the three videos of class 5 have few.
    assert len(orders) > 10


def test_the_order_is_random_and_follows_from_the_seed():
    one, again, other = (videos(BalancedOrder(LABELS, seed), 0, 200) for seed in (1, 1, 2))
    assert one == again != other
    blocks = {tuple(LABELS[one[8 * b : 8 * b + 8]]) for b in range(25)}
    assert len(blocks) > 20


def test_labels_in_equal_numbers_give_every_video_once_an_epoch():
    labels = np.arange(30) % 3
    order = BalancedOrder(labels, 0)
    for epoch in range(4):
        assert sorted(videos(order, 30 * epoch, 30 * epoch + 30)) == list(range(30))


def test_it_is_counted():
    text = BalancedOrder(LABELS, 0).describe([f"c{i}" for i in range(9)])
    assert "201 examples shows each of 8 classes 25 times" in text
    assert "25.12 times each of the 1 videos of c8" in text
    assert "0.55 times each of the 46 videos of c2" in text


@pytest.fixture(scope="module")
def split(tiny_data):
    """Eleven videos: seven of class 0, three of class 1, and the longest of class 2."""
    whole = open_split(source.find(tiny_data), "train")
    labels = np.array([0, 0, 1] * 4)[:11]
    labels[np.argmax([len(record["frames"]) for record in whole])] = 2
    return whole.with_labels(labels)


def batches(split, data, count, *, process=0, processes=1, start=0, workers=0):
    data = dataclasses.replace(data, sampling="balanced", num_workers=workers)
    found = loader.train_loader(
        split, data, seed=5, local_batch_size=4 // processes, process=process,
        processes=processes, start=start,
    )  # fmt: skip
    iterator = iter(found)
    taken = list(itertools.islice(iterator, count))
    close(iterator)
    return taken


def test_batches_follow_the_order(split, tiny_data, caplog):
    with caplog.at_level(logging.INFO):
        found = batches(split, tiny_data, 9)
    assert "class-balanced sampling: an epoch of 11 examples" in caplog.text
    index = np.concatenate([batch["index"] for batch in found])
    assert index.tolist() == videos(BalancedOrder(split.given_labels, 5), 0, 36)
    for batch in found:
        np.testing.assert_array_equal(batch["label"], split.given_labels[batch["index"]])
        assert batch["mask"].all()
    # Frames are sampled anew each time that the only video of class 2 occurs.
    frames = np.concatenate([batch["frames"] for batch in found])[split.given_labels[index] == 2]
    assert len({tuple(tiny.numbers(f)[1]) for f in frames}) > 1


@pytest.mark.parametrize(
    ("start", "workers", "processes"),
    [(5, 0, 1), (0, 0, 2), (3, 0, 2), pytest.param(2, 2, 1, marks=pytest.mark.e2e)],
)
def test_restarts_workers_and_processes_change_nothing(split, tiny_data, start, workers, processes):
    expected = batches(split, tiny_data, start + 4)[start:]
    parts = [
        batches(split, tiny_data, 4, process=p, processes=processes, start=start, workers=workers)
        for p in range(processes)
    ]
    for wanted, *rows in zip(expected, *parts, strict=True):
        for key in wanted:
            found = np.concatenate([row[key] for row in rows])
            np.testing.assert_array_equal(found, wanted[key], err_msg=key)
