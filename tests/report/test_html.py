"""Pages as HTML: everything inside, nothing that could be markup, and whole."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from metarl.report import html, markdown
from metarl.report.document import (
    Block,
    Code,
    Commands,
    Details,
    Heading,
    Paragraph,
    Picture,
    Table,
    Warnings,
)
from metarl.report.figures import new_figure

HOSTILE = "<script>alert(1)</script>\" onload='x' & </td></style>"
VOID = {"meta", "link", "img"}


class Whole(HTMLParser):
    """Notes tags, attributes and text; every tag must be closed where it should."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def parsed(text: bytes) -> Whole:
    found = Whole()
    found.feed(text.decode())
    found.close()
    assert found.open == []
    return found


def every_block(text: str) -> list[Block]:
    return [
        Heading(text),
        Paragraph([text, Code(text)]),
        Warnings([text]),
        Table([text, text, text], [[Code(text), text, text]], text),
        Commands([text]),
        Picture("name", text, text, new_figure(1, 1)),
        Details(text, [Paragraph(text)]),
    ]


def test_no_text_can_become_markup() -> None:
    """Wherever a name may stand, it stands there as it is."""
    page = parsed(html.page(HOSTILE, every_block(HOSTILE)))
    plain = parsed(html.page("name", every_block("name")))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in plain.tags]
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.texts.count(HOSTILE) == plain.texts.count("name") == 17
    (picture,) = (attributes for tag, attributes in page.tags if tag == "img")
    assert picture.keys() == {"alt", "src"} and picture["alt"] == HOSTILE


def test_a_page_needs_nothing_but_itself() -> None:
    text = html.page("title", every_block("text")).decode()
    page = parsed(text.encode())
    places = [a.get("src") or a.get("href") for _, a in page.tags if "src" in a or "href" in a]
    assert places and all(place and place.startswith("data:") for place in places)
    assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", text)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [a for _, a in page.tags]
    assert "prefers-color-scheme: dark" in text


def test_pictures_are_vectors_without_a_date() -> None:
    block = Picture("name", "about", "caption", new_figure(2, 1))
    first, again = html.page("t", [block]), html.page("t", [block])
    assert first == again
    match = re.search(rb"data:image/svg\+xml;base64,([^\"]+)", first)
    assert match
    picture = base64.b64decode(match[1])
    assert picture.startswith(b"<?xml") and b"<dc:date>" not in picture and b"<script" not in picture


def test_no_warnings_are_no_box() -> None:
    assert b"<li>" not in html.page("t", [Warnings([])]) and b"<li>" in html.page("t", [Warnings(["mind this"])])


def test_a_name_that_is_no_text_can_be_shown() -> None:
    assert b"caf?" in html.page("t", [Paragraph("caf\udce9")])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("maml_trpo *a* <b> #1 [x](y)", r"maml\_trpo \*a\* \<b\> \#1 [x\](y)"),
        ("a|b\nc", r"a\|b c"),
        ("[1, 2]", "[1, 2]"),
    ],
)
def test_text_in_markdown_is_no_markup(text: str, expected: str) -> None:
    assert markdown.page("t", [Paragraph(text)], "folder") == f"# t\n\n{expected}\n"


def test_code_in_markdown_ends_neither_early_nor_its_cell() -> None:
    page = markdown.page("t", [Table(["a"], [[Code("x|y`z")]]), Picture("p", "a_b", "c", new_figure(1, 1))], "folder")
    assert "| `` x\\|y`z `` |" in page
    assert "![a\\_b](folder/p.png)\n\nc\n" in page
