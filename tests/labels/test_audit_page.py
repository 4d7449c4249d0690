"""The page for checking labels: what is in the file, and in a browser what it does."""

import base64
import csv
import hashlib
import json
import re
import statistics
import subprocess
import sys

import browsing
import cv2
import numpy as np
import pytest

from rdfer_jax.labels import page as page_lib
from rdfer_jax.pipeline import label_files

CLASSES = ("happy", "sad", "neutral", "angry")
HOSTILE = "</script><img src=x onerror=alert(1)><!--\"',{{7*7}}"
SCORES = [key for key, _, _ in page_lib.SCORES]


def strip(seed=0, frames=8, quality=60, noise=20):
    """A film strip of noise, as JPEG."""
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.normal(120, noise, size=(96, 96 * frames, 3)), 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def clip(name, kind="mislabeled", label="happy", suggested="sad", **more):
    return dict.fromkeys(SCORES, 0.5) | {
        "clip_id": name, "kind": kind, "label": label, "suggested": suggested, "strip": None,
    } | more  # fmt: skip


def rows():
    """60 clips: 30 mislabeled, 20 hard, 10 fine, each kind in the order of its label quality."""
    kinds = ["mislabeled"] * 30 + ["hard"] * 20 + ["fine"] * 10
    return [
        clip(
            f"clip-{i:03d}",
            kind,
            CLASSES[i % 2],
            CLASSES[i % 2] if kind == "fine" else CLASSES[2 + i % 2],
            false_alarms=0.5,
            label_quality=i / 100,
            ease=1 - i / 100,
            votes={"happy": 7, "angry": 2.5, "sad": 0} if i % 2 else None,
            strip=strip(i) if i < 30 else None,
        )
        for i, kind in enumerate(kinds)
    ]


def write(folder, given=None, classes=CLASSES, title="Faces, fold 1", summary=""):
    return page_lib.write(folder / "audit.html", given or rows(), classes, title, summary)


def data_of(path):
    """The data that the page's script reads."""
    page = path.read_text(encoding="utf-8")
    return json.loads(
        re.search(r'(?s)<script type="application/json" id="data">(.*?)</script>', page)[1]
    )


@pytest.fixture(scope="module")
def chromium():
    with browsing.chromium() as browser:
        yield browser


@pytest.fixture
def page(chromium, tmp_path):
    with browsing.opened(chromium, write(tmp_path)) as opened:
        yield opened


def test_the_page_holds_every_clip(tmp_path):
    given, data = rows(), data_of(write(tmp_path))
    assert [c["id"] for c in data["clips"]] == [row["clip_id"] for row in given]
    for found, row in zip(data["clips"], given, strict=True):
        assert [found[key] for key in ("kind", "label", "suggested")] == [
            row[key] for key in ("kind", "label", "suggested")
        ]
        assert found["scores"] == pytest.approx({key: row[key] for key in SCORES}, abs=1e-4)
        votes = [["happy", "7"], ["angry", "2.5"]] if row["votes"] else None
        assert found["votes"] == votes
        if row["strip"]:
            assert base64.b64decode(found["strip"].partition("base64,")[2]) == row["strip"]
        else:
            assert found["strip"] is None
    assert data["classes"] == list(CLASSES)


def test_hostile_names_stay_text(tmp_path):
    classes = (HOSTILE, "sad")
    given = [clip(HOSTILE, label=HOSTILE, votes={HOSTILE: 1}), clip("__proto__", label="sad")]
    path = write(tmp_path, given, classes, HOSTILE, {HOSTILE: HOSTILE})
    page = path.read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert "<!--" not in page
    assert page.count("</script>") == 2
    assert data_of(path)["clips"][0]["id"] == HOSTILE


def test_one_file_that_loads_nothing_and_runs_only_its_own_script(tmp_path):
    page = write(tmp_path).read_text(encoding="utf-8")
    assert "http" not in page.replace("http-equiv", "")
    assert "url(" not in page and "@import" not in page and " src=" not in page
    script = re.search(r"(?s)<script>(.*?)</script>", page)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1].replace("&#39;", "'")
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "odd"}, "clip 'a': kind is 'odd', must be one of mislabeled, hard, fine"),
        ({"label": "joy"}, "unknown class 'joy'; the classes are happy, sad"),
        ({"suggested": "joy"}, "clip 'a': unknown class 'joy'"),
        ({"votes": {"joy": 1}}, "clip 'a': unknown class 'joy'"),
        ({"ease": 1.5}, r"clip 'a': ease is 1.5, must lie in \[0, 1\]"),
        ({"p_label": float("nan")}, "p_label is nan"),
        ({"strip": b"GIF89a"}, "clip 'a': strip is not a JPEG"),
    ],
)
def test_refuses(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, [clip("a", **change)])


