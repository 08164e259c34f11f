"""The report: ``rastudy report`` writes one HTML file with everything that the study found; it needs nothing else.

``notebooks/08_report.ipynb`` is executed and converted by nbconvert with the template ``report.html.j2``. Its tables are made
from the CSVs as the README's are, its words are the README's, its figures those under ``figures/``.
"""

import argparse
import base64
import io
import itertools
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from html import escape, unescape
from pathlib import Path

from IPython.display import HTML
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image

from rastudy.analysis.replication import load_replication, told
from rastudy.errors import StudyError, one_of
from rastudy.evaluation.predictions import load_predictions
from rastudy.models.weight_files import sha256
from rastudy.paths import (
    CHECKOUT,
    NOTEBOOKS,
    PACKAGE,
    expand,
    need_checkout,
    results_folder,
    root,
    short,
    to_read,
    write_atomic,
)  # fmt: skip
from rastudy.presets import PRESETS
from rastudy.registry import TASKS, dataset_of, display_name, short_name
from rastudy.report import results_page as readme
from rastudy.report.captions import PICTURES, SHADED, caption_of, rank_of
from rastudy.report.claims import claims_table, has_results, markdown, present_studies, study_name
from rastudy.report.gallery import turned_table
from rastudy.report.kernels import use_warm_kernels
from rastudy.report.notebooks import execute
from rastudy.training.run_store import read_records, records_file

TEMPLATE, README = PACKAGE / "report" / "report.html.j2", CHECKOUT / "README.md"
LARGEST = 10_000_000  # bytes of the report
LEGIBLE = 0.45  # of a figure's own width: a narrower screen scrolls it
SECTIONS = {  # a study's own section of the README
    "digits": "Digits: all figures", "cifar10": "CIFAR-10: real photographs", "imagenet_lite": "700 photographs",
}  # fmt: skip
STUDY_TABLES = {  # those of other sections; one that a study has no rows of is left out
    "Other processors": readme.processors_table, "The control for the schedule": readme.controls_table,
    "What the gain is not": readme.what_it_is_not_table, "The same recognition by other means": readme.equal_cost_table,
    "Several sources at once": readme.matrix_table, "Rounding to 8 bits": readme.rounding_table,
}  # fmt: skip
ELSEWHERE = ("boundary", "transfer", "turned")  # figures with a section of their own
COLOURS = 256  # of a plot: half the bytes and no visible difference


# --- what the notebook's cells show


def studies_of(names: str) -> list[str]:
    """The report's studies, from names separated by commas; by default every study with committed results."""
    studies = [name.strip() for name in names.split(",") if name.strip()] or present_studies()
    for name in studies:
        one_of("preset", name, PRESETS)
        if not has_results(name):
            raise StudyError(f"results/{name} holds no gains; run rastudy sweep --preset {name} first")
    if not studies:
        raise StudyError("results/ holds no study; run rastudy sweep first")
    return studies


def findings(studies: Sequence[str]) -> HTML:
    """The README's own words, which are about the committed studies."""
    if not set(studies) & set(SECTIONS):
        return page(f"This report is of {', '.join(studies)}; the findings in words are about the committed studies.")
    return page(section("rastudy"))


def claims(studies: Sequence[str]) -> HTML:
    """The paper's claims beside ours, and how a verdict is reached."""
    return page(section("Claims"), claims_table(studies))


def study(preset: str, pictures: bool = False) -> HTML:
    """One study: its words, its main table, what else was asked of it, its figures.

    Args:
        pictures: show figures with pictures, too, where these are not the package's own.
    """
    title = SECTIONS.get(preset, study_name(preset))
    parts = [f"## {title}", section(title), readme.results_table(preset)]
    if (made := readme.replication_table([preset])).startswith("|"):
        parts += ["### Beside the record", told(load_replication(to_read(results_folder(preset) / "replication.csv"))), made]
    if (made := readme.photographs_table([preset])).startswith("|"):
        parts.append(made)
    for title, table in STUDY_TABLES.items():
        if (made := table([preset])).startswith("|"):
            parts += [f"### {title}", section(title), made]
    figures = [figure(path) for path in figures_of(preset, pictures) if not path.stem.startswith(ELSEWHERE)]
    return page(*parts, f"### {study_name(preset)}: figures", *figures)


def studies_page(studies: Sequence[str], pictures_of: str = "") -> HTML:
    """Every study in turn; ``pictures_of``: a study whose pictures are shown although they are not the package's own."""
    return HTML("".join(study(preset, preset == pictures_of).data for preset in studies))


def transfer(studies: Sequence[str]) -> HTML:
    """RA's gain in every direction that was tried."""
    summary = [to_read(root() / "figures" / "transfer_summary.png")] if set(studies) >= set(present_studies()) else []
    summary = [path for path in summary if path.is_file()]
    tables = readme.transfer_words(studies), readme.transfer_table(studies)
    return page(section("Transfer in other directions"), *tables, *map(figure, [*summary, *_of_all(studies, "transfer")]))


