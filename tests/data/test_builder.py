import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time

import filelock
import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from data import builder as build_lib
from data.builder import BUILDERS, build
from data.synthetic_faces import clips
from data.synthetic_faces.parameters import Parameters

SMALL = {"num_train": 30, "num_test": 6, "num_frames": 8, "image_size": 24}
TINY = {"num_train": 10, "num_test": 2, "num_frames": 8, "image_size": 16}
ROOT = epath.Path(build_lib.__file__).parent.parent


def contents(directory):
    """Name of every file below a directory -> its bytes."""
    paths = [path for path in pathlib.Path(directory).rglob("*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}


def start(script, **environment):
    """Starts a script, as a user's own without a guard of its main part."""
    return subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A data set that is drawn without worker processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)
        return build("synthetic_faces", tmp_path_factory.mktemp("data"), options=SMALL)


def test_directory_and_records(built):
    assert built.parts[-3:] == ("synthetic_faces", "default", "1.0.0")
    builder = tfds.builder_from_directory(built)
    parameters = Parameters(**SMALL)
    for split, count in (("train", 30), ("test", 6)):
        source = builder.as_data_source(split)
        assert len(source) == count
        for i in (0, count - 1):
            record, expected = source[i], clips.record(parameters, split, i)
            assert record.pop("clip_id").decode() == expected.pop("clip_id")
            np.testing.assert_array_equal(record.pop("votes"), expected.pop("votes"))
            assert {k: list(v) if k == "frames" else v for k, v in record.items()} == expected
    assert builder.info.metadata["options"]["num_train"] == 30
    assert builder.info.metadata["options"]["flip_rate"] == 0.2


@pytest.mark.e2e
def test_rebuild_elsewhere_is_the_same_without_tensorflow(built, tmp_path):
    """Another process, hash seed, folder and clock; worker processes; no guard of the main part."""
    for name in ("tensorflow", "apache_beam"):  # installed, so to say
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"print('imports {name}')")
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import os, sys
            os.cpu_count = lambda: 2
            sys.path.insert(0, {str(ROOT)!r})
            print("main runs")
            from data.builder import build
            build("synthetic_faces", {str(tmp_path / "data")!r}, options={SMALL!r})
            assert sys.modules["__main__"].__dict__ is globals()
            """)
    )
    process = start(script, PYTHONHASHSEED="7")
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "imports" not in out and out.count("main runs") == 1
    # Only the table: no progress bars and nothing of TFDS' where nobody looks.
    assert err == ""
    assert out.split("\n")[1].split() == ["train", "clips", "hard", "flipped"]
    again = tmp_path / "data/synthetic_faces/default/1.0.0"
    assert contents(again) == contents(built)
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"synthetic_faces"}


def test_seed_changes_the_records(tmp_path):
    one, two = (
        contents(
            build("synthetic_faces", tmp_path, variant=f"v{seed}", options=TINY | {"seed": seed})
        )
        for seed in (0, 1)
    )
    assert set(one) == set(two)
    differing = {name for name in one if one[name] != two[name]}
    assert any("train" in name for name in differing) and any("test" in name for name in differing)
    assert "features.json" not in differing


def test_finished_build_is_reused(built):
    before = {path: path.stat().mtime for path in built.iterdir()}
    assert build("synthetic_faces", built.parent.parent.parent, options=SMALL) == built
    assert {path: path.stat().mtime for path in built.iterdir()} == before


def test_other_options_need_another_variant(built, capsys):
    data_dir = built.parent.parent.parent
    changed = SMALL | {"flip_rate": 0.4, "num_frames": 9}
    with pytest.raises(ValueError) as error:
        build("synthetic_faces", data_dir, options=changed)
    for part in (
        "flip_rate: built with 0.2, now 0.4",
        "num_frames: built with 8, now 9",
        "variant",
        str(built),
    ):
        assert part in str(error.value)
    assert "num_train" not in str(error.value)
    other = build("synthetic_faces", data_dir, variant="noisy", options=TINY)
    assert other == data_dir / "synthetic_faces" / "noisy" / "1.0.0" and built.exists()


def test_option_unknown_to_the_stored_build(built, tmp_path):
    shutil.copytree(built, tmp_path / "synthetic_faces/default/1.0.0")
    metadata = tmp_path / "synthetic_faces/default/1.0.0/metadata.json"
    metadata.write_text(metadata.read_text().replace('"seed"', '"grain"'))
    with pytest.raises(
        ValueError, match=r"seed: built with 0, now 1(.|\n)*grain: built with 0, now nothing"
    ):
        build("synthetic_faces", tmp_path, options=SMALL | {"seed": 1})


def test_option_newer_than_the_build_had_its_default(built, tmp_path):
    shutil.copytree(built, tmp_path / "synthetic_faces/default/1.0.0")
    metadata = tmp_path / "synthetic_faces/default/1.0.0/metadata.json"
    stored = json.loads(metadata.read_text())
    del stored["options"]["balanced_test"]
    metadata.write_text(json.dumps(stored))
    build("synthetic_faces", tmp_path, options=SMALL)
    with pytest.raises(ValueError, match="balanced_test: built with False, now True"):
        build("synthetic_faces", tmp_path, options=SMALL | {"balanced_test": True})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("synthetic_face", {}, "Did you mean 'synthetic_faces'"),
        ("synthetic_faces", {"flip_rat": 0.1}, "Did you mean 'flip_rate'"),
        ("synthetic_faces", {"flip_rate": 1.5}, "flip_rate must be .* 1.5"),
        ("synthetic_faces", {"name": "x"}, "no option 'name'"),
    ],
)
def test_misspelt(tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, tmp_path, options=options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variant", ["", "a/b", "..", ".x"])
def test_bad_variant(tmp_path, variant):
    with pytest.raises(ValueError, match="variant"):
        build("synthetic_faces", tmp_path, variant=variant, options=TINY)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", BUILDERS)
def test_every_builder_keeps_the_contract(name):
    config = build_lib.make_config(name)
    assert isinstance(config, tfds.core.BuilderConfig) and config.name == "default"
    content = build_lib.content(config)
    assert content and not any(str(value).startswith("/") for value in content.values())


def test_unfinished_directory_is_named(tmp_path):
    (tmp_path / "synthetic_faces/default/1.0.0").mkdir(parents=True)
    with pytest.raises(
        ValueError, match=r"1\.0\.0 is not a finished data set \(no dataset_info\.json\); delete"
    ):
        build("synthetic_faces", tmp_path, options=TINY)


@pytest.mark.e2e
def test_killed_build_leaves_nothing_finished(tmp_path):
    marker = tmp_path / "half"
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import pathlib, time
            from data.builder import build
            from data.synthetic_faces import clips
            record = clips.record
            def stall(parameters, split, index):
                if index == 7:
                    pathlib.Path({str(marker)!r}).touch()
                    time.sleep(600)
                return record(parameters, split, index)
            clips.record = stall
            build("synthetic_faces", {str(tmp_path / "data")!r}, options={TINY!r})
            """)
    )
    process = start(script)
    try:
        while not marker.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    variant = epath.Path(tmp_path / "data/synthetic_faces/default")
    left = [path.name for path in variant.iterdir() if path.is_dir()]
    assert len(left) == 1 and left[0].startswith("incomplete.")
    assert not list(variant.glob("*/dataset_info.json"))
    directory = build("synthetic_faces", tmp_path / "data", options=TINY)
    assert {path.name for path in variant.iterdir()} == {".lock", "1.0.0"}
    assert contents(directory) == contents(build("synthetic_faces", tmp_path / "b", options=TINY))


