"""The tables: gains by hand, rules, the paper's figures, and the committed results against their own evidence."""

import math
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rastudy import __main__ as command_line
from rastudy import registry
from rastudy.analysis import tables
from rastudy.analysis.checks import paper_gains, paper_reported
from rastudy.analysis.comparisons import GAIN, UNSEEN, ends, load_cells
from rastudy.analysis.matched import at
from rastudy.analysis.replication import COLUMNS as REPLICATION
from rastudy.analysis.tables import TABLES, load_table, make_tables
from rastudy.boundaries import tables as boundary_tables
from rastudy.config import make_config
from rastudy.data import digits
from rastudy.errors import StudyError
from rastudy.evaluation.predictions import load_results, predictions_file, results_file, save_predictions
from rastudy.grid import grid
from rastudy.presets import PRESETS, SMALL_FIVE, degradations, settings_of
from rastudy.report import claims
from rastudy.report import figures as plots
from rastudy.report import results_page as readme
from rastudy.tools.difficulty import published

ROOT = Path(__file__).parents[1]
N = 400
RA_MODES = ("ra", "ra_transformer", "ra_unsupervised")
SOURCE, NEAR, FAR = "resnet18_small", "resnet50_small", "vgg16_bn_small"


def right(*spans: tuple[int, int]) -> np.ndarray:
    """(N,) True on the given spans of pictures."""
    hits = np.zeros(N, bool)
    for start, stop in spans:
        hits[start:stop] = True
    return hits


