"""A hook of MkDocs (see mkdocs.yml): the pages of docs/ as a site, although they are written for the code's host.

* A link that leads out of docs/ goes to the repository, if ``repo_url`` in mkdocs.yml says where that is; else its text
  stands there as code, with the file's place.
* A link that is called by a page's file name is called by the page's title.
* Of the files beside docs/, security and changelog are pages of the site; the start page stands for README.md.
* What lies between ``<details>`` is Markdown, as it is on the code's host, and headings have the anchors it gives them.
* The pages below reference/ are written by :mod:`site_reference`, from the code.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

import site_reference

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
BESIDE = {"security.md": ROOT / "SECURITY.md", "changelog.md": ROOT / "CHANGELOG.md"}  # page of the site → its file
INSTEAD = {ROOT / "README.md": "index.md", **{file: uri for uri, file in BESIDE.items()}}
_LINK = re.compile(r"(?<!!)\[([^\[\]]+)\]\(([^()\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```)$", flags=re.DOTALL | re.MULTILINE)


def on_config(config: Any) -> Any:
    """Anchors as the code's host makes them: letters of all alphabets, and a hyphen for every space."""
    from pymdownx.slugs import slugify

    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that do not lie in docs/."""
    from mkdocs.structure.files import File

    beside = {uri: file.read_text(encoding="utf-8") for uri, file in BESIDE.items()}
    for uri, content in {**beside, **site_reference.pages()}.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """A page as the site needs it."""
    uri = page.file.src_uri
    return with_details(with_links(markdown, uri, BESIDE.get(uri, DOCS / uri), config.repo_url))


def with_details(markdown: str) -> str:
    """Says of folded blocks that they hold Markdown."""
    return re.sub(r"^<details>", "<details markdown>", markdown, flags=re.MULTILINE)


def with_links(markdown: str, uri: str, file: Path, repository: str | None) -> str:
    """The text of the page ``uri``, whose source is ``file``, with the links that lead out of docs/ replaced."""

    def replaced(link: re.Match[str]) -> str:
        text, target = link.groups()
        place, hash_, anchor = target.partition("#")
        if not place or ":" in place:  # on the same page, or in the world
            return link[0]
        there = Path(os.path.normpath(file.parent / place))
        inside = INSTEAD.get(there) or (there.relative_to(DOCS).as_posix() if there.is_relative_to(DOCS) else None)
        if inside is not None:
            name = title(there) if text.endswith(".md") else text
            return f"[{name}]({posixpath.relpath(inside, posixpath.dirname(uri))}{hash_}{anchor})"
        name = there.relative_to(ROOT).as_posix() + "/" * there.is_dir()
        if repository:
            return f"[{text}]({repository.rstrip('/')}/blob/main/{name}{hash_}{anchor})"
        return as_code(text, name)

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(replaced, part) for part in parts)


def title(page: Path) -> str:
    """A page's first heading, up to a colon; the file's name where there is no such page: MkDocs complains of that."""
    if not page.is_file():
        return page.name
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ").partition(":")[0]


def as_code(text: str, name: str) -> str:
    """A file's name, with the text of the link to it where that says something else."""
    words = text.strip("`").rstrip("/")
    if name.rstrip("/").endswith(words):  # the name, or the end of it
        return f"`{name}`"
    return text if Path(name).stem == words else f"{text} (`{name}`)"
