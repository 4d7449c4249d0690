import dataclasses
import pathlib

import cv2
import numpy as np
import pytest

from data.synthetic_faces import clips, confusions, expressions
from data.synthetic_faces import labels as labels_lib
from data.synthetic_faces.features import upper_face
from data.synthetic_faces.identity import sample_identity
from data.synthetic_faces.mouth import lower_face
from data.synthetic_faces.parameters import (
    CLASSES,
    DFEW_COUNTS,
    FLIP_KINDS,
    NEUTRAL,
    Parameters,
)
from data.synthetic_faces.synthetic_faces_dataset_builder import Options, shards, summary

HAPPY, SAD, ANGRY = (CLASSES.index(name) for name in ("happy", "sad", "angry"))
SURPRISE, DISGUST, FEAR = (CLASSES.index(name) for name in ("surprise", "disgust", "fear"))


def all_labels(split="train", **options):
    parameters = Parameters(**options)
    return [labels_lib.labels(parameters, split, i) for i in range(parameters.num_clips(split))]


def timelines(**options):
    parameters = Parameters(**options)
    for i in range(parameters.num_train):
        label = labels_lib.labels(parameters, "train", i)
        yield label, expressions.timeline(parameters, "train", i, label)


def measures(person, actions):
    """Places (y, downwards) and sizes of some parts of a drawn face in each frame."""
    shapes = upper_face(person, actions, np.zeros(2), np.zeros(2)) + lower_face(person, actions)

    def find(color):
        (shape,) = [x for x in shapes if np.array_equal(x.color, color)]
        return np.broadcast_to(shape.polygons[0], (2, *shape.polygons[0].shape[1:]))

    brow, lips, white = find(person.brow), find(person.lips), find([246, 244, 240])
    frames = np.arange(2)
    return {
        "inner brow": brow[frames, brow[..., 0].argmin(axis=1), 1],
        "outer brow": brow[frames, brow[..., 0].argmax(axis=1), 1],
        "eye height": np.ptp(white[..., 1], axis=1),
        "mouth corner": lips[frames, lips[..., 0].argmax(axis=1), 1],
        "mouth width": np.ptp(lips[..., 0], axis=1),
        # In the middle: a smile's corners are far up.
        "mouth height": np.ptp(lips[:, [5, 16], 1], axis=1),
    }


def assert_rate(flags, rate):
    """The share of True lies within four standard deviations of the rate."""
    spread = np.sqrt(rate * (1 - rate) / len(flags))
    assert abs(np.mean(flags) - rate) < 4 * spread + 1e-9


@pytest.fixture(scope="module")
def default_labels():
    return all_labels(num_train=2000)