def put(
    mode: str, hits: dict[str, np.ndarray], *, split="test", mse=0.01, group=1, data="d", version="w", label=0, **overrides
) -> str:
    """Save hand-made predictions of a smoke run: who is right about which picture. Returns the run id.

    ``group``: pictures per group.
    """
    config = make_config(overrides.pop("preset", "smoke"), overrides.pop("task", "sr"), mode, **overrides)
    classes = np.where(np.stack(list(hits.values()))[..., None], np.arange(5), np.arange(5) + 1)
    arrays = {
        "top5": classes.astype(np.uint16), "top1_float": classes[..., 0].astype(np.uint16),
        "label": np.full(N, label, np.uint16), "group": (np.arange(N) // group).astype(np.int32),
        "mse": np.full(N, mse), "ssim": np.full(N, 0.5),
        "ssim_release": np.full(N, 0.6),
    }  # fmt: skip
    about = {"config": config.science(), "run_id": config.run_id, "split": split, "data": data, "name": "digits",
             "targets": dict.fromkeys(hits, version)}  # fmt: skip
    save_predictions(predictions_file(config, split), arrays, about)
    return config.run_id


# plain is right about the first 200; ra gains 30 and loses 10 on the source, 20 and 10 on one unseen R, 0 on the other
PLAIN = {SOURCE: right((0, 200)), NEAR: right((0, 200)), FAR: right((0, 200))}
RA = {SOURCE: right((10, 230)), NEAR: right((10, 220)), FAR: right((0, 200))}
CLEAN = {arch: right((0, 400)) for arch in PLAIN}


ON_PLAIN = f"{SOURCE}_on_plain_sr2"


@pytest.fixture
def cifar10(study_root) -> dict[str, np.ndarray]:
    """Hand-made results of x2 on CIFAR-10: plain, RA, a control, two budgets, and RA from every R and from several."""
    plain = PLAIN | {ON_PLAIN: right((0, 210))}
    ra = RA | {ON_PLAIN: right((0, 220))}
    x2 = {"preset": "cifar10", "strength": 2.0}
    put("plain", plain, **x2)
    put("none", {arch: right((0, 100)) for arch in plain}, **x2, mse=0.02)
    put("ra", ra, **x2, mse=0.012)
    put("perceptual", plain | {SOURCE: right((0, 205))}, **x2)
    put("ra", plain | {SOURCE: right((0, 202))}, **x2, source_arch=f"{SOURCE}_untrained")
    put("ra", plain, **x2, labels="shuffled")
    put("ra", plain | {SOURCE: right((0, 190))}, **x2, labels="constant")
    for budget, extra in ((2, 10), (8, 20)):
        put("plain", plain | {SOURCE: right((0, 200 + extra))}, **x2, pretrain_epochs=budget, epochs=budget)
        put("ra", plain | {SOURCE: right((0, 230 + extra))}, **x2, pretrain_epochs=budget, epochs=budget)
    put("ra", plain | {NEAR: right((0, 240)), FAR: right((0, 212))}, **x2, source_arch=NEAR)
    put("ra", plain | {FAR: right((0, 232))}, **x2, source_arch=f"{SOURCE},{NEAR},resnet101_small,densenet121_small")
    put("ra", plain | {FAR: right((0, 252))}, **x2, source_arch=SMALL_FIVE)
    make_tables("cifar10")
    return plain


def test_equal_cost_by_hand(cifar10):
    """Gains are over plain read by the source R; an adapted R moves its own column alone."""
    table = load_table("cifar10", "equal_cost").set_index(["mode", "reader"])
    assert set(table.index) == {(m, r) for m in ("none", "plain", "ra", "perceptual") for r in (SOURCE, ON_PLAIN)}
    assert set(table["strength"]) == {2.0} and set(table["n_seeds"]) == {1}
    figures = table[["value", "gain", "unseen_gain"]]
    assert figures.loc[("plain", SOURCE)].tolist() == [50, 0, 0]
    assert figures.loc[("plain", ON_PLAIN)].tolist() == [52.5, 2.5, 0]
    assert figures.loc[("ra", SOURCE)].tolist() == [55, 5, 1.25]  # 20 of 400; 10 and 0 of the unseen ones
    assert figures.loc[("ra", ON_PLAIN)].tolist() == [55, 5, 1.25]
    assert figures.loc[("none", SOURCE)].tolist() == [25, -25, -25]
    assert table.loc[("ra", SOURCE), "psnr"] == pytest.approx(-10 * math.log10(0.012), abs=1e-5)
    row = table.loc[("ra", SOURCE)]
    assert row["gain_low"] < row["gain"] < row["gain_high"] and row["low"] < row["value"] < row["high"]


def test_no_adapted_reader_no_comparison_at_equal_cost(study_root):
    put("plain", PLAIN)
    put("ra", RA)
    make_tables("smoke")
    assert not len(load_table("smoke", "equal_cost"))


def cells_of(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines()[2:]]


def test_the_readmes_controls(cifar10):
    """Each control finds its run and its baseline."""
    rows = {row[2]: row[4:6] for row in cells_of(readme.what_it_is_not_table())}
    gain = {name: (source.split(" ")[0], unseen.split(" ")[0]) for name, (source, unseen) in rows.items()}
    assert gain == {
        "RA": ("+5.0", "+1.2"),
        "RA, an untrained R in the loss": ("+0.5", "+0.0"),
        "RA, permuted labels in the loss": ("+0.0", "+0.0"),
        "RA, class 0 for every picture in the loss": ("-2.5", "+0.0"),
        "RA at half the budget, against plain at half": ("+7.5", "+0.0"),
        "RA at twice the budget, against plain at twice": ("+7.5", "+0.0"),
        "RA against plain at twice the budget": ("+0.0", "+1.2"),
        "RA at half the budget, against plain at the whole": ("+10.0", "+0.0"),
        "feature loss on R": ("+1.2", "+0.0"),
    }


def test_several_sources_by_hand(cifar10):
    """On an R that stands outside: what another one gives it, four at once, all five, and the paired difference."""
    table = load_table("cifar10", "several_sources").set_index(["target_arch", "sources"])
    far = table.loc[FAR]
    assert far["value"].to_dict() == {"another": 1.5, "four_others": 8.0, "all_five": 13.0}  # (0 + 3) / 2; 32 and 52 of 400
    assert far["n_sources"].to_dict() == {"another": 2, "four_others": 4, "all_five": 5}
    assert far.loc["four_others", "over_one"] == 6.5 and pd.isna(far.loc["another", "over_one"])
    assert (far["low"] < far["value"]).all() and (far["value"] < far["high"]).all()
    # what decides is paired: the same pictures as the four's gain and the other sources'
    four, one = 100.0 * right((200, 232)), (100.0 * right() + 100.0 * right((200, 212))) / 2
    over = far.loc["four_others"]
    assert over["over_one"] - over["over_low"] == pytest.approx(half_width(four - one), abs=0.3)
    assert table.loc[(NEAR, "itself"), "value"] == 10 and (NEAR, "four_others") not in table.index


def test_controls_by_hand(cifar10):
    """Of the source R and the unseen ones, against the baseline that each control names."""
    table = load_table("cifar10", "controls").set_index("control")
    assert table.loc["ra", ["baseline", "gain", "unseen_gain"]].tolist() == ["plain", 5.0, 1.25]
    assert table.loc["untrained", "gain"] == 0.5 and table.loc["constant", "gain"] == -2.5
    assert table.loc["half_to_whole", ["baseline", "gain"]].tolist() == ["plain_twice", 10.0]
    assert table.loc["untrained", ["over_ra", "unseen_over_ra"]].tolist() == [-4.5, -1.25]  # 202 hits against 220, and so on
    assert table.loc["perceptual", "over_ra"] == -3.75 and table.loc["ra", ["over_ra", "unseen_over_ra"]].isna().all()
    assert table.loc["half", ["over_ra", "unseen_over_ra"]].isna().all()  # another schedule
    assert (table["gain_low"] <= table["gain"]).all() and (table["unseen_low"] <= table["unseen_high"]).all()
    assert set(table["n_images"]) == {N} and "one_cycle" not in table.index  # not among the hand-made runs


def test_controls_before_the_main_run(study_root):
    """A grid in progress: the control is told, its difference to RA is not."""
    x2 = {"preset": "cifar10", "strength": 2.0}
    put("plain", PLAIN, **x2), put("ra", RA, **x2, labels="shuffled")
    make_tables("cifar10")
    (row,) = load_table("cifar10", "controls").to_dict("records")
    assert (row["control"], row["gain"]) == ("shuffled", 5.0) and math.isnan(row["over_ra"])


def test_no_wrong_labels_no_controls(study_root):
    put("plain", PLAIN), put("ra", RA)
    make_tables("smoke")
    assert not len(load_table("smoke", "controls"))


def test_no_several_sources_no_table(study_root):
    put("plain", PLAIN), put("ra", RA), put("ra", RA, source_arch=NEAR)
    make_tables("smoke")
    assert not len(load_table("smoke", "several_sources"))


def test_the_readmes_matrix(cifar10):
    """On each R: its own gain, the mean of the other sources', that of the others at once, and of all."""
    rows = {row[2]: row[3:] for row in cells_of(readme.matrix_table())}
    assert [cell.split(" ")[0] for cell in rows["VGG-16-BN"]] == ["", "+1.5", "+8.0", "+13.0", "+6.5"]
    assert rows["ResNet-50"][0].startswith("+10.0") and rows["ResNet-50"][2] == ""  # no run of its four others


@pytest.mark.parametrize(
    "claim, low, high, expected",
    [
        (9.2, 1.1, 3.0, "agrees"), (9.2, 0.1, 3.0, "undecided"), (9.2, -0.1, 3.0, "undecided"),
        (9.2, -3.0, -1.1, "disagrees"), (9.2, 0.1, 0.9, "disagrees"),
        (-2.0, -3.0, -1.1, "agrees"), (-2.0, 1.1, 3.0, "disagrees"),
        (0, -0.9, 0.9, "agrees"), (0, 0.1, 0.4, "agrees"), (0, -8, 9, "undecided"), (0, 0.1, 3.0, "undecided"),
        (0, 1.0, 3.0, "disagrees"), (0, -3.0, -1.1, "disagrees"), (None, 1.0, 3.0, ""),
    ],
)  # fmt: skip
def test_verdicts(claim, low, high, expected):
    """One rule and one margin: what is undecided of a gain is undecided of none, whatever was claimed."""
    assert claims.verdict(claim, low, high) == expected
    assert (claims.verdict(1, low, high) == "undecided") == (claims.verdict(0, low, high) == "undecided")


def test_a_difference_that_the_correction_takes_back_is_undecided():
    assert claims.verdict(9.2, 1.1, 3.0, p=0.06) == "undecided" and claims.verdict(0, -0.5, 0.5, p=0.9) == "agrees"


def test_the_claims_have_verdicts(cifar10):
    """The paper finds a gain in sr and nothing for unsupervised RA in denoising; shares are of most of the gain."""
    put("ra_unsupervised", PLAIN | {SOURCE: right((0, 240))}, preset="cifar10", task="dn")
    put("plain", PLAIN, preset="cifar10", task="dn")
    make_tables("cifar10")
    rows = {(row[0], row[1]): row[2:] for row in cells_of(claims.claims_table())}
    paper, ours = rows["RA: gain of the source (pp)", "sr x2"]  # of which the paper says nothing
    assert paper == "no such task" and ours.startswith("+5.0 [") and ours.endswith("], 1 training")
    paper, ours = rows["RA unsupervised: gain of the source (pp)", "dn"]
    assert paper == "-0.2" and ours.startswith("+10.0 [") and ours.endswith("], 1 training: disagrees")
    assert rows["RA unsupervised: gain of unseen models (pp)", "dn"] == ["+0.0", "+0.0 [+0.0, +0.0], 1 training: agrees"]
    assert rows["RA: gain of the source (pp)", "jpeg"] == ["+9.5", ""]


def test_the_claim_that_most_is_kept_has_a_verdict(study_root, monkeypatch):
    """More than half of a gain; where there is none to keep, why."""
    monkeypatch.setitem(claims.STUDIES, "smoke", "smoke")
    put("plain", PLAIN)
    put("ra", {SOURCE: right((0, 300)), NEAR: right((0, 210)), FAR: right((0, 210))})
    put("ra_unsupervised", {SOURCE: right((10, 212)), NEAR: right((0, 210)), FAR: right((0, 210))})
    put("ra_transformer", {SOURCE: right((0, 100)), NEAR: right((0, 210)), FAR: right((0, 210))})
    make_tables("smoke")
    rows = {(row[0], row[1]): row[2:] for row in cells_of(claims.claims_table())}
    paper, ours = rows["RA: share that unseen models keep of the source's gain", "sr x4"]
    assert paper == "0.81" and ours.startswith("0.10 [") and ours.endswith("]: disagrees")
    unresolved = ["0.81", "the source's gain is not resolved"]
    assert rows["RA unsupervised: share that unseen models keep of the source's gain", "sr x4"] == unresolved
    assert rows["RA with T: share that unseen models keep of the source's gain", "sr x4"] == [
        "not available",
        "the source loses",
    ]


def test_the_share_within_readers(study_root, monkeypatch):
    """An unseen R's gain over the same R's gain as the source, beside the paper's definition."""
    monkeypatch.setitem(claims.STUDIES, "smoke", "smoke")
    put("plain", PLAIN)
    put("ra", {SOURCE: right((0, 240)), NEAR: right((0, 240)), FAR: right((0, 240))})
    put("ra", {SOURCE: right((0, 200)), NEAR: right((0, 280)), FAR: right((0, 200))}, source_arch=NEAR)
    make_tables("smoke")
    row = load_table("smoke", "kept").query("main").iloc[0]
    assert row["value"] == 1 and pd.isna(row["within"])  # of the far R nobody knows what it would gain
    put("ra", {SOURCE: right((0, 200)), NEAR: right((0, 200)), FAR: right((0, 280))}, source_arch=FAR)
    make_tables("smoke")
    row = load_table("smoke", "kept").query("main").iloc[0]
    assert row["value"] == 1 and row["within"] == pytest.approx(0.5) and row["within_seeds"] == 1
    rows = {(row[0], row[1]): row[2:] for row in cells_of(claims.claims_table())}
    assert rows["RA: share that unseen models keep of their own gain as sources", "sr x4"][1].startswith("0.50 [")


def test_the_readmes_equal_cost(cifar10):
    rows = cells_of(readme.equal_cost_table())
    assert ["sr x2", "plain", "plain's output"] in [row[:3] for row in rows] and len(rows) == 7
    assert [row[2] for row in rows if row[1] == "feature loss"] == ["clean pictures"]
    assert any(row[:3] == ["sr x2", "RA", "clean pictures"] and row[3].startswith("+5.0") for row in rows)


def test_the_figure_at_equal_cost(cifar10):
    figure = plots.plot_equal_cost("cifar10")
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert "plain; R on plain's output" in labels and len(labels) == 8


def gains(mode: str = "ra") -> pd.DataFrame:
    table = load_table("smoke", "gains")
    return table[table["mode"] == mode].set_index("target_arch")


def mcnemar(gained: int, lost: int) -> float:
    n, k = gained + lost, min(gained, lost)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


def half_width(differences: np.ndarray) -> float:
    """Of the normal 95 % interval of a mean."""
    return 1.96 * differences.std() / math.sqrt(len(differences))


# --- gains


def test_a_gain_by_hand(study_root):
    """Value, interval, p and share of the gap of a pair of predictions."""
    put("plain", PLAIN), put("ra", RA), put("clean", CLEAN)
    make_tables("smoke")
    found = gains()
    assert found["value"].to_dict() == {SOURCE: 5.0, NEAR: 2.5, FAR: 0.0, "mean_unseen": 1.25}
    assert found["role"].to_dict() == {SOURCE: "source", NEAR: "unseen", FAR: "unseen", "mean_unseen": "mean_unseen"}
    for arch in (SOURCE, NEAR):
        half = half_width(100.0 * RA[arch] - 100.0 * PLAIN[arch])
        assert found.loc[arch, "low"] == pytest.approx(found.loc[arch, "value"] - half, abs=0.25)
        assert found.loc[arch, "high"] == pytest.approx(found.loc[arch, "value"] + half, abs=0.25)
    assert (found.loc[FAR, "low"], found.loc[FAR, "high"], found.loc[FAR, "p"]) == (0, 0, 1)
    assert found.loc[SOURCE, "p"] == pytest.approx(mcnemar(30, 10), rel=5e-3)
    assert found.loc[NEAR, "p"] == pytest.approx(mcnemar(20, 10), rel=5e-3)
    assert found["gap_closed"].to_dict() == {SOURCE: 0.1, NEAR: 0.05, FAR: 0.0, "mean_unseen": 0.025}
    assert ((found["gap_low"] <= found["gap_closed"]) & (found["gap_closed"] <= found["gap_high"])).all()
    assert set(found["n_images"]) == {N} and set(found["n_groups"]) == {N} and set(found["n_seeds"]) == {1}


def test_no_gap_without_the_clean_pictures(study_root):
    put("plain", PLAIN), put("ra", RA)
    make_tables("smoke")
    assert gains()[["gap_closed", "gap_low", "gap_high"]].isna().all(axis=None)


def test_pictures_of_a_group_are_not_independent(study_root):
    """The interval follows the number of groups, here 40, not of pictures; p comes from flipping groups."""
    put("plain", PLAIN, group=10), put("ra", RA, group=10)
    make_tables("smoke")
    row = gains().loc[SOURCE]
    difference = (100.0 * RA[SOURCE] - 100.0 * PLAIN[SOURCE]).reshape(40, 10).mean(1)
    assert row["value"] == 5 and row["n_groups"] == 40
    assert row["high"] - row["low"] == pytest.approx(2 * half_width(difference), rel=0.15)
    assert row["high"] - row["low"] > 2.5 * 2 * half_width(100.0 * RA[SOURCE] - 100.0 * PLAIN[SOURCE])
    # 3 groups gained all, 1 lost all: |sum| of 4 signs is at least 2 in 10 of 16 cases
    assert row["p"] == pytest.approx(10 / 16, abs=0.03)


def test_gains_average_over_common_seeds(study_root):
    """A seed that plain or RA lacks stays out; the spread over seeds is shown."""
    put("plain", PLAIN), put("plain", PLAIN, seed=1), put("plain", RA, seed=2)
    put("ra", RA), put("ra", PLAIN, seed=1), put("ra", CLEAN, seed=3)
    make_tables("smoke")
    row = gains().loc[SOURCE]
    assert (row["value"], row["seed_low"], row["seed_high"], row["n_seeds"]) == (2.5, 0, 5, 2)
    assert pd.isna(row["trainings_low"]) and row["seed_sd"] == pytest.approx(5 / 2**0.5)  # two do not tell how they vary


def test_the_interval_over_trainings(study_root, monkeypatch):
    """The headline from three trainings on: it is wider than that over pictures, and the sentence says how many there are."""
    monkeypatch.setitem(claims.STUDIES, "smoke", "smoke")
    for seed, more in enumerate((10, 40, 70)):
        put("plain", PLAIN, seed=seed), put("ra", {arch: right((0, 200 + more)) for arch in PLAIN}, seed=seed)
    make_tables("smoke")
    row = gains().loc[SOURCE]
    t = 4.3027 * row["seed_sd"] / 3**0.5  # of two degrees of freedom
    assert row["value"] == 10 and row["seed_sd"] == 7.5 and row["high"] - row["low"] < 6
    assert row["trainings_high"] - row["trainings_low"] == pytest.approx(2 * t, rel=0.1)
    rows = {(row[0], row[1]): row[2:] for row in cells_of(claims.claims_table())}
    (ours,) = rows["RA: gain of the source (pp)", "sr x4"][1:]
    assert ours == f"+10.0 [{row['trainings_low']:+.1f}, {row['trainings_high']:+.1f}], 3 trainings: undecided"


def test_accuracy_by_hand(study_root):
    """Percent with Wilson's interval; PSNR; nothing about the error of clean pictures."""
    put("plain", PLAIN, mse=0.001), put("ra", RA), put("clean", CLEAN, mse=0.0)
    make_tables("smoke")
    table = load_table("smoke", "accuracy").set_index(["mode", "target_arch", "metric"])
    row = table.loc["ra", SOURCE, "top1"]
    z, p = 1.959964, 0.55
    middle, half = p + z * z / 2 / N, z * math.sqrt(p * (1 - p) / N + z * z / 4 / N / N)
    assert row["value"] == 55
    assert row["low"] == pytest.approx(100 * (middle - half) / (1 + z * z / N), abs=1e-3)
    assert row["high"] == pytest.approx(100 * (middle + half) / (1 + z * z / N), abs=1e-3)
    assert table.loc["plain", "-", "psnr"]["value"] == pytest.approx(30)
    assert set(table.loc["clean"].index.get_level_values("metric")) == {"top1", "top1_float"}


def test_primary_contrasts_are_corrected_together(study_root):
    """Source and mean unseen R of ra at the preset's weight stand alone; Holm over all others."""
    weight = settings_of("smoke", "sr")["ra_weights"]["ra"]
    put("plain", PLAIN), put("ra", RA), put("ra", RA, ra_weight=7 * weight), put("ra_unsupervised", RA)
    put("ra", RA, source_arch=FAR)
    make_tables("smoke")
    table = load_table("smoke", "gains")
    primary = table[table["primary"]]
    assert set(zip(primary["mode"], primary["role"], primary["ra_weight"], primary["source_arch"], strict=True)) == {
        ("ra", role, weight, SOURCE) for role in ("source", "mean_unseen")
    }
    assert (primary["p_holm"] >= primary["p"]).all() and primary["p_holm"].max() <= 1
    others = table[~table["primary"]].sort_values("p", kind="stable")
    assert len(others) == 4 * 4 - 2
    running, m = 0.0, len(others)
    for k, row in enumerate(others.itertuples()):
        running = max(running, row.p * (m - k))
        assert row.p_holm == pytest.approx(min(running, 1), abs=2e-5, rel=0.01)  # both have three digits in the file


OTHERS = {"pictures": {"data": "other"}, "R's": {"hits": dict(reversed(PLAIN.items()))}, "weights": {"version": "v"},
          "labels": {"label": 1}, "groups": {"group": 2}}  # fmt: skip


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_pairs_must_match(study_root, other):
    """A difference of runs that saw other pictures, labels or R's, or R's with other weights, is refused."""
    put("ra", RA)
    put("plain", **({"hits": PLAIN} | other))
    with pytest.raises(StudyError, match="other pictures, labels or weights of R's"):
        make_tables("smoke")


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [("main", "x", "neither True nor False"), ("main", "", "neither True nor False"), ("trainings_low", "x", "not a number"),
     ("n_seeds", "five", "not a number"), ("", "", "rows stand there twice")],
)  # fmt: skip
def test_tables_that_were_edited_are_refused(study_root, column, value, says):
    """A blank flag once made every row a main one."""
    put("plain", PLAIN)
    put("ra", RA)
    make_tables("smoke")
    path = results_file("smoke").with_name("gains.csv")
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if column:
        table.loc[1, column] = value
    else:
        table = pd.concat([table, table[:2]])
    table.to_csv(path, index=False)
    with pytest.raises(StudyError, match=rf"gains.csv: .*{says}.*rastudy tables"):
        load_table("smoke", "gains")


