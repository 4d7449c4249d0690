"""The main job on drawn faces: build, train, evaluate, interrupt, resume, more devices and processes."""

import copy
import os
import socket

import jobs
import numpy as np
import pytest

pytestmark = pytest.mark.e2e


CONFIG = "configs/synthetic.py"
STEPS = 8


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Settings of a small run with the agreement's memory and teacher on, from step 2."""
    folder = tmp_path_factory.mktemp("synthetic")
    return (
        jobs.SMALL
        | jobs.DRAWN
        | {
            "data.dir": folder / "tfds",
            "data.validation_percent": 25,
            "compile_cache": folder / "cache",
            "agreement.memory_decay": 0.5,
            "agreement.teacher_decay": 0.9,
            "loss.robust_from": "2 steps",
            "train.duration": f"{STEPS} steps",
            "train.eval_every": "4 steps",
            "train.save_every": "2 steps",
            "train.keep": 10,
        }
    )


@pytest.fixture(scope="module")
def trained(settings, tmp_path_factory):
    """The workdir of an uninterrupted run, and what it printed."""
    workdir = tmp_path_factory.mktemp("trained")
    # By a relative path, as in the README.
    relative = os.path.relpath(workdir, jobs.ROOT)
    return workdir, jobs.run(CONFIG, settings, workdir=relative)


def test_training_leaves_what_the_readme_promises(trained):
    workdir, printed = trained
    names = {path.name for path in workdir.iterdir()}
    assert names >= {
        "results.json", "confusion_matrix.png", "training_curves.png", "agreement.png",
        "predictions.npz", "predictions_train.npz", "checkpoints", "metrics.jsonl", "config.json",
        "parameters.txt",
    }  # fmt: skip
    found = jobs.results(workdir)
    assert found["step"] == STEPS and found["checkpoint"] == "last" and found["split"] == "test"
    assert found["num_examples"] == 21 == np.sum(found["confusion_matrix"])
    assert 0 <= found["noise_auroc_agreement"] <= 1 and 0 <= found["noise_auroc_loss"] <= 1
    assert found["best_on_validation"]["checkpoint"] == "best"
    assert f"{found['war']:.4f}" in printed and f"{found['noise_auroc_agreement']:.4f}" in printed
    predictions = np.load(workdir / "predictions.npz")
    assert len(set(predictions["clip_id"])) == 21
    assert "CheckpointManager" not in printed and "Traceback" not in printed
    assert [row["step"] for row in jobs.rows(workdir) if "loss" in row] == list(range(1, STEPS + 1))


@pytest.fixture(scope="module")
def evaluated(trained, settings):
    """Results of the run, and results and predictions of its last checkpoint in a new process."""
    workdir, _ = trained
    before = jobs.results(workdir)
    jobs.run(CONFIG, settings, workdir=workdir, mode="eval")
    return before, jobs.results(workdir), dict(np.load(workdir / "predictions.npz"))


def test_evaluation_in_a_new_process_is_the_same_to_the_last_digit(trained, evaluated, settings):
    workdir, _ = trained
    before, after, _ = copy.deepcopy(evaluated)
    best = before.pop("best_on_validation")
    assert best.pop("chosen_on") > 0 and 0 <= best.pop("chosen_war") <= 1
    assert after == before
    jobs.run(CONFIG, settings, workdir=workdir, mode="eval", checkpoint="best")
    chosen = jobs.results(workdir)
    assert {key: chosen[key] for key in best} == best


def test_evaluation_on_eight_devices_is_the_same(trained, evaluated, settings):
    workdir, _ = trained
    _, before, one = evaluated
    jobs.run(CONFIG, settings, workdir=workdir, mode="eval", devices=8)
    after, eight = jobs.results(workdir), dict(np.load(workdir / "predictions.npz"))
    assert (after["war"], after["uar"]) == (before["war"], before["uar"])
    np.testing.assert_array_equal(one["clip_id"], eight["clip_id"])
    np.testing.assert_allclose(one["logits"], eight["logits"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(one["clip_logits"], eight["clip_logits"], rtol=0, atol=1e-5)


def test_a_killed_run_ends_with_the_same_parameters(trained, settings, tmp_path):
    workdir, _ = trained
    process = jobs.start(CONFIG, settings, workdir=tmp_path)
    jobs.kill_at(process, tmp_path, 6)
    assert not (tmp_path / "results.json").exists()
    printed = jobs.run(CONFIG, settings, workdir=tmp_path)
    assert "resuming from step" in printed
    whole, resumed = jobs.checkpoint(workdir, STEPS), jobs.checkpoint(tmp_path, STEPS)
    assert whole.keys() == resumed.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(resumed[name], array, err_msg=name)
    steps = [row["step"] for row in jobs.rows(tmp_path) if "loss" in row]
    assert steps == list(range(1, STEPS + 1))


@pytest.mark.usefixtures("trained")  # which has built the data set
def test_two_processes_learn_the_same_as_one(settings, tmp_path):
    with socket.socket() as server:
        server.bind(("localhost", 0))
        address = f"localhost:{server.getsockname()[1]}"
    three = settings | {"train.duration": "3 steps", "optim.warmup": "1 steps"}
    three |= {"train.save_every": "3 steps", "train.eval_every": "3 steps"}
    # Sums in another order can turn over a ReLU whose input is zero, and Adam makes whole steps of it: so
    # short ones, and a look at the gradients themselves (docs/evidence/performance.md, "Several devices").
    three |= {"optim.learning_rate": 1e-5, "optim.final_learning_rate": 1e-5}
    jobs.run(CONFIG, three, workdir=tmp_path / "one")
    processes = [
        jobs.start(
            CONFIG, three, workdir=tmp_path / "two", coordinator=address, processes=2, process=i
        )
        for i in range(2)
    ]
    for process in processes:
        printed, _ = process.communicate(timeout=400)
        assert process.returncode == 0, printed
    for key, tolerance in (("loss", 1e-4), ("grad_norm", 1e-3)):
        one, two = (
            [row[key] for row in jobs.rows(tmp_path / name) if key in row]
            for name in ("one", "two")
        )
        assert len(one) == 3
        np.testing.assert_allclose(two, one, rtol=tolerance, err_msg=key)
    one, two = (dict(np.load(tmp_path / n / "predictions.npz")) for n in ("one", "two"))
    np.testing.assert_array_equal(two["clip_id"], one["clip_id"])
    assert len(set(two["clip_id"])) == 21
    np.testing.assert_allclose(two["logits"], one["logits"], rtol=1e-3, atol=1e-4)


def test_a_run_with_other_settings_is_not_resumed(trained, settings):
    workdir, _ = trained
    with pytest.raises(AssertionError, match=r"flip_rate.*0\.3.*0\.1"):
        jobs.run(CONFIG, settings | {"build.flip_rate": 0.1}, workdir=workdir)
    other = settings | {"optim.learning_rate": 0.5}
    with pytest.raises(AssertionError, match=r"config\.optim\.learning_rate = 0\.001, now 0\.5"):
        jobs.run(CONFIG, other, workdir=workdir)