class TestLabels:
    @pytest.mark.parametrize("kind", FLIP_KINDS)
    def test_flip_rate(self, kind):
        given = all_labels(num_train=1200, flip_rate=0.3, flip_kind=kind)
        assert_rate([x.is_flipped for x in given], 0.3)
        for label in given:
            assert label.is_flipped == (label.label != label.true_label)

    def test_no_flips_at_rate_zero_and_all_at_one(self):
        assert not any(x.is_flipped for x in all_labels(num_train=300, flip_rate=0))
        assert all(x.is_flipped for x in all_labels(num_train=300, flip_rate=1))

    def test_test_labels_are_clean_but_hard(self):
        test = all_labels("test", num_test=1000, flip_rate=0.5)
        assert not any(x.is_flipped for x in test)
        assert_rate([x.is_hard for x in test], 0.3)

    def test_hard_share(self, default_labels):
        assert_rate([x.is_hard for x in default_labels], 0.3)
        assert_rate([x.is_hard for x in all_labels(num_train=1000, hard_share=0.6)], 0.6)

    def test_flips_do_not_depend_on_hardness_unless_asked(self, default_labels):
        assert_rate([x.is_flipped for x in default_labels if x.is_hard], 0.2)

    def test_instance_flips_hard_clips_three_times_as_often(self):
        given = all_labels(num_train=2000, flip_kind="instance")
        assert_rate([x.is_flipped for x in given if x.is_hard], 3 * 0.2 / 1.6)
        assert_rate([x.is_flipped for x in given if not x.is_hard], 0.2 / 1.6)

    @pytest.mark.parametrize("rate", [0.1, 0.5, 0.8, 1.0])
    @pytest.mark.parametrize("hard_share", [0.0, 0.3, 0.9, 1.0])
    def test_instance_keeps_the_rate_in_expectation(self, rate, hard_share):
        parameters = Parameters(flip_rate=rate, hard_share=hard_share, flip_kind="instance")
        hard, easy = (labels_lib.flip_probability(parameters, "train", x) for x in (True, False))
        assert hard_share * hard + (1 - hard_share) * easy == pytest.approx(rate)
        if hard_share:
            assert 0 <= easy <= hard <= 1 + 1e-9

    def test_confusion_matrix(self):
        matrix = labels_lib.CONFUSION
        np.testing.assert_allclose(matrix.sum(axis=1), 1)
        assert not matrix.diagonal().any()
        for true, wrong in ((FEAR, SURPRISE), (SURPRISE, FEAR), (DISGUST, ANGRY), (SAD, NEUTRAL)):
            assert matrix[true].argmax() == wrong

    @pytest.mark.parametrize("kind", ["confusion", "fer2013", "crema_d"])
    def test_confusion_flips_follow_the_matrix(self, kind):
        given = all_labels(num_train=2100, flip_rate=1, flip_kind=kind)
        for true in (FEAR, SURPRISE):
            wrong = [x.label for x in given if x.true_label == true]
            for label in range(7):
                share = confusions.MATRICES[kind][true, label]
                assert_rate([w == label for w in wrong], share)

    def test_symmetric_flips_are_uniform(self):
        given = all_labels(num_train=2100, flip_rate=1, flip_kind="symmetric")
        for label in range(7):
            assert_rate([x.label == label for x in given if x.true_label != label], 1 / 6)

    def test_higher_rates_flip_the_same_clips_and_more(self):
        few, many = (all_labels(num_train=400, flip_rate=rate) for rate in (0.1, 0.4))
        for a, b in zip(few, many, strict=True):
            assert not a.is_flipped or a.label == b.label

    def test_votes(self, default_labels):
        for label in default_labels[:200]:
            assert label.votes.shape == (7,) and label.votes.dtype == np.float32
            assert label.votes.sum() == 10
        share = {
            hard: np.mean([x.votes[x.true_label] for x in default_labels if x.is_hard == hard]) / 10
            for hard in (True, False)
        }
        assert share[False] == pytest.approx(0.88, abs=0.02)
        assert share[True] == pytest.approx(0.42, abs=0.03)
        hard = [x for x in default_labels if x.is_hard]
        assert np.mean([x.votes[x.other_label] for x in hard]) > 2
        assert all(x.other_label not in (NEUTRAL, x.true_label) for x in hard)

    def test_votes_see_the_true_clip(self):
        """Flipping changes no vote."""
        for a, b in zip(
            all_labels(num_train=50, flip_rate=0),
            all_labels(num_train=50, flip_rate=1),
            strict=True,
        ):
            np.testing.assert_array_equal(a.votes, b.votes)

    def test_balanced_classes(self):
        for count in (7, 30, 700):
            clips_of = np.bincount([x.true_label for x in all_labels(num_train=count)], minlength=7)
            assert clips_of.max() - clips_of.min() <= 1

    def test_classes_come_in_no_fixed_order(self):
        classes = [x.true_label for x in all_labels(num_train=70)]
        assert len({tuple(classes[i : i + 7]) for i in range(0, 70, 7)}) > 5

    def test_imbalance(self):
        clips_of = np.bincount([x.true_label for x in all_labels(num_train=2000, imbalance=True)])
        expected = 2000 * np.array(DFEW_COUNTS) / sum(DFEW_COUNTS)
        np.testing.assert_allclose(clips_of, expected, atol=6)

    def test_balanced_test(self):
        options = {"num_train": 500, "num_test": 500, "imbalance": True}
        for split, balanced, same in (
            ("test", {"balanced_test": True}, {"imbalance": False}),
            ("test", {"balanced_test": False}, {"imbalance": True}),
            ("train", {"balanced_test": True}, {"imbalance": True}),
        ):
            one, two = all_labels(split, **options | balanced), all_labels(split, **options | same)
            assert [x.true_label for x in one] == [x.true_label for x in two]
        clips_of = np.bincount([x.true_label for x in all_labels("test", **options)])
        assert clips_of[DISGUST] == round(500 * 145 / sum(DFEW_COUNTS))

    def test_fewer_clips_are_a_prefix(self):
        for imbalance in (False, True):
            few = all_labels(num_train=45, imbalance=imbalance)
            many = all_labels(num_train=90, imbalance=imbalance)
            assert [(x.true_label, x.label, x.is_hard) for x in few] == [
                (x.true_label, x.label, x.is_hard) for x in many[:45]
            ]

    def test_seed_and_split_matter(self):
        def hardness(labels):
            return [x.is_hard for x in labels]

        train = all_labels(num_train=100, hard_share=0.5)
        assert hardness(train) != hardness(all_labels(num_train=100, hard_share=0.5, seed=1))
        assert hardness(train) != hardness(all_labels("test", num_test=100, hard_share=0.5))

    def test_bad_index_and_split(self):
        with pytest.raises(IndexError, match="10 clips"):
            labels_lib.labels(Parameters(num_train=10), "train", 10)
        with pytest.raises(ValueError, match="'validation'"):
            labels_lib.labels(Parameters(), "validation", 0)


