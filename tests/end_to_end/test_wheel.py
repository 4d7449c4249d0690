"""The wheel and the sdist: what they hold, and the wheel at work in a process that cannot see the clone."""

import json
import subprocess
import sys
import tarfile
import textwrap
import zipfile

import jobs
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

#: Runs commands of an installed wheel. The clone may be on sys.path through an editable install.
SCRIPT = f"""
import importlib.util, json, pathlib, sys
CLONE = pathlib.Path({str(jobs.ROOT)!r})
sys.path[:] = [path for path in sys.path if pathlib.Path(path).resolve() != CLONE]

if __name__ == "__main__":
    import rdfer_jax
    from rdfer_jax import config_files, main
    assert pathlib.Path(rdfer_jax.__file__).is_relative_to(sys.argv[1]), rdfer_jax.__file__
    assert not any(map(importlib.util.find_spec, ("data", "configs", "tests", "experiments", "benchmarks")))
    print(config_files.names())
    for words in json.loads(sys.argv[2]):
        main.main(words)
    from rdfer_jax.datasets.synthetic_faces import film
    film.write(film.epath.Path("film.mp4"), [0], 1.0, 0.0)
    main.main(["predict", "--workdir=run", "--input=film.mp4", "--compile_cache=none"])
    assert rdfer_jax.Predictor("run").classes[0] == "happy" and callable(rdfer_jax.find_label_issues)
    left = [name for name in ("data", "configs") if name in sys.modules]
    assert not left, left
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with the wheel and the sdist, built without network."""
    folder = tmp_path_factory.mktemp("dist")
    for target in ("wheel", "sdist"):
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder],
            cwd=jobs.ROOT, check=True, capture_output=True, timeout=120,
        )  # fmt: skip
    return folder


def test_the_wheel_holds_one_package_with_all_its_files(dist):
    (path,) = dist.glob("*.whl")
    names = zipfile.ZipFile(path).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"rdfer_jax"}
    moved = {"data": "rdfer_jax/datasets", "configs": "rdfer_jax/configs", "rdfer_jax": "rdfer_jax"}
    listed = subprocess.run(
        ["git", "ls-files", *moved], cwd=jobs.ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    expected = {f"{moved[top]}/{rest}" for top, _, rest in (name.partition("/") for name in listed)}
    packaged = {name for name in names if ".dist-info/" not in name}
    assert packaged >= {"rdfer_jax/py.typed", "rdfer_jax/datasets/dfew/CITATIONS.bib"}
    detector = ("face_detection_short_range.tflite", "LICENSE", "README.md")
    assert packaged >= {f"rdfer_jax/faces/model/{name}" for name in detector}
    if listed:  # there is no git in an unpacked sdist
        assert packaged >= expected
    (entry,) = (name for name in names if name.endswith("entry_points.txt"))
    assert "rdfer = rdfer_jax.main:main" in zipfile.ZipFile(path).read(entry).decode()


def test_the_sdist_can_be_built_again(dist, tmp_path):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert {"rdfer_jax", "data", "configs", "tests", "docs", "Makefile", "LICENSE"} <= {
        entry.name for entry in source.iterdir()
    }
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again"],
        cwd=source, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (again,) = (tmp_path / "again").glob("*.whl")
    (first,) = dist.glob("*.whl")
    assert zipfile.ZipFile(again).namelist() == zipfile.ZipFile(first).namelist()


def test_the_wheel_works_without_the_clone(dist, tmp_path):
    (path,) = dist.glob("*.whl")
    zipfile.ZipFile(path).extractall(tmp_path / "site")
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    settings = jobs.SMALL | jobs.DRAWN | {"train.duration": "2 steps", "cpu_devices": 1}
    overrides = [f"--config.{name}={value}" for name, value in settings.items()]
    commands = [
        ["build", "--config=synthetic", *overrides],
        ["check", "--config=synthetic", *overrides],
        ["inject", "--config=synthetic", "--rate=0.3", "--output=flips.csv"],
        ["train", "--config=synthetic", "--workdir=run", *overrides],
        ["report", "--workdir=run"],
    ]
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", tmp_path / "site", json.dumps(commands)],
        cwd=work,
        env=jobs.environment()
        | {"PYTHONPATH": str(tmp_path / "site"), "XLA_FLAGS": "--xla_backend_optimization_level=0"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "['dfew', 'dfew_clip_b16_lora', 'dfew_m3dfel', 'dfew_maedfer', 'dfew_pretrain', "
        "'dfew_s4d', 'dfew_videomae_b', 'faces', 'ferplus', 'ferv39k', 'mafw', 'synthetic', "
        "'synthetic_movement', 'synthetic_pretrain', 'synthetic_vit', 'video_folder']"
        in done.stdout
    )
    assert "no problems found" in done.stdout and "of 32 labels flipped" in done.stdout
    assert json.loads((work / "run/results.json").read_text())["step"] == 2
    assert (work / "run/report.html").exists() and (work / "run/predict/summary.csv").exists()
    info = json.loads((work / "tfds/synthetic_faces/default/1.0.0/dataset_info.json").read_text())
    assert (
        info["description"].startswith("# synthetic_faces") and "ekman2002facs" in info["citation"]
    )
    assert info["moduleName"].startswith("rdfer_jax.datasets.synthetic_faces.")