def test_only_kinds_of_clips_on_the_page_can_be_filtered(tmp_path):
    def filters(given):
        page = write(tmp_path, given).read_text(encoding="utf-8")
        return re.findall(r'name="kind" value="(\w+)"[^>]*> \w+ <span class="muted">(\d+)', page)

    assert filters(rows()) == [("mislabeled", "30"), ("hard", "20"), ("fine", "10")]
    assert filters(rows()[:50]) == [("mislabeled", "30"), ("hard", "20")]


def test_refuses_what_concerns_several_clips(tmp_path):
    incomplete = clip("a")
    del incomplete["agreement"]
    with pytest.raises(ValueError, match="clip 'a': missing agreement"):
        write(tmp_path, [incomplete])
    with pytest.raises(ValueError, match="1 clip ids are repeated, such as 'a'"):
        write(tmp_path, [clip("a"), clip("b"), clip("a")])
    with pytest.raises(ValueError, match="classes must be different"):
        write(tmp_path, classes=("happy", "sad", "happy"))


@pytest.mark.e2e
def test_writing_needs_no_jax():
    code = "import sys, rdfer_jax.labels.page; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# What only a browser can tell.


def names(page):
    # Not the inner text: that of a card out of view, which is not painted, is empty.
    return page.locator("article .name").all_text_contents()


def state(page, name):
    # Not inner_text, which is empty for a card that scrolled out of view and is not rendered.
    text = page.locator(f"article[aria-label='Clip {name}'] .state").text_content()
    return text.strip()


def current(page):
    return page.locator("article[aria-current] .name").inner_text()


def export(page, folder):
    """Exports, and returns the file and its rows."""
    with page.expect_download() as download:
        page.click("#export")
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    with path.open(newline="", encoding="utf-8") as file:
        return path, list(csv.DictReader(file))


def load(page, path):
    page.set_input_files("#file", path)
    page.wait_for_selector("#notice:not([hidden])")
    return page.inner_text("#notice")


@pytest.mark.browser
def test_a_card_shows_its_clip(page):
    assert page.inner_text("#shown") == "50 of 60 clips shown, 0 of them decided"
    card = page.locator("article").nth(1)
    assert names(page)[:2] == ["clip-000", "clip-001"]
    assert card.locator(".given").first.inner_text() == "sad"
    assert card.locator(".suggested").first.inner_text() == "angry"
    assert card.locator(".amount").all_inner_texts() == [
        "0.500",
        "0.010",
        "0.990",
        "0.500",
        "0.500",
        "0.500",
    ]
    assert card.locator(".votes").inner_text().replace("\u00a0", " ") == "votes: happy 7, angry 2.5"
    picture = page.locator("article img").first
    picture.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('article img').naturalWidth === 768")
    assert picture.get_attribute("loading") == "lazy"
    wide = (
        page.locator(".bar")
        .nth(2)
        .evaluate("(bar) => parseFloat(getComputedStyle(bar, '::before').width) / bar.clientWidth")
    )
    assert wide == pytest.approx(1.0, abs=0.02)


