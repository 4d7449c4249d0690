"""Files that are there as a whole or not at all."""

import contextlib
from collections.abc import Iterator

from etils import epath


@contextlib.contextmanager
def replacement(path: epath.Path, tag: str = "new") -> Iterator[epath.Path]:
    """Yields where to write a file that takes the place of `path` at the end.

    After an error, what was at `path` is still there, and what was written is deleted. A process that is
    killed also leaves the former file; it leaves its own one beside it, hidden, and the next writer
    replaces that.

    Args:
      path: of the file; its folder is there. It may lie in an object store.
      tag: ends the name until then. Processes that write the same file at the same time need one each.

    Raises:
      OSError: the file cannot take its place.
    """
    temporary = path.with_name(f".{path.name}.{tag}")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error says what is wrong
            temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: epath.Path, data: bytes, tag: str = "new") -> None:
    """Writes a file by `replacement`; arguments and errors as there."""
    with replacement(path, tag) as file:
        file.write_bytes(data)
