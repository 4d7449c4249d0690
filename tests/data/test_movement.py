"""Pairs of classes that differ in movement only: what tells the members of a pair apart, and what does not.

The classifiers are linear and read the true intensities of the action units, without pictures.
"""

import dataclasses

import numpy as np
import pytest

from data.builder import build
from data.synthetic_faces import clips, movement
from data.synthetic_faces import labels as labels_lib
from data.synthetic_faces.movement import MOVEMENTS
from data.synthetic_faces.parameters import CLASSES, MOVEMENT_CLASSES, Parameters
from rdfer_jax.pipeline import source
from rdfer_jax.pipeline.sampling import frame_indices

FRAMES, SNIPPET, BUFFER = 64, 3, 24
PARAMETERS = Parameters(movement_pairs=True, num_frames=FRAMES, num_train=8 * 700, flip_rate=0)
PAIRS = [(2 * i, 2 * i + 1) for i in range(4)]


def label(true, index=0):
    """The labels of a clip, with another true class."""
    return dataclasses.replace(labels_lib.labels(PARAMETERS, "train", index), true_label=true)


def test_the_members_of_a_pair_differ_in_direction_only():
    assert tuple(MOVEMENTS) == MOVEMENT_CLASSES
    for one, two in PAIRS:
        forward, backward = (MOVEMENTS[MOVEMENT_CLASSES[i]] for i in (one, two))
        assert backward == dataclasses.replace(forward, backward=True) and not forward.backward
    assert {m.kind for m in MOVEMENTS.values()} == {"onset", "order", "duration"}


@pytest.mark.parametrize(("one", "two"), PAIRS)
def test_one_member_is_the_other_one_played_backward(one, two):
    for index in range(40):
        forward = movement.timeline(PARAMETERS, "train", index, label(one, index))
        backward = movement.timeline(PARAMETERS, "train", index, label(two, index))
        np.testing.assert_array_equal(backward.key, forward.key[::-1])
        np.testing.assert_array_equal(backward.other, forward.other[::-1])
        assert (backward.key_start, backward.key_end) == (
            FRAMES - forward.key_end,
            FRAMES - forward.key_start,
        )
        shown = np.flatnonzero(forward.key + forward.other)
        assert (shown[0], shown[-1] + 1) == (forward.key_start, forward.key_end)
        faces = movement.drawn(label(one, index)), movement.drawn(label(two, index))
        assert faces[0].true_label == faces[1].true_label
        assert faces[0].other_label == faces[1].other_label


@pytest.mark.parametrize("num_frames", [28, 64])
def test_two_expressions_have_rest_between_them_and_bursts_have_their_levels(num_frames):
    parameters = dataclasses.replace(PARAMETERS, num_frames=num_frames)
    for index in range(60):
        time = movement.timeline(parameters, "train", index, label(4, index))
        first, second = np.flatnonzero(time.key), np.flatnonzero(time.other)
        assert second[0] - first[-1] > movement.GAP
        time = movement.timeline(parameters, "train", index, label(6, index))
        shown = np.flatnonzero(time.key)
        rest = shown[np.argmax(np.diff(shown))], np.diff(shown).max() - 1
        assert rest[1] >= movement.GAP and (np.diff(shown) > 1).sum() == 1
        brief, long = (shown <= rest[0]).sum(), (shown > rest[0]).sum()
        assert brief < long
        time = movement.timeline(parameters, "train", index, label(0, index))
        levels = time.key[time.key_start : time.key_end]
        low, middle, high = movement.REST, *movement.BURST[::-1]
        peak = 0.5 if label(0, index).is_hard else 0.9
        place = np.abs(levels[:, None] / peak - np.array([low, middle, high])).argmin(axis=1)
        # A quick onset is never followed by anything but its fading.
        assert (place[1:][place[:-1] == 2] == 1).all()
        assert (place[1:][place[:-1] == 1] != 1).all()


def intensities(pair, count):
    """True action intensities of clips of each member, [2 count, T, A], and signs of the members."""
    rows, signs = [], []
    for true in pair:
        found = (
            i
            for i in range(PARAMETERS.num_train)
            if labels_lib.labels(PARAMETERS, "train", i).true_label == true
        )
        for index in [i for i, _ in zip(found, range(count), strict=False)]:
            _, actions = clips.motion(PARAMETERS, "train", index, label(true, index))
            rows.append(np.stack(list(actions.values()), axis=-1))
            signs.append(1.0 if true == pair[0] else -1.0)
    return np.stack(rows), np.array(signs)


def accuracy(features, signs):
    """Of ridge regression in two-fold cross-validation, on standardized features and their squares."""
    x = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-6)
    x = np.concatenate([x, x**2, np.ones((len(x), 1))], axis=1)
    fold = np.arange(len(x)) % 2
    right = 0
    for test in (0, 1):
        a, b = x[fold != test], signs[fold != test]
        weights = np.linalg.solve(a.T @ a + 10 * np.eye(a.shape[1]), a.T @ b)
        right += (np.sign(x[fold == test] @ weights) == signs[fold == test]).sum()
    return right / len(x)


