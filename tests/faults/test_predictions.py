"""Damaged or hostile predictions.npz: each fault ends in one error that names the file.

Every command reads saved predictions with `read_predictions`. The first tests call the reader, the last
ones run the commands.
"""

import io
import json
import struct
import subprocess
import sys
import zipfile

import jobs
import numpy as np
import pytest
import tiny
from etils import epath

from rdfer_jax import config as config_lib
from rdfer_jax.training.predictions import OUT_OF_FOLD, Predictions, read_predictions

CLASSES = ("happy", "sad")
ARRAYS = {
    "clip_id": np.array(["a", "b", "c"]),
    "label": np.array([0, 1, 1]),
    "logits": np.zeros((3, 2), np.float32),
    "clip_logits": np.zeros((3, 4, 2), np.float32),
}
NEEDED = tuple(ARRAYS)


def _saved(path, **changes):
    arrays = {k: v for k, v in (ARRAYS | changes).items() if v is not None}
    Predictions("test", CLASSES, arrays).save(path)


def test_saved_predictions_are_read_back(tmp_path):
    path = epath.Path(tmp_path / "predictions.npz")
    _saved(path)
    saved = read_predictions(path, NEEDED)
    assert (saved.split, saved.classes) == ("test", CLASSES)
    assert saved.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(saved.arrays[name], array)
    with pytest.raises(FileNotFoundError, match=r"gone.npz: no such file"):
        read_predictions(epath.Path(tmp_path / "gone.npz"), NEEDED)


class _Harm:
    """A pickle that writes a file when it is read."""

    def __init__(self, path):
        self._path = str(path)

    def __reduce__(self):
        return open, (self._path, "w")


