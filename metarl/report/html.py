"""Pages as one HTML file that works anywhere: pictures inside, no scripts, nothing from a network; light and dark."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from metarl.report.document import (
    Block,
    Code,
    Commands,
    Details,
    Heading,
    Paragraph,
    Picture,
    Table,
    Text,
    Warnings,
    parts,
)
from metarl.report.figures import house_style, svg

STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --quiet: #595959; --page: #ffffff; --line: #d8d8d8;
  --panel: #f5f5f5; --warn: #8a3b00; --warn-panel: #fff4e8; }
@media (prefers-color-scheme: dark) { :root { --text: #e8e8e8; --quiet: #a8a8a8; --page: #141414; --line: #3a3a3a;
  --panel: #1f1f1f; --warn: #ffb77a; --warn-panel: #2c2015; }
  img { filter: invert(1) hue-rotate(180deg) brightness(1.05); mix-blend-mode: screen; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 76rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: clamp(1.2rem, 5vw, 1.6rem); line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
p { margin: .5rem 0; max-width: 48rem; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; font-size: .9em; }
pre { background: var(--panel); padding: .75rem; border-radius: 6px; overflow-x: auto; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; min-width: min(100%, 26rem); font-variant-numeric: tabular-nums;
  font-size: .9rem; overflow-wrap: normal; }
caption { caption-side: top; text-align: left; color: var(--quiet); padding-bottom: .35rem; }
caption span { position: sticky; left: 0; display: inline-block; max-width: calc(100vw - 2rem); }
th, td { padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
  vertical-align: top; }
thead th { border-bottom: 2px solid var(--line); font-weight: 600; white-space: normal; vertical-align: bottom;
  min-width: 5rem; }
tr > th:first-child { position: sticky; left: 0; background: var(--page); text-align: left; white-space: normal;
  min-width: 7rem; max-width: 45vw; overflow-wrap: break-word; }
tbody th { font-weight: 400; }
table.text td { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 10rem; }
table.text th { text-align: left; }
.warnings { background: var(--warn-panel); color: var(--warn); border-left: 4px solid currentColor;
  padding: .5rem 1rem; margin: 1rem 0; }
.warnings ul { margin: .25rem 0; padding-left: 1.25rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem 1.5rem; }
figure { margin: .5rem 0; }
figure img { width: 100%; height: auto; display: block; }
figcaption { color: var(--quiet); font-size: .85rem; margin-top: .25rem; }
details { margin: 1rem 0; }
summary { cursor: pointer; }
"""

# Should a name ever slip through unescaped, no browser would run or fetch anything for it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, blocks: Sequence[Block]) -> bytes:
    """A whole page. All text is escaped."""
    text = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{html.escape(POLICY)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{_plain(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{_plain(title)}</h1>
{_blocks(blocks)}
</main>
</body>
</html>
"""
    return text.encode(errors="replace")  # a folder's name may have bytes that are no text


def _blocks(blocks: Sequence[Block]) -> str:
    found: list[str] = []
    pictures: list[str] = []  # those that follow one another stand side by side where there is room
    for block in [*blocks, None]:
        if isinstance(block, Picture):
            pictures.append(_picture(block))
            continue
        if pictures:
            found.append(f'<div class="pictures">\n{"".join(pictures)}</div>')
            pictures = []
        if block is not None:
            found.append(_block(block))
    return "\n".join(filter(None, found))


def _block(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_plain(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_text(text)}</p>"
        case Warnings(lines):
            items = "".join(f"<li>{_plain(line)}</li>" for line in lines)
            return f'<div class="warnings" role="note"><strong>Mind</strong><ul>{items}</ul></div>' if lines else ""
        case Table():
            return _table(block)
        case Commands(lines):
            return f"<pre><code>{_plain(chr(10).join(lines))}</code></pre>"
        case Details(title, blocks):
            return f"<details><summary>{_plain(title)}</summary>\n{_blocks(blocks)}\n</details>"
        case Picture():
            return _picture(block)


def _table(block: Table) -> str:
    caption = f"<caption><span>{_plain(block.about)}</span></caption>" if block.about else ""
    heads = "".join(f'<th scope="col">{_plain(head)}</th>' for head in block.heads)
    rows = "\n".join(
        f'<tr><th scope="row">{_text([row[0]])}</th>{"".join(f"<td>{_text([cell])}</td>" for cell in row[1:])}</tr>'
        for row in block.rows
    )
    kind = ' class="text"' if len(block.heads) == 2 else ""  # a list of what things are, not of numbers
    return (
        f'<div class="scroll" tabindex="0"><table{kind}>{caption}\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


@house_style()
def _picture(block: Picture) -> str:
    data = base64.b64encode(svg(block.figure)).decode()
    return (
        f'<figure><img alt="{_plain(block.about)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{_plain(block.caption)}</figcaption></figure>\n"
    )


def _text(text: Text) -> str:
    return "".join(f"<code>{_plain(part)}</code>" if isinstance(part, Code) else _plain(part) for part in parts(text))


def _plain(text: str) -> str:
    return html.escape(str(text), quote=True)