class TestTimeline:
    @pytest.mark.parametrize("num_frames", [8, 13, 32, 100])
    def test_hard_clips(self, num_frames):
        num_checked = 0
        for label, time in timelines(num_train=150, hard_share=1, num_frames=num_frames):
            assert time.other.max() > 0
            busy = np.flatnonzero(time.other)
            assert busy.size == np.ptp(busy) + 1 and busy.size <= 0.30 * num_frames
            if label.true_label == NEUTRAL:
                continue
            num_checked += 1
            inside = slice(time.key_start, time.key_end)
            length = time.key_end - time.key_start
            assert expressions.HARD_SHARE[0] * num_frames <= length <= 0.35 * num_frames
            assert 0.35 <= time.key.max() <= 0.60
            assert not time.key[: time.key_start].any() and not time.key[time.key_end :].any()
            assert (time.key[inside] >= 0.1 * time.key.max() - 1e-9).all()
            low, high = expressions.OTHER_RATIO
            assert low - 1e-9 <= time.other.max() / time.key.max() <= high + 1e-9 < 0.9
            # Apart: neither in the segment nor right beside it.
            assert not time.other[max(0, time.key_start - 1) : time.key_end + 1].any()
        assert num_checked > 100

    def test_easy_clips(self):
        for label, time in timelines(num_train=150, hard_share=0):
            assert not time.other.any()
            if label.true_label == NEUTRAL:
                assert (time.key_start, time.key_end) == (0, 32) and not time.key.any()
                continue
            low, high = expressions.EASY_SHARE
            assert 0.4 < low <= (time.key_end - time.key_start) / 32 <= high < 0.9
            assert 0.7 < expressions.EASY_PEAK[0] <= time.key.max() <= 1.0
            assert np.flatnonzero(time.key).tolist() == [*range(time.key_start, time.key_end)]

    def test_hard_neutral_clips(self):
        num_checked = 0
        for label, time in timelines(num_train=150, hard_share=1):
            if label.true_label == NEUTRAL:
                num_checked += 1
                assert not time.key.any()
                assert 0.15 - 1e-9 <= time.other.max() <= 0.30
                assert not time.other[time.key_start : time.key_end].any()
                assert time.key_end - time.key_start >= 0.35 * 32
        assert num_checked > 15

    def test_readme_gives_the_bounds(self):
        readme = (pathlib.Path(expressions.__file__).parent / "README.md").read_text()
        rows = {line.split("|")[1].strip(): line for line in readme.splitlines() if "|" in line}

        def percent(bounds):
            return "{:.0f}-{:.0f} %".format(*(100 * bound for bound in bounds))

        for row, bounds in (
            ("easy", (expressions.EASY_SHARE, expressions.EASY_PEAK)),
            (
                "hard",
                (
                    expressions.HARD_SHARE,
                    expressions.HARD_PEAK,
                    expressions.OTHER_SHARE,
                    expressions.OTHER_RATIO,
                ),
            ),
            ("hard neutral", (expressions.OTHER_SHARE, expressions.OTHER_PEAK_NEUTRAL)),
        ):
            for bound in bounds:
                assert percent(bound) in rows[row]

    def test_segments_lie_anywhere(self):
        starts = [time.key_start for label, time in timelines(num_train=300, hard_share=1)]
        orders = [
            time.key_start < np.flatnonzero(time.other)[0]
            for label, time in timelines(num_train=300, hard_share=1)
            if label.true_label != NEUTRAL
        ]
        assert min(starts) == 0 and max(starts) > 20
        assert_rate(orders, 0.5)

    def test_envelope_rises_holds_and_falls(self):
        values = expressions.envelope(40, 5, 35, np.array([0.2, 0.3]))
        apex = np.flatnonzero(values == 1)
        assert apex[0] > 5 and apex[-1] < 34 and apex.size == np.ptp(apex) + 1 > 10
        assert (np.diff(values[5 : apex[0] + 1]) > 0).all()
        assert (np.diff(values[apex[-1] : 35]) < 0).all()

    def test_expression_moves_its_action_units(self):
        parameters = Parameters(num_train=70, hard_share=0)
        for i in range(70):
            label = labels_lib.labels(parameters, "train", i)
            time = expressions.timeline(parameters, "train", i, label)
            actions = expressions.actions(parameters, "train", i, label, time)
            assert set(actions) == set(expressions.ACTION_UNITS)
            apex = time.key.argmax()
            for name, full in expressions.PROTOTYPES[CLASSES[label.true_label]].items():
                rest = actions[name][time.key == 0]
                if full >= 0.7 and rest.size and name not in ("AU25", "AU26"):  # speech moves those
                    assert actions[name][apex] > rest.min() + 0.15


