"""What the study found, in one text: ``results.md.j2`` with its words, its figures filled in from the CSVs.

It is written as ``results/RESULTS.md``, and with the pictures inside as the HTML report (:mod:`rastudy.report.html`). The
README has the findings and a table of it between markers, ``<!-- table:NAME --> ... <!-- /table -->``.
"""

import re
import subprocess
import textwrap
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rastudy.errors import StudyError, one_of
from rastudy.evaluation.predictions import load_predictions
from rastudy.models.weight_files import sha256
from rastudy.paths import CHECKOUT, PACKAGE, is_record, results_folder, root, short, to_read, write_atomic
from rastudy.presets import PRESETS
from rastudy.registry import dataset_of, names_in
from rastudy.report import judgement, words
from rastudy.report.captions import PICTURES, caption_of, rank_of
from rastudy.report.claims import has_results, markdown, present_studies, study_name
from rastudy.report.drawn import figure_file, redraw
from rastudy.report.results_page import FOR_ALL, MAKERS, boundary_words
from rastudy.training.run_store import read_records, records_file

MARKED = re.compile(r"(<!-- table:(?P<name>[\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
OF_THEIR_OWN = ("boundary", "transfer", "turned", "accuracy", "gains")  # figures that are not among a study's further ones
TOLD = ("digits", "cifar10", "imagenette")  # the studies that the findings tell of
IN_README = ("digits", "cifar10", "imagenette")  # its table has ten rows
Show = Callable[[Path], str]  # a figure's file to what stands for it in the text


def studies_of(names: str) -> list[str]:
    """The studies to tell of, from names separated by commas; by default every study with results."""
    studies = names_in(names) or present_studies()
    for name in studies:
        one_of("preset", name, PRESETS)
        if not has_results(name):
            raise StudyError(f"results/{name} holds no gains; run rastudy sweep --preset {name} first")
    if not studies:
        raise StudyError("results/ holds no study; run rastudy sweep first")
    return studies


def document(studies: Sequence[str], show: Show, pictures_of: str = "", where: str = "") -> str:
    """The whole text in Markdown.

    Args:
        show: what stands for a figure.
        pictures_of: a study whose pictures are shown although they are not the package's own.
        where: what the provenance says first, of the checkout.
    """
    recorded = set(TOLD) <= set(studies) and all(map(_of_record, TOLD))

    def figure(name: str) -> str:
        path = figure_file(name)
        return show(path) if path.is_file() else ""

    def figures(preset: str, kind: str = "") -> str:
        found = [path for one in ([preset] if preset else studies) for path in figures_of(one, one == pictures_of)]
        wanted = [path for path in found if path.stem.startswith(kind or OF_THEIR_OWN) == bool(kind)]
        return "\n\n".join(map(show, wanted))

    def table(name: str, preset: str = "") -> str:
        made = MAKERS[name]() if name in FOR_ALL else MAKERS[name]([preset] if preset else studies)
        return made if made.startswith("|") else ""

    helpers = words.HELPERS | {
        "studies": studies, "recorded": recorded, "name": study_name, "figure": figure, "figures": figures,
        "table": table, "fold": fold, "hero": lambda: figure("hero"),
        "findings": findings, "boundary_words": lambda: boundary_words(studies), "rounding": lambda: words.rounding(studies),
        "read_best": lambda: words.read_best(studies),
        "judgements": lambda: [judgement.best_of(one) for one in judgement.judgements(studies)],
        "provenance": lambda: provenance(studies, where),
    }  # fmt: skip
    text = _environment().get_template("results.md.j2").render(helpers)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def findings(full: bool = True) -> str:
    """The record's findings, with their figures; for the README those that decide alone."""
    presets = present_studies()
    helpers = words.HELPERS | {"boundaries": lambda what: words.boundaries(what, presets), "full": full}
    items = re.split(r"\n(?=\d\. )", _environment().get_template("findings.md.j2").render(helpers).strip())
    return "\n".join(textwrap.fill(" ".join(item.split()), 128, subsequent_indent="   ") for item in items)


def _environment() -> Environment:
    loader = FileSystemLoader(PACKAGE / "report")
    return Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True)


def fold(title: str, caller: Callable[[], str]) -> str:
    """What a reader opens with a click; nothing where there is nothing inside."""
    inside = caller().strip()
    return f"<details><summary>{title}</summary>\n\n{inside}\n\n</details>\n\n" if inside else ""


def figures_of(preset: str, pictures: bool = False) -> list[Path]:
    """A preset's figures in order; those of pictures that are not the package's own only with ``pictures``."""
    files = sorted(to_read(root() / "figures" / preset / "gains.png").parent.glob("*.png"), key=lambda path: rank_of(path.stem))
    free = pictures or dataset_of(PRESETS[preset]["dataset"]).may_show
    return [path for path in files if free or not path.stem.startswith(PICTURES)]


