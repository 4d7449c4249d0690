"""Clips that belong together stay together: equal to scikit-learn's StratifiedGroupKFold."""

import numpy as np
import pytest
import tiny
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from rdfer_jax.pipeline import groups, source


def drawn(seed, clips=120, persons=17, classes=4):
    """Labels and persons, of very different numbers of clips."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(persons, 0.7))
    return rng.integers(0, classes, clips), rng.choice(persons, clips, p=weights)


def by_appearance(parts):
    order = {part: i for i, part in enumerate(dict.fromkeys(parts.tolist()))}
    return [order[part] for part in parts.tolist()]


@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("seed", range(4))  # 4 has a tie, which rounding decides there
def test_equal_parts_are_those_of_scikit_learn(seed, folds):
    labels, persons = drawn(seed)
    expected = np.empty(len(labels), int)
    split = StratifiedGroupKFold(folds).split(labels[:, None], labels, persons)
    for fold, (_, tested) in enumerate(split):
        expected[tested] = fold
    found = groups.assign(labels, persons, np.ones(folds))
    # Which of several empty folds comes first depends on rounding.
    np.testing.assert_array_equal(by_appearance(found), by_appearance(expected))


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_unequal_parts_keep_groups_together_and_classes_in_proportion(share):
    labels, persons = drawn(1, clips=2000, persons=120)
    parts = groups.assign(labels, persons, np.array([share, 1 - share]))
    assert all(len(set(parts[persons == person])) == 1 for person in set(persons.tolist()))
    for label in range(4):
        assert abs((parts == 0)[labels == label].mean() - share) < 0.03


def test_names_become_numbers_and_clips_without_a_name_are_alone():
    number = groups.numbered(np.array(["b", "", "a", "b", "", "a"]))
    assert len(set(number.tolist())) == 4 and number[0] == number[3] and number[2] == number[5]


@pytest.fixture
def whole(tmp_path):
    """A training split of eleven clips by four persons, and one clip alone."""
    persons = [f"p{i % 4}" for i in range(10)] + [""]
    records = tiny.records()
    for split, given in (("train", persons), ("test", [""] * 5)):
        for record, name in zip(records[split], given, strict=True):
            record["group"] = name
    tiny.build(tmp_path, records)
    data = tiny.data(tmp_path)
    return source.open_split(source.find(data), "train"), data


def persons_of(split):
    return set(split.columns("group")["group"].tolist()) - {""}


def test_a_person_is_in_one_part_only_when_held_out_and_in_folds(whole):
    split, data = whole
    rest, held = source.hold_out(split, 20.0)
    assert len(rest) + len(held) == 11 and not persons_of(rest) & persons_of(held)
    again = source.hold_out(split, 20.0)[1].columns("clip_id")["clip_id"].tolist()
    assert again == held.columns("clip_id")["clip_id"].tolist()
    tested = set()
    for fold in (1, 2, 3):
        train, test = source.open_splits(split.directory, tiny.data(data.dir, fold=f"{fold}/3"))
        assert not persons_of(train) & persons_of(test)
        tested |= set(test.columns("clip_id")["clip_id"].tolist())
        inner, validation = source.hold_out(train, 10.0)
        assert len(validation) and not persons_of(inner) & persons_of(validation)
    assert len(tested) == 11
    names = split.columns("group")["group"]
    reference = GroupKFold(3).split(names, groups=split.groups)
    sizes = sorted(len(test) for _, test in reference)
    found = source.assign_folds(split.columns("label")["label"], 3, split.groups)
    assert max(np.bincount(found)[1:]) <= sizes[-1] + 1


def test_more_folds_than_persons_and_one_person_alone_are_refused(whole):
    split, data = whole
    with pytest.raises(ValueError, match=r"6 folds of 5 persons, .* use 5 folds or fewer"):
        source.open_splits(split.directory, tiny.data(data.dir, fold="1/6"))
    alone = split.select(np.flatnonzero(split.columns("group")["group"] == "p1"))
    with pytest.raises(
        ValueError, match="validation_percent: all training clips are of one person"
    ):
        source.hold_out(alone, 10.0)
