"""ONNX Runtime Web is found as an archive or a folder, and another version is refused."""

import dataclasses
import hashlib
import io
import re
import tarfile

import pytest

from rdfer_jax import npm
from rdfer_jax.web import runtime

CONTENTS = {runtime.SCRIPT: b"script", runtime.BINARY: b"\0asm"}


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache folder, and the two files as their own reference."""
    monkeypatch.setattr(npm.compile_cache, "user_folder", lambda: tmp_path / "cache")
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENTS.items()}
    package = dataclasses.replace(runtime.PACKAGE, files=digests)
    monkeypatch.setattr(runtime, "PACKAGE", package)
    return tmp_path / "cache"


def write_archive(path, contents=CONTENTS):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def test_the_archive_in_the_cache_folder_is_read(cache):
    write_archive(runtime.PACKAGE.archive)
    assert runtime.read() == CONTENTS


@pytest.mark.parametrize("inside", ["", "dist", "node_modules/onnxruntime-web/dist"])
def test_a_folder_is_read(cache, tmp_path, inside):
    (tmp_path / "here" / inside).mkdir(parents=True)
    for name, data in CONTENTS.items():
        (tmp_path / "here" / inside / name).write_bytes(data)
    assert runtime.read(str(tmp_path / "here")) == CONTENTS


def test_where_it_is_missing_the_command_is_told(cache):
    with pytest.raises(FileNotFoundError) as error:
        runtime.read()
    assert "\n" not in str(error.value) and str(
        cache / f"onnxruntime-web-{runtime.PACKAGE.version}.tgz"
    ) in str(error.value)
    assert f"npm pack onnxruntime-web@{runtime.PACKAGE.version} --pack-destination={cache}" in str(
        error.value
    )


def test_other_files_are_refused(cache, tmp_path):
    path = write_archive(tmp_path / "a.tgz", CONTENTS | {runtime.BINARY: b"other"})
    expected = (
        f"{path}: its {runtime.BINARY} is not that of onnxruntime-web {runtime.PACKAGE.version}"
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        runtime.read(path)
    path = write_archive(tmp_path / "b.tgz", {runtime.SCRIPT: b"script"})
    with pytest.raises(FileNotFoundError, match=runtime.BINARY):
        runtime.read(path)
    (tmp_path / "c.tgz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"c\.tgz: not an archive of an npm package"):
        runtime.read(str(tmp_path / "c.tgz"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=f"empty: holds no {runtime.SCRIPT}"):
        runtime.read(str(tmp_path / "empty"))
