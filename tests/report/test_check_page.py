"""The page of `rdfer check --output=check.html`: what it shows, compared with ffmpeg's pictures."""

import base64
import html.parser
import shutil

import cv2
import drawn_faces
import ffmpeg
import mp4
import numpy as np
import pytest

from data.synthetic_faces import clips
from data.synthetic_faces.parameters import Parameters
from rdfer_jax import main

DRAWN = Parameters(num_train=10, num_test=4, num_frames=18, image_size=112)
ODD = "odd <b>& angry"


class Page(html.parser.HTMLParser):
    """The text and the pictures of each section, and all addresses."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.pictures, self.tags, self.addresses = {}, {}, set(), []
        self._section = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.add(tag)
        self.addresses += [attrs[key] for key in ("src", "href") if key in attrs]
        if tag == "section":
            self._section = attrs["id"]
        if tag == "img":
            data = base64.b64decode(attrs["src"].removeprefix("data:image/jpeg;base64,"))
            name = attrs["alt"].removeprefix("First, middle and last frame of ")
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            self.pictures.setdefault(self._section, {})[name] = picture

    def handle_data(self, data):
        self.texts[self._section] = self.texts.get(self._section, "") + data


def frames(number, shape=(112, 112)):
    pictures = clips.render_clip(DRAWN, "train", number).frames
    return [cv2.resize(picture, shape[::-1]) for picture in pictures]


def write(path, number, shape=(112, 112)):
    drawn_faces.write_video(path, frames(number, shape))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two classes in two splits, with a turned, a squeezed and a cut-off clip and one in both splits."""
    root = tmp_path_factory.mktemp("check") / "mine"
    number = 0
    for split in ("train", "test"):
        for name in ("calm", ODD):
            write(root / split / name / "plain.mp4", number)
            number += 1
    write(root / "train/calm/wide.mp4", 5, (96, 192))
    shutil.copy(root / "train/calm/wide.mp4", root / "train/calm/turned.mp4")
    write(root / "train/calm/turned.mp4", 6, (96, 192))
    mp4.turn(root / "train/calm/turned.mp4")
    squeezed = root / "train/calm/squeezed.mp4"
    write(root / "full.mp4", 7, (96, 192))
    ffmpeg.run("-i", root / "full.mp4", "-vf", "scale=iw/2:ih,setsar=2/1", squeezed)
    (root / "full.mp4").unlink()
    smaller = root / "test/calm/again.mp4"
    ffmpeg.run("-i", root / "train/calm/plain.mp4", "-vf", "scale=64:64", smaller)
    cut = root / "train" / ODD / "cut.mp4"
    write(cut, 8)
    cut.write_bytes(cut.read_bytes()[:-2000])
    return root


def check(output, *settings):
    with pytest.raises(SystemExit) as stopped:
        main.main(["check", "--config=video_folder", f"--output={output}", *settings])
    assert stopped.value.code == 1
    return Page(output.read_text())


@pytest.fixture(scope="module")
def page(tree, tmp_path_factory):
    output = tmp_path_factory.mktemp("page") / "new" / "check.html"
    return check(output, f"--config.build.source_dir={tree}")


def test_every_class_shows_first_middle_and_last_frame_as_a_player_does(page, tree):
    assert set(page.pictures) == {"duplicates", "class-1", "class-2"}
    assert len(page.pictures["class-1"]) == 6 and len(page.pictures["class-2"]) == 3
    for name, picture in page.pictures["class-1"].items():
        shown = ffmpeg.shown(tree / name).images[[0, 8, 17]]
        wide = (picture.shape[1] - 6) // 3
        assert len(picture) == 108
        assert wide == pytest.approx(108 * shown.shape[2] / shown.shape[1], abs=1)
        for place, frame in enumerate(shown):
            part = picture[:, place * (wide + 3) :][:, :wide]
            expected = cv2.resize(frame, (wide, 108), interpolation=cv2.INTER_AREA)
            assert np.abs(part.astype(float) - expected).mean() < 6, (name, place)
    shape = {name: p.shape[1] for name, p in page.pictures["class-1"].items()}
    assert shape["train/calm/turned.mp4"] < 200 < 600 < shape["train/calm/squeezed.mp4"]


def test_what_was_found_is_told_and_near_duplicates_are_shown_with_their_splits(page):
    assert "cut.mp4" in page.texts["problems"] and "several splits" in page.texts["problems"]
    pair = {"train/calm/plain.mp4", "test/calm/again.mp4"}
    assert set(page.pictures["duplicates"]) == pair
    said = " ".join(page.texts["duplicates"].split())
    assert "In several splits: 1 group look alike: 2 clips (1 in test, 1 in train)" in said or (
        "In several splits: 1 group look alike: 2 clips (1 in train, 1 in test)" in said
    )
    assert "train train/calm/plain.mp4" in said and "test test/calm/again.mp4" in said


def test_the_page_loads_nothing_and_names_are_only_text(page):
    assert all(a.startswith(("data:", "#")) for a in page.addresses)
    assert not page.tags & {"script", "b"}
    assert ODD in page.texts["class-2"]


def test_a_built_data_set_has_the_same_page(page, tree, tmp_path):
    flags = [f"--config.build.source_dir={tree}", f"--config.data.dir={tmp_path / 'tfds'}"]
    main.main(["build", "--config=video_folder", *flags])
    built = check(tmp_path / "check.html", flags[1])
    assert "cut.mp4" in built.texts["problems"]
    assert {s: set(p) for s, p in built.pictures.items()} == {
        section: set(pictures) for section, pictures in page.pictures.items()
    }
    for name, picture in page.pictures["class-1"].items():
        stored = built.pictures["class-1"][name]
        assert stored.shape[1] == pytest.approx(picture.shape[1], abs=6)


def test_json_lists_every_duplicate(tree, tmp_path):
    output = tmp_path / "check.json"
    with pytest.raises(SystemExit):
        main.main(
            ["check", "--config=video_folder", f"--output={output}",
             f"--config.build.source_dir={tree}"]
        )  # fmt: skip
    text = output.read_text()
    assert '"how": "look alike"' in text and '"clip_id": "test/calm/again.mp4"' in text
