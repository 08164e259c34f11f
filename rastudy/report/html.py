"""The report: ``rastudy report`` writes one HTML file with everything that the study found; it needs nothing else.

Its text is that of ``results/RESULTS.md`` (:mod:`rastudy.report.document`), its figures lie inside.
"""

import argparse
import base64
import io
import re
from collections.abc import Callable, Sequence
from html import escape, unescape
from pathlib import Path

from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image

from rastudy.errors import StudyError
from rastudy.paths import PACKAGE, need_checkout, short, write_atomic
from rastudy.presets import PRESETS
from rastudy.registry import TASKS, dataset_of
from rastudy.report import gallery
from rastudy.report.captions import caption_of
from rastudy.report.document import checkout, document, refresh, studies_of

TEMPLATE = PACKAGE / "report" / "report.html"
LARGEST = 10_000_000  # bytes of the report
LEGIBLE = 0.45  # of a figure's own width: a narrower screen scrolls it
NAVIGATION = re.compile(r"<nav.*?</nav>", re.DOTALL)
FIGURE = re.compile(r"<p>@@(?P<k>\d+)@@</p>")


def body(studies: Sequence[str], pictures_of: str = "") -> str:
    """The report's HTML without its head: text, tables, and figures inside."""
    shown: list[Path] = []

    def show(path: Path) -> str:
        shown.append(path)
        return f"@@{len(shown) - 1}@@"

    return rendered(document(studies, show, pictures_of, checkout()), shown)


def rendered(text: str, shown: Sequence[Path], caption: Callable[[Path], tuple[str, str]] = caption_of) -> str:
    """Markdown as HTML, with the figure ``shown[k]`` for a paragraph ``@@k@@``; ``caption``: caption and alternative text."""
    html = MarkdownWithMath(renderer=IPythonRenderer(escape=False, exclude_anchor_links=True)).render(text)
    html = re.sub(r"<table>.*?</table>", lambda m: f'<div class="scroll" tabindex="0">{m[0]}</div>', html, flags=re.DOTALL)
    html = re.sub(r"<td>(?=[+-]?\d)", '<td class="short">', html)
    html = re.sub(rf"<td>(?=(?:{'|'.join(TASKS)})\b)", '<td class="task">', html)
    html = re.sub(r" (agrees|disagrees|undecided)</td>", r' <span class="\1">\1</span></td>', html)
    return FIGURE.sub(lambda found: figure(shown[int(found["k"])], caption), html)


def figure(path: Path, caption: Callable[[Path], tuple[str, str]] = caption_of) -> str:
    """A figure of the checkout inside the page, with caption and alternative text."""
    with Image.open(path) as file:
        picture = file.convert("RGB")
    packed = io.BytesIO()
    picture.save(packed, "WEBP", lossless=True, method=4)
    said, plotted = caption(path)
    width, height = picture.size
    data = base64.b64encode(packed.getvalue()).decode()
    return (
        f'<figure data-file="{short(path)}"><div class="scroll" tabindex="0">'
        f'<img alt="{escape(f"{said}. {plotted}")}" width="{width}" height="{height}" '
        f'style="--legible:{int(LEGIBLE * width)}px" src="data:image/webp;base64,{data}">'
        f"</div><figcaption>{escape(said)}</figcaption></figure>"
    )


def _with_anchors(html: str) -> tuple[str, str]:
    """Headings get anchors as GitHub names them, links that lead nowhere become text; also the table of contents."""
    lines, seen = [], set()

    def anchor(found: re.Match) -> str:
        level, text = found.groups()
        words = unescape(re.sub(r"<.*?>", "", text))
        slug = base = re.sub(r"[^\w -]", "", words.lower()).strip().replace(" ", "-")
        n = 1
        while slug in seen:
            n += 1
            slug = f"{base}-{n}"
        seen.add(slug)
        lines.append(f'<li class="level{level}"><a href="#{slug}">{escape(words)}</a></li>')
        return f'<h{level} id="{slug}">{text}</h{level}>'

    html = re.sub(r"<h([23])>(.*?)</h\1>", anchor, html)
    kept = lambda m: m[0] if m[1].startswith("https://") or m[1][1:] in seen else m[2]  # noqa: E731
    html = re.sub(r'<a href="([^"]*)">(.*?)</a>', kept, html, flags=re.DOTALL)
    return html, f"<ul>{''.join(lines)}</ul>" if lines else ""


def write_report(output: Path, studies: Sequence[str], pictures_of: str = "") -> int:
    """Write the report; returns its size in bytes. StudyError where it is too large."""
    data = page(body(studies, pictures_of))
    if len(data) > LARGEST:
        raise StudyError(
            f"the report has {len(data) / 1e6:.1f} MB, above {LARGEST / 1e6:.0f}; name fewer studies with --preset"
        )
    write_atomic(output, lambda p: p.write_bytes(data))
    return len(data)


def page(html: str) -> bytes:
    """A page that needs nothing else, with a table of contents."""
    html, contents = _with_anchors(html)
    template = TEMPLATE.read_text()
    template = template if contents else NAVIGATION.sub("", template)
    return template.replace("<!-- contents -->", contents).replace("<!-- body -->", html).encode()


def folder_of(studies: Sequence[str], data: str) -> str:
    """The one study whose pictures lie in the folder that was named; empty without one."""
    with_folder = [name for name in studies if "data_dir" in PRESETS[name]]
    if data and len(with_folder) != 1:
        raise StudyError(f"--data is the folder of one study's pictures, not of {len(with_folder)}; name it with --preset")
    return with_folder[0] if data else ""


def report_command(args: argparse.Namespace) -> int:
    need_checkout("the report")
    if args.readme:
        refresh()
        return 0
    studies = studies_of(",".join(args.preset))
    pictures_of = folder_of(studies, args.data)
    for name in studies:
        if name == pictures_of or dataset_of(PRESETS[name]["dataset"]).may_show:
            gallery.show_turned(name, args.data if name == pictures_of else "")
    size = write_report(args.output, studies, pictures_of)
    print(f"{args.output}: {size / 1e6:.1f} MB")
    return 0