@pytest.mark.browser
def test_filters_and_order(page):
    def shown():
        return int(page.inner_text("#shown").split()[0])

    page.check("[value=fine]")
    assert shown() == 60
    page.uncheck("[value=mislabeled]")
    page.uncheck("[value=hard]")
    assert shown() == 10
    assert page.locator("article .accept").first.is_hidden()  # nothing else is suggested
    page.click("button[type=reset]")
    page.wait_for_function("document.getElementById('shown').textContent.startsWith('50 ')")
    page.select_option("[name=label]", "sad")
    assert shown() == 25
    page.select_option("[name=suggested]", "neutral")
    assert shown() == 0
    assert page.locator("#empty").is_visible()
    page.select_option("[name=suggested]", "angry")
    page.select_option("[name=score]", "label_quality")
    page.select_option("[name=sort]", "label_quality")
    page.fill("[name=low]", "0.11")
    page.fill("[name=high]", "0.21")
    assert names(page) == [f"clip-{i:03d}" for i in (11, 13, 15, 17, 19, 21)]
    page.check("[value=descending]")
    assert names(page)[0] == "clip-021"
    page.select_option("[name=sort]", "ease")
    assert names(page)[0] == "clip-011"
    page.fill("[name=text]", "LIP-01")
    # The search waits for the typing to pause.
    page.wait_for_function("document.getElementById('shown').textContent.startsWith('5 ')")
    assert names(page) == [f"clip-{i:03d}" for i in (11, 13, 15, 17, 19)]
    page.press("[name=text]", "Enter")  # from the search to what was found
    page.keyboard.press("a")
    page.select_option("[name=state]", "relabeled")
    assert names(page) == ["clip-011"]


@pytest.mark.browser
def test_the_sample_is_shown_whatever_its_kind(chromium, tmp_path):
    given = [row | {"sample": i % 10 == 0} for i, row in enumerate(rows())]
    given[30]["why"] = "two expressions"
    with browsing.opened(chromium, write(tmp_path, given)) as page:
        heights = "[...document.querySelectorAll('#filters .check')].map(box => box.offsetHeight)"
        assert (
            len(set(page.evaluate(heights))) == 1
        )  # each box in one line with its text and number
        page.check("[name=sample]")
        assert page.inner_text("#shown").startswith("6 of 60 clips shown")
        assert names(page) == [f"clip-{i:03d}" for i in range(0, 60, 10)]
        assert page.locator("article .kind").nth(3).text_content() == "hard: two expressions"
        assert page.locator("article .kind").nth(5).text_content() == "fine"
        for _ in range(6):
            page.keyboard.press("r")
        assert len(export(page, tmp_path)[1]) == 6
    assert 'name="sample"' not in write(tmp_path).read_text(encoding="utf-8")


@pytest.mark.browser
def test_keys_decide_and_decisions_survive_a_reload(page, tmp_path):
    for key in ("a", "r", "3", "j", "2", "ArrowDown", "k", "ArrowUp", "r"):
        page.keyboard.press(key)
    expected = {
        "clip-000": "relabeled: neutral",
        "clip-001": "kept: sad",
        "clip-002": "relabeled: neutral",
        "clip-003": "undecided",
        "clip-004": "kept: happy",
    }
    for again in (False, True):
        if again:
            page.reload()
        assert {name: state(page, name) for name in expected} == expected
        assert page.inner_text("#tally") == "4 decided: 2 relabeled, 2 kept"
        assert page.inner_text("#shown").endswith("4 of them decided")


@pytest.mark.browser
def test_the_mouse_decides_and_undo_takes_back(page):
    first = page.locator("article").first
    first.locator(".accept").click()
    assert state(page, "clip-000") == "relabeled: neutral"
    assert first.locator(".accept").get_attribute("aria-pressed") == "true"
    first.locator(".reject").click()
    assert state(page, "clip-000") == "kept: happy"
    first.locator("select").select_option("angry")
    assert state(page, "clip-000") == "relabeled: angry"
    first.locator(".clear").click()
    assert state(page, "clip-000") == "undecided"
    for expected in ("relabeled: angry", "kept: happy", "relabeled: neutral", "undecided"):
        page.click("#undo")
        assert state(page, "clip-000") == expected
    page.keyboard.press("u")
    assert "nothing to undo" in page.inner_text("#notice")


@pytest.mark.browser
def test_keys_go_over_the_end_of_a_page(page):
    for _ in range(25):
        page.keyboard.press("j")
    assert current(page) == "clip-025"
    assert page.locator(".where").first.inner_text() == "page 2 of 2"
    page.keyboard.press("k")
    page.keyboard.press("a")
    assert current(page) == "clip-025"
    page.keyboard.press("u")
    assert current(page) == "clip-024"
    assert state(page, "clip-024") == "undecided"
    page.locator(".pager .next").last.click()
    assert current(page) == "clip-025"
    page.locator("article").nth(3).locator(".name").click()
    assert current(page) == "clip-028"


