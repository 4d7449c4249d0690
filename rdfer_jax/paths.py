"""One rule for every flag and setting that is a path.

A leading `~` or `~user` is a home folder. Relative paths start at the current folder. Paths in object
stores, such as gs://, stay as they are; other addresses are refused.
"""

import errno
import os
import re
from typing import Any

from absl import flags

flags.disclaim_key_flags()  # --help lists a flag under the script that asks for it

#: Errors of a place that takes no more: a full disk, a quota, a limit of a file, a disk for reading only.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
#: Object stores that paths may lie in.
_STORES = ("gs", "s3", "az", "hf")


def expand(path: os.PathLike[str] | str) -> str:
    """Returns a path with its home folder written out; an empty one stays empty.

    Raises:
      ValueError: there is no such home folder, or it is another address than of an object store.
    """
    text = os.fspath(path)
    scheme, is_address, _ = text.partition("://")
    if is_address and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.\-]*", scheme) and scheme not in _STORES:
        if scheme.lower() == "file":
            raise ValueError(f"{text}: write the path without {scheme}://")
        raise ValueError(f"{text}: an address on the network; download the file and give its path")
    full = os.path.expanduser(text)  # noqa: PTH111 - pathlib would also change gs://
    if full.startswith("~"):
        user = text.partition("/")[0]
        raise ValueError(
            f"{text}: {user} is no home folder of this machine; a folder of that name is ./{text}"
        )
    return full


def is_local(path: os.PathLike[str] | str) -> bool:
    """Returns whether a path is on a file system, not in an object store."""
    return "://" not in os.fspath(path)


class _Parser(flags.ArgumentParser):
    """Reads the value of a flag that is a path."""

    def parse(self, argument: str) -> str:
        return expand(argument)


def DEFINE_path(name: str, default: str | None, text: str, **options: Any) -> Any:  # noqa: N802
    """Defines a flag that is a path; arguments as of absl's DEFINE_string."""
    return flags.DEFINE(_Parser(), name, default, text, **options)
