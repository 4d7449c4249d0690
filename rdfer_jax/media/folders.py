"""What a folder holds: videos, pictures, folders, and what is there for other reasons.

File servers, systems, editors and downloads leave files of their own between the user's; so does this
program. They are passed over, and whoever lists a folder says how many.
"""

import dataclasses
import re
from collections.abc import Iterator

from etils import epath

from rdfer_jax.media import video
from rdfer_jax.media.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, natural_key

#: Names, in lower case, of what is never a clip or a class.
_NAMES = frozenset(
    {
        # Synology, QNAP, NetApp and other file servers; whatever starts with a dot is hidden anyway.
        *(
            "@eadir",
            "@tmp",
            "@sharebin",
            "@sharesnap",
            "@synodrive",
            "@synoresource",
            "@synoeastream",
        ),
        *(
            "#recycle",
            "#snapshot",
            "@recycle",
            "@__thumb",
            "__thumb",
            "@recently-snapshot",
            "~snapshot",
        ),
        *("lost+found", "aquota.group", "aquota.user"),
        # macOS.
        *(
            "__macosx",
            "icon\r",
            "network trash folder",
            "temporary items",
            "thevolumesettingsfolder",
        ),
        *("desktop db", "desktop df"),
        # Windows.
        *("thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini"),
        *("$recycle.bin", "recycler", "recycled", "system volume information", "found.000"),
        *("$windows.~bt", "$windows.~ws", "$winreagent", "$sysreset", "pspbrwse.jbf", "picasa.ini"),
        # Tools.
        *("__pycache__", "cvs", "node_modules"),
    }
)
#: Suffixes that say nothing, or that a copy made from the suffix of a video: none, .1, ".mp4 (2)".
_UNCLEAR = re.compile(rf"({'|'.join(map(re.escape, VIDEO_SUFFIXES))})?[^a-z]*")
#: What a download, an editor or an office program leaves while it works, or after it crashed.
_UNFINISHED = re.compile(
    r"~\$.*|~.*\.tmp|#.*#|.*~|"
    r".*\.(part|partial|crdownload|download|filepart|opdownload|aria2|ytdl|!ut|!qb|tmp|temp|swp|swo|bak|lock)"
)


def is_housekeeping(name: str) -> bool:
    """Returns whether a file or folder belongs to a file server, a system, an editor or a download."""
    lower = name.lower()
    return lower.startswith(".") or lower in _NAMES or bool(_UNFINISHED.fullmatch(lower))


def is_own_output(folder: epath.Path) -> bool:
    """Returns whether this program has written a folder: a prediction, a run, or a built data set."""
    return any(
        all((folder / name).exists() for name in names)
        for names in (
            ("prediction.json", "frames.csv"),
            ("config.json", "data.json", "parameters.txt"),
            ("config.json", "data.json", "crossval.md"),
            ("dataset_info.json", "features.json"),
        )
    )


@dataclasses.dataclass(frozen=True)
class Contents:
    """The entries of a folder, each kind in natural order: 2 before 10.

    Attributes:
      videos: files with the suffix of a video, and videos whose suffix is not clear.
      pictures: files with the suffix of a picture.
      folders: folders.
      others: other files.
      passed_over: hidden entries and housekeeping.
    """

    videos: tuple[epath.Path, ...]
    pictures: tuple[epath.Path, ...]
    folders: tuple[epath.Path, ...]
    others: tuple[epath.Path, ...]
    passed_over: tuple[epath.Path, ...]


def contents(folder: epath.Path) -> Contents:
    """Lists a folder.

    Raises:
      OSError: it cannot be read.
    """
    found: dict[str, list[epath.Path]] = {field.name: [] for field in dataclasses.fields(Contents)}
    for entry in folder.iterdir():
        found[_kind(entry)].append(entry)
    ordered = {
        kind: tuple(sorted(entries, key=lambda entry: (natural_key(entry.name), entry.name)))
        for kind, entries in found.items()
    }
    return Contents(**ordered)


def _kind(entry: epath.Path) -> str:
    if is_housekeeping(entry.name):
        return "passed_over"
    if entry.is_dir():
        return "folders"
    suffix = entry.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return "videos"
    if suffix in IMAGE_SUFFIXES:
        return "pictures"
    return "videos" if _UNCLEAR.fullmatch(suffix) and not video.problem(entry) else "others"


def visible(folder: epath.Path) -> list[epath.Path]:
    """Returns the entries of a folder, sorted by name, without housekeeping."""
    return sorted(path for path in folder.iterdir() if not is_housekeeping(path.name))


def holds_own_output(folder: epath.Path, depth: int = 6) -> bool:
    """Returns whether this program has written a folder or one inside of it, up to a depth."""
    if is_own_output(folder):
        return True
    return depth > 0 and any(holds_own_output(child, depth - 1) for child in _folders(folder))


def _folders(folder: epath.Path) -> Iterator[epath.Path]:
    return (child for child in folder.iterdir() if child.is_dir())
