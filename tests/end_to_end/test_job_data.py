"""The console script, on data that needs no training: check, build, and build with corrected labels."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jobs
import pytest
import raw_trees
import tensorflow_datasets as tfds

pytestmark = pytest.mark.e2e


SCRIPT = Path(sys.executable).with_name("rdfer")


def rdfer(mode, folder, *flags):
    """Runs `rdfer mode`; returns its exit status and what it printed."""
    words = [
        SCRIPT,
        mode,
        "--config=configs/dfew.py",
        f"--config.data.dir={folder / 'tfds'}",
        *flags,
    ]
    done = subprocess.run(
        words, cwd=jobs.ROOT, env=jobs.environment(), capture_output=True, text=True, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("data")
    raw_trees.make_dfew(found / "DFEW", clips_per_class_per_fold=1, frames=3, size=32)
    (found / "DFEW/Clip/clip_224x224/00035/00035_00002.jpg").write_bytes(b"broken")
    return found


def labels(folder, variant):
    """Names of the stored labels by clip."""
    builder = tfds.builder_from_directory(folder / "tfds/dfew" / variant / "1.0.0")
    names = builder.info.features["label"].names
    return {
        record["clip_id"].decode(): names[record["label"]]
        for split in builder.info.splits
        for record in builder.as_data_source(split)
    }


def test_check_says_what_is_wrong_and_its_exit_status_says_that_something_is(folder):
    source = f"--config.build.source_dir={folder / 'DFEW'}"
    status, said = rdfer("check", folder, source, f"--output={folder / 'check.json'}")
    assert status == 1 and "Traceback" not in said, said
    assert "1 / 489 *" in said and f" problems found\nresult in {folder}" in said
    problems = json.loads((folder / "check.json").read_text())["problems"]
    (line,) = problems["clips are missing, unreadable, damaged or log footage"]
    assert line.startswith("fold5 00035") and "00035_00002.jpg" in line
    assert not (folder / "tfds").exists()  # nothing was built

    status, said = rdfer("check", folder)
    assert status == 1 and "no finished data set. Build it with `rdfer build`" in said


def test_the_decisions_of_an_audit_are_built_in(folder):
    shutil.copytree(folder / "DFEW", folder / "whole")
    frames = folder / "whole/Clip/clip_224x224/00035"
    shutil.copy(frames / "00035_00001.jpg", frames / "00035_00002.jpg")
    source = f"--config.build.source_dir={folder / 'whole'}"
    (folder / "corrected.csv").write_text(
        "clip_id,label,decision\n00001,fear,relabeled\n00002,happy,\n"
    )
    corrected = f"--config.build.labels={folder / 'corrected.csv'}"

    assert rdfer("build", folder, source)[0] == 0
    status, said = rdfer("build", folder, source, corrected)
    assert status == 1 and "was built with other options" in said and "labels" in said
    status, said = rdfer("build", folder, source, corrected, "--config.data.variant=corrected")
    assert (
        status == 0
        and "labels: 2 from config.build.labels, 1 of them differ from the lists" in said
    )
    before, after = labels(folder, "default"), labels(folder, "corrected")
    assert before["00001"] == "happy" and after == before | {"00001": "fear"}

    (folder / "wrong.csv").write_text("clip_id,label\n00001,fearful\n")
    wrong = [f"--config.build.labels={folder / 'wrong.csv'}", "--config.data.variant=wrong"]
    status, said = rdfer("build", folder, source, *wrong)
    assert status == 1 and "clip '00001': unknown class 'fearful'. Did you mean 'fear'?" in said
    assert "Traceback" not in said and not (folder / "tfds/dfew/wrong/1.0.0").exists()