def _as_zip(path, compression=zipfile.ZIP_STORED, **replaced):
    """Writes the arrays with bytes in place of some of the members."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        arrays = {"split": np.array("test"), "classes": np.array(CLASSES)} | ARRAYS
        for name, array in arrays.items():
            archive.writestr(f"{name}.npy", replaced.get(name, _npy(array)))


def _npy(array):
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


def _lying_header(shape, dtype="<i8"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(b""), "cannot be read"),
        (lambda p: p.write_bytes(b"x" * 1000), "cannot be read"),
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "cannot be read"),
        (lambda p: np.save(p.open("wb"), np.zeros(3)), "cannot be read"),
        (lambda p: _saved(p, label=np.array([_Harm(p.parent / "harm")] * 3)), "allow_pickle=False"),
        (lambda p: _as_zip(p, label=_lying_header((1 << 60,))), "cannot be read"),
        (lambda p: _as_zip(p, label=_lying_header((-1,))), "cannot be read"),
        (lambda p: _as_zip(p, label=b"no array"), "label is not an array"),
        (lambda p: _as_zip(p, clip_id=_lying_header((3,), "<U0")), "clip_id is not an array"),
        (lambda p: _as_zip(p, split=_npy(np.array(3))), r"split is int64 \(\), not text"),
        (lambda p: _as_zip(p, classes=_npy(np.array("sad"))), r"classes is <U3 \(\), not text"),
        (lambda p: _saved(p, logits=np.zeros((3, 2), complex)), "logits is not an array of numbers"),
        (lambda p: _as_zip(p, zipfile.ZIP_DEFLATED), "it is compressed"),
        (lambda p: _saved(p, label=None), "the array 'label' is missing"),
        (lambda p: _saved(p, logits=None), "the array 'logits' is missing"),
        (lambda p: _saved(p, label=np.array([0, 1, 2])), "label ranges from 0 to 2, but there are 2"),
        (lambda p: _saved(p, label=np.array([0, -1, 1])), "label ranges from -1 to 1"),
        (lambda p: _saved(p, label=np.zeros(3)), "label is float64 .*, not an integer per clip"),
        (lambda p: _saved(p, label=np.zeros((3, 1), int)), r"label is int64 \(3, 1\), not an integer"),
        (lambda p: _saved(p, label=np.zeros(0, int)), "it holds no clips"),
        (lambda p: _saved(p, clip_id=np.array(["a"])), r"clip_id is .* \(1,\), but there are 3 clips"),
        (lambda p: _saved(p, logits=np.zeros((3, 5))), r"logits is .* \(3, 5\), but there are 2 cl"),
        (lambda p: _saved(p, clip_logits=np.zeros((3, 2))), r"clip_logits is .*, but there are 2 cl"),
        (lambda p: _saved(p, votes=np.ones((2, 2))), r"votes is .* \(2, 2\), but there are 3 clips"),
        (lambda p: _saved(p, votes=np.ones((3, 1))), r"votes is .* \(3, 1\), but there are 2 classes"),
        (lambda p: _saved(p, logits=np.full((3, 2), np.nan)), "logits has values that are not finite"),
    ],
)  # fmt: skip
def test_damaged_predictions_are_refused_and_named(tmp_path, damage, message):
    path = epath.Path(tmp_path / "predictions.npz")
    _saved(path)
    damage(path)
    with pytest.raises(ValueError, match=message) as error:
        read_predictions(path, NEEDED)
    assert "predictions.npz: " in str(error.value)
    assert not (tmp_path / "harm").exists()


def test_a_save_that_is_interrupted_leaves_the_old_file(tmp_path, monkeypatch):
    path = epath.Path(tmp_path / "predictions.npz")
    _saved(path)
    before = path.read_bytes()

    def interrupted(file, **arrays):
        file.write(before[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _saved(path, label=np.array([1, 0, 0]))
    assert path.read_bytes() == before


# The commands that read predictions.npz. Each gets a copy of a finished run and damages the file in it.

DAMAGES = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-100]), "cannot be read"),
    "not a zip file": (lambda p: p.write_bytes(b"x" * 1000), "cannot be read"),
    "an array is missing": (lambda p: _saved(p, clip_id=None), "the array 'clip_id' is missing"),
}


def _audit(folder):
    return folder / "predictions.npz", ["--mode=audit"]


def _report(folder):
    (folder / "config.json").write_text(json.dumps(config_lib.to_dict(tiny.config())))
    (folder / "results.json").write_text("{}")
    (folder / "metrics.jsonl").write_text("")
    return folder / "predictions.npz", ["--mode=report"]


def _crossval(folder):
    """A cross-validation of two finished folds, which only has to collect their predictions."""
    tiny.build(folder / "tfds")
    for name in ("fold1", "fold2"):
        (folder / name).mkdir()
        finished = {"war": 0.5, "uar": 0.5, "num_examples": 3}
        (folder / name / "results.json").write_text(json.dumps(finished))
        _saved(epath.Path(folder / name / "predictions.npz"))
    return folder / "fold1" / "predictions.npz", [
        "--mode=crossval",
        "--folds=2",
        "--config=configs/video_folder.py",
        "--config.data.name=tiny_faces",
        f"--config.data.dir={folder / 'tfds'}",
    ]


@pytest.mark.e2e
@pytest.mark.parametrize(
    "prepare", [_audit, _report, _crossval], ids=["audit", "report", "crossval"]
)
def test_a_command_names_the_damaged_file_in_one_line(tmp_path, prepare):
    processes = {}
    for name, (damage, _) in DAMAGES.items():
        folder = tmp_path / name
        folder.mkdir()
        path, words = prepare(folder)
        arrays = ARRAYS | {"votes": np.ones((3, 2), np.float32)}
        Predictions(OUT_OF_FOLD, CLASSES, arrays).save(epath.Path(path))
        damage(epath.Path(path))
        command = [sys.executable, "-m", "rdfer_jax.main", f"--workdir={folder}", *words]
        process = subprocess.Popen(
            command,
            cwd=jobs.ROOT,
            env=jobs.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes[name] = path, process
    for name, (_, message) in DAMAGES.items():
        path, process = processes[name]
        stderr = process.communicate(timeout=300)[1]
        errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
        assert process.returncode == 1 and len(errors) == 1, (name, stderr)
        assert errors[0].startswith(f"error: {path}: ") and message in errors[0]
        assert stderr.splitlines()[-1] == errors[0] and "Traceback" not in stderr
