"""What a run's folder says: files that are whole or not there, settings that must stay the same."""

import json

import pytest
import tiny
from etils import epath

from rdfer_jax import config as config_lib
from rdfer_jax import workdir


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = epath.Path(tmp_path) / "results.json"
    workdir.write_json(path, {"war": 0.5})

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            workdir.write_json(path, {"war": 0.75})
    assert json.loads(path.read_text()) == {"war": 0.5}
    with pytest.raises(ValueError, match="Out of range float"):
        workdir.write_json(path, {"war": float("nan")})
    assert json.loads(path.read_text()) == {"war": 0.5}
    workdir.write_json(path, {"war": 0.75})
    assert json.loads(path.read_text()) == {"war": 0.75}
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_settings_that_change_what_is_learned_must_stay(tmp_path):
    folder, config = epath.Path(tmp_path), tiny.config()
    workdir.check_config(folder, config)  # nothing to compare with
    assert not list(folder.iterdir())
    workdir.write_config(folder, config)
    workdir.write_config(folder, config)
    tree = config_lib.to_dict(config)
    free = config_lib.resolve(tree | {"profile": True, "build": {"seed": 3}})
    workdir.check_config(folder, free)
    other = config_lib.resolve(tree | {"seed": 5})
    for compare in (workdir.check_config, workdir.write_config):
        with pytest.raises(ValueError, match=r"other settings:\n  config.seed = 0, now 5"):
            compare(folder, other)
    assert json.loads((folder / "config.json").read_text())["seed"] == 0


def test_a_run_of_an_older_version_goes_on_while_a_new_setting_is_at_its_default(tmp_path):
    folder, config = epath.Path(tmp_path), tiny.config()
    workdir.write_config(folder, config)
    stored = json.loads((folder / "config.json").read_text())
    del stored["loss"]["scn_share"]
    (folder / "config.json").write_text(json.dumps(stored))
    workdir.check_config(folder, config)
    tree = config_lib.to_dict(config)
    other = config_lib.resolve(tree | {"loss": tree["loss"] | {"scn_share": 0.5}})
    with pytest.raises(ValueError, match=r"loss.scn_share = 0.3, now 0.5"):
        workdir.check_config(folder, other)
