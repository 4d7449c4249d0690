"""The files that describe a run: written atomically; settings and data that must stay the same."""

import json
import subprocess
import sys

import pytest
import tiny
from etils import epath

from rdfer_jax import config as config_lib
from rdfer_jax.training import automatic, run_dir


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = epath.Path(tmp_path) / "results.json"
    run_dir.write_json(path, {"war": 0.5})

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            run_dir.write_json(path, {"war": 0.75})
    assert json.loads(path.read_text()) == {"war": 0.5}
    with pytest.raises(ValueError, match="Out of range float"):
        run_dir.write_json(path, {"war": float("nan")})
    assert json.loads(path.read_text()) == {"war": 0.5}
    run_dir.write_json(path, {"war": 0.75})
    assert json.loads(path.read_text()) == {"war": 0.75}
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_settings_that_change_what_is_learned_must_stay(tmp_path):
    folder, config = epath.Path(tmp_path), tiny.config()
    run_dir.check_config(folder, config)  # nothing to compare with
    assert not list(folder.iterdir())
    run_dir.write_config(folder, config)
    run_dir.write_config(folder, config)
    tree = config_lib.to_dict(config)
    free = config_lib.resolve(tree | {"profile": True, "build": {"seed": 3}})
    run_dir.check_config(folder, free)
    other = config_lib.resolve(tree | {"seed": 5})
    for compare in (run_dir.check_config, run_dir.write_config):
        with pytest.raises(ValueError, match=r"other settings:\n  config.seed = 0, now 5"):
            compare(folder, other)
    assert json.loads((folder / "config.json").read_text())["seed"] == 0


def test_a_run_that_ended_before_its_first_checkpoint_binds_nobody(tmp_path):
    folder, config = epath.Path(tmp_path), tiny.config()
    other = config_lib.resolve(config_lib.to_dict(config) | {"seed": 5})
    run_dir.write_config(folder, config)
    (folder / "checkpoints" / "12.orbax-checkpoint-tmp").mkdir(parents=True)
    run_dir.clear_unstarted(folder)
    run_dir.write_config(folder, other)
    (folder / "checkpoints" / "12").mkdir()
    run_dir.clear_unstarted(folder)
    with pytest.raises(ValueError, match=r"other settings:\n  config.seed = 5, now 0"):
        run_dir.write_config(folder, config)


def test_a_run_of_an_older_version_goes_on_while_a_new_setting_is_at_its_default(tmp_path):
    folder, config = epath.Path(tmp_path), tiny.config()
    run_dir.write_config(folder, config)
    stored = json.loads((folder / "config.json").read_text())
    del stored["loss"]["scn_share"]
    (folder / "config.json").write_text(json.dumps(stored))
    run_dir.check_config(folder, config)
    tree = config_lib.to_dict(config)
    other = config_lib.resolve(tree | {"loss": tree["loss"] | {"scn_share": 0.5}})
    with pytest.raises(ValueError, match=r"loss.scn_share = 0.3, now 0.5"):
        run_dir.check_config(folder, other)


@pytest.mark.parametrize("error", [FileNotFoundError(), subprocess.CalledProcessError(128, "git")])
def test_the_commit_is_unknown_outside_of_a_repository(monkeypatch, error):
    def no_git(*args, **kwargs):
        raise error

    monkeypatch.setattr(run_dir.subprocess, "run", no_git)
    assert run_dir.commit() == "unknown"


@pytest.mark.parametrize(("status", "expected"), [("", "abc123"), (" M a.py\n", "abc123+")])
def test_the_commit_says_whether_files_differ_from_it(monkeypatch, status, expected):
    def git(command, **kwargs):
        told = "abc123\n" if "rev-parse" in command else status
        return subprocess.CompletedProcess(command, 0, stdout=told)

    monkeypatch.setattr(run_dir.subprocess, "run", git)
    assert run_dir.commit() == expected


def test_data_of_a_run_must_stay(tmp_path):
    folder = epath.Path(tmp_path)
    run_dir.check_data(folder, "dfew/default/1.0.0", "aa")  # nothing to compare with
    run_dir.write_data(folder, "dfew/default/1.0.0", ("happy", "sad"), 10, "aa")
    run_dir.check_data(folder, "dfew/default/1.0.0", "aa")
    with pytest.raises(ValueError, match=r"other data: dfew.*fingerprint aa, now dfew.*with bb"):
        run_dir.check_data(folder, "dfew/default/1.0.0", "bb")


LOCKED = """
import sys
from etils import epath
from rdfer_jax.training import automatic, run_dir
with run_dir.run_lock(epath.Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("content", ["", "[1]", '{"data"'])
def test_a_damaged_file_of_a_run_is_named(tmp_path, content):
    folder = epath.Path(tmp_path)
    auto = config_lib.resolve(config_lib.to_dict(config_lib.Config()) | {"init_from": "auto"})
    readers = {
        "config.json": (
            lambda: run_dir.check_config(folder, config_lib.Config()),
            lambda: automatic.of_run(auto, folder),
        ),
        "data.json": (
            lambda: run_dir.check_data(folder, "dfew/default/1.0.0", "a"),
            lambda: run_dir.check_kind(folder),
        ),
        "results.json": (lambda: run_dir.temperature(folder, 1),),
    }
    for name, calls in readers.items():
        (folder / name).write_text(content)
        for call in calls:
            with pytest.raises(ValueError, match=rf"{name}: not (JSON|a JSON object)"):
                call()


def test_two_runs_do_not_share_a_folder(tmp_path):
    folder = epath.Path(tmp_path) / "run"
    other = subprocess.Popen(
        [sys.executable, "-c", LOCKED, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "in\n"
    with (
        pytest.raises(
            ValueError, match=rf"run: another run is using this folder \(process {other.pid} on "
        ),
        run_dir.run_lock(folder),
    ):
        pass
    other.kill()
    other.communicate()
    with run_dir.run_lock(folder):
        pass


def test_the_temperature_is_that_of_the_checkpoint(tmp_path):
    path = tmp_path / "results.json"
    assert run_dir.temperature(tmp_path, 4) is None  # the run has not finished
    best = {"step": 2, "temperature": 0.7}
    path.write_text(json.dumps({"step": 4, "temperature": 1.5, "best_on_validation": best}))
    assert [run_dir.temperature(tmp_path, step) for step in (4, 2, 3)] == [1.5, 0.7, None]
    path.write_text(json.dumps({"step": 4, "temperature": None}))  # too few clips
    assert run_dir.temperature(tmp_path, 4) is None
    path.write_text(json.dumps({"step": 4}))  # of an earlier version
    assert run_dir.temperature(tmp_path, 4) is None
    for damaged in ("{", "[]", '{"step": 4, "temperature": "warm"}'):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=r"results.json: .*rdfer eval writes it again"):
            run_dir.temperature(tmp_path, 4)