def test_stale_runs_are_refused(study_root):
    """Two runs of one cell and seed, as another version left them: the message asks to delete one."""
    put("plain", PLAIN)
    (path,) = (study_root / "results" / "smoke" / "predictions").glob("*.npz")
    shutil.copy(path, path.with_name(path.name.replace("plain", "older")))
    with pytest.raises(StudyError, match="delete the stale one"):
        load_cells("smoke", "test")


@pytest.mark.parametrize("damage", ["edited", "deleted"])
def test_the_runs_csv_is_what_the_predictions_give(study_root, damage):
    """If it was changed, that is said and it is rebuilt, byte for byte; if it is missing, it is built."""
    put("plain", PLAIN), put("ra", RA)
    said = []
    make_tables("smoke", said.append)
    path = results_file("smoke")
    before = path.read_bytes()
    path.unlink() if damage == "deleted" else path.write_bytes(before.replace(b"top1", b"top7", 1))
    make_tables("smoke", said.append)
    assert path.read_bytes() == before and len(said) == (damage == "edited") and all(path.name in line for line in said)


ONE_CYCLE = {"pretrain_epochs": 0, "epochs": 2, "lr": make_config("smoke", "sr").pretrain_lr}  # as long as smoke's two phases


def test_the_control_for_the_schedule(study_root):
    """RA and plain are also compared with plain in one cycle of the same length; the main figures stay those to plain."""
    put("plain", PLAIN), put("ra", RA), put("plain", {arch: right((0, 220)) for arch in PLAIN}, **ONE_CYCLE)
    make_tables("smoke")
    table = load_table("smoke", "gains").set_index(["mode", "baseline", "target_arch"])["value"]
    assert table["ra", "plain", SOURCE] == 5 and table["ra", "plain_one_cycle", SOURCE] == 0
    assert table["plain", "plain_one_cycle", SOURCE] == -5 and table["plain", "plain_one_cycle", "mean_unseen"] == -5
    assert set(table.index.droplevel(2)) == {("ra", "plain"), ("ra", "plain_one_cycle"), ("plain", "plain_one_cycle")}
    main = tables.main_cells(load_table("smoke", "gains"), "smoke")
    assert set(main["baseline"]) == {"plain"} and set(main["mode"]) == {"ra"}
    assert tables.main_table("smoke").loc[("sr x4", "plain"), "ResNet-18"] == 50
    assert load_table("smoke", "gains").query("primary")["baseline"].unique().tolist() == ["plain"]


