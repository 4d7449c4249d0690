"""Where compiled programs are kept between runs: in the user's cache folder, by default of `rdfer predict`.

A program in this folder runs without a question, so the folder must be the user's own. A cache that cannot
be used costs time and nothing else.
"""

import contextlib
import hashlib
import logging
import os
import pathlib
import platform
import stat
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

log = logging.getLogger(__name__)

#: Value of a flag or setting for no cache.
NONE = "none"
#: Programs that took less to compile are not kept, seconds; reading them back would take as long.
LEAST_SECONDS = 0.2
#: Bytes above which the programs are deleted that were not used for longest.
MOST_BYTES = 1 << 29
_CPU_INFO = pathlib.Path("/proc/cpuinfo")


def user_folder(
    system: str = sys.platform, environment: Mapping[str, str] = os.environ
) -> pathlib.Path:
    """Returns the folder for caches of this user and of this program, as the operating system has it.

    Args:
      system: sys.platform.
      environment: variables of the process.
    """
    home = pathlib.Path.home()
    if system == "win32":
        base = pathlib.Path(environment.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif system == "darwin":
        base = home / "Library" / "Caches"
    else:
        given = pathlib.Path(environment.get("XDG_CACHE_HOME", ""))
        base = given if given.is_absolute() else home / ".cache"  # others are invalid, says XDG
    return base / "rdfer_jax"


def use(folder: str = "") -> bool:
    """Keeps compiled programs in a folder, and uses those that are there.

    Says so when it creates the folder, and only then.

    Args:
      folder: for programs of all machines of the user; empty for the user's cache folder; NONE for none.

    Returns:
      Whether programs are kept.
    """
    if folder == NONE:
        return False
    try:
        root = pathlib.Path(folder) if folder else user_folder() / "compiled"
        is_new = not root.exists()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_own(root):
            log.warning(
                "%s: not used for compiled programs, because other users may write to it", root
            )
            return False
        place = root / _machine()
        place.mkdir(exist_ok=True)
        (place / f".writable-{os.getpid()}").touch()
        (place / f".writable-{os.getpid()}").unlink()
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        log.debug("compiled programs are not kept: %s", error)
        return False
    if is_new:
        log.info(
            "compiled programs are kept in %s, which makes later starts faster; --compile_cache=%s "
            "turns this off",
            root, NONE,
        )  # fmt: skip
    # A damaged program is compiled again, and a full disk is no concern of the user.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation")
    jax.config.update("jax_compilation_cache_dir", str(place))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    jax.config.update("jax_compilation_cache_max_size", MOST_BYTES)
    return True


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Lets the runs of a process share the programs that are the same, unless programs are kept anyway.

    They are kept in a temporary folder until the end.
    """
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    if before["jax_compilation_cache_dir"]:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="rdfer_jax_", ignore_cleanup_errors=True) as folder:
        try:
            _configure(dict(zip(names, (folder, LEAST_SECONDS), strict=True)))
            yield
        finally:
            _configure(before)


def _configure(settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX reads where the cache is only once


def _machine() -> str:
    """Returns a name for what programs are compiled for: home folders are shared by different machines."""
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        lines = []
    kinds = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    text = "\n".join([platform.machine(), platform.processor(), *kinds])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_own(folder: pathlib.Path) -> bool:
    """Returns whether only this user may write to a folder, as far as the operating system says."""
    if not hasattr(os, "getuid"):
        return True
    found = folder.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