def boundaries(studies: Sequence[str], pictures_of: str = "") -> HTML:
    """Are the recognisers' decision boundaries alike?"""
    tables = readme.boundary_words(studies), readme.boundaries_table(studies)
    return page(section("Why does it transfer?"), *tables, *map(figure, _of_all(studies, "boundary", pictures_of)))


def gallery(studies: Sequence[str], pictures_of: str = "") -> HTML:
    """Counts and pictures of the verdicts that RA turns."""
    rows = []
    for preset in studies:
        for _, row in turned_table(preset).iterrows():
            counts = [f"{row[name]:,}" for name in ("gained", "lost", "n_images")]
            degradation = short_name(row["task"], row["strength"])
            rows.append([study_name(preset), degradation, display_name(row["target_arch"]), *counts])
    table = markdown(rows, ["data", "task", "read by", "wrong to right", "right to wrong", "of test pictures"])
    return page(*map(figure, _of_all(studies, "turned", pictures_of)), "### All counts", table)


def provenance(studies: Sequence[str]) -> HTML:
    """What every number rests on: commit, runs, seeds, versions, machines, times, digests of the tables that were read."""
    rows = [[study_name(preset), *_origin(preset)] for preset in studies]
    header = ["data", "runs", "seeds", "versions", "device", "trained with", "test pictures, SHA-256", "results committed"]
    commit = _git("log", "-1", "--format=`%H` of %cs")
    state = _git("status", "--porcelain", "--untracked-files=no")
    changed = " with changes that are not committed" * (bool(state) and not state.startswith("unknown"))
    parts = [f"Commit {commit}{changed}.", markdown(rows, header)]
    for preset in studies:
        if (times := readme.timings_table(preset)).startswith("|"):
            parts += [f"### {study_name(preset)}: times", times]
    if to_read(root() / "results" / "benchmark.csv").is_file():
        parts += ["### Speed", readme.benchmark_table()]
    folders = [to_read(results_folder(preset) / "runs.csv").parent for preset in studies]
    read = [to_read(root() / "results" / f"{name}.csv") for name in ("benchmark", "paper_reported", "transfer_summary")]
    read += [path for one in folders for path in one.glob("*.csv")]
    read = [path for path in read if path.is_file()]
    digests = [[f"`{short(path)}`", f"`{sha256(path)[:16]}`"] for path in sorted(read)]
    return page(*parts, "### Tables that were read", markdown(digests, ["file", "SHA-256, first 16 digits"]))


def _origin(preset: str) -> list[str]:
    """How many runs a study has, and what they ran on, from what their predictions say."""
    runs = [load_predictions(path).about for path in sorted(to_read(results_folder(preset) / "predictions").glob("*.npz"))]
    on = [run["provenance"] for run in runs if "provenance" in run]
    return [
        str(len({run["run_id"] for run in runs})),
        _each(run["config"].get("seed", 0) for run in runs),
        _each(" ".join(f"{name} {one[name]}" for name in ("python", "torch", "numpy")) for one in on),
        _each(f"{one['device']}, {one['threads']} thread{'s' * (one['threads'] != '1')}" for one in on),
        _trained_with(preset),
        _each(run["data"] for run in runs if run["split"] == "test"),
        _git("log", "-1", "--format=%cs", "--", f"results/{preset}") or "not committed",
    ]


def _trained_with(preset: str) -> str:
    """What the recorded trainings ran on; a record that does not say it is counted, not guessed."""
    trained = [markers["trained"] for markers in read_records(to_read(records_file(preset))).values() if "trained" in markers]
    known = [one["provenance"] for one in trained if "provenance" in one]
    said = [_each(f"torch {one['torch']}, {one['cpu']}, threads {one['threads']}" for one in known)] if known else []
    return "; ".join([*said, *([f"not recorded of {len(trained) - len(known)} runs"] if len(known) < len(trained) else [])])


def assumptions() -> HTML:
    """What is the paper's, the release's, and ours."""
    return page(section("What is the paper's, the release's, and ours"))


# --- pieces


def page(*parts: str) -> HTML:
    """Markdown, and what is HTML already (it starts with ``<figure``), as HTML."""
    render = MarkdownWithMath(renderer=IPythonRenderer(escape=False, exclude_anchor_links=True)).render
    return HTML("\n".join(part if part.startswith("<figure") else render(part) for part in parts if part))


def section(title: str) -> str:
    """The README's words under a heading, without tables that are made here, figures and commands; empty where it has none."""
    text = re.sub(r"^```.*?^```$", "```", readme.MARKED.sub("", README.read_text()), flags=re.DOTALL | re.MULTILINE)
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", text, re.DOTALL | re.MULTILINE)
    blocks = re.split(r"\n{2,}", found[1].strip()) if found else []
    led = [*(following == "```" and block.endswith(":") for block, following in itertools.pairwise(blocks)), False]
    return "\n\n".join(b for b, leads in zip(blocks, led, strict=False) if not leads and not b.startswith(("```", "![")))