def test_plain_for_twice_as_long_is_a_control(study_root):
    """RA against plain that was trained for twice its epochs; the main figures stay those to plain."""
    put("plain", PLAIN), put("ra", RA), put("plain", {arch: right((0, 220)) for arch in PLAIN}, pretrain_epochs=2, epochs=2)
    make_tables("smoke")
    table = load_table("smoke", "gains").set_index(["mode", "baseline", "target_arch"])["value"]
    assert table["ra", "plain", SOURCE] == 5 and table["ra", "plain_twice", SOURCE] == 0
    assert table["plain", "plain_twice", SOURCE] == -5 and len(table) == 3 * 4
    main = tables.main_cells(load_table("smoke", "gains"), "smoke")
    assert set(main["baseline"]) == {"plain"} and set(main["mode"]) == {"ra"}


def test_wrong_labels_are_cells_of_their_own(study_root):
    """A control is compared with plain, too, and is no part of the main comparison."""
    put("plain", PLAIN), put("ra", RA), put("ra", PLAIN, labels="shuffled")
    make_tables("smoke")
    table = load_table("smoke", "gains").set_index(["labels", "target_arch"])
    assert table.loc[("shuffled", SOURCE), "value"] == 0 and table.loc[("correct", SOURCE), "value"] == 5
    assert not table.loc["shuffled", "primary"].any() and table.loc[("correct", SOURCE), "primary"]
    assert set(tables.main_cells(load_table("smoke", "gains"), "smoke")["labels"]) == {"correct"}


