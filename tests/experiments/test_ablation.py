"""The ablation grid: its variants are real settings, and its differences are paired."""

import pytest
from markdown_tables import cells, numbers

from experiments import ablation, grid, noise

CONFIG = "configs/synthetic.py"


@pytest.mark.parametrize("name", ablation.VARIANTS)
def test_every_variant_is_a_setting_that_differs_from_what_it_is_compared_with(name):
    variant = ablation.VARIANTS[name]
    changed = grid.load(CONFIG, noise.SIZES["small"] | variant.changes)
    versus = ablation.VARIANTS[variant.versus]
    before = grid.load(CONFIG, noise.SIZES["small"] | versus.changes)
    assert (changed == before) == (name == variant.versus)


def test_a_group_brings_what_it_is_compared_with():
    assert set(ablation.chosen(["streams"])) == {
        "default", "without KER", "both streams, no gate", "short-term alone", "long-term alone",
    }  # fmt: skip
    assert set(ablation.chosen(["9 clips", "windows"])) == {
        "default", "9 clips", "windows", "without KER",
    }  # fmt: skip
    assert set(ablation.chosen(ablation.GROUPS)) == set(ablation.VARIANTS)


def test_cells_have_names_of_their_own_and_the_same_noise():
    found = ablation.cells(ablation.GROUPS, "confusion", 0.3, [0, 1])
    assert len({cell.name for cell in found}) == len(found) == 2 * len(ablation.VARIANTS)
    assert {(c.noise.name, c.seed) for c in found} == {
        ("confusion-0.3-s0", 0), ("confusion-0.3-s1", 1),
    }  # fmt: skip


def test_the_default_is_a_cell_of_the_noise_benchmark():
    default = ablation.cells(["hard"], "confusion", 0.3, [1])[0]
    (same,) = noise.cells(["agreement"], ["confusion"], [0.3], [1])
    assert default == same


def test_with_data_of_their_own_the_variants_of_a_seed_share_a_data_set():
    found = ablation.cells(["noisy by odds of 0.65"], "confusion", 0.3, [211, 212], own_data=True)
    assert {(c.seed, c.noise.seed, c.build["seed"]) for c in found} == {
        (211, 211, 211), (212, 212, 212),
    }  # fmt: skip
    shared = ablation.cells(["noisy by odds of 0.65"], "confusion", 0.3, [211, 212])
    assert len({cell.name for cell in [*found, *shared]}) == 8
    assert not any(cell.build for cell in shared)


def results(wars):
    return [{"seed": seed, "results": {"war": war}} for seed, war in enumerate(wars)]


def test_differences_are_those_of_the_same_seed():
    names = ["default"] * 3 + ["without KER"] * 3
    rows = ablation.summary(results([0.5, 0.6, 0.7]) + results([0.4, 0.5, 0.6]), names)
    found = {row["variant"]: row for row in rows}["without KER"]
    assert found["war"]["mean"] == pytest.approx(0.5)
    difference = found["war_difference"]
    assert difference["mean"] == pytest.approx(-0.1)
    # The seeds differ much, the pairs not at all.
    assert difference["high"] - difference["low"] < 1e-6
    assert found["key_frames_inside"] is None
    lines = [cells(line) for line in ablation.table(rows).splitlines() if line.startswith("|")]
    (shown,) = (line for line in lines if line[0] == "without KER")
    assert shown[1] == "default"
    assert numbers(shown[2])[0] == 50.0
    assert numbers(shown[2])[-3:] == [-10.0, -10.0, -10.0]
    (base,) = (line for line in lines if line[0] == "default")
    assert base[1] == "" and numbers(base[2])[0] == 60.0
    (points,) = ablation.picture(rows).axes[0].containers
    assert points.lines[0].get_xdata() == pytest.approx([-10.0])