class TestDrawing:
    def test_shape_and_determinism(self):
        parameters = Parameters(num_frames=8, image_size=40)
        frames = clips.render_clip(parameters, "train", 5).frames
        assert frames.shape == (8, 40, 40, 3) and frames.dtype == np.uint8
        np.testing.assert_array_equal(frames, clips.render_clip(parameters, "train", 5).frames)
        for other in (
            clips.render_clip(parameters, "train", 6),
            clips.render_clip(parameters, "test", 5),
            clips.render_clip(Parameters(num_frames=8, image_size=40, seed=1), "train", 5),
        ):
            assert np.abs(frames.astype(int) - other.frames).mean() > 10

    @pytest.mark.parametrize(
        "change",
        [
            {"flip_rate": 1.0},
            {"flip_rate": 1.0, "flip_kind": "symmetric"},
            {"flip_kind": "instance"},
            {"num_train": 20},
            {"num_test": 5},
            {"jpeg_quality": 50},
        ],
    )
    def test_pictures_do_not_depend_on(self, change):
        base = {"num_frames": 8, "image_size": 32}
        for i in range(4):
            np.testing.assert_array_equal(
                clips.render_clip(Parameters(**base), "train", i).frames,
                clips.render_clip(Parameters(**base | change), "train", i).frames,
            )

    def test_hardness_changes_no_face(self):
        """Frames without any expression are the same in an easy and in a hard version."""
        easy, hard = (
            Parameters(num_frames=32, image_size=32, hard_share=share) for share in (0.0, 1.0)
        )
        num_checked = 0
        for i in range(6):
            a, b = (clips.render_clip(parameters, "train", i) for parameters in (easy, hard))
            rest = (a.timeline.key == 0) & (b.timeline.key == 0) & (b.timeline.other == 0)
            num_checked += rest.sum()
            np.testing.assert_array_equal(a.frames[rest], b.frames[rest])
        assert num_checked > 20

    def test_size_changes_only_sharpness(self):
        for i in range(4):
            small, large = (
                clips.render_clip(Parameters(num_frames=8, image_size=size), "train", i).frames
                for size in (48, 112)
            )
            assert large.shape == (8, 112, 112, 3)
            for a, b in zip(small, large, strict=True):
                b = cv2.resize(b, (48, 48), interpolation=cv2.INTER_AREA)
                blurred = [cv2.GaussianBlur(x, (0, 0), 1.5).astype(float) for x in (a, b)]
                assert np.abs(blurred[0] - blurred[1]).mean() < 3
                assert np.corrcoef(blurred[0].ravel(), blurred[1].ravel())[0, 1] > 0.99

    @pytest.mark.parametrize("name", sorted(expressions.ACTION_UNITS))
    def test_every_action_unit_shows(self, name):
        """And where it should: brows and eyes above, mouth and jaw below."""
        parameters = Parameters(num_frames=8, image_size=64)
        rest = {unit: np.zeros(8) for unit in expressions.ACTION_UNITS}
        upper, lower = [], []
        for i in range(6):
            frames = [
                clips.render_frames(parameters, "train", i, actions).astype(float).mean(axis=(0, 3))
                for actions in (rest, rest | {name: np.ones(8)})
            ]
            difference = np.abs(frames[1] - frames[0])
            upper.append(difference[:34].mean())
            lower.append(difference[34:].mean())
        in_upper = name in ("AU1", "AU2", "AU4", "AU5", "AU6", "AU7", "AU45")
        assert np.median(upper if in_upper else lower) > 0.3
        if name not in ("AU9", "AU10"):  # middle of the face
            assert (np.median(upper) > np.median(lower)) == in_upper

    @pytest.mark.parametrize(
        ("name", "measure", "sign"),
        [
            ("AU1", "inner brow", -1),
            ("AU2", "outer brow", -1),
            ("AU4", "inner brow", 1),
            ("AU5", "eye height", 1),
            ("AU6", "eye height", -1),
            ("AU7", "eye height", -1),
            ("AU45", "eye height", -1),
            ("AU12", "mouth corner", -1),
            ("AU12", "mouth width", 1),
            ("AU15", "mouth corner", 1),
            ("AU20", "mouth width", 1),
            ("AU23", "mouth width", -1),
            ("AU23", "mouth height", -1),
            ("AU25", "mouth height", 1),
            ("AU26", "mouth height", 1),
        ],
    )
    def test_muscles_pull_the_right_way(self, name, measure, sign):
        rest = {unit: np.zeros(2) for unit in expressions.ACTION_UNITS}
        for seed in range(20):
            person = sample_identity(np.random.default_rng(seed))
            change = measures(person, rest | {name: np.array([0.0, 1.0])})[measure]
            assert sign * (change[1] - change[0]) > 0.02

    def test_expressions_differ_pairwise(self):
        parameters = Parameters(num_frames=8, image_size=48)
        rest = {unit: np.zeros(8) for unit in expressions.ACTION_UNITS}
        pictures = []
        for name in CLASSES:
            full = {unit: np.full(8, x) for unit, x in expressions.PROTOTYPES[name].items()}
            frames = clips.render_frames(parameters, "train", 1, rest | full)
            pictures.append(frames.astype(float).mean(axis=0))
        for i, a in enumerate(pictures):
            for b in pictures[:i]:
                assert np.abs(a - b).max() > 25 and np.abs(a - b).mean() > 1

    def test_record(self):
        parameters = Parameters(num_train=20, num_frames=8, image_size=48, flip_rate=0.5)
        record = clips.record(parameters, "train", 3)
        clip = clips.render_clip(parameters, "train", 3)
        assert record["clip_id"] == "train_000003"
        assert record["label"] == clip.labels.label
        assert record["true_label"] == clip.labels.true_label
        assert record["is_flipped"] == (record["label"] != record["true_label"])
        assert record["is_hard"] == clip.labels.is_hard
        assert (record["key_start"], record["key_end"]) == (
            clip.timeline.key_start,
            clip.timeline.key_end,
        )
        for jpeg, frame in zip(record["frames"], clip.frames, strict=True):
            decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
            assert np.abs(decoded.astype(int) - frame).mean() < 6
            np.testing.assert_allclose(
                decoded.mean(axis=(0, 1)), frame.mean(axis=(0, 1)), atol=3
            )  # red is red

    def test_jpeg_quality(self):
        frame = clips.render_clip(Parameters(num_frames=8), "train", 0).frames[0]
        assert len(clips.encode_jpeg(frame, 60)) < 0.8 * len(clips.encode_jpeg(frame, 95))