def test_failed_build_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "record", lambda *args: 1 / 0)
    main = sys.modules["__main__"]
    with pytest.raises(ZeroDivisionError):
        build("synthetic_faces", tmp_path, options=TINY)
    assert {p.name for p in (tmp_path / "synthetic_faces/default").iterdir()} == {".lock"}
    assert sys.modules["__main__"] is main


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match=r"default: .* be written \(File too large\)") as error:
            build("synthetic_faces", tmp_path, options=TINY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert list(contents(tmp_path)) == ["synthetic_faces/default/.lock"]


def test_second_build_waits_and_takes_the_result(built, tmp_path, capfd):
    """While another process builds, its unfinished directory stays, and nothing is built twice."""
    variant = tmp_path / "synthetic_faces/default"
    unfinished = variant / "incomplete.ABCDEF_1.0.0"
    unfinished.mkdir(parents=True)
    result = []
    with filelock.FileLock(variant / ".lock"):
        waiting = threading.Thread(
            target=lambda: result.append(build("synthetic_faces", tmp_path, options=SMALL))
        )
        waiting.start()
        waiting.join(1.0)
        assert waiting.is_alive() and unfinished.exists()
        shutil.rmtree(unfinished)
        shutil.copytree(built, variant / "1.0.0")
        before = (variant / "1.0.0/metadata.json").stat().st_mtime_ns
    waiting.join(60)
    assert result == [epath.Path(variant / "1.0.0")]
    assert (variant / "1.0.0/metadata.json").stat().st_mtime_ns == before
    out, err = capfd.readouterr()
    assert "Waiting for another build" in err and "clips" not in out


def test_given_labels_take_the_place_of_the_drawn_ones(built, tmp_path, capsys):
    before = {
        split: list(tfds.builder_from_directory(built).as_data_source(split))
        for split in ("train", "test")
    }
    chosen = before["train"][3]
    names = tfds.builder_from_directory(built).info.features["label"].names
    true, wrong = chosen["true_label"], (chosen["true_label"] + 1) % 7
    clip, other = chosen["clip_id"].decode(), before["test"][0]["clip_id"].decode()
    given = {clip: names[true], other: names[wrong]}
    again = build("synthetic_faces", tmp_path, options=SMALL | {"labels": given})
    for split, records in before.items():
        for old, new in zip(
            records, tfds.builder_from_directory(again).as_data_source(split), strict=True
        ):
            name = new["clip_id"].decode()
            expected = names.index(given[name]) if name in given else old["label"]
            assert new["label"] == expected
            assert new["is_flipped"] == (expected != new["true_label"] == old["true_label"])
            assert new["frames"] == old["frames"]
    stored = tfds.builder_from_directory(again).info.metadata["options"]["labels"]
    assert stored["clips"] == 2 and len(stored["sha256"]) == 64


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            {"train_00000": "fear"},
            r"1 of 1 clips are not in the data set, .*Did you mean 'train_000",
        ),
        ({"train_000001": "feer"}, r"'train_000001': unknown class 'feer'. Did you mean 'fear'"),
    ],
)
def test_given_labels_must_fit(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        build("synthetic_faces", tmp_path, options=TINY | {"labels": labels})
    assert not (tmp_path / "synthetic_faces/default/1.0.0").exists()