def bag(x):
    """Statistics of frames in which their order does not count."""
    quantiles = np.quantile(x, [0.1, 0.5, 0.75, 0.9, 1.0], axis=1)
    return np.concatenate(
        [*quantiles, x.mean(1), x.std(1), ((x - x.mean(1, keepdims=True)) ** 3).mean(1)], axis=1
    )


def snippets(x):
    return x[:, frame_indices(FRAMES, BUFFER, snippet=SNIPPET)].reshape(
        len(x), -1, SNIPPET, x.shape[-1]
    )


def neighbors(x):
    """Statistics of the differences inside snippets, in which the order of the snippets does not count."""
    d = np.diff(snippets(x), axis=2).reshape(len(x), -1, x.shape[-1])
    return np.concatenate(
        [d.mean(1), (d**3).mean(1), np.maximum(d, 0).max(1), np.minimum(d, 0).min(1)], axis=1
    )


def whole(x):
    """One frame of each snippet, in time order."""
    return snippets(x)[:, :, SNIPPET // 2].reshape(len(x), -1)


@pytest.mark.slow
@pytest.mark.parametrize(("one", "two"), PAIRS)
def test_a_bag_of_frames_is_at_chance_and_the_right_view_of_movement_is_not(one, two):
    x, signs = intensities((one, two), 350)
    chance = 0.5 + 3.5 * 0.5 / np.sqrt(len(x))
    single, near, far = (accuracy(view(x), signs) for view in (bag, neighbors, whole))
    assert single < chance
    assert accuracy(bag(x[:, frame_indices(FRAMES, BUFFER, snippet=SNIPPET)]), signs) < chance
    if MOVEMENTS[MOVEMENT_CLASSES[one]].kind == "onset":
        assert near > 0.85 and far < chance
    else:
        assert far > 0.85 and near < chance


def test_single_frames_have_the_same_distribution():
    """At a random time, and at each time the same as in the other member at the mirrored time."""
    for one, two in PAIRS:
        tracks = [
            np.stack(
                [
                    movement.timeline(PARAMETERS, "train", i, label(true, i)).key
                    for i in range(400 * k, 400 * k + 400)
                ]
            )
            for k, true in enumerate((one, two))
        ]
        edges = [0.001, 0.15, 0.3, 0.5, 0.7]
        counts = [np.bincount(np.digitize(t, edges).ravel(), minlength=6) / t.size for t in tracks]
        assert np.abs(counts[0] - counts[1]).max() < 0.03


def test_what_passes_through_the_scene_does_so_in_either_direction(monkeypatch):
    back = [movement.plays_backward(PARAMETERS, "train", i) for i in range(400)]
    assert abs(np.mean(back) - 0.5) < 0.1
    true = [labels_lib.labels(PARAMETERS, "train", i).true_label % 2 for i in range(400)]
    assert abs(np.corrcoef(back, true)[0, 1]) < 0.2
    small = dataclasses.replace(PARAMETERS, image_size=16, num_frames=28)
    changed = 0
    for index in range(12):
        frames = []
        for backward in (False, True):
            monkeypatch.setattr(movement, "plays_backward", lambda *_, b=backward: b)
            frames.append(clips.render_clip(small, "train", index).frames)
        changed += not np.array_equal(*frames)
    assert 0 < changed < 12  # those with something in front of the face


def test_wrong_labels_and_votes_name_the_other_member_most_often():
    parameters = dataclasses.replace(PARAMETERS, num_train=2000, flip_rate=1.0)
    given = [labels_lib.labels(parameters, "train", i) for i in range(2000)]
    assert {x.true_label for x in given} == set(range(8)) and all(x.is_flipped for x in given)
    partner = np.mean([x.label == x.true_label ^ 1 for x in given])
    assert abs(partner - 0.6) < 4 * np.sqrt(0.24 / 2000)
    for kind in ("symmetric", "instance"):
        other = dataclasses.replace(parameters, flip_kind=kind)
        assert all(labels_lib.labels(other, "train", i).is_flipped for i in range(50))
    assert all(x.votes.shape == (8,) and x.votes.sum() == 10 and x.other_label == -1 for x in given)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 24}, "num_frames must be 28 or more with movement_pairs, got 24"),
        ({"imbalance": True}, "imbalance must be False with movement_pairs, got True"),
        (
            {"flip_kind": "fer2013"},
            "flip_kind must be one of .* with movement_pairs, got 'fer2013'",
        ),
        ({"movement_pairs": 1}, "movement_pairs must be True or False, got 1"),
    ],
)
def test_options_that_do_not_fit_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Parameters(**{"movement_pairs": True, **options})


def test_the_data_set_has_the_classes_of_the_pairs(tmp_path):
    options = {"num_train": 9, "num_test": 8, "num_frames": 28, "image_size": 16}
    directory = build("synthetic_faces", tmp_path, options=options | {"movement_pairs": True})
    split = source.open_split(directory, "train")
    assert tuple(split.classes) == MOVEMENT_CLASSES != CLASSES
    assert sorted({int(split[i]["true_label"]) for i in range(8)}) == list(range(8))
    assert split[0]["votes"].shape == (8,)
