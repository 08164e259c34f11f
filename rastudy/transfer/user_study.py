"""The user study: people see a picture and the labels a recogniser gives to plain's and to RA's, and say which fit better.

Raters are blind to the mode: the sides of a pair are drawn at random, each mode equally often on the left. Answers are kept in
``results/<preset>/user_study/<study>/<rater>.csv``, one row per pair, and rating goes on where it was left.
"""

import csv
import io
import itertools
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from IPython.display import Javascript, display
from PIL import Image
from scipy import stats as scipy_stats
from sklearn.metrics import cohen_kappa_score

from rastudy.config import Config, make_config
from rastudy.data.datasets import PictureSet
from rastudy.data.image_files import centre_crop
from rastudy.data.loaders import load_pictures
from rastudy.errors import StudyError, one_of
from rastudy.evaluation.predictions import load_predictions, predictions_file
from rastudy.paths import BATCH, ENTERED, results_folder, to_read, updating, write_csv
from rastudy.registry import MODES

if TYPE_CHECKING:
    import ipywidgets as widgets

CHOICES = ("left", "right", "neither")  # neither: no preference
ANSWERS = ("study", "rater", "pair", "choice", "seconds")
SHOWN = 3  # labels of a list
SIDE = 256  # of the picture as shown, in pixels
# keys click the form's buttons, before JupyterLab takes them for its own, unless something is being typed
KEYS = """
window.removeEventListener('keydown', window.rastudyKeys, true);
window.rastudyKeys = event => {
  const name = {1: 'left', 2: 'right', 3: 'neither', u: 'undo'}[event.key];
  const button = name && document.querySelector('.rastudy-' + name);
  const typing = event.target.closest?.('input, textarea, [contenteditable=true]');
  if (!button || !button.offsetParent || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  button.click();
};
window.addEventListener('keydown', window.rastudyKeys, true);
"""


class Pair(NamedTuple):
    """A question: the test picture's place, the two lists of labels, and whose list is on the left (hidden from raters)."""

    picture: int
    left: tuple[str, ...]
    right: tuple[str, ...]
    left_mode: str