@pytest.mark.browser
def test_keys_are_text_in_fields_and_can_be_switched_off(page):
    page.click("[name=text]")
    page.keyboard.press("a")
    page.fill("[name=text]", "")
    page.keyboard.press("Enter")
    page.keyboard.press("?")
    assert page.locator("#manual").is_visible()
    page.keyboard.press("a")
    page.uncheck("#keys")
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    assert page.inner_text("#tally").startswith("0 decided")


@pytest.mark.browser
def test_export_is_what_config_data_labels_takes_and_comes_back(chromium, page, tmp_path):
    for key in ("a", "r", "4"):
        page.keyboard.press(key)
    path, found = export(page, tmp_path)
    assert path.name == "Faces-fold-1-labels.csv"
    wanted = [
        {"clip_id": "clip-000", "label": "neutral", "decision": "accept"},
        {"clip_id": "clip-001", "label": "sad", "decision": "reject"},
        {"clip_id": "clip-002", "label": "angry", "decision": "relabel"},
    ]
    given = [("happy", "neutral"), ("sad", "angry"), ("happy", "neutral")]
    assert found == [
        row | {"given": label, "suggested": suggested}
        for row, (label, suggested) in zip(wanted, given, strict=True)
    ]
    assert label_files.read(path, CLASSES) == {"clip-000": 2, "clip-001": 1, "clip-002": 3}

    with browsing.opened(chromium, write(tmp_path / "elsewhere")) as other:
        assert other.inner_text("#tally").startswith("0 decided")
        assert load(other, path) == "3 decisions imported."
        assert state(other, "clip-002") == "relabeled: angry"
        assert export(other, tmp_path)[1] == found
        other.click("#undo")
        assert other.inner_text("#tally").startswith("0 decided")


@pytest.mark.browser
def test_files_that_do_not_fit_change_nothing(page, tmp_path):
    path = tmp_path / "labels.csv"
    for text, message in (
        ("clip_id\nclip-000\n", "the header has no column “label”"),
        ("clip_id,label\nclip-000,sad\nclip-001,joy\n", "row 3: unknown class “joy”"),
        ('clip_id,label\n"clip-000,sad\n', "row 2 has unbalanced quotes"),
        ("", "the header has no column “clip_id”"),
    ):
        path.write_text(text, encoding="utf-8")
        found = load(page, path)
        assert found.startswith("Nothing imported from labels.csv")
        assert message in found
        assert page.inner_text("#tally").startswith("0 decided")
        page.evaluate("document.getElementById('notice').hidden = true")
    # As a table program writes it: a byte order mark, columns in another order, other clips.
    path.write_text("\ufefflabel,clip_id\r\nangry,clip-001\r\nsad,other\r\n\r\n", encoding="utf-8")
    assert "1 decisions imported. 1 clips that are not on this page" in load(page, path)
    assert state(page, "clip-001") == "relabeled: angry"


@pytest.mark.browser
def test_hostile_names_in_the_browser(chromium, tmp_path):
    classes = (HOSTILE, "sad", 'a,"b"\nc')
    given = [
        clip(HOSTILE, label=HOSTILE, suggested="sad", votes={HOSTILE: 1}),
        clip("__proto__", label="sad", suggested=HOSTILE),
        clip(' a,"b"; c ', label="sad", suggested='a,"b"\nc'),
    ]
    path = write(tmp_path, given, classes, HOSTILE, {HOSTILE: HOSTILE})
    with browsing.opened(chromium, path) as page:
        assert page.locator("h1").inner_text() == HOSTILE
        for _ in range(3):
            page.keyboard.press("a")
        page.reload()
        saved, found = export(page, tmp_path)
        assert {row["clip_id"]: row["label"] for row in found} == {
            HOSTILE: "sad", "__proto__": HOSTILE, ' a,"b"; c ': 'a,"b"\nc',
        }  # fmt: skip
        assert set(label_files.read(saved, classes)) == {row["clip_id"] for row in given}
        assert "3 decisions imported" in load(page, saved)
        assert page.locator("img[src=x]").count() == 0


@pytest.mark.browser
def test_decisions_are_kept_by_title_and_classes(chromium, tmp_path):
    with browsing.opened(chromium, write(tmp_path / "1")) as page:
        page.keyboard.press("a")
        for folder, tally in (
            (
                write(tmp_path / "2", rows()[5:]),
                "1 decided: 0 relabeled, 0 kept, 1 on clips that are not on",
            ),
            (write(tmp_path / "3", title="Faces, fold 2"), "0 decided"),
            (write(tmp_path / "4", classes=(*CLASSES, "fear")), "0 decided"),
        ):
            page.evaluate("(url) => window.next = url", folder.as_uri())
            other = page.context.new_page()
            other.goto(folder.as_uri())
            assert other.inner_text("#tally").startswith(tally)


