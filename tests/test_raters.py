"""The user study: blinded and balanced pairs, answers that survive, analysis by hand, and scripted raters in a browser."""

import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from browser import needs_browser, open_lab
from sklearn.metrics import cohen_kappa_score

from rastudy import registry
from rastudy.config import make_config
from rastudy.data.datasets import load_split
from rastudy.errors import StudyError
from rastudy.evaluation.predictions import predictions_file, save_predictions
from rastudy.transfer import user_study as raters

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "06_user_study.ipynb"


@pytest.fixture
def config(study_root):
    """Predictions of plain and RA on the smoke preset's 60 pictures; their lists differ on every second one."""
    pictures = load_split("digits", "test", 60)
    rng = np.random.default_rng(0)
    plain = np.argsort(rng.random((5, 60, 10)), 2)[:, :, :5].astype(np.uint16)
    other = plain.copy()
    other[:, ::2] = plain[:, ::2, ::-1]
    for mode, top5 in (("plain", plain), ("ra", other)):
        run = make_config("smoke", "jpeg", mode)
        targets = dict.fromkeys(registry.main_recognisers(), "v")
        about = {"config": run.science(), "run_id": run.run_id, "split": "test", "targets": targets}
        arrays = {"top5": top5, "label": pictures.labels.astype(np.uint16), "group": pictures.groups.astype(np.int32)}
        save_predictions(predictions_file(run, "test"), arrays, about)
    return make_config("smoke", "jpeg", "ra")


# --- the pairs


def test_pairs_are_blinded_and_balanced(config):
    """Only pictures whose lists differ, each once; each mode as often on the left; the same draw gives the same study."""
    study = raters.make_study(config, n_pairs=20)
    assert len({pair.picture for pair in study.pairs}) == 20 and all(pair.picture % 2 == 0 for pair in study.pairs)
    assert [pair.left_mode for pair in study.pairs].count("ra") == 10
    assert raters.make_study(config, n_pairs=20).pairs == study.pairs != raters.make_study(config, n_pairs=20, seed=1).pairs
    for pair in study.pairs:
        assert len(pair.left) == raters.SHOWN and pair.left != pair.right and set(pair.left) <= set("0123456789")
    assert len(raters.make_study(config, n_pairs=99).pairs) == 30
    sides = [pair.left_mode for pair in study.pairs]
    assert sides != sorted(sides) and sides != sorted(sides, reverse=True)


@pytest.mark.parametrize(
    ("settings", "others", "message"),
    [({"mode": "plain"}, {}, "nothing to compare with plain"), ({"seed": 3}, {}, "no such predictions"),
     ({}, {"reader": "resnet9"}, "reader='resnet9' is unknown")],
)  # fmt: skip
def test_studies_that_cannot_be(config, settings, others, message):
    run = make_config("smoke", "jpeg", **({"mode": "ra"} | settings))
    with pytest.raises(StudyError, match=message):
        raters.make_study(run, **others)


def test_equal_lists(config):
    plain, ra = (predictions_file(make_config("smoke", "jpeg", mode), "test") for mode in ("plain", "ra"))
    shutil.copy(plain, ra)
    with pytest.raises(StudyError, match="nothing to rate"):
        raters.make_study(config)


# --- the answers


def test_answers_are_kept_once(config):
    study = raters.make_study(config, n_pairs=4)
    study.answer("ann", 2, "left", 1.23)
    study.answer("ann", 2, "right", 9)
    study.answer("ann", 0, "neither", 2)
    assert raters.make_study(config, n_pairs=4).answers("ann") == {2: "left", 0: "neither"} and study.answers("bob") == {}
    with pytest.raises(StudyError, match="choice='both' is unknown"):
        study.answer("ann", 1, "both", 1)


@pytest.mark.parametrize("rater", ["", "../x", "a b", "x" * 41])
def test_names_that_are_no_names(config, rater):
    with pytest.raises(StudyError, match="must be a name of letters"):
        raters.make_study(config).answers(rater)


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda t: t.replace("left", "lft"), "is none of this study's"),
     (lambda t: t.replace(",2,", ",77,"), "none of this study's"),
     (lambda t: t + t.splitlines()[1] + "\n", "pair 2 is answered twice"),
     (lambda t: t.replace("pair,", "pear,"), "has fields"), (lambda t: t + "x\n", "has fields"),
     (lambda t: t.replace("1.5", "soon"), "seconds='soon' is no number"),
     (lambda t: t.replace("ann", "eve"), "rater 'eve', not"), (lambda t: t.replace(",2,", ",-2,"), "none of this study's")],
)  # fmt: skip
def test_files_edited_by_hand(config, change, message):
    """Refused with the line, whatever was done to them."""
    study = raters.make_study(config, n_pairs=4)
    study.answer("ann", 2, "left", 1.5)
    path = study.answers_file("ann")
    path.write_text(change(path.read_text()))
    for use in (lambda: study.answers("ann"), lambda: raters.analyse(study), lambda: study.answer("ann", 1, "left", 1)):
        with pytest.raises(StudyError, match=message):
            use()


