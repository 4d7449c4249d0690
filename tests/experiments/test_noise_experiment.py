"""The noise grid, and the report on made-up results whose answers are known."""

import collections
import hashlib
import itertools
import json
import pathlib

import numpy as np
import pytest
import scipy.stats
from etils import epath
from markdown_tables import numbers, tables

from experiments import grid, noise, over_seeds
from experiments.grid import Noise
from rdfer_jax import plots

ROOT = pathlib.Path(__file__).parents[2]
KINDS = ("symmetric", "confusion")


def whole_grid():
    return noise.cells(list(noise.METHODS), KINDS, [0.0, 0.1, 0.3], [0, 1])


def method_of(cell):
    return cell.name.split("-")[0]


def test_the_grid_holds_every_method_with_every_noise_and_seed_once():
    found = whole_grid()
    assert len({cell.name for cell in found}) == len(found)
    noisy = {(method_of(c), c.noise.kind, c.noise.rate, c.seed) for c in found if c.noise.rate}
    assert noisy == set(itertools.product(noise.METHODS, KINDS, (0.1, 0.3), (0, 1)))
    clean = [(method_of(c), c.seed) for c in found if not c.noise.rate]
    useful = set(noise.METHODS) - {"oracle", "small_loss"}
    assert sorted(clean) == sorted(itertools.product(useful, (0, 1)))
    assert len(found) == len(noise.METHODS) * 2 * 2 * 2 + len(useful) * 2
    again = noise.cells(["gce", "gce"], ["symmetric"], [0.3, 0.3], [0])
    assert [cell.name for cell in again] == ["gce-symmetric-0.3-s0"]


def test_cells_that_are_compared_share_seed_and_noise():
    for cell in whole_grid():
        assert cell.noise.seed == cell.seed
        assert (cell.noise.kind == "none") == (cell.noise.rate == 0)
    by_noise = collections.Counter(cell.noise for cell in whole_grid() if cell.noise.rate)
    assert set(by_noise.values()) == {len(noise.METHODS)} and len(by_noise) == 8


def test_every_cell_of_the_grid_can_run_and_changes_what_its_method_asks_for():
    for cell in noise.cells(list(noise.METHODS), ["confusion"], [0.0, 0.25], [0]):
        config = grid.load(str(ROOT / "configs/synthetic.py"), cell.overrides)
        method, default = method_of(cell), grid.load(str(ROOT / "configs/synthetic.py"), {})
        loss = {"label_smoothing": "cross_entropy"}.get(method, method)
        assert config.loss.method == loss
        if method == "agreement":
            assert (config.agreement, config.loss) == (default.agreement, default.loss)
        else:
            assert config.agreement.memory_decay == (0.7 if method == "elr" else 0)
            assert config.agreement.teacher_decay == 0
        if method == "small_loss":
            assert config.loss.forget_rate == 0.25
    smoothing = {m: changes.get("loss.label_smoothing") for m, changes in noise.METHODS.items()}
    assert smoothing["cross_entropy"] == 0.0 and smoothing["label_smoothing"] == 0.1


def write_labels(path, flips):
    rows = "".join(f"{i},a,b,{flip}\n" for i, flip in enumerate(flips))
    path.write_text("clip_id,label,true_label,is_flipped\n" + rows)
    return str(path)


def test_label_files_take_the_place_of_kinds_and_rates(tmp_path, monkeypatch):
    """Each method with each file and seed, on that very file, and nothing is injected."""
    files = [write_labels(tmp_path / f"n{n}.csv", [1] * n + [0] * (8 - n)) for n in (1, 4)]
    digest = hashlib.sha256((tmp_path / "n4.csv").read_bytes()).hexdigest()[:8]
    found = noise.labeled_cells(["agreement", "small_loss"], files, [0, 1])
    assert len(found) == 8 == len({cell.name for cell in found})
    cell = next(c for c in found if c.name == f"small_loss-n4-{digest}-0.5-s1")
    assert cell.noise == Noise(f"n4-{digest}", 0.5, 1) and cell.seed == 1
    assert cell.overrides["loss.forget_rate"] == 0.5  # it knows the rate, as with the other kinds
    spec = grid._spec(cell, epath.Path(tmp_path), str(ROOT / "configs/synthetic.py"), {})
    assert spec["settings"]["data.labels"] == files[1]
    monkeypatch.setattr(grid.inject, "write_flips", None)
    grid._write_labels([cell], {cell.name: spec})
    results = [result(method_of(c), 0.5, c.seed, c.noise.kind, war=0.5) for c in found[4:]]
    assert [r["name"] for r in results] == [c.name for c in found[4:]]
    assert f"50% wrong labels, n4-{digest}; 2 seeds" in noise.table(noise.summary(results))
    for content in (
        "clip_id,label\na,b\n",
        "clip_id,is_flipped\na,0\n",
        "clip_id,is_flipped\na,yes\n",
    ):
        (tmp_path / "bad.csv").write_text(content)
        with pytest.raises(ValueError, match=r"bad.csv: expected a column is_flipped"):
            noise.labeled_cells(["gce"], [str(tmp_path / "bad.csv")], [0])