def test_a_second_training_is_not_counted_twice(study_root):
    """Another training of an architecture has its own role, and no part in the mean over unseen R's."""
    both = {**PLAIN, f"{FAR}_seed1": PLAIN[FAR]}, {**RA, f"{FAR}_seed1": RA[SOURCE]}
    put("plain", both[0]), put("ra", both[1])
    make_tables("smoke")
    found = gains()
    assert found.loc[f"{FAR}_seed1", "role"] == "other_training" and found.loc["mean_unseen", "value"] == 1.25
    assert registry.display_name(f"{FAR}_seed1") == "VGG-16-BN seed1"


def test_other_settings_are_cells_of_their_own(study_root):
    """A run by hand disturbs nothing: it is compared with plain of the same settings alone."""
    put("plain", PLAIN), put("ra", RA), put("ra", CLEAN, lr=9.0), put("ra", RA, channels=4), put("plain", RA, channels=4)
    make_tables("smoke")
    table = load_table("smoke", "gains").set_index(["other", "target_arch"])["value"]
    assert table["-", SOURCE] == 5 and table["channels=4", SOURCE] == 0 and len(table) == 2 * 4
    assert set(load_table("smoke", "accuracy")["other"]) == {"-", "lr=9.0", "channels=4"}
    assert set(tables.main_cells(load_table("smoke", "gains"), "smoke")["other"]) == {"-"}


def test_a_source_of_a_second_training(study_root):
    """It is the source; the first training of its architecture was not in the loss, but is not unseen either."""
    hits = {SOURCE: PLAIN[SOURCE], f"{SOURCE}_seed1": PLAIN[SOURCE], FAR: PLAIN[FAR]}
    put("plain", hits), put("ra", hits, source_arch=f"{SOURCE}_seed1")
    make_tables("smoke")
    roles = load_table("smoke", "gains").set_index("target_arch")["role"].to_dict()
    assert roles == {SOURCE: "other_training", f"{SOURCE}_seed1": "source", FAR: "unseen", "mean_unseen": "mean_unseen"}


def test_other_lengths_are_no_baseline(study_root):
    """Plain trained for more epochs is another cell, compared with nothing."""
    put("ra", RA), put("plain", PLAIN, epochs=5)
    make_tables("smoke")
    assert not len(load_table("smoke", "gains"))


# --- the share that unseen models keep


def test_kept_by_hand(study_root):
    """Mean unseen gain over source gain; a gain that is clear for all gives a narrow interval around it."""
    put("plain", PLAIN)
    put("ra", {SOURCE: right((0, 300)), NEAR: right((0, 280)), FAR: right((0, 260))})
    make_tables("smoke")
    row = load_table("smoke", "kept").iloc[0]
    assert (row["source_gain"], row["unseen_gain"], row["value"]) == (25, 17.5, 0.7)
    assert 0.6 < row["low"] < 0.7 < row["high"] < 0.8 and pd.isna(row["reason"])


def test_the_overall_gain_by_hand(study_root):
    """Averaged over all R's per picture; a second training of one of them does not count."""
    put("plain", PLAIN | {"resnet18_small_seed1": right((0, 400))})
    put("ra", {SOURCE: right((0, 300)), NEAR: right((0, 280)), FAR: right((0, 260)), "resnet18_small_seed1": right((0, 0))})
    make_tables("smoke")
    row = load_table("smoke", "overall").iloc[0]
    assert row["value"] == pytest.approx((25 + 20 + 15) / 3)
    assert row["resolves"] == pytest.approx((row["high"] - row["low"]) / 2 * 2.8 / 1.96)


def test_kept_is_empty_where_the_source_gains_nothing_clear(study_root):
    """With the reason, whatever the unseen R's gain."""
    put("plain", PLAIN)
    put("ra", {SOURCE: right((10, 212)), NEAR: right((0, 280)), FAR: right((0, 260))})
    make_tables("smoke")
    row = load_table("smoke", "kept").iloc[0]
    assert row[["value", "low", "high"]].isna().all()
    assert row["source_gain"] == 0.5 and "includes 0" in row["reason"]


# --- the weight's rule


GRID = {0.001: (260, 0.0), 0.01: (280, 0.45), 0.03: (280, 0.2), 0.1: (360, 0.55)}  # hits of the source, cost in dB


def put_grid(mode: str, weights: dict, split: str = "val", **overrides) -> None:
    for weight, (hits, cost) in weights.items():
        correct = {SOURCE: right((0, hits)), FAR: right((0, 240))}
        put(mode, correct, split=split, mse=0.01 * 10 ** (cost / 10), ra_weight=weight, **overrides)


def chosen() -> dict[str, list[float]]:
    table = load_table("smoke", "tradeoff")
    return {mode: list(rows.loc[rows["chosen"], "ra_weight"]) for mode, rows in table.groupby("mode")}


@pytest.mark.parametrize(
    "weights, expected",
    [
        (GRID, [0.01]),  # 0.1 costs too much; of two equals the smaller
        ({0.001: (260, 0.0), 0.01: (280, 0.45), 0.03: (281, 0.2)}, [0.03]),
        ({0.01: (280, -0.3), 0.03: (150, 0.0)}, [0.01]),  # better pictures cost nothing
        ({0.01: (150, 0.1), 0.03: (100, 0.2)}, [0.01]),  # losses too: the best is the best
        ({0.01: (280, 0.6), 0.03: (300, 0.9)}, []),
    ],
)
def test_the_rule_chooses_the_weight(study_root, weights, expected, monkeypatch):
    """Best top-1 of the source R among the weights that cost at most 0.5 dB."""
    monkeypatch.setitem(PRESETS["smoke"], "one_se", False)
    hits = {SOURCE: right((0, 200)), FAR: right((0, 200))}
    put("plain", hits, split="val")
    put_grid("ra", weights)
    put_grid("ra_unsupervised", {0.3: (250, 0.1), 1.0: (260, 0.1)})
    make_tables("smoke")
    assert chosen() == {"ra": expected, "ra_unsupervised": [1.0]}