@pytest.mark.browser
def test_a_browser_that_keeps_nothing_says_so(chromium, tmp_path):
    path = write(tmp_path)
    with browsing.opened(chromium, path) as page:
        assert page.locator("#unsaved").is_hidden()
        page.add_init_script(
            "Object.defineProperty(window, 'localStorage', {get() { throw Error() }})"
        )
        page.reload()
        page.keyboard.press("a")
        assert page.locator("#unsaved").is_visible()
        assert state(page, "clip-000") == "relabeled: neutral"


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (390, 844)])
def test_fits_the_window_and_can_be_read(chromium, tmp_path, size, scheme):
    classes = (*CLASSES, "Anger, disgust, contempt and surprise", "x" * 50)
    given = [*rows(), clip("y" * 90, label=classes[4], suggested=classes[5], label_quality=0)]
    path = write(tmp_path, given, classes, "A title that is rather long " * 4, {"clips": "9,356"})
    with browsing.opened(chromium, path, size, scheme) as page:
        for key in ("a", "r", "3"):
            page.keyboard.press(key)
        if page.locator("#toggle").is_visible():
            page.click("#toggle")
        for dialog in (False, True):
            if dialog:
                page.click("#help")
            assert browsing.overflow(page) <= 0
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", ground))) > 600) == (scheme == "light")
            found = browsing.contrasts(page, "body *")
            assert len(found) > 50
            assert {name: ratio for name, ratio in found.items() if ratio < 4.5} == {}
        for box in page.locator("article").first.locator("h2, p, dl, button, select").all():
            if box.is_visible():
                assert box.evaluate("(node) => node.getBoundingClientRect().right") <= size[0]


#: From the key press until the page is painted with what follows from it, in milliseconds.
_UNTIL_PAINTED = """() => { window.painted = new Promise((done) =>
  document.addEventListener("keydown", (event) => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => done(performance.now() - event.timeStamp);
    channel.port2.postMessage(null);
  }), { once: true, capture: true })) }"""


@pytest.mark.browser
def test_five_thousand_clips_answer_within_a_tenth_of_a_second(chromium, tmp_path):
    strips = [strip(seed, quality=25, noise=30) for seed in range(50)]
    kinds = ("mislabeled", "hard", "fine")
    given = [
        clip(f"train/{i:05d}", kinds[i % 3], label_quality=(i * 7919 % 5000) / 5000)
        | {"strip": strips[i % 50]}
        for i in range(5000)
    ]
    path = write(tmp_path, given)
    assert len(path.read_bytes()) > 30e6
    with browsing.opened(chromium, path) as page:
        page.check("[value=fine]")
        page.keyboard.press("Enter")
        page.evaluate("document.activeElement.blur()")
        times = {}
        for key in ("j", "a", "r", "2", "u", "k"):
            times[key] = []
            for _ in range(30):
                page.evaluate(_UNTIL_PAINTED)
                page.keyboard.press(key)
                times[key].append(page.evaluate("() => window.painted"))
        page.focus("[name=text]")
        times["search"] = []
        for key in ("1", "Backspace") * 10:
            page.evaluate(_UNTIL_PAINTED)
            page.keyboard.press(key)
            times["search"].append(page.evaluate("() => window.painted"))
        page.evaluate("document.activeElement.blur()")
        # How long it takes when nothing follows from the key: what the machine is busy with.
        idle = []
        for _ in range(30):
            page.evaluate(_UNTIL_PAINTED)
            page.keyboard.press("z")
            idle.append(page.evaluate("() => window.painted"))
        assert page.locator("article").count() == 25
        medians = {key: statistics.median(some) for key, some in times.items()}
        print(f"ms to paint, medians: {medians}, idle {statistics.median(idle):.0f}")
        if statistics.median(idle) > 30:
            pytest.skip(
                "the machine is too busy to measure: even a key that does nothing takes long"
            )
        # The lower quartile, as what else runs on the machine only ever adds to some of the times.
        assert max(statistics.quantiles(some)[0] for some in times.values()) < 100