@pytest.mark.parametrize("size", list(noise.SIZES))
def test_every_size_has_settings_rates_and_kinds_that_can_run(size):
    overrides = grid.base(epath.Path("out"), noise.SIZES[size] | noise.QUIET)
    grid.load(str(ROOT / "configs/synthetic.py"), overrides)
    assert all(0 <= float(rate) < 1 for rate in noise.RATES[size].split(","))
    assert set(noise.KINDS[size].split(",")) <= set(noise.inject.KINDS)


def result(method, rate, seed, kind="confusion", **numbers):
    injected = Noise(kind, rate, seed) if rate else Noise("none", 0.0, seed)
    return {
        "name": f"{method}-{injected.name}" + ("" if rate else f"-s{seed}"),
        "noise": {"kind": injected.kind, "rate": injected.rate, "seed": seed},
        "seed": seed,
        "results": numbers,
        "settings": {"seed": seed}, "commit": "abc", "hardware": "1 cpu", "seconds": 2.0,
    }  # fmt: skip


def test_the_names_of_made_up_results_are_those_of_the_grid():
    for cell in whole_grid():
        made = result(method_of(cell), cell.noise.rate, cell.seed, cell.noise.kind)
        assert made["name"] == cell.name


def test_results_are_gathered_by_method_noise_and_seed():
    results = [
        result("gce", 0.3, 0, war=0.1),
        result("gce", 0.3, 2, war=0.2),
        result("gce", 0.3, 0, kind="symmetric", war=0.3),
        result("gce", 0.0, 0, war=0.4),
        result("label_smoothing", 0.3, 1, war=0.5),
        result("label_smoothing", 0.0, 1, war=0.6),
    ]
    assert noise.gather(results) == {
        ("gce", "confusion", 0.3): {0: {"war": 0.1}, 2: {"war": 0.2}},
        ("gce", "symmetric", 0.3): {0: {"war": 0.3}},
        ("gce", "none", 0.0): {0: {"war": 0.4}},
        ("label_smoothing", "confusion", 0.3): {1: {"war": 0.5}},
        # Nothing is left out where nothing is wrong.
        ("label_smoothing", "none", 0.0): {1: {"war": 0.6}},
        ("oracle", "none", 0.0): {1: {"war": 0.6}},
        ("small_loss", "none", 0.0): {1: {"war": 0.6}},
    }


ONE, TWO = ("agreement", "confusion", 0.3), ("gce", "confusion", 0.3)


def test_differences_are_paired_over_the_seeds_that_both_have():
    found = {
        ONE: {0: {"war": 0.9}, 1: {"war": 0.8}, 2: {"war": 0.7}, 3: {"war": 0.1}, 5: {"war": None}},
        TWO: {2: {"war": 0.4}, 1: {"war": 0.6}, 0: {"war": 0.8}, 4: {"war": 0.9}, 5: {"war": 0.5}},
    }
    expected = scipy.stats.ttest_1samp([0.1, 0.2, 0.3], 0).confidence_interval(0.95)
    mean, low, high = over_seeds.paired(found[ONE], found[TWO], "war")
    assert mean == pytest.approx(0.2)
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert over_seeds.paired(found[TWO], found[ONE], "war").mean == pytest.approx(-0.2)