class TestParameters:
    @pytest.mark.parametrize(
        ("field", "value", "allowed"),
        [
            ("flip_rate", 1.5, "from 0 to 1"),
            ("flip_rate", float("nan"), "from 0 to 1"),
            ("hard_share", -0.1, "from 0 to 1"),
            ("image_size", 0, "from 16 to 1024"),
            ("num_frames", 4, "from 8 to 1024"),
            ("num_train", 0, "from 1 to"),
            ("num_train", 2.5, "whole number"),
            ("seed", -1, "from 0 to"),
            ("jpeg_quality", 101, "from 1 to 100"),
            ("flip_kind", "random", "'symmetric'"),
            ("imbalance", "yes", "True or False"),
            ("balanced_test", 1, "True or False"),
        ],
    )
    def test_bad_values(self, field, value, allowed):
        with pytest.raises(ValueError, match=f"{field} must be .*{allowed}.*{value!r}"):
            Parameters(**{field: value})

    def test_options_hold_the_parameters(self):
        options = Options(name="x", num_train=50, flip_kind="symmetric", image_size=64)
        assert dataclasses.asdict(options.parameters()) == options.content()
        assert options.content()["image_size"] == 64

    def test_shards_cover_the_split(self):
        parameters = Parameters(num_train=4000, image_size=112)
        parts = shards(parameters, "train")
        assert len(parts) > 5
        assert [i for part in parts for i in part] == list(range(4000))

    def test_summary_counts(self):
        text = summary(Parameters(num_train=70, num_test=14, flip_rate=1, hard_share=0), {})
        rows = [line.split() for line in text.splitlines() if line]
        assert rows[0] == ["train", "clips", "hard", "flipped"]
        assert ["happy", "10", "0.0%", "100.0%"] in rows and ["happy", "2", "0.0%", "0.0%"] in rows
        assert ["all", "70", "0.0%", "100.0%"] in rows
