"""Files of npm packages that the user fetched once, into the user's cache folder.

They are not part of this package, and nothing is fetched from here; `npm pack` does that, see
Package.fetch_command.
"""

import dataclasses
import hashlib
import pathlib
import shlex
import tarfile
from collections.abc import Mapping

from rdfer_jax import compile_cache


@dataclasses.dataclass(frozen=True)
class Package:
    """Some files of one version of an npm package.

    Attributes:
      name, version: of the package.
      holds: what the files are, for messages.
      folder: of the files in the package.
      files: their names, and the SHA-256 of each.
    """

    name: str
    version: str
    holds: str
    folder: str
    files: Mapping[str, str]

    @property
    def archive(self) -> pathlib.Path:
        """Where the archive is looked for."""
        name = self.name.removeprefix("@").replace("/", "-")
        return compile_cache.user_folder() / f"{name}-{self.version}.tgz"

    def __str__(self) -> str:
        return f"{self.name.rpartition('/')[2]} {self.version}"

    def fetch_command(self) -> str:
        """Returns the command that puts the archive where it is looked for."""
        folder = shlex.quote(str(compile_cache.user_folder()))
        what = f"{self.name}@{self.version}"
        return f"mkdir -p {folder} && npm pack {what} --pack-destination={folder}"

    def read(self, asked_by: str, path: str | None = None) -> dict[str, bytes]:
        """Returns the contents of the files.

        Args:
          asked_by: the flag or setting that needs them, for messages.
          path: the package, as npm packs it (.tgz) or installed (a folder); None for the archive in the
            user's cache folder.

        Raises:
          FileNotFoundError: it is not there, or lacks one of the files.
          ValueError: it is not an archive, or of another version.
        """
        place = pathlib.Path(path) if path else self.archive
        if not place.exists():
            raise FileNotFoundError(
                f"{asked_by}: {place}: {self.holds} is not there. Fetch it once, with npm: "
                f"{self.fetch_command()}"
            )
        found = self._of_folder(place) if place.is_dir() else self._of_archive(place)
        for name, digest in self.files.items():
            if hashlib.sha256(found[name]).hexdigest() != digest:
                raise ValueError(f"{place}: its {name} is not that of {self}")
        return found

    def _of_folder(self, folder: pathlib.Path) -> dict[str, bytes]:
        places = [
            folder,
            folder / self.folder,
            folder / "node_modules" / self.name / self.folder,
        ]
        first = next(iter(self.files))
        inside = next((place for place in places if (place / first).is_file()), folder)
        if missing := [name for name in self.files if not (inside / name).is_file()]:
            raise FileNotFoundError(f"{folder}: holds no {missing[0]}; give a folder with {self}")
        return {name: (inside / name).read_bytes() for name in self.files}

    def _of_archive(self, path: pathlib.Path) -> dict[str, bytes]:
        try:
            with tarfile.open(path) as archive:
                members = {
                    name: archive.extractfile(f"package/{self.folder}/{name}")
                    for name in self.files
                }
                return {name: file.read() for name, file in members.items() if file}
        except KeyError as error:
            raise FileNotFoundError(
                f"{path}: {error.args[0]!s}; give the archive of {self}"
            ) from None
        except tarfile.TarError as error:
            raise ValueError(f"{path}: not an archive of an npm package ({error})") from None
