"""The files of the page: complete, small, and without a word about another host."""

import gzip
import json
import re

import pages_of_networks
import pytest

pytest.importorskip("onnx", reason="needs the extra `export`")
from rdfer_jax import main
from rdfer_jax.predict import timeline
from rdfer_jax.web import site

#: Names of things, which no browser asks for.
NAMES = {"http://www.w3.org/2000/svg"}


def test_the_page_has_its_files_and_tells_the_size_of_the_download(tmp_path):
    size = pages_of_networks.write(tmp_path / "page")
    names = {path.name for path in (tmp_path / "page").iterdir()}
    assert names == {
        *site.SCRIPTS, "index.html", "style.css", "settings.json", "LICENSES.txt",
        "network.onnx.gz", "blazeface.onnx.gz", "ort.wasm.gz", "ort.wasm.bundle.min.mjs",
    }  # fmt: skip
    files = [path for path in (tmp_path / "page").iterdir() if path.name != "LICENSES.txt"]
    assert size == sum(path.stat().st_size for path in files) < 400_000
    packed = (tmp_path / "page/network.onnx.gz").read_bytes()
    assert gzip.decompress(packed) == b"network" * 1000
    again = pages_of_networks.write(tmp_path / "page")
    assert again == size and (tmp_path / "page/network.onnx.gz").read_bytes() == packed
    told = (tmp_path / "page/LICENSES.txt").read_text()
    assert all(word in told for word in ("MIT License", "Microsoft", "MediaPipe", "Apache License"))


def test_every_file_that_the_page_names_is_there(tmp_path):
    pages_of_networks.write(tmp_path)
    for path in (*tmp_path.glob("*.js"), tmp_path / "index.html"):
        text = path.read_text()
        named = re.findall(r"""(?:from "\./|new URL\("|src="|href=")([\w.]+)\"""", text)
        assert all((tmp_path / name).is_file() for name in named), (path, named)
    settings = json.loads((tmp_path / "settings.json").read_text())
    for file in settings["files"].values():
        assert (tmp_path / file["name"]).stat().st_size == file["bytes"]


def test_the_page_may_ask_no_other_host_and_names_none(tmp_path):
    pages_of_networks.write(tmp_path)
    page = (tmp_path / "index.html").read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    rules = dict(rule.split(maxsplit=1) for rule in policy.replace("&#39;", "'").split("; "))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'"
    assert rules["script-src"] == "'self' 'wasm-unsafe-eval'" and rules["style-src"] == "'self'"
    sources = {source for rule in rules.values() for source in rule.split()}
    assert sources <= {"'none'", "'self'", "'wasm-unsafe-eval'", "blob:", "data:"}
    assert "<script>" not in page and "style=" not in page and "onclick" not in page
    own = [*tmp_path.glob("*.js"), *tmp_path.glob("*.css"), tmp_path / "index.html"]
    for path in [*own, tmp_path / "settings.json"]:
        assert set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", path.read_text())) <= NAMES, path


def test_the_settings_are_those_of_the_network_and_the_constants_those_of_python(tmp_path):
    pages_of_networks.write(tmp_path, temperature=0.7, mirror=True)
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert settings["classes"] == list(pages_of_networks.CLASSES)
    assert settings["colors"] == list(timeline.COLORS[:3])
    assert (settings["temperature"], settings["mirror"], settings["side"]) == (0.7, True, 48)
    assert settings["blazeface"]["anchors"] == [[8, 2], [16, 6]]
    assert settings["tracks"]["least_hits"] == 3


def test_other_files_are_not_touched(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="holds files that are no page"):
        pages_of_networks.write(tmp_path)
    with pytest.raises(FileExistsError, match="a file; --web needs a folder"):
        pages_of_networks.write(tmp_path / "photo.jpg")
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("export", "rdfer export needs --output: folder for the files; or --web: for a page"),
        (
            "export --web=page --onnxruntime=gone.tgz",
            "--onnxruntime: gone.tgz: ONNX Runtime Web is not",
        ),
        ("web --dir=gone", "gone: holds no page; write one with rdfer export --web=gone"),
    ],
)
def test_a_wrong_command_is_told_in_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main.main(words.split())
    assert message in str(stop.value) and "\n" not in str(stop.value)
    assert list(tmp_path.iterdir()) == []


def test_another_detector_is_told(tmp_path, caplog):
    cut = {"detector": "haar", "min_face": 0.1, "margin": 0.1, "align": False}
    pages_of_networks.write(tmp_path, faces=cut)
    assert "by haar in rdfer predict, but by blazeface in the page" in caplog.text
