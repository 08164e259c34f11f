"""The verdicts that RA turns: counts against brute force and the tables, the rule of what is shown, and the pictures."""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from rastudy.analysis.style import save
from rastudy.analysis.tables import load_table, main_cells
from rastudy.config import make_config
from rastudy.data.degradations import round_to_8_bits
from rastudy.errors import StudyError
from rastudy.evaluation import metrics
from rastudy.evaluation.evaluate import load_pictures
from rastudy.evaluation.predictions import Predictions, load_predictions, predictions_file, save_predictions
from rastudy.models.processors import apply_processor
from rastudy.presets import PRESETS
from rastudy.report import gallery
from rastudy.report.gallery import SHOWN, Turned, pair_of, turned, turned_table
from rastudy.training.weights import load_models

ROOT = Path(__file__).parents[1]
STUDIES = [name for name in PRESETS if name != "smoke" and list((ROOT / "results" / name / "predictions").glob("*.npz"))]


def made_up(seed: int, mode: str = "plain", n: int = 97, data: str = "d", targets: tuple[str, ...] = ("a", "b")) -> Predictions:
    """Random verdicts of the smoke preset, in three classes."""
    rng = np.random.default_rng(seed)
    config = make_config("smoke", "jpeg", mode)
    about = {"config": config.science(), "run_id": config.run_id, "split": "test", "data": data, "name": "digits",
             "targets": dict.fromkeys(targets, "w")}  # fmt: skip
    arrays = {
        "top5": rng.integers(3, size=(len(targets), n, 5)).astype(np.uint16), "group": np.arange(n, dtype=np.int32),
        "label": np.random.default_rng(0).integers(3, size=n).astype(np.uint16),
    }  # fmt: skip
    return Predictions(about, arrays)


@pytest.mark.parametrize("reader", ["a", "b"])
def test_turned_against_brute_force(reader):
    plain, ra = made_up(1), made_up(2, "ra")
    row, gained, lost = plain.targets.index(reader), [], []
    for k in range(97):
        label = plain.arrays["label"][k]
        before, after = (run.arrays["top5"][row, k, 0] == label for run in (plain, ra))
        if after and not before:
            gained.append(k)
        if before and not after:
            lost.append(k)
    found = turned(plain, ra, reader)
    assert gained and lost
    assert (found.gained.tolist(), found.lost.tolist(), found.n) == (gained, lost, 97)


def test_turned_wants_the_same_pictures_and_a_known_reader():
    with pytest.raises(StudyError, match="other pictures"):
        turned(made_up(1), made_up(2, data="others"), "a")
    with pytest.raises(StudyError, match="reader='c'"):
        turned(made_up(1), made_up(2), "c")


@pytest.mark.parametrize(
    "gained, lost, shown",
    [(300, 100, (6, 2)), (100, 300, (2, 6)), (50, 50, (4, 4)), (999, 1, (8, 0)), (1, 999, (0, 8)), (15, 1, (8, 0)),
     (14, 2, (7, 1)), (3, 2, (3, 2)), (0, 5, (0, 5)), (5, 0, (5, 0)), (0, 0, (0, 0)), (20, 0, (8, 0))],
)  # fmt: skip
def test_what_is_shown_is_in_proportion(gained, lost, shown):
    """As many of either way as its share, rounded (halves up); all, where there are fewer than places."""
    places = np.random.default_rng(0).permutation(5000)[: gained + lost]
    found = Turned(np.sort(places[:gained]), np.sort(places[gained:]), 5000)
    first, then = found.chosen()
    assert (len(first), len(then)) == shown and sum(shown) == min(SHOWN, gained + lost)
    assert first == sorted(places[:gained].tolist())[: shown[0]] and then == sorted(places[gained:].tolist())[: shown[1]]


def test_every_split_of_the_shown_can_be_filled():
    for gained in range(12):
        for lost in range(12):
            first, then = Turned(np.arange(gained), np.arange(lost), 100).chosen()
            assert len(first) + len(then) == min(SHOWN, gained + lost)