def test_there_is_no_difference_where_no_seed_is_shared():
    found = {ONE: {0: {"war": 0.9}, 1: {"war": None}}, TWO: {1: {"war": 0.8}, 2: {"war": 0.7}}}
    assert over_seeds.paired(found[ONE], found[TWO], "war") is None
    assert over_seeds.paired(found[ONE], {}, "war") is None
    assert over_seeds.paired(found[ONE], found[ONE], "uar") is None
    alone = over_seeds.paired(found[ONE], {0: {"war": 0.5}}, "war")
    assert alone.mean == pytest.approx(0.4) and np.isnan([alone.low, alone.high]).all()


def test_two_columns_of_the_same_run_can_be_compared():
    found = {ONE: {s: {"a": 0.9 + 0.01 * s, "b": 0.8} for s in range(3)}}
    assert over_seeds.paired(found[ONE], found[ONE], "a", "b").mean == pytest.approx(0.11)


def scores(by_agreement, by_loss):
    return {
        "noise_auroc_agreement_among_hard": by_agreement,
        "noise_auroc_loss_among_hard": by_loss,
    }


#: Seed 2 of gce is missing; without noise there is nothing to find among the hard.
RESULTS = [
    result("label_smoothing", 0.0, 0, war=0.90, war_hard=0.80),
    result("agreement", 0.0, 0, war=0.90, war_hard=0.82),
    result("gce", 0.3, 0, war=0.60, war_hard=0.40, **scores(0.7, 0.6)),
    result("gce", 0.3, 1, war=0.70, war_hard=0.50, **scores(0.7, 0.6)),
    result("agreement", 0.3, 0, war=0.70, war_hard=0.55, **scores(0.8, 0.6)),
    result("agreement", 0.3, 1, war=0.82, war_hard=0.65, **scores(0.9, 0.6)),
    result("agreement", 0.3, 2, war=0.91, war_hard=0.75, **scores(0.85, 0.7)),
    result("cross_entropy", 0.3, 1, war=0.52, war_hard=0.30, **scores(0.5, 0.5)),
]


def row(report, method, rate):
    (found,) = (r for r in report["rows"] if (r["method"], r["rate"]) == (method, rate))
    return found


def test_the_summary_of_made_up_results():
    report = noise.summary(RESULTS)
    assert [(r["method"], r["rate"], r["seeds"]) for r in report["rows"]] == [
        ("label_smoothing", 0.0, 1), ("small_loss", 0.0, 1), ("agreement", 0.0, 1), ("oracle", 0.0, 1),
        ("cross_entropy", 0.3, 1), ("gce", 0.3, 2), ("agreement", 0.3, 3),
    ]  # fmt: skip
    ours = row(report, "agreement", 0.3)
    assert ours["war"]["mean"] == pytest.approx(0.81)
    expected = scipy.stats.ttest_1samp([0.70, 0.82, 0.91], 0).confidence_interval(0.95)
    assert (ours["war"]["low"], ours["war"]["high"]) == pytest.approx(tuple(expected))
    assert ours["agreement_minus_loss_among_hard"]["mean"] == pytest.approx((0.2 + 0.3 + 0.15) / 3)
    assert ours["war_easy"] is None and ours["noise_auroc_loss"] is None
    assert row(report, "oracle", 0.0)["war"]["mean"] == 0.9
    assert row(report, "agreement", 0.0)["agreement_minus_loss_among_hard"] is None
    versus = {
        (v["rate"], v["than"], v["column"]): pytest.approx(v["mean"])
        for v in report["agreement_minus"]
    }
    assert versus == {
        **{(0.0, m, "war"): 0.0 for m in ("label_smoothing", "small_loss", "oracle")},
        **{(0.0, m, "war_hard"): 0.02 for m in ("label_smoothing", "small_loss", "oracle")},
        (0.3, "cross_entropy", "war"): 0.30,
        (0.3, "cross_entropy", "war_hard"): 0.35,
        (0.3, "gce", "war"): 0.11,  # 0.10 and 0.12: seed 2 has no partner
        (0.3, "gce", "war_hard"): 0.15,
    }


