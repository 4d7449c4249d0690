"""Compiled programs in the user's cache folder: where, said once, never in the way."""

import logging
import pathlib

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from rdfer_jax import compile_cache

OPTIONS = (
    *("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"),
    "jax_compilation_cache_max_size",
)


@pytest.fixture
def hits(monkeypatch, tmp_path):
    """A user with an empty home; the list grows with each program that is read back."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(compile_cache, "LEAST_SECONDS", 0.0)
    before, found = {name: getattr(jax.config, name) for name in OPTIONS}, []

    def listen(event, **_):
        if event == "/jax/compilation_cache/cache_hits":
            found.append(event)

    jax.config.update(
        "jax_compilation_cache_dir", None
    )  # a command of another test may have set it
    compilation_cache.reset_cache()
    jax.monitoring.register_event_listener(listen)
    yield found
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    jax.monitoring.unregister_event_listener(listen)


def compiled(number):
    """Compiles as a new process would, and returns the result."""
    jax.clear_caches()
    return float(jax.jit(lambda x: jnp.sin(x) * number)(1.0))


@pytest.mark.parametrize(
    ("system", "environment", "folder"),
    [
        ("linux", {}, "~/.cache/rdfer_jax"),
        ("linux", {"XDG_CACHE_HOME": "/fast/caches"}, "/fast/caches/rdfer_jax"),
        ("linux", {"XDG_CACHE_HOME": "not/absolute"}, "~/.cache/rdfer_jax"),
        ("darwin", {}, "~/Library/Caches/rdfer_jax"),
        ("win32", {}, "~/AppData/Local/rdfer_jax"),
        ("win32", {"LOCALAPPDATA": "/c/local"}, "/c/local/rdfer_jax"),
    ],
)
def test_the_folder_is_the_one_for_caches(system, environment, folder):
    assert compile_cache.user_folder(system, environment) == pathlib.Path(folder).expanduser()


def test_programs_are_read_back_and_the_folder_is_told_once(hits, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    assert compile_cache.use()
    expected = compiled(3.25)
    assert not hits
    assert f"kept in {tmp_path / 'caches/rdfer_jax/compiled'}" in caplog.text
    caplog.clear()
    assert compile_cache.use()
    assert compiled(3.25) == expected and hits
    assert not caplog.text
    assert (tmp_path / "caches/rdfer_jax/compiled").stat().st_mode & 0o777 == 0o700


def test_damaged_programs_are_compiled_again(hits, tmp_path, recwarn):
    compile_cache.use()
    expected = compiled(4.5)
    for path in tmp_path.rglob("*-cache"):
        path.write_bytes(path.read_bytes()[:50])
    hits.clear()
    compile_cache.use()
    assert compiled(4.5) == expected and not hits
    assert not [w for w in recwarn if "compilation cache" in str(w.message)]


def test_another_folder_or_none(hits, tmp_path):
    assert compile_cache.use(str(tmp_path / "mine"))
    compiled(5.5)
    assert list((tmp_path / "mine").rglob("*-cache")) and not (tmp_path / "caches").exists()
    assert not compile_cache.use(compile_cache.NONE)
    assert not (tmp_path / "caches").exists()


def test_a_folder_that_cannot_be_written_or_is_not_ones_own_is_left_alone(hits, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    before = jax.config.jax_compilation_cache_dir
    assert not compile_cache.use(str(tmp_path / "file" / "below"))
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    assert not compile_cache.use(str(tmp_path / "shared"))
    assert "other users may write" in caplog.text
    assert jax.config.jax_compilation_cache_dir == before


def test_runs_of_one_process_share_their_programs(hits):
    before = {name: getattr(jax.config, name) for name in OPTIONS}
    with compile_cache.shared():
        folder = pathlib.Path(jax.config.jax_compilation_cache_dir)
        assert compiled(1.5) == compiled(1.5)
        assert len(hits) == 1 and any(folder.iterdir())
        with compile_cache.shared():  # they are kept anyway
            assert jax.config.jax_compilation_cache_dir == str(folder)
    assert not folder.exists()
    assert {name: getattr(jax.config, name) for name in OPTIONS} == before
    compiled(1.5)
    assert len(hits) == 1