@pytest.mark.parametrize("preset", STUDIES)
def test_counts_are_those_of_the_gains(preset):
    """Gained minus lost, in per cent, is the table's gain of seed 0."""
    gains = main_cells(load_table(preset, "gains"), preset).query("mode == 'ra'")
    counts = turned_table(preset)
    assert len(counts)
    for row in counts.to_dict("records"):
        same = gains[[tuple(key) == (row["task"], row["strength"], row["target_arch"])
                      for key in gains[["task", "strength", "target_arch"]].to_numpy()]]  # fmt: skip
        (cell,) = same.to_dict("records")
        gain = 100 * (row["gained"] - row["lost"]) / row["n_images"]
        assert cell["seed_low"] - 1e-6 <= gain <= cell["seed_high"] + 1e-6
        if cell["n_seeds"] == 1:
            assert cell["value"] == pytest.approx(gain, abs=1e-6)


def test_the_pictures_are_those_that_were_read():
    """P's picture at a place has the error that the predictions keep: the same degradation, noise included, and weights."""
    plain, ra = pair_of("digits", "dn")
    places = [3, 141, 60]
    lq, gt = gallery._as_evaluated(load_pictures(plain, "test"), plain, places)
    for run in (plain, ra):
        picture = round_to_8_bits(apply_processor(load_models(run)[0], lq, gt, run))
        kept = load_predictions(predictions_file(run, "test")).arrays["mse"][places]
        assert metrics.mse_per_image(picture, gt).detach().numpy() == pytest.approx(kept, rel=1e-3)


def test_the_figure():
    """A column per picture, verdicts under plain's and RA's; other pictures than those that were read are refused."""
    pictures = load_pictures(make_config("digits", "jpeg"), "test")
    figure = gallery.plot_turned("digits", "jpeg", "resnet18_small", pictures)
    plain, ra = (load_predictions(predictions_file(run, "test")) for run in pair_of("digits", "jpeg"))
    found = turned(plain, ra, "resnet18_small")
    first, then = found.chosen()
    axes = np.array(figure.axes).reshape(5, SHOWN)
    assert [ax.get_title() for ax in axes[0]] == ["corrected \u2713"] * len(first) + ["broken \u2717"] * len(then)
    for column, place in enumerate(first + then):
        words = [axes[row, column].get_xlabel() for row in range(5)]
        marks = "\u2717\u2713" if place in first else "\u2713\u2717"
        verdicts = [f"{run.arrays['top5'][0, place, 0]} {mark}" for run, mark in zip((plain, ra), marks, strict=True)]
        assert words == ["", *verdicts, str(plain.arrays["label"][place]), ""]
    said = figure.get_suptitle() + figure.texts[-1].get_text()
    assert f"{len(found.gained)} of 2,500" in said and f"breaks {len(found.lost)}" in said and "first" in said
    with pytest.raises(StudyError, match="not the pictures"):
        gallery.plot_turned("digits", "jpeg", "resnet18_small", load_pictures(make_config("digits", "jpeg"), "val"))


def test_no_pair_no_counts(study_root):
    """A preset without runs has an empty table, and its figure says what to do."""
    assert turned_table("smoke").empty
    figure = gallery.plot_turned_counts("smoke")
    assert "rastudy sweep --preset smoke" in figure.texts[0].get_text() and save(figure, "smoke", "turned") is None
    assert not (study_root / "figures").exists()


def test_counts_without_pictures(study_root):
    """Where the weights or pictures are not at hand, the counts are drawn alone."""
    for mode, seed in (("plain", 1), ("ra", 2)):
        run = made_up(seed, mode, targets=("resnet18_small", "resnet50_small"))
        save_predictions(predictions_file(make_config("smoke", "jpeg", mode), "test"), run.arrays, run.about)
    assert gallery.show_turned("smoke") == [Path("figures/smoke/turned.png")]
    assert [path.name for path in (study_root / "figures" / "smoke").iterdir()] == ["turned.png"]
    assert turned_table("smoke")["target_arch"].tolist() == ["resnet18_small", "resnet50_small"]


def test_borrowed_pictures_are_not_committed():
    """Figures of the presets whose pictures are not the package's own are ignored by git."""
    names = [f"figures/{preset}/turned_sr_resnet18_small.png" for preset in ("cifar10", "imagenet_lite", "imagenet", "digits")]
    done = subprocess.run(["git", "check-ignore", *names], cwd=ROOT, capture_output=True, text=True)
    if done.returncode > 1:
        pytest.skip("not a git checkout")
    assert done.stdout.split() == names[:-1]