def test_the_tables_show_the_summary_in_percent():
    found = tables(noise.table(noise.summary(RESULTS)))
    clean, noisy = "0% wrong labels, none; 1 seeds", "30% wrong labels, confusion; 3 seeds"
    assert set(found) == {
        (clean, "method"), (clean, "agreement minus"),
        (noisy, "method"), (noisy, "agreement minus"), (noisy, "run"),
    }  # fmt: skip
    head, rows = found[clean, "method"]
    assert head == ["WAR", "hard"]  # columns without any value are left out
    assert [numbers(cell) for cell in rows["label_smoothing"]] == [[90.0], [80.0]]  # one seed
    assert [numbers(cell) for cell in found[clean, "agreement minus"][1]["oracle"]] == [
        [0.0],
        [2.0],
    ]
    head, rows = found[noisy, "method"]
    assert head == ["WAR", "hard", "among hard, by agreement", "by loss"]
    reach = scipy.stats.t.ppf(0.975, 1) * np.std([60, 70], ddof=1) / np.sqrt(2)
    expected = [[65.0, reach], [45.0, reach], [70.0, 0.0], [60.0, 0.0]]
    for cell, wanted in zip(rows["gce"], expected, strict=True):
        assert numbers(cell) == pytest.approx(wanted, abs=0.05)
    reach = scipy.stats.t.ppf(0.975, 1) * np.std([10, 12], ddof=1) / np.sqrt(2)
    _, rows = found[noisy, "agreement minus"]
    assert numbers(rows["gce"][0]) == pytest.approx([11, 11 - reach, 11 + reach], abs=0.05)
    assert numbers(rows["gce"][1]) == pytest.approx([15, 15, 15], abs=0.05)
    assert [numbers(cell) for cell in rows["cross_entropy"]] == [[30.0], [35.0]]
    _, rows = found[noisy, "run"]
    assert numbers(rows["gce"][0]) == pytest.approx([10, 10, 10], abs=0.05)
    assert numbers(rows["cross_entropy"][0]) == [0.0]


def test_a_data_set_that_does_not_know_its_hard_clips_has_a_report_too(tmp_path):
    results = [
        result(method, 0.3, seed, kind="symmetric", war=0.5 + 0.1 * seed, uar=0.4, war_hard=None)
        for method in ("label_smoothing", "agreement")
        for seed in (0, 1)
    ]
    text = noise.write(epath.Path(tmp_path), results)
    found = tables(text)
    title = "30% wrong labels, symmetric; 2 seeds"
    assert set(found) == {(title, "method"), (title, "agreement minus")}  # and no AUROC
    assert found[title, "method"][0] == ["WAR", "UAR"]
    war, hard = found[title, "agreement minus"][1]["label_smoothing"]
    assert numbers(war) == [0, 0, 0] and hard == "-"
    assert (tmp_path / "noise.md").read_text() == text + "\n"
    assert_png((tmp_path / "noise.png").read_bytes())
    report = json.loads((tmp_path / "noise.json").read_text())
    assert report["commits"] == ["abc"] and report["seconds"] == 8
    assert report["rows"][0]["war_hard"] is None
    assert report["rows"][0]["war"]["mean"] == pytest.approx(0.55)


def test_the_report_of_a_single_seed_is_valid_json(tmp_path):
    noise.write(epath.Path(tmp_path), [result("agreement", 0.3, 0, war=0.5)])

    def refuse(word):
        raise AssertionError(word)

    report = json.loads((tmp_path / "noise.json").read_text(), parse_constant=refuse)
    assert report["rows"][0]["war"] == {"mean": 0.5, "low": None, "high": None}


def assert_png(picture):
    assert picture.startswith(b"\x89PNG\r\n\x1a\n") and len(picture) > 5000


@pytest.mark.parametrize(
    "results",
    [RESULTS, RESULTS[:2], [result("gce", 0.1, 0, kind=k, war=0.5) for k in KINDS]],
    ids=["seeds missing", "no noise", "two kinds"],
)
def test_there_is_a_picture_of_any_results(results):
    assert_png(plots.to_png(noise.picture(noise.summary(results))))


def test_the_picture_shows_every_method_at_every_rate():
    shown = {
        axes.get_title(): {
            bars.get_label(): np.array(bars.lines[0].get_ydata()) for bars in axes.containers
        }
        for axes in noise.picture(noise.summary(RESULTS)).axes
    }
    assert set(shown) == {
        "all clips; wrong labels: confusion",
        "hard clips; wrong labels: confusion",
    }
    found = shown["all clips; wrong labels: confusion"]
    expected = {
        "label_smoothing": [90], "small_loss": [90], "oracle": [90], "agreement": [90, 81],
        "gce": [65], "cross_entropy": [52],
    }  # fmt: skip
    assert {name: pytest.approx(values) for name, values in expected.items()} == found