def _of_record(preset: str) -> bool:
    """Whether what is read of a preset is the record, not a study that was run beside it."""
    return is_record() or CHECKOUT / "results" in to_read(results_folder(preset) / "gains.csv").parents


# --- on what each number rests


def provenance(studies: Sequence[str], where: str = "") -> str:
    """On what every number rests: runs, seeds, versions, machines, digests of the tables that were read."""
    rows = [[study_name(preset), *_origin(preset)] for preset in studies]
    header = ["data", "runs", "seeds", "versions", "device", "trained with", "test pictures, SHA-256"]
    folders = [to_read(results_folder(preset) / "runs.csv").parent for preset in studies]
    read = [to_read(root() / "results" / f"{name}.csv") for name in ("benchmark", "paper_reported", "transfer_summary")]
    read += [path for one in folders for path in one.glob("*.csv")]
    digests = [[f"`{short(path)}`", f"`{sha256(path)[:16]}`"] for path in sorted(read) if path.is_file()]
    listed = fold("Tables that were read", lambda: markdown(digests, ["file", "SHA-256, first 16 digits"]))
    return "\n\n".join(part for part in (where, markdown(rows, header), listed) if part)


def _origin(preset: str) -> list[str]:
    """How many runs a study has, and what they ran on, from what their predictions say."""
    runs = [load_predictions(path).about for path in sorted(to_read(results_folder(preset) / "predictions").glob("*.npz"))]
    on, names = [run["provenance"] for run in runs if "provenance" in run], {run["run_id"] for run in runs}
    return [
        str(len(names)),
        _each(run["config"].get("seed", 0) for run in runs),
        _each(" ".join(f"{name} {one[name]}" for name in ("python", "torch", "numpy")) for one in on),
        _each(f"{one['device']}, {one['threads']} thread{'s' * (one['threads'] != '1')}" for one in on),
        _trained_with(preset, names),
        _each(run["data"] for run in runs if run["split"] == "test"),
    ]


def _trained_with(preset: str, runs: Collection[str]) -> str:
    """What the recorded trainings of these runs ran on; a record that does not say it is counted, not guessed."""
    records = read_records(to_read(records_file(preset)))
    trained = [markers["trained"] for name, markers in records.items() if name in runs and "trained" in markers]
    known = [one["provenance"] for one in trained if "provenance" in one]
    said = [_each(f"torch {one['torch']}, {one['cpu']}, threads {one['threads']}" for one in known)] if known else []
    return "; ".join(
        [*said, *([f"not recorded of {len(trained) - len(known)} trained runs"] if len(known) < len(trained) else [])]
    )


def _each(values: Iterable[object]) -> str:
    """Different values, sorted."""
    return "; ".join(sorted({str(value) for value in values}))


def checkout() -> str:
    """The commit that a report was built at."""
    commit = _git("log", "-1", "--format=`%H` of %cs")
    state = _git("status", "--porcelain", "--untracked-files=no")
    changed = " with changes that are not committed" * (bool(state) and not state.startswith("unknown"))
    return f"Commit {commit}{changed}."


def _git(*arguments: str) -> str:
    """What git says about the checkout, or why it says nothing."""
    if not (CHECKOUT / ".git").exists():
        return "unknown: not a git checkout"
    try:
        done = subprocess.run(["git", *arguments], cwd=CHECKOUT, capture_output=True, text=True)
    except OSError as error:
        return f"unknown: git cannot be run ({error.strerror})"
    return done.stdout.strip() if done.returncode == 0 else f"unknown: git refuses ({done.stderr.strip().splitlines()[0]})"


# --- the files


def linked(path: Path) -> str:
    """A figure in ``results/RESULTS.md``."""
    return f"![{caption_of(path)[0]}](../figures/{path.relative_to(root() / 'figures').as_posix()})"


def render(text: str) -> str:
    """The README's text with what stands between markers made anew."""
    makers = MAKERS | {"findings": lambda: findings(full=False) + "\n", "main": lambda: MAKERS["main"](IN_README)}
    return MARKED.sub(lambda found: found[1] + makers[found["name"]]() + found[3], text)


def refresh() -> None:
    """Rewrite the figures, ``results/RESULTS.md`` and what the README has of it; StudyError outside the record."""
    if not is_record():
        raise StudyError("README.md and RESULTS.md are the record's: in the clone, RASTUDY_ROOT=. rastudy report --readme")
    redraw()
    readme = root() / "README.md"
    texts = {readme: render(readme.read_text()), root() / "results" / "RESULTS.md": document(present_studies(), linked)}
    for path, text in texts.items():
        write_atomic(path, partial(Path.write_text, data=text))
