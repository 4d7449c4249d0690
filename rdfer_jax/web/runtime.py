"""ONNX Runtime Web, which runs networks in a browser: where its files are on this computer.

They come from the npm package onnxruntime-web (MIT) and are not part of this package: 33 MB, of which two
files are needed. Nothing is fetched from here; `npm pack` does that once, see fetch_command.
"""

import hashlib
import pathlib
import shlex
import tarfile

from rdfer_jax import compile_cache

VERSION = "1.30.0"
ARCHIVE = f"onnxruntime-web-{VERSION}.tgz"
SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
#: The files that are needed, in the folder dist of the package, and their SHA-256.
FILES = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    BINARY: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}


def fetch_command() -> str:
    """Returns the command that puts the package where it is looked for."""
    folder = shlex.quote(str(compile_cache.user_folder()))
    return f"mkdir -p {folder} && npm pack onnxruntime-web@{VERSION} --pack-destination={folder}"


def read(path: str | None = None) -> dict[str, bytes]:
    """Returns the contents of FILES.

    Args:
      path: the package, as npm packs it (.tgz) or installed (a folder); None for the archive in the user's
        cache folder.

    Raises:
      FileNotFoundError: it is not there, or lacks one of the files.
      ValueError: it is not an archive, or of another version.
    """
    place = pathlib.Path(path) if path else compile_cache.user_folder() / ARCHIVE
    if not place.exists():
        told = f"--onnxruntime={path}" if path else str(place)
        raise FileNotFoundError(
            f"{told}: ONNX Runtime Web is not there. Fetch it once, with npm: {fetch_command()}"
        )
    found = _of_folder(place) if place.is_dir() else _of_archive(place)
    for name, digest in FILES.items():
        if hashlib.sha256(found[name]).hexdigest() != digest:
            raise ValueError(f"{place}: its {name} is not that of onnxruntime-web {VERSION}")
    return found


def _of_folder(folder: pathlib.Path) -> dict[str, bytes]:
    places = [folder, folder / "dist", folder / "node_modules" / "onnxruntime-web" / "dist"]
    dist = next((place for place in places if (place / SCRIPT).is_file()), folder)
    if missing := [name for name in FILES if not (dist / name).is_file()]:
        raise FileNotFoundError(
            f"{folder}: holds no {missing[0]}; give a folder with onnxruntime-web {VERSION}"
        )
    return {name: (dist / name).read_bytes() for name in FILES}


def _of_archive(path: pathlib.Path) -> dict[str, bytes]:
    try:
        with tarfile.open(path) as archive:
            members = {name: archive.extractfile(f"package/dist/{name}") for name in FILES}
            return {name: file.read() for name, file in members.items() if file}
    except KeyError as error:
        raise FileNotFoundError(
            f"{path}: {error.args[0]!s}; give the archive of onnxruntime-web {VERSION}"
        ) from None
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not an archive of an npm package ({error})") from None
