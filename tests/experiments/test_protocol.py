"""The protocol: equal tries, data sets apart, the rule of choice, and what a report refuses.

No cell trains here: a function writes its result.
"""

import copy
import functools
import json
import pathlib

import numpy as np
import pytest
from etils import epath
from fake_cells import cell_result

from experiments import choose, grid, protocol, report, report_tables, statistics
from experiments.protocol import METHODS, TRIES

CONFIG = str(pathlib.Path(__file__).parents[2] / "configs/synthetic.py")


def test_every_method_has_as_many_tries_with_the_same_extras():
    for name, method in METHODS.items():
        tried = method.tried()
        assert len(tried) == TRIES and len({json.dumps(t, sort_keys=True) for t in tried}) == TRIES
        assert all(set(t) >= set(protocol.EXTRAS) for t in tried), name
        if "agreement.memory_decay" not in method.base and not any(
            "agreement.memory_decay" in own for own in method.own
        ):
            assert {t["agreement.memory_decay"] for t in tried} == {0.6}, name
        for settings in tried:
            grid.load(CONFIG, settings)  # raises for an unknown setting
            assert protocol.faster(settings) == settings | {
                "optim.learning_rate": 2 * settings.get("optim.learning_rate", 1e-3)
            }
    assert grid.load(CONFIG, {}).optim.learning_rate == protocol.RATE


def test_the_data_sets_of_choice_and_report_are_apart():
    seeds = {seed for _, seed in protocol.CHOOSE}
    assert not seeds & set(protocol.REPORT) and 0 not in seeds | set(protocol.REPORT)
    assert len(set(protocol.REPORT)) >= 5
    assert protocol.CHOOSE_RUN_SEED not in protocol.REPORT
    assert {name for name, _ in protocol.CHOOSE} <= set(protocol.CONDITIONS)
    chosen = {m: METHODS[m].tried()[0] for m in METHODS}
    for cells in (
        [
            cell
            for method in METHODS
            for number, settings in enumerate([*METHODS[method].tried(), {}])
            for cell in protocol.choose_cells(method, number, settings, 11)
        ],
        protocol.report_cells(chosen, list(protocol.CONDITIONS), 11),
    ):
        assert len({cell.name for cell in cells}) == len(cells)
    by_seed = {cell.seed: cell.build["seed"] for cell in cells}
    assert len(by_seed) == len(protocol.REPORT)