@pytest.mark.parametrize(
    "weights, expected",
    [
        ({0.001: (260, 0.0), 0.01: (280, 0.4), 0.03: (284, 0.2)}, 0.01),  # 20 is within 2 points of 21, 15 is not
        ({0.001: (260, 0.0), 0.01: (280, 0.4), 0.03: (320, 0.2)}, 0.03),
        ({0.001: (276, 0.6), 0.01: (280, 0.4), 0.03: (284, 0.2)}, 0.01),  # one that costs too much has no part in it
    ],
)
def test_the_one_standard_error_rule(study_root, weights, expected):
    """The smallest weight whose gain is within a standard error of the best, and how often resamples choose it."""
    hits = {SOURCE: right((0, 200)), FAR: right((0, 200))}
    put("plain", hits, split="val")
    put_grid("ra", weights)
    make_tables("smoke")
    assert chosen() == {"ra": [expected]}
    stability = load_table("smoke", "tradeoff").set_index("ra_weight")["stability"].dropna()
    assert stability.sum() == pytest.approx(100) and stability.idxmax() == expected
    assert set(stability.index) == {weight for weight, (_, cost) in weights.items() if cost <= 0.5}


def test_the_rule_sees_validation_seed_0_and_the_main_runs_alone(study_root):
    """Test pictures, other seeds and other sources have no say."""
    hits = {SOURCE: right((0, 200)), FAR: right((0, 200))}
    for split in ("val", "test"):
        put("plain", hits, split=split), put("plain", hits, split=split, seed=1)
    put_grid("ra", {0.01: (280, 0.1), 0.03: (260, 0.1)})
    put_grid("ra", {0.01: (200, 0.1), 0.03: (380, 0.1)}, split="test")
    put_grid("ra", {0.03: (390, 0.1)}, seed=1)
    put_grid("ra", {0.1: (390, 0.1)}, source_arch=FAR)
    make_tables("smoke")
    assert chosen() == {"ra": [0.01]}
    table = load_table("smoke", "tradeoff").set_index("ra_weight")
    assert sorted(table.index) == [0.01, 0.03]
    assert table.loc[0.03, ["source_top1", "source_gain", "unseen_gain"]].tolist() == [65, 15, 10]
    assert table.loc[0.03, "psnr_change"] == pytest.approx(-0.1, abs=1e-5)


# --- files