@dataclass
class RatingStudy:
    """A blinded set of pairs on the same pictures; ``modes``: plain and the mode that is compared with it."""

    name: str
    preset: str
    modes: tuple[str, str]
    pairs: list[Pair]
    pictures: PictureSet = field(repr=False)

    def answers_file(self, rater: str) -> Path:
        if not re.fullmatch(r"[\w-]{1,40}", rater):
            raise StudyError(f"rater={rater!r} must be a name of letters, digits, - and _, 40 characters at most")
        return results_folder(self.preset) / ENTERED / self.name / f"{rater}.csv"

    def answers(self, rater: str) -> dict[int, str]:
        """A rater's answers so far, pair to choice; StudyError where the file does not fit the study."""
        return {row["pair"]: row["choice"] for row in load_answers(self, self.answers_file(rater))}

    def answer(self, rater: str, pair: int, choice: str, seconds: float) -> None:
        """Keep one answer; a pair that was answered keeps its first."""
        one_of("choice", choice, CHOICES)
        path = self.answers_file(rater)
        with updating(path):
            rows = load_answers(self, path)
            if pair not in {row["pair"] for row in rows}:
                rows.append({"study": self.name, "rater": rater, "pair": pair, "choice": choice, "seconds": round(seconds, 1)})
                write_csv(path, rows, ANSWERS)

    def undo(self, rater: str) -> None:
        """Take a rater's last answer back."""
        path = self.answers_file(rater)
        with updating(path):
            if path.is_file():
                write_csv(path, load_answers(self, path)[:-1], ANSWERS)

    def picture(self, pair: int) -> Image.Image:
        """The original picture of a pair, enlarged for people's eyes."""
        pixels = self.pictures.pictures[self.pairs[pair].picture]
        pixels = centre_crop(pixels, self.pictures.crop) if self.pictures.crop else pixels
        return Image.fromarray(np.ascontiguousarray(pixels)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def make_study(config: Config, reader: str = "", n_pairs: int = 40, seed: int = 0) -> RatingStudy:
    """Pairs of the label lists that a reader gives to plain's and to another mode's picture, where the lists differ.

    Args:
        config: the run to compare with plain; its predictions must exist.
        reader: a target R; default: the last of the preset's, which was not in the loss.
        n_pairs: the most pairs, drawn by ``seed`` from the test pictures whose lists differ.

    Raises:
        StudyError: missing predictions, an unknown reader, or no picture whose lists differ.
    """
    same = {"strength": config.strength, "seed": config.seed, "data_dir": config.data_dir}
    plain = make_config(config.preset, config.task, "plain", **same)
    if not MODES[config.mode].has_source:
        raise StudyError(f"mode={config.mode!r} is nothing to compare with plain; use ra or another mode with a recogniser")
    runs = {run.mode: load_predictions(to_read(predictions_file(run, "test"))) for run in (plain, config)}
    targets = runs["plain"].targets
    reader = reader or targets[-1]
    one_of("reader", reader, targets)
    pictures = load_pictures(config, "test")
    lists = {mode: run.arrays["top5"][run.targets.index(reader), :, :SHOWN] for mode, run in runs.items()}
    differ = np.flatnonzero((lists["plain"] != lists[config.mode]).any(1))
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(differ)[:n_pairs]
    if not len(drawn):
        raise StudyError(f"{reader} gives the same labels for {config.mode} as for plain: there is nothing to rate")
    left = rng.permutation(np.arange(len(drawn)) % 2)  # whose list is on the left: each mode equally often
    modes, pairs = ("plain", config.mode), []
    for place, side in zip(drawn, left, strict=True):
        shown = [tuple(pictures.classes[k] for k in lists[mode][place]) for mode in modes]
        pairs.append(Pair(int(place), shown[side], shown[1 - side], modes[side]))
    name = f"{config.task}{config.strength:g}-{config.mode}-{reader}-n{n_pairs}-s{seed}"
    return RatingStudy(re.sub(r"[^\w.,+-]", "_", name), config.preset, modes, pairs, pictures)


def load_answers(study: RatingStudy, path: Path) -> list[dict]:
    """The rows of a rater's file, none where it is missing; StudyError for rows that the study did not write."""
    if not path.is_file():
        return []
    try:
        rows = list(csv.DictReader(path.read_text().splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise StudyError(f"{path}: not a readable CSV ({error})") from error
    answers, seen = [], set()
    for line, row in enumerate(rows, start=2):
        where = f"{path}, line {line}"
        if tuple(row) != ANSWERS or None in row.values():
            raise StudyError(f"{where}: has fields {list(row)}, expected {list(ANSWERS)}")
        if row["study"] != study.name or row["rater"] != path.stem:
            raise StudyError(f"{where}: belongs to study {row['study']!r} and rater {row['rater']!r}, not to this file")
        if not row["pair"].isdecimal() or int(row["pair"]) >= len(study.pairs) or row["choice"] not in CHOICES:
            raise StudyError(f"{where}: pair {row['pair']!r} with choice {row['choice']!r} is none of this study's")
        if row["pair"] in seen:
            raise StudyError(f"{where}: pair {row['pair']} is answered twice; keep one of the lines")
        seen.add(row["pair"])
        try:
            answers.append(row | {"pair": int(row["pair"]), "seconds": float(row["seconds"])})
        except ValueError as error:
            raise StudyError(f"{where}: seconds={row['seconds']!r} is no number") from error
    return answers


def all_answers(study: RatingStudy) -> pd.DataFrame:
    """Every rater's answers, sides resolved: ``prefers`` is a mode or ``neither``."""
    folder = results_folder(study.preset) / ENTERED / study.name
    rows = [row for path in sorted(folder.glob("*.csv")) for row in load_answers(study, path)]
    table = pd.DataFrame(rows, columns=list(ANSWERS))
    other = dict(zip(study.modes, study.modes[::-1], strict=True))
    left = [study.pairs[pair].left_mode for pair in table["pair"]]
    sides = [{"left": mode, "right": other[mode], "neither": "neither"} for mode in left]
    return table.assign(prefers=[side[choice] for side, choice in zip(sides, table["choice"], strict=True)])


def analyse(study: RatingStudy) -> pd.DataFrame:
    """Preference for the mode over plain: by rater, and by picture over all raters.

    ``share``: of the answers with a preference, those for the mode, with Wilson's 95 % interval; ``p``: sign test. The row
    ``all`` counts each picture once, by the majority of its raters, who are not independent. ``kappa``: Cohen's, the mean over
    pairs of raters on the pictures that both have rated. Empty while nobody has rated.
    """
    table, (_, mode) = all_answers(study), study.modes
    if not len(table):
        return pd.DataFrame(columns=["rater", "n", "decided", "share", "low", "high", "p", "kappa"])
    votes = table.assign(vote=table["prefers"].map({mode: 1, "plain": -1}).fillna(0))
    rows = [_preference(rater, rows["vote"]) for rater, rows in votes.groupby("rater")]
    by_picture = votes.groupby("pair")["vote"].sum()
    rows.append(_preference("all", np.sign(by_picture)) | {"kappa": _kappa(table)})
    return pd.DataFrame(rows)


def _preference(rater: str, votes: pd.Series) -> dict:
    for_mode, decided = int((votes > 0).sum()), int((votes != 0).sum())
    row = {"rater": rater, "n": len(votes), "decided": decided}
    if decided:
        test = scipy_stats.binomtest(for_mode, decided)
        interval = test.proportion_ci(0.95, method="wilson")
        row |= {"share": for_mode / decided, "low": interval.low, "high": interval.high, "p": test.pvalue}
    return row


def _kappa(table: pd.DataFrame) -> float:
    wide = table.pivot(index="pair", columns="rater", values="prefers")
    found = []
    for one, other in itertools.combinations(wide.columns, 2):
        both = wide[[one, other]].dropna()
        if len(both) > 1 and both.nunique().max() > 1:
            found.append(cohen_kappa_score(both[one], both[other]))
    return float(np.mean(found)) if found else float("nan")


def form(study: RatingStudy, rater: str, clock: Callable[[], float] = time.monotonic) -> "widgets.VBox":
    """An ipywidgets form that shows pair after pair and saves every answer at once; goes on where the rater left off.

    The keys 1, 2 and 3 answer, u takes the last answer back, as the buttons do.
    """
    try:
        import ipywidgets as widgets
    except ImportError as error:
        raise StudyError("the form needs ipywidgets; pip install -e '.[transfer]'") from error
    study.answers_file(rater)  # raises for an unusable name
    picture, question = widgets.Image(format="png", width=SIDE, height=SIDE), widgets.HTML()
    sides = [widgets.HTML(layout={"width": "14em"}) for _ in range(2)]
    texts = ("left fits better (1)", "right fits better (2)", "no preference (3)")
    buttons = [widgets.Button(description=text, layout={"width": "14em"}) for text in texts]
    back = widgets.Button(description="undo the last answer (u)", layout={"width": "14em"})
    state: dict = {}

    def show() -> None:
        answered = study.answers(rater)
        left = [k for k in range(len(study.pairs)) if k not in answered]
        question.value = f"<b>{len(answered)} of {len(study.pairs)} answered.</b> Which labels describe the picture better?"
        back.disabled = not answered
        for button in buttons:
            button.disabled = not left
        if not left:
            question.value = f"<b>All {len(study.pairs)} pairs are answered. Thank you!</b>"
            return
        state.update(pair=left[0], since=clock())
        with io.BytesIO() as file:
            study.picture(left[0]).save(file, "PNG")
            picture.value = file.getvalue()
        pair = study.pairs[left[0]]
        for side, labels in zip(sides, (pair.left, pair.right), strict=True):
            side.value = "<ol>" + "".join(f"<li>{escape(label)}</li>" for label in labels) + "</ol>"

    def on_click(choice: str, _button: object) -> None:
        study.answer(rater, state["pair"], choice, clock() - state["since"])
        show()

    def on_undo(_button: object) -> None:
        study.undo(rater)
        show()

    for button, choice in zip(buttons, CHOICES, strict=True):
        button.on_click(partial(on_click, choice))
        button.add_class(f"rastudy-{choice}")
    back.on_click(on_undo)
    back.add_class("rastudy-undo")
    show()
    if not os.environ.get(BATCH):
        display(Javascript(KEYS))
    return widgets.VBox([question, widgets.HBox([sides[0], picture, sides[1]]), widgets.HBox(buttons), back])
