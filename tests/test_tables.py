"""Text and tables as other programs write them: encodings, separators, quotes, headers."""
# ruff: noqa: RUF001

import csv
import io

import pytest

from rdfer_jax import tables

NAMES = {"path": tables.Column("path", ("file",)), "label": tables.Column("label", ("emotion",))}
WESTERN = "file;emotion\ncafé.mp4;überrascht\nélan/Grüße.mp4;très étonné\n"
CHINESE = "path,label\n高兴/片段一.mp4,高兴\n平静/二.mp4,平静\n"


@pytest.mark.parametrize("text", [WESTERN, CHINESE, "path,label\na.mp4,calm\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_unicode_is_read_with_and_without_a_mark(text, encoding):
    if encoding in ("utf-16-le", "utf-16-be") and text == CHINESE:
        text = "path,label\n" + "a.mp4,calm\n" * 20 + CHINESE  # told by its zero bytes
    data = text.replace("\n", "\r\n").encode(encoding)
    assert tables.decode(data, "x").text == text
    if encoding == "utf-16":
        assert tables.decode(b"\xfe\xff" + text.encode("utf-16-be"), "x").text == text


@pytest.mark.parametrize(
    ("text", "encoding"), [(WESTERN, "cp1252"), (CHINESE, "gb18030"), ("ß,ä\n", "cp1252")]
)
def test_western_and_chinese_code_pages_are_told_apart(text, encoding):
    assert tables.decode(text.encode(encoding), "x") == tables.Text(text, encoding)


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("path,label\nрадость.mp4,радость\n", "cp1251"),
        ("path,label\nχαρά.mp4,ευτυχία\n", "cp1253"),
        ("path,label\n喜び.mp4,喜び\n", "shift-jis"),
        ("path,label\nשמחה.mp4,שמחה\n", "cp1255"),
        ("path,label\na.mp4,radość\n", "cp1250"),
        ("path,label\na.mp4,złość\n", "cp1250"),
        ("path,label\na.mp4,szczęśliwy\n", "cp1250"),
        ("path,label\na.mp4,ärgerlich\n", "mac-roman"),
        ("path,label\na.mp4,kızgın\n", "cp1254"),
        ("path,label\na.mp4,bēdas\n", "cp1257"),
        ("path,label\na.mp4,怒り\n", "shift-jis"),
        ("path,label\na.mp4,悲傷\n", "big5"),
    ],
)
def test_other_code_pages_are_refused(text, encoding):
    with pytest.raises(ValueError, match=r"list.csv:2: not UTF-8, and neither .* save it as UTF-8"):
        tables.decode(text.encode(encoding), "list.csv")


@pytest.mark.parametrize("separator", tables.SEPARATORS)
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("header", [["file", "emotion"], ["Emotion", "other", "File"], []])
def test_what_the_csv_module_writes_is_read(separator, quoting, header):
    body = [["a, b; c.mp4", 'he said "x"'], ["d\te|f.mp4", "calm"], ["g.mp4", "so,so"]]
    if len(header) == 3:
        body = [[label, "", path] for path, label in body]
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, quoting=quoting)
    writer.writerows([header, *body] if header else body)
    decoded = tables.decode(text.getvalue().encode(), "x").text
    found = tables.separators(decoded, NAMES, ("path", "label"))
    assert separator in found and (not header or found == [separator])
    rows = tables.rows(decoded, "x", separator)
    assert [list(row.cells) for row in rows] == ([header, *body] if header else body)
    if header:
        places = tables.places(rows[0].cells, NAMES)
        assert places == {
            "path": len(header) - 1 if len(header) == 3 else 0,
            "label": 0 if len(header) == 3 else 1,
        }


def test_the_line_of_excel_that_names_the_separator_counts():
    assert tables.separators("sep=;\na,b\n", NAMES, ("path", "label")) == [";"]


def test_rows_know_their_lines_and_empty_ones_are_left_out():
    rows = tables.rows('a,b\n\n,\n"c\nd",e\nf,g\n', "list.csv", ",")
    assert [(row.number, row.cells) for row in rows] == [
        (1, ("a", "b")), (4, ("c\nd", "e")), (6, ("f", "g")),
    ]  # fmt: skip


def test_a_quote_that_is_not_closed_is_named():
    with pytest.raises(ValueError, match=r"list.csv:2: .*; close the quotes"):
        tables.rows('a,b\n"c,d\n', "list.csv", ",")


def test_the_first_of_several_names_counts_and_a_name_that_occurs_twice_is_refused():
    assert tables.places(["file", "PATH ", "Label"], NAMES) == {"path": 1, "label": 2}
    with pytest.raises(ValueError, match="two columns 'Emotion'"):
        tables.places(["path", "Emotion", "e_motion"], NAMES)