def snapshot(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_make_tables_is_idempotent(study_root):
    """Byte for byte, and nothing but the tables and ``runs.csv``."""
    for split in ("val", "test"):
        ids = [put("plain", PLAIN, split=split), put("ra", RA, split=split), put("clean", CLEAN, split=split)]
    written = make_tables("smoke")
    folder = study_root / "results" / "smoke"
    assert written == [folder / f"{name}.csv" for name in TABLES]
    first = snapshot(folder)
    assert set(first) == {
        *(f"{name}.csv" for name in (*TABLES, "runs")),
        *(f"predictions/{run_id}.{split}.npz" for run_id in ids for split in ("val", "test")),
    }
    make_tables("smoke")
    assert snapshot(folder) == first


def test_make_tables_needs_predictions(study_root):
    with pytest.raises(StudyError, match="rastudy sweep --preset smoke"):
        make_tables("smoke")


def test_cells_come_in_canonical_order(study_root):
    """Tasks, baselines, modes; never in that of file names."""
    for task in ("jpeg", "sr", "dn"):
        for mode in ("ra", "plain", "clean", "none"):
            put(mode, PLAIN, task=task)
    found = [(key[0], key[2]) for key in load_cells("smoke", "test")]
    assert found == [(task, mode) for task in ("sr", "dn", "jpeg") for mode in ("none", "clean", "plain", "ra")]


def test_the_main_table_shows_the_presets_runs(study_root):
    """Rows in order, one per task and mode, at the preset's weight and source."""
    weight = settings_of("smoke", "sr")["ra_weights"]["ra"]
    put("plain", PLAIN, mse=0.001), put("ra", RA), put("clean", CLEAN), put("none", PLAIN)
    put("ra", CLEAN, ra_weight=3 * weight), put("ra", CLEAN, source_arch=FAR)
    make_tables("smoke")
    table = tables.main_table("smoke")
    assert list(table.index) == [("sr x4", mode) for mode in ("none", "plain", "ra", "clean")]
    assert list(table.columns) == ["ResNet-18", "ResNet-50", "VGG-16-BN", "PSNR", "SSIM", "seeds"]
    assert table.loc[("sr x4", "ra")].tolist() == [55, 52.5, 50, 20, 0.5, 1]
    assert table.loc[("sr x4", "plain"), "PSNR"] == 30 and pd.isna(table.loc[("sr x4", "clean"), "PSNR"])


# --- the same decibels


def test_between_two_weights_gains_are_interpolated_in_decibels():
    curve = [(-0.5, 1e-2, np.array([[4.0, 8.0]])), (-0.1, 1e-3, np.array([[0.0, 2.0]])), (0.0, 1e-4, np.array([[1.0, 1.0]]))]
    for change, expected in ((-0.5, [4, 8]), (-0.4, [3, 6.5]), (-0.1, [0, 2]), (-0.05, [0.5, 1.5]), (0.0, [1, 1])):
        assert at(change, curve) == pytest.approx(np.array([expected]))


def test_matched_decibels_stand_beside_the_weight_grids():
    """At a weight's own decibels its gain is that of the grid; the difference is the feature loss's minus RA's."""
    matched = load_table("cifar10", "matched")
    grid = load_table("cifar10", "tradeoff").set_index(["task", "strength", "mode", "ra_weight"])
    assert set(matched["task"]) == {"sr", "dn", "jpeg"} and len(matched) > 20
    for row in matched.to_dict("records"):
        own = grid.loc[(row["task"], row["strength"], row["weight_of"], row["ra_weight"])]
        assert row["psnr_change"] == pytest.approx(own["psnr_change"], abs=1e-5)
        mine = row["ra_gain" if row["weight_of"] == "ra" else "perceptual_gain"]
        assert mine == pytest.approx(own["source_gain" if row["role"] == "source" else "unseen_gain"], abs=1e-4)
        assert row["value"] == pytest.approx(row["perceptual_gain"] - row["ra_gain"], abs=1e-4)
        assert row["low"] <= row["value"] <= row["high"]


# --- results/README.md

GUIDE = (ROOT / "results" / "README.md").read_text()
QUERIES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", GUIDE, re.DOTALL)


@pytest.mark.parametrize("code, printed", QUERIES)
def test_the_guides_queries(code, printed, monkeypatch, capsys):
    """Each runs from the repository's root and prints what stands below it."""
    monkeypatch.chdir(ROOT)
    exec(code, {})
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == printed.splitlines()
    assert len(QUERIES) == GUIDE.count("```python") == 5


def described(heading: str) -> set[str]:
    """The columns in the first cells of the guide's table below a heading; patterns as ``*_release`` are left out."""
    section = re.split(r"\n##+ ", GUIDE.split(heading, 1)[1])[0]
    cells = [line.split(" | ")[0] for line in section.splitlines() if line.startswith("| `")]
    return set(re.findall(r"`(\w+)`", " ".join(cells)))


def guided() -> dict[str, re.Pattern]:
    """Headings of the guide to patterns of the names of the files that they are about; ``_pairs`` is ``boundary_pairs.csv``."""
    found = {}
    for heading in re.findall(r"^### (`.*)$", GUIDE, re.MULTILINE):
        names = [f"boundary{name}.csv" if name.startswith("_") else name for name in re.findall("`([^`]+)`", heading)]
        found[heading] = re.compile("|".join(re.sub("<[a-z]+>", "[a-z_]+", name) for name in names))
    return found


def committed_tables() -> dict[str, set[str]]:
    """Names of committed CSVs and the columns of those of that name; run's files and the paper's are told in a line each."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "results").rglob("*.csv")):
        if path.stem not in ("split", "timings", "paper_reported") and path.parent.name != "smoke":
            found.setdefault(path.name, set()).update(path.open().readline().strip().split(","))
    return found


@pytest.mark.parametrize("file", [*committed_tables(), "replication.csv"])
def test_the_guide_describes_every_column(file):
    """There or among the shared ones; and none that no file of the heading has."""
    named = [heading for heading, pattern in guided().items() if pattern.fullmatch(file)]
    assert named, f"results/README.md says nothing of {file}"
    files, heading = {**committed_tables(), "replication.csv": set(REPLICATION)}, named[0]
    every = set().union(*(columns for name, columns in files.items() if guided()[heading].fullmatch(name)))
    own, shared = described(f"### {heading}"), described("## Columns that several files share")
    assert files[file] <= own | shared and own <= every


# --- the paper

PAPER = """
sr   plain            52.6 58.8 61.9 57.7 50.2
sr   ra               61.8 66.7 68.8 64.7 58.2
sr   ra_unsupervised  61.3 66.3 68.6 64.5 57.3
dn   plain            61.9 68.0 69.1 66.4 60.9
dn   ra               65.1 70.6 71.9 69.1 63.8
dn   ra_unsupervised  61.7 67.9 69.7 66.4 60.5
jpeg plain            48.2 53.8 56.0 52.9 42.4
jpeg ra               57.7 62.3 64.3 60.7 52.8
jpeg ra_unsupervised  53.8 59.1 62.0 57.5 50.0
"""


def test_the_papers_figures():
    """Exactly the published ones: ImageNet validation, P trained with ResNet-18."""
    archs = ("resnet18", "resnet50", "resnet101", "densenet121", "vgg16_bn")
    expected = {}
    for task, mode, *values in (line.split() for line in PAPER.strip().splitlines()):
        expected |= {(task, mode, arch): float(value) for arch, value in zip(archs, values, strict=True)}
    table = paper_reported()
    found = table.set_index(["task", "mode", "target_arch"])["value"]
    assert not found.index.duplicated().any()
    assert found.to_dict() == expected
    assert set(table["metric"]) == {"top1"} and set(table["n_images"]) == {50000}
    assert (table["source_arch"] == np.where(table["mode"] == "plain", "-", "resnet18")).all()
    assert dict(zip(table["task"], table["strength"], strict=True)) == {"sr": 4, "dn": 0.1, "jpeg": 10}


def test_the_papers_gains():
    """The differences that its claims speak of."""
    found = paper_gains().round(6).set_index(["task", "mode", "target_arch"])["value"].sort_index()
    archs = ["resnet18", "resnet50", "resnet101", "densenet121", "vgg16_bn"]
    assert found.loc["sr", "ra"][archs].tolist() == [9.2, 7.9, 6.9, 7.0, 8.0]
    assert found.loc["dn", "ra"][archs].tolist() == [3.2, 2.6, 2.8, 2.7, 2.9]
    assert found.loc["jpeg", "ra"][archs].tolist() == [9.5, 8.5, 8.3, 7.8, 10.4]
    assert found.loc["dn", "ra_unsupervised"][archs].tolist() == [-0.2, -0.1, 0.6, 0.0, -0.4]
    roles = paper_gains().groupby("role")["target_arch"].unique()
    assert list(roles["source"]) == ["resnet18"] and len(roles["unseen"]) == 4


# --- the committed results


def complete(preset: str) -> Path:
    """``results/<preset>`` of the checkout; skips while the study's runs are not all there."""
    folder = ROOT / "results" / preset
    wanted = [f"predictions/{cell.config.run_id}.{split}.npz" for cell in grid(preset) for split in cell.splits]
    missing = [name for name in (*wanted, *(f"{name}.csv" for name in TABLES)) if not (folder / name).is_file()]
    if missing:
        pytest.skip(f"results/{preset} is incomplete: {len(missing)} files are missing, the first {missing[0]}")
    return folder


@pytest.fixture
def committed(monkeypatch) -> Path:
    monkeypatch.setenv("RASTUDY_ROOT", str(ROOT))
    return complete("digits")


@pytest.mark.slow
@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"smoke"}))
def test_committed_tables_follow_from_the_committed_predictions(preset, tmp_path, monkeypatch):
    """Recomputed, they are the same byte for byte, and so is ``runs.csv``."""
    folder, copy = ROOT / "results" / preset, tmp_path / "results" / preset
    if not (folder / "gains.csv").is_file():
        pytest.skip(f"results/{preset} has no tables yet")
    shutil.copytree(folder / "predictions", copy / "predictions")
    monkeypatch.setenv("RASTUDY_ROOT", str(tmp_path))
    make_tables(preset)
    for name in (*TABLES, "runs"):
        assert (copy / f"{name}.csv").read_bytes() == (folder / f"{name}.csv").read_bytes(), name


@pytest.mark.full
@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"smoke"}))
def test_committed_tables_of_transfer_and_boundaries_follow(preset, tmp_path, monkeypatch):
    """Made again from what the readers said and from what was measured, they are the same byte for byte."""
    folder, copy = ROOT / "results" / preset, tmp_path / "results" / preset
    tables = [path.name for kind in ("transfer_*.csv", "boundary_*.csv") for path in folder.glob(kind)]
    if not tables:
        pytest.skip(f"results/{preset} has none yet")
    shutil.copytree(folder, copy, ignore=lambda _, names: set(names) & set(tables))
    monkeypatch.setenv("RASTUDY_ROOT", str(tmp_path))
    if any(name.startswith("transfer_") for name in tables):
        assert not command_line.main(["transfer", "--preset", preset])
    if boundary_tables.measured_files(preset):
        boundary_tables.make_tables(preset)
    for name in tables:
        assert (copy / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"smoke"}))