def test_a_method_that_trains_twice_has_half_of_the_epochs():
    def lengths(name):
        cells = protocol.choose_cells(name, 0, METHODS[name].tried()[0], 11)
        return {cell.overrides["train.duration"] for cell in cells}

    assert lengths("again") == {"5.5 epochs"} and lengths("elr") == {"11 epochs"}


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Runs both commands with a few methods; returns a function (module, **flags) -> its folder."""
    names = ("elr", "cross_entropy", "again", "agreement", "oracle")
    methods = {name: METHODS[name] for name in names}
    for module in (protocol, choose, report, report_tables):
        monkeypatch.setattr(module, "METHODS", methods)
    monkeypatch.setattr(choose, "CONTESTANTS", names[:-1])
    few = functools.partial(statistics.bootstrap, draws=500)
    monkeypatch.setattr(statistics, "bootstrap", few)
    for module in (protocol, choose):
        monkeypatch.setattr(module, "CHOOSE", (("confusion", 101), ("symmetric", 102)))
    ran = []

    def run(cells, output, *, config, overrides, jobs, finished):
        known = {cell["name"] for cell in finished}
        for cell in cells:
            folder = output / "cells" / cell.name
            if cell.name not in known and not (folder / "result.json").exists():
                ran.append(cell.name)
                folder.mkdir(parents=True)
                result = cell_result(cell, output, config, overrides)
                (folder / "result.json").write_text(json.dumps(result))

    monkeypatch.setattr(grid, "run", run)

    def command(module, **changes):
        options = {
            "config": CONFIG, "set": [], "jobs": 1, "add": [], "epochs": ["11"],
            "methods": [name for name in methods if module is report or name != "oracle"],
            "kinds": list(protocol.CONDITIONS), "seeds": list(map(str, protocol.REPORT)),
        }  # fmt: skip
        given = type("Options", (), options | changes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "flags", type("Flags", (), {"FLAGS": given}))
            module.main(())
        return epath.Path(given.output)

    command.ran = ran
    return command


def test_choose_takes_the_highest_mean_and_spreads_over_sittings(tmp_path, commands):
    output = str(tmp_path / "choose")
    commands(choose, output=output, kinds=["confusion"])
    assert json.loads((tmp_path / "choose/choice.json").read_text())["chosen"] == {}
    assert len(commands.ran) == 4 * TRIES
    commands(choose, output=output, methods=["elr", "agreement"])
    first = json.loads((tmp_path / "choose/choice.json").read_text())
    assert set(first["chosen"]["11"]) == {"elr", "agreement"}
    commands(choose, output=output)
    assert len(commands.ran) == len(set(commands.ran)) == 4 * (TRIES + 1) * len(protocol.CHOOSE)
    choice = json.loads((tmp_path / "choose/choice.json").read_text())
    for method, row in choice["chosen"]["11"].items():
        war = np.zeros(TRIES + 1)
        last = []
        for path in (tmp_path / "choose/cells").glob(f"choose-{method}-*/result.json"):
            name, result = path.parent.name.split("-")[2], json.loads(path.read_text())
            last += [result["settings"]] if name == "faster" else []
            number = TRIES if name == "faster" else int(name)
            war[number] += result["results"]["war"] / len(protocol.CHOOSE)
        assert row["try"] == war.argmax() and row["mean_war"] == pytest.approx(war.max())
        tried = METHODS[method].tried()
        best = tried[int(war[:TRIES].argmax())]
        faster = best | {"optim.learning_rate": 2 * best.get("optim.learning_rate", 1e-3)}
        assert all(settings.items() >= faster.items() for settings in last) and last
        assert row["settings"] == [*tried, faster][row["try"]]
        assert (row["scores"]["clips"], row["scores"]["one"]) == ("odds, K clips", "loss, one clip")
    # On another machine, from the committed file: nothing is trained again, and the choice is the same.
    commands.ran.clear()
    commands(choose, output=str(tmp_path / "there"), add=[str(tmp_path / "choose/choose.json")])
    assert not commands.ran
    assert json.loads((tmp_path / "there/choice.json").read_text()) == choice


def test_choose_refuses_a_cell_with_other_settings(tmp_path, commands):
    output = str(tmp_path / "choose")
    commands(choose, output=output)
    path = next((tmp_path / "choose/cells").glob("choose-elr-0-*/result.json"))
    result = json.loads(path.read_text())
    result["settings"]["loss.elr_weight"] = 7.0
    path.write_text(json.dumps(result))
    with pytest.raises(ValueError, match="expected the settings of the search space"):
        commands(choose, output=output)
    with pytest.raises(ValueError, match="expected the settings of the search space"):
        commands(choose, output=output, set=["optim.beta2=0.9"])


@pytest.fixture
def chosen(tmp_path, commands):
    commands(choose, output=str(tmp_path / "choose"))
    return tmp_path / "choose/choice.json"


@pytest.mark.slow
def test_a_report_has_all_tables_and_pictures(tmp_path, commands, chosen):
    commands.ran.clear()
    output = commands(report, choice=str(chosen), output=str(tmp_path / "report"))
    assert len(commands.ran) == 5 * len(protocol.CONDITIONS) * len(protocol.REPORT)
    found = json.loads((output / "report.json").read_text())
    assert len(found["accuracy"]) == 5 * len(protocol.CONDITIONS)
    chosen_for = json.loads(chosen.read_text())["chosen"]["11"]
    (rate,) = (v for k, v in chosen_for["cross_entropy"]["settings"].items() if "rate" in k)
    for cell in found["cells"]:
        if cell["name"].startswith("report-oracle-"):  # as cross-entropy's, on the right labels
            assert cell["settings"]["loss.method"] == "oracle"
            assert cell["settings"]["optim.learning_rate"] == rate
    ours = [row for row in found["differences"] if row["method"] == "agreement"]
    assert {row["than"] for row in ours} == {"elr", "oracle"}
    for row in found["differences"]:
        assert ("holm_p" in row["war"]) == row["claimed"] == (row["than"] == "elr")
        assert row["war"].get("holm_p", 1) >= row["war"]["p"]
        one, other = (
            next(
                r["war"]["mean"] for r in found["accuracy"]
                if (r["method"], r["condition"]) == (method, row["condition"])
            )
            for method in (row["method"], row["than"])
        )  # fmt: skip
        assert row["war"]["mean"] == pytest.approx(one - other)
    (detection, *_) = found["detection"]
    assert detection["auroc"]["mean"] == pytest.approx(0.9)
    assert detection["minus_same"]["mean"] == pytest.approx(0.1)
    assert detection["minus_single"]["mean"] == pytest.approx(0.05)
    assert detection["minus_loss"]["mean"] == pytest.approx(0.2)
    calls = next(r for r in found["calls"] if r["method"] == "elr" and r["condition"] == "clean")
    names = [f"report-elr-clean-b{seed}-e11" for seed in protocol.REPORT]
    tables = [np.array(c["evidence"]["calls"]) for c in found["cells"] if c["name"] in names]
    expected = np.mean([table[2, 2] / table[:, 2].sum() for table in tables])
    assert calls["called noisy, flipped"]["mean"] == pytest.approx(expected)
    assert (output / "agreement_agreement_confusion_11.png").exists()
    text = (output / "report.md").read_text()
    assert "confusion, 11 epochs, 5 seeds" in text and "agreement" in text
    # Resumed elsewhere from the committed file, the tables are the same.
    commands.ran.clear()
    again = commands(
        report,
        choice=str(chosen),
        output=str(tmp_path / "there"),
        add=[str(output / "report.json")],
    )
    assert not commands.ran and (again / "report.md").read_text() == text


def test_a_report_refuses_what_was_not_chosen(tmp_path, commands, chosen, monkeypatch):
    output = str(tmp_path / "report")
    choice = json.loads(chosen.read_text())
    changed = copy.deepcopy(choice)
    changed["chosen"]["11"]["elr"]["settings"]["loss.elr_weight"] = 2.0
    other = tmp_path / "changed.json"
    other.write_text(json.dumps(changed))
    with pytest.raises(report.ChoiceError, match="was changed"):
        commands(report, choice=str(other), output=output)
    # Even with a digest that fits.
    del changed["digest"]
    other.write_text(json.dumps(changed | {"digest": protocol.digest(changed)}))
    with pytest.raises(report.ChoiceError, match="elr are not those of its try"):
        commands(report, choice=str(other), output=output)
    with pytest.raises(report.ChoiceError, match="nothing was chosen for elr"):
        commands(report, choice=str(chosen), output=output, epochs=["5"])
    with monkeypatch.context() as patch:
        patch.setattr(protocol, "EXTRAS", protocol.EXTRAS | {"loss.clips": 0.2})
        with pytest.raises(report.ChoiceError, match="search space has changed"):
            commands(report, choice=str(chosen), output=output)
    assert not (tmp_path / "report").exists()
    assert report.settings(choice, 44, ["elr"]) == report.settings(choice, 11, ["elr"])


@pytest.mark.slow
def test_a_folder_of_a_report_belongs_to_one_choice(tmp_path, commands, chosen):
    output = str(tmp_path / "report")
    commands(report, choice=str(chosen), output=output, kinds=["clean"], seeds=["203"])
    assert {name.split("-b")[1] for name in commands.ran if name.startswith("report")} == {
        "203-e11"
    }
    commands(report, choice=str(chosen), output=output, kinds=["clean"])
    commands(report, choice=str(chosen), output=output, kinds=["clean"])
    path = next((tmp_path / "choose/cells").glob("choose-elr-*/result.json"))
    result = json.loads(path.read_text())
    result["results"]["war"] += 0.01
    path.write_text(json.dumps(result))
    commands(choose, output=str(tmp_path / "choose"))
    with pytest.raises(report.ChoiceError, match="another choice"):
        commands(report, choice=str(chosen), output=output, kinds=["clean"])


def test_a_remembered_score_is_compared_in_the_last_epoch_too():
    scores = ["odds, memory", "odds, K clips", "odds, one clip", "loss, video"]
    table = {"scores": scores, "auroc": [0.9, 0.8, 0.75, 0.7], "covariance": np.eye(4) * 1e-8}
    cells = [{"evidence": {"detection": {choose.TASK: table}}}] * 5
    named = {"clips": "odds, memory", "one": "odds, one clip"}
    choice = {"chosen": {"11": {"elr": {"scores": named}}}}
    rows = report_tables.detection({(11, "confusion", "elr"): cells}, choice)
    found = [(row["score"], round(row["minus_same"]["mean"], 2)) for row in rows]
    assert found == [("odds, memory", 0.15), ("odds, K clips", 0.05)]
    assert rows[0]["minus_last"]["mean"] == pytest.approx(0.1, abs=1e-3)
    assert "minus_last" not in rows[1]


def test_differences_have_a_sign_and_scores_have_none():
    found = {"mean": 0.012, "low": -0.001, "high": 0.025}
    rows = [{"method": "elr", "war": found, "minus_loss": found, "share": 0.5}]
    accuracy = report_tables.table(rows).splitlines()[-1]
    assert accuracy == "| elr | 1.2 (-0.1 to 2.5) | +1.2 (-0.1 to +2.5) | 50.0 |"
    differences = report_tables.table(rows, report_tables.DIFFERENCES).splitlines()[-1]
    assert differences == "| elr | +1.2 (-0.1 to +2.5) | +1.2 (-0.1 to +2.5) | 50.0 |"