# --- the analysis


def rate(study: raters.RatingStudy, rater: str, prefers: list[str]) -> None:
    for k, mode in enumerate(prefers):
        choice = "neither" if mode == "neither" else "left" if study.pairs[k].left_mode == mode else "right"
        study.answer(rater, k, choice, 1)


def test_analysis_by_hand(config):
    """Sides are resolved into modes; a picture counts once, by what most of its raters prefer."""
    study = raters.make_study(config, n_pairs=6)
    assert raters.analyse(study).empty
    ann = ["ra", "ra", "ra", "plain", "neither", "ra"]
    bob = ["ra", "plain", "ra", "plain", "ra", "ra"]
    rate(study, "ann", ann)
    rate(study, "bob", bob)
    table = raters.analyse(study).set_index("rater")
    assert (table.loc["ann", "n"], table.loc["ann", "decided"], table.loc["ann", "share"]) == (6, 5, 0.8)
    assert (table.loc["all", "n"], table.loc["all", "decided"], table.loc["all", "share"]) == (6, 5, 0.8)
    assert table.loc["all", "p"] == pytest.approx(0.375) and table.loc["all", "low"] < 0.8 < table.loc["all", "high"]
    assert table.loc["all", "kappa"] == pytest.approx(cohen_kappa_score(ann, bob))


def test_nobody_decides(config):
    study = raters.make_study(config, n_pairs=3)
    rate(study, "ann", ["neither"] * 3)
    table = raters.analyse(study)
    assert (table["decided"] == 0).all() and "share" not in table or table["share"].isna().all()


def test_the_form(config):
    """Clicks answer pair after pair; a second form goes on where the first was left, and ends."""
    study = raters.make_study(config, n_pairs=3)
    box = raters.form(study, "ann", clock=iter(range(100)).__next__)
    left, right, neither = box.children[2].children
    assert "0 of 3" in box.children[0].value and "<li>" in box.children[1].children[0].value
    left.click()
    neither.click()
    assert study.answers("ann") == {0: "left", 1: "neither"}
    again = raters.form(raters.make_study(config, n_pairs=3), "ann")
    assert "2 of 3" in again.children[0].value
    again.children[2].children[1].click()
    assert (
        study.answers("ann")[2] == "right" and "Thank you" in again.children[0].value and again.children[2].children[0].disabled
    )
    assert pd.read_csv(study.answers_file("ann"))["seconds"].tolist()[:2] == [1.0, 1.0]


def test_undo(config):
    """The last answer goes, the pair is asked again, at the end, too; with none left nothing happens."""
    study = raters.make_study(config, n_pairs=2)
    box = raters.form(study, "ann")
    (left, right, _neither), undo = box.children[2].children, box.children[3]
    assert undo.disabled
    left.click()
    right.click()
    assert left.disabled and study.answers("ann") == {0: "left", 1: "right"}
    undo.click()
    assert study.answers("ann") == {0: "left"} and "1 of 2" in box.children[0].value and not left.disabled
    left.click()
    undo.click(), undo.click()
    assert study.answers("ann") == {} and undo.disabled
    study.undo("ann"), study.undo("bob")
    assert study.answers("ann") == study.answers("bob") == {}


@needs_browser
def test_in_a_browser(config, study_root, tmp_path):
    """JupyterLab, run all, scripted clicks and keys: the answers lie in the CSV."""
    place = tmp_path / "lab"
    place.mkdir()
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cell = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source = cell.source.replace('"digits"', '"smoke"').replace("n_pairs: int = 40", "n_pairs: int = 5")
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, place / "study.ipynb")
    with open_lab(place / "study.ipynb", RASTUDY_ROOT=str(study_root)) as page:
        page.run("jupyterapp.commands.execute('notebook:run-all-cells').then(() => true)")
        page.wait("document.querySelectorAll('.rastudy-left').length == 1", 90)
        for k, choice in enumerate(("left", "right", "neither", "left", "left")):
            page.wait(f"document.body.innerText.includes('{k} of 5 answered')", 20)
            page.run(f"document.querySelector('.rastudy-{choice}').click() || true")
        page.wait("document.body.innerText.includes('Thank you')", 20)
        for key, shown in (("u", "4 of 5 answered"), ("u", "3 of 5 answered"), ("1", "4 of 5 answered"), ("3", "Thank you")):
            page.send("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
            page.send("Input.dispatchKeyEvent", type="keyUp", key=key)
            page.wait(f"document.body.innerText.includes('{shown}')", 20)
        page.wait("document.body.innerText.includes('Thank you')", 20)
        shown = page.run("[...document.querySelectorAll('.rastudy-left')].map(b => b.disabled)")
        page.screenshot(tmp_path / "form.png")
    study = raters.make_study(config, n_pairs=5)
    assert shown == [True]
    assert study.answers("me") == {0: "left", 1: "right", 2: "neither", 3: "left", 4: "neither"}