@pytest.mark.parametrize(
    "name, one_by", [("accuracy", ["target_arch", "metric"]), ("gains", ["target_arch"]), ("kept", []), ("overall", [])]
)
def test_one_row_is_main(preset, name, one_by):
    """Of every degradation and mode that was run, and of each target and metric in it; no row is marked beside these."""
    if not (ROOT / "results" / preset / f"{name}.csv").is_file():
        pytest.skip(f"results/{preset} has no tables yet")
    table = load_table(preset, name)
    rows = table[table["main"]].groupby(["task", "strength", "mode", *one_by]).size()
    assert (rows == 1).all(), rows[rows > 1]
    shown = ("none", "clean", "plain") if name == "accuracy" else ()  # the others are compared with plain
    every = (*registry.modes("baseline"), *PRESETS[preset]["modes"])
    modes = [mode for mode in every if mode in shown or mode not in ("none", "clean", "plain")]
    runs = [make_config(preset, *key[:1], mode, strength=key[1]) for key in PRESETS[preset]["degradations"] for mode in modes]
    wanted = {(run.task, run.strength, run.mode) for run in runs if predictions_file(run, "test").is_file()}
    assert {key[:3] for key in rows.index} == wanted and wanted


def test_the_obvious_query_gives_one_row():
    """The unseen R's gain on CIFAR-10 x2: many runs, of which one is the main comparison's."""
    rows = load_table("cifar10", "gains").query("task == 'sr' and strength == 2 and mode == 'ra' and role == 'mean_unseen'")
    assert len(rows) > 40 and len(rows[rows["main"]]) == 1 and len(rows.query("main and baseline == 'plain'")) == 1


@pytest.mark.parametrize("mode", ["ra", "ra_unsupervised", "perceptual"])
@pytest.mark.parametrize(
    "preset", [name for name in PRESETS if not name.startswith("imagenet")]
)  # whose weights are the paper's
def test_presets_use_the_chosen_weights(committed, preset, mode):
    """Those that the rule chooses on the preset's validation pictures; smoke takes the digits'."""
    if mode == "perceptual" and preset != "cifar10":
        pytest.skip(f"the preset {preset} has no runs with a perceptual loss")
    table = load_table(preset.replace("smoke", "digits"), "tradeoff")
    rows = table[table["mode"] == mode]
    grids = rows.groupby(["task", "strength"])["ra_weight"].nunique()
    used = {key: settings["ra_weights"][mode] for key, settings in PRESETS[preset]["degradations"].items()}
    # cifar10's is run degradation by degradation
    run = {key: weight for key, weight in used.items() if preset != "cifar10" or grids.get(key, 0) >= 2}
    if preset != "cifar10":  # T's choice is of its learning rate
        rates = table[(table["mode"] == "ra_transformer") & table["chosen"]].set_index(["task", "strength"])["transformer_lr"]
        assert rates.to_dict() == {key: one["transformer_lr"] for key, one in PRESETS[preset]["degradations"].items()}
    assert run and (grids.loc[list(run)] >= 2).all()  # the grid is there
    best = rows[rows["chosen"]].set_index(["task", "strength"])["ra_weight"]
    assert {key: best.get(key) for key in run} == run


@pytest.mark.parametrize("preset", ["cifar10", "digits"])  # ImageNet's weights are the paper's: nothing is chosen
def test_the_grid_comes_before_the_test_pictures(preset):
    """No main RA run is read on the test pictures of a degradation whose weight grid is not there."""
    for task, strength in PRESETS[preset]["degradations"]:
        for mode in ("ra", "ra_unsupervised"):
            main = make_config(preset, task, mode, strength=strength)
            if predictions_file(main, "test").is_file():
                grid = load_table(preset, "tradeoff")
                same = (grid["task"] == task) & (grid["strength"] == strength) & (grid["mode"] == mode)
                assert grid.loc[same, "ra_weight"].nunique() >= 3


@pytest.mark.parametrize("task", ["sr", "dn", "jpeg"])
def test_strengths_follow_the_rule(committed, task):
    """On validation plain keeps what the paper's keeps, within 3 points, and beats no processing by 0.5 dB."""
    table = load_results("digits")
    runs = {mode: make_config("digits", task, mode).run_id for mode in ("none", "clean", "plain")}
    val = table[table["split"] == "val"].set_index(["run_id", "target_arch", "metric"])["value"]
    top1 = {mode: val[run_id, PRESETS["digits"]["source_arch"], "top1"] for mode, run_id in runs.items()}
    assert top1["plain"] / top1["clean"] == pytest.approx(published(task), abs=0.03)
    assert val[runs["plain"], "-", "psnr"] >= val[runs["none"], "-", "psnr"] + 0.5


def test_the_search_supports_the_settings(committed):
    """Plain at the preset's settings keeps what the paper's keeps; two cycles lose in x4 and are about as good elsewhere."""
    found = pd.read_csv(committed / "difficulty.csv")
    found = found[found["sides"] == "{}-{}".format(*digits.SIDES)]
    for task, strength in degradations("digits"):
        rows = found[(found["task"] == task) & (found["strength"] == strength)].groupby("schedule")
        assert set(rows["seed"].nunique()) == {3}
        keeps, psnr, top1 = (rows[name].mean() for name in ("keeps", "psnr", "plain"))
        assert keeps["through"] == pytest.approx(published(task), abs=0.03)
        better, higher = (values["through"] - values["two cycles"] for values in (top1, psnr))
        assert better > 0.5 and higher > 0.1 if task == "sr" else better > -1 and higher > -0.2


def test_every_mode_is_in_the_committed_tables(committed):
    """All tasks, modes, baselines and R's, on all test pictures."""
    table = tables.main_cells(load_table("digits", "accuracy"), "digits")
    top1 = table[table["metric"] == "top1"]
    cells = top1.groupby(["task", "mode"])["target_arch"].nunique()
    assert cells.to_dict() == {(t, m): 5 for t in ("sr", "dn", "jpeg") for m in (*registry.modes("paper"), "none", "clean")}
    assert set(top1["n_images"]) == {2500} and set(top1["n_groups"]) == {500}
    assert set(top1[top1["mode"].isin(registry.modes("paper"))]["n_seeds"]) == {5}
    gains = tables.main_cells(load_table("digits", "gains"), "digits")
    assert gains["trainings_low"].notna().all() and set(gains["n_seeds"]) == {5}


def test_a_share_of_fewer_trainings_than_the_gain_says_so():
    row = {"within": 0.44, "within_low": 0.28, "within_high": 0.59, "within_seeds": 1.0, "n_seeds": 5}
    assert claims.within(row) == "0.44 [0.28, 0.59], 1 training"
    assert claims.within(row | {"within_seeds": 5.0}) == "0.44 [0.28, 0.59]"
    assert claims.within(row | {"within": float("nan"), "within_seeds": float("nan")}) == ""


def test_the_records_controls_have_the_main_tables_intervals():
    """The same gain is told in both: over trainings where there are enough."""
    of = "main and mode == 'ra' and baseline == 'plain' and task == 'sr' and strength == 2"
    gains = pd.read_csv(ROOT / "results" / "cifar10" / "gains.csv").query(of).set_index("role")
    (ra,) = pd.read_csv(ROOT / "results" / "cifar10" / "controls.csv").query("control == 'ra'").to_dict("records")
    for names, role in ((GAIN, "source"), (UNSEEN, "mean_unseen")):
        row = gains.loc[role]
        assert [ra[name] for name in names] == row[["value", *ends(row)]].tolist() and row["n_seeds"] == ra["n_seeds"]