def figures_of(preset: str, pictures: bool = False) -> list[Path]:
    """A preset's figures in the report's order; those of pictures that are not the package's own only with ``pictures``."""
    files = sorted(to_read(root() / "figures" / preset / "gains.png").parent.glob("*.png"), key=lambda path: rank_of(path.stem))
    free = pictures or dataset_of(PRESETS[preset]["dataset"]).may_show
    return [path for path in files if free or not path.stem.startswith(PICTURES)]


def _of_all(studies: Iterable[str], kind: str, pictures_of: str = "") -> list[Path]:
    return [path for one in studies for path in figures_of(one, one == pictures_of) if path.stem.startswith(kind)]


def figure(path: Path) -> str:
    """A figure of the checkout inside the page, with caption and alternative text; a plot in ``COLOURS`` colours."""
    with Image.open(path) as file:
        picture = Image.new("RGB", file.size, "white")
        picture.paste(file, mask=file.convert("RGBA").getchannel("A"))
    if not path.stem.startswith(SHADED):
        picture = picture.quantize(COLOURS, dither=Image.Dither.NONE).convert("RGB")
    packed = io.BytesIO()
    picture.save(packed, "WEBP", lossless=True, method=4)
    caption, plotted = caption_of(path)
    width, height = picture.size
    data = base64.b64encode(packed.getvalue()).decode()
    return (
        f'<figure data-file="{short(path)}"><div class="scroll" tabindex="0">'
        f'<img alt="{escape(f"{caption}. {plotted}")}" width="{width}" height="{height}" '
        f'style="--legible:{int(LEGIBLE * width)}px" src="data:image/webp;base64,{data}">'
        f"</div><figcaption>{escape(caption)}</figcaption></figure>"
    )


def _each(values: Iterable[object]) -> str:
    """Different values, sorted."""
    return "; ".join(sorted({str(value) for value in values}))


def _git(*arguments: str) -> str:
    """What git says about the checkout, or why it says nothing."""
    if not (CHECKOUT / ".git").exists():
        return "unknown: not a git checkout"
    try:
        done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True)
    except OSError as error:
        return f"unknown: git cannot be run ({error.strerror})"
    return done.stdout.strip() if done.returncode == 0 else f"unknown: git refuses ({done.stderr.strip().splitlines()[0]})"


# --- the file


def convert(notebook: Path) -> str:
    """An executed notebook as the report's HTML: without code, with contents, anchors, and tables that scroll in their box."""
    exporter = HTMLExporter(template_file=str(TEMPLATE), exclude_input=True, exclude_output_prompt=True,
                            exclude_input_prompt=True, exclude_anchor_links=True)  # fmt: skip
    html, _ = exporter.from_filename(str(notebook))
    html, contents = _with_anchors(html)
    html = re.sub(r"<table>.*?</table>", lambda m: f'<div class="scroll" tabindex="0">{m[0]}</div>', html, flags=re.DOTALL)
    html = re.sub(r"<td>(?=[+-]?\d)", '<td class="short">', html)
    html = re.sub(rf"<td>(?=(?:{'|'.join(TASKS)})\b)", '<td class="task">', html)
    html = re.sub(r" (agrees|disagrees|undecided)</td>", r' <span class="\1">\1</span></td>', html)
    return html.replace("<!-- contents -->", contents)


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
    return html, f"<ul>{''.join(lines)}</ul>"


def write_report(notebook: Path, output: Path) -> int:
    """Convert an executed notebook and write the report; returns its size in bytes. StudyError where it is too large."""
    data = convert(notebook).encode()
    if len(data) > LARGEST:
        raise StudyError(
            f"the report has {len(data) / 1e6:.1f} MB, above {LARGEST / 1e6:.0f}; name fewer studies with --preset"
        )
    write_atomic(output, lambda p: p.write_bytes(data))
    return len(data)


def parameters_of(studies: Sequence[str], data: str) -> Iterator[tuple[str, str]]:
    """The notebook's parameters. A folder of pictures belongs to the one study that needs one."""
    yield "studies", ",".join(studies)
    with_folder = [name for name in studies if "data_dir" in PRESETS[name]]
    if data and len(with_folder) != 1:
        raise StudyError(f"--data is the folder of one study's pictures, not of {len(with_folder)}; name it with --preset")
    yield "preset", with_folder[0] if data else next((n for n in studies if n == "digits"), studies[0])
    yield "data_dir", str(expand(data).absolute()) if data else ""


def report_command(args: argparse.Namespace) -> int:
    need_checkout("the report")
    if args.readme:
        readme.refresh_readme()
        return 0
    parameters = dict(parameters_of(studies_of(",".join(args.preset)), args.data))
    executed = root() / "runs" / "report.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    use_warm_kernels()
    if problem := execute(NOTEBOOKS / "08_report.ipynb", executed, parameters):
        print(f"failed: {problem}", file=sys.stderr)
        return 1
    size = write_report(executed, args.output)
    print(f"{args.output}: {size / 1e6:.1f} MB")
    return 0
