"""The files of a run on an object store: gs:// paths, served by fsspec's file system in memory."""

import numpy as np
import pytest
import tiny
from etils import epath
from etils.epath import backend, gpath
from fsspec.implementations.memory import MemoryFileSystem

from rdfer_jax import config as config_lib
from rdfer_jax.training import run_dir
from rdfer_jax.training.predictions import Predictions, read_predictions
from rdfer_jax.training.writers import MetricWriter, read_metrics


class Bucket(MemoryFileSystem):
    """Like an object store, it cannot append to a file."""

    cachable = False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).replace("gs://", "/"))

    def _open(self, path, mode="rb", **options):
        assert "a" not in mode and "+" not in mode, f"{path} was opened with mode {mode!r}"
        return super()._open(path, mode, **options)


@pytest.fixture
def workdir(monkeypatch):
    monkeypatch.setattr(Bucket, "store", {})
    monkeypatch.setattr(Bucket, "pseudo_dirs", [""])
    monkeypatch.setattr(gpath, "_is_tf_installed", lambda: False)  # TensorFlow would contact Google
    bucket = Bucket()
    monkeypatch.setattr(backend.fsspec_backend, "fs", lambda path: bucket)
    folder = epath.Path("gs://bucket/runs/one")
    folder.mkdir(parents=True)
    return folder


def test_a_run_can_be_described_and_checked(workdir):
    config = tiny.config()
    with run_dir.run_lock(workdir):
        run_dir.write_config(workdir, config)
        run_dir.write_data(workdir, "tiny/1.0.0", tiny.CLASSES, 11, "abc")
    assert sorted(path.name for path in workdir.iterdir()) == ["config.json", "data.json"]
    run_dir.check_config(workdir, config)
    run_dir.check_data(workdir, "tiny/1.0.0", "abc")
    with pytest.raises(ValueError, match=r"config\.optim\.weight_decay"):
        run_dir.check_config(workdir, tiny.config(optim={"weight_decay": 0.5}))
    with pytest.raises(ValueError, match=r"now tiny/1\.0\.0 with def"):
        run_dir.check_data(workdir, "tiny/1.0.0", "def")
    assert config_lib.to_dict(run_dir.read(workdir).config) == config_lib.to_dict(config)


def test_metrics_continue_after_the_checkpoint(workdir):
    with MetricWriter(workdir, tensorboard=False) as writer:
        for step in (1, 2, 3):
            writer.write_scalars(step, {"loss": 1 / step})
    with MetricWriter(workdir, resume_step=2, tensorboard=False) as writer:
        writer.write_scalars(3, {"loss": 0.25})
        writer.flush()
        assert [row["loss"] for row in read_metrics(workdir)] == [1.0, 0.5, 0.25]


def test_predictions_come_back(workdir):
    arrays = {"label": np.array([0, 2]), "logits": np.ones((2, 3), np.float32)}
    for split in ("train", "test"):  # the second replaces the first
        Predictions(split, tiny.CLASSES, arrays).save(workdir / "predictions.npz")
    predictions = read_predictions(workdir / "predictions.npz", ("logits",))
    assert predictions.split == "test" and predictions.classes == tiny.CLASSES
    np.testing.assert_array_equal(predictions["logits"], arrays["logits"])
    assert [path.name for path in workdir.iterdir()] == ["predictions.npz"]
