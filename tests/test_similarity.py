"""Boundaries measured and told: statistics against libraries, and measurements on P's that need no training."""

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from PIL import Image

from rastudy.__main__ import main
from rastudy.analysis import statistics as stats
from rastudy.boundaries import figures as boundary_plots
from rastudy.boundaries import measure as boundaries
from rastudy.boundaries import tables as similarity
from rastudy.config import Config, make_config
from rastudy.errors import StudyError
from rastudy.evaluation.predictions import Predictions, load_predictions
from rastudy.paths import write_csv
from rastudy.presets import PRESETS
from rastudy.report import gallery
from rastudy.training.weights import build_models, save_weights, weights_file
from rastudy.transfer import tables as transfer

ROOT = Path(__file__).parents[1]
SOURCE = "resnet18_small"


@pytest.fixture
def draws() -> np.ndarray:
    return stats.Groups(np.arange(40)).draws(50)


# --- statistics


def test_mean_shares_have_no_rounding_of_single_precision():
    """Their last bits would depend on the order in which a CPU adds, and the tables with them."""
    shares, draws = np.random.default_rng(0).random(400).astype(np.float32), np.ones((1, 400), np.float32)
    exact = 100 * math.fsum(map(float, shares)) / 400
    assert similarity.shares(shares, draws)[0] == pytest.approx(exact, rel=1e-13)


def test_draws():
    """The sample first; whole groups are drawn, as many as there are."""
    found = stats.Groups(np.repeat(np.arange(10), 3)).draws(20)
    assert found.shape == (21, 30) and (found[0] == 1).all()
    assert (found.reshape(21, 10, 3) == found.reshape(21, 10, 3)[..., :1]).all() and (found.sum(1) == 30).all()


def test_resampled_figures_are_those_of_the_resample(draws):
    """Medians, shares and rank correlations of weights are those of the pictures repeated as often as drawn."""
    rng = np.random.default_rng(0)
    one = rng.normal(size=40).round(1)
    other = one + rng.normal(size=40).round(1)
    one[rng.random(40) < 0.3] = np.inf
    found = {"median": similarity.medians(one, draws), "rank": similarity.rank_correlations(one, other, draws),
             "share": similarity.shares(one > 0, draws)}  # fmt: skip
    for b, counts in enumerate(draws.astype(int)):
        a, c = np.repeat(one, counts), np.repeat(other, counts)
        assert found["median"][b] == np.quantile(a, 0.5, method="higher")
        assert found["share"][b] == pytest.approx(100 * (a > 0).mean(), abs=1e-4)
        ranked = [scipy.stats.rankdata(v) for v in (a, c)]  # spearmanr takes no infinite values
        assert found["rank"][b] == pytest.approx(np.corrcoef(*ranked)[0, 1], abs=1e-6)


def test_medians_know_of_censoring():
    """Not reached is farther than anything; half of them hide the median."""
    for values, median in (([1, 2, 3, np.inf, np.inf], 3), ([1, np.inf, np.inf], np.inf), ([], np.nan)):
        found = similarity.medians(np.array(values), np.ones((1, len(values)), np.float32))
        assert found == pytest.approx([median], nan_ok=True)


def test_between():
    """Inter-boundary distance and its ratio; one censored: infinite; both: unknown."""
    apart, ratio = similarity.between(np.array([1.0, 2.0, np.inf, np.inf]), np.array([3.0, 2.0, 1.0, np.inf]))
    assert (
        apart[:3].tolist() == [2, 0, np.inf] and ratio[:3].tolist() == [2, 0, np.inf] and np.isnan([apart[3], ratio[3]]).all()
    )


def test_mantel_permutes_networks():
    """All 120 orders of five networks: rho is Spearman's, p the share of orders at least as large; asymmetry is kept."""
    rng = np.random.default_rng(0)
    like = rng.random((5, 5))
    like = like + like.T
    off = ~np.eye(5, dtype=bool)
    rho, p, many = similarity.mantel(like[off], like[off])
    assert rho == pytest.approx(1) and p == pytest.approx(1 / 120) and many == 120
    outcome = rng.random((5, 5))
    rho, p, _ = similarity.mantel(like[off], outcome[off])
    assert rho == pytest.approx(scipy.stats.spearmanr(like[off], outcome[off]).statistic)
    orders = [list(order) for order in itertools.permutations(range(5))]
    others = [scipy.stats.spearmanr(like[np.ix_(o, o)][off], outcome[off]).statistic for o in orders]
    assert p == pytest.approx(np.mean(np.array(others) >= rho - 1e-9))
    rho, p, many = similarity.permuted(np.arange(4.0), np.array([1.0, 2, 4, 3]))
    assert (rho, p, many) == (pytest.approx(0.8), pytest.approx(4 / 24), 24)
    assert similarity.permuted(np.arange(9.0), np.arange(9.0))[1:] == (pytest.approx(1 / 5040, rel=1), 5040)


def test_explain_rows():
    """A gain that follows similarity is found; pairs that are missing make no row."""
    names = ["a", "b", "c", "d", SOURCE]
    rng = np.random.default_rng(0)
    like = {frozenset(pair): rng.random() for pair in itertools.combinations(names, 2)}
    rows = [{"preset": "digits", "task": "sr", "strength": 4.0, "source": s, "target": t, "kappa": like[frozenset((s, t))],
             "rank_ra": "", "rank_spectrum": 0.5, "gain": 3 * like[frozenset((s, t))], "share": ""}
            for s, t in itertools.permutations(names, 2)]  # fmt: skip
    found = pd.DataFrame(similarity.explain_rows(pd.DataFrame(rows))).set_index(["test", "similarity", "outcome"])
    assert found.loc[("mantel", "kappa", "gain"), ["rho", "p", "n_networks", "n_pairs"]].tolist() == pytest.approx(
        [1, 1 / 120, 5, 20]
    )
    assert found.loc[("targets", "kappa", "gain"), "p"] == pytest.approx(1 / 24)
    assert found.loc[("mantel", "kappa", "gain"), "p_holm"] == pytest.approx(len(found) / 120)  # of all tests of this outcome
    assert set(found.index.get_level_values("similarity")) == {"kappa", "rank_spectrum"}
    assert set(found.index.get_level_values("outcome")) == {"gain"}
    shared = pd.DataFrame(rows).assign(share=lambda pairs: pairs["gain"] / 3)  # of one source the ranks of gains
    tests = pd.DataFrame(similarity.explain_rows(shared)).groupby("outcome")["test"].agg(set)
    assert tests.to_dict() == {"gain": {"mantel", "targets"}, "share": {"mantel"}}


def test_gains_of_readers_outside_the_tables(study_root):
    """Families and black boxes that were measured, from every measured source; transfer's share is another gain's, so none."""
    columns = dict.fromkeys(transfer.COLUMNS, 0)
    columns |= {"preset": "digits", "task": "sr", "strength": 4.0, "mode": "ra", "metric": "top1"}
    rows = [("black_box", "box", SOURCE, "box", 1), ("black_box", "box", "vgg16_bn_small", "box", 2),
            ("black_box", "box_on_scenes", SOURCE, "box", 3), ("black_box", "box", "resnet50_small", "box", 4),
            ("black_box", "other", SOURCE, "other", 5), ("families", "families", SOURCE, "vit_small", 6),
            ("families", "families", SOURCE, "mean", 7)]  # fmt: skip
    for direction in ("families", "black_box"):
        named = [dict(zip(("direction", "variant", "source_arch", "reader", "value"), row, strict=True)) for row in rows]
        table = [columns | row | {"share": 0.9} for row in named if row["direction"] == direction]
        write_csv(transfer.table_file("digits", direction), table, transfer.COLUMNS)
    m = measured(np.zeros((1, 4, 2, 2, 3), int), [SOURCE, "vgg16_bn_small", "vit_small", "box"])
    found = [(row["source"], row["target"], row["gain"], row.get("share")) for row in similarity._gains_of_others(m)]
    assert found == [(SOURCE, "vit_small", 6, None), (SOURCE, "box", 1, None), ("vgg16_bn_small", "box", 2, None)]


def measured(planes: np.ndarray, readers: list[str]) -> similarity.Measured:
    """Measurements of which only the planes (kind, R, size, size, P) are told."""
    n = planes.shape[-1]
    about = {"directions": [], "readers": dict.fromkeys(readers, "w"), "source": SOURCE, "kinds": ["one"], "preset": "digits",
             "task": "sr", "strength": 4.0}  # fmt: skip
    arrays = {"group": np.arange(n), "value": np.zeros((len(readers), 0, n)), "right": np.ones((len(readers), n)),
              "step": np.ones(n), "planes": planes}  # fmt: skip
    return similarity.Measured(Predictions(about, arrays))


def test_kappa_of_architectures_and_of_trainings():
    """Means over the pairs of either kind, and their difference, whose interval is joint: both rest on the same planes."""
    rng = np.random.default_rng(0)
    own = rng.integers(0, 3, (1, 1, 4, 4, 30))
    noisy = lambda share: np.where(rng.random(own.shape) < share, rng.integers(0, 3, own.shape), own)  # noqa: E731
    readers = [SOURCE, "resnet50_small", f"{SOURCE}_seed1", "vit_small"]
    found = list(similarity.plane_rows(measured(np.concatenate([own, noisy(0.5), noisy(0.1), noisy(1)], 1), readers)))
    kappa = {(row["reader"], row["other"]): row["value"] for row in found if row["along"] == "all" and row["metric"] == "kappa"}
    means = {row["metric"]: row for row in found if row["reader"] == "mean"}
    assert means["kappa_architectures"]["value"] == pytest.approx(kappa[SOURCE, "resnet50_small"])
    assert means["kappa_trainings"]["value"] == pytest.approx(kappa[SOURCE, f"{SOURCE}_seed1"])
    apart = means["kappa_difference"]
    difference = means["kappa_trainings"]["value"] - means["kappa_architectures"]["value"]
    assert apart["value"] == pytest.approx(difference) and 0.2 < apart["low"] < difference < apart["high"]
    alone = list(similarity.plane_rows(measured(np.concatenate([own, noisy(0.5)], 1), readers[:2])))
    assert [row["metric"] for row in alone if row["reader"] == "mean"] == ["kappa_architectures"]


# --- measurements


def save_untrained(config: Config, noise: float) -> None:
    """A P that nobody trained, its weights a little apart from those of the seed."""
    processor = build_models(config)[0]
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in processor.parameters():
            weight.add_(noise * weight.std() * torch.randn_like(weight) if weight.numel() > 1 else 0)
    save_weights(weights_file(config), processor, config)


@pytest.fixture
def two_runs(study_root):
    """Plain and RA of the smoke study with random weights that differ a little."""
    plain, ra = (make_config("smoke", "jpeg", mode) for mode in ("plain", "ra"))
    save_untrained(plain, 0)
    save_untrained(ra, 0.05)
    return plain, ra


@pytest.mark.filterwarnings("ignore:std")
def test_measured_once_and_in_parts(two_runs, study_root, monkeypatch):
    """The file holds every direction, reader and picture; nothing is measured again until a P, an R or the wish changes."""
    key, said = [("jpeg", 4.0)], []
    monkeypatch.setattr(boundaries, "PLANES", (20, 5))
    (path,) = boundaries.measure("smoke", key, n=8, log=said.append)
    about, arrays = load_predictions(path)
    assert about["directions"] == [f"ra:{SOURCE}", "clean", *(f"gradient:{r}" for r in about["readers"]), "white", "spectrum"]
    assert arrays["value"].shape == arrays["outside"].shape == (5, 9, 8) and arrays["right"].shape == (5, 8)
    assert arrays["planes"].shape == (3, 5, 5, 5, 1) and arrays["path_hits"].shape == (13, 5, 8)
    assert np.array_equal(arrays["path_hits"][boundaries.PATH.index(0)], arrays["right"].astype(bool))
    own = [about["directions"].index(f"gradient:{r}") for r in about["readers"]]
    near = np.isfinite(arrays["value"]).mean(-1)
    assert near[range(5), own].mean() > near[:, about["directions"].index("white")].mean()
    bands = arrays[f"added.ra:{SOURCE}.bands"]
    assert bands.shape == (4, 8) and bands.sum(0) == pytest.approx(np.ones(8), abs=1e-5)

    said.clear()
    boundaries.measure("smoke", key, n=8, log=said.append)
    boundaries.measure("smoke", key, n=4, log=said.append)  # fewer are among them
    assert said == ["jpeg 4: measured already"] * 2
    before = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(boundaries, "measure_part", lambda: None)  # its parts are kept, nothing is measured
    boundaries.measure("smoke", key, n=8, log=said.append)
    assert path.read_bytes() == before
    save_weights(weights_file(two_runs[1]), build_models(two_runs[1])[0], two_runs[1])  # another RA
    with pytest.raises(TypeError):
        boundaries.measure("smoke", key, n=8, log=said.append)


def by_brightness(files):
    """A black box: dark pictures are a 1, others a 7."""
    return [[("1" if np.asarray(Image.open(file)).mean() < 100 else "7", 1.0)] for file in files]


@pytest.mark.filterwarnings("ignore:std")
def test_other_sources_black_boxes_and_planes_of_the_preset(two_runs, study_root, monkeypatch):
    """``full`` has RA's direction from any target; a black box reads along; both stay measured where nobody asks for them."""
    monkeypatch.setitem(sys.modules, "my_box", sys.modules[__name__])
    monkeypatch.setitem(PRESETS["smoke"], "boundary_planes", (2, 3))
    save_untrained(make_config("smoke", "jpeg", "ra", source_arch="vgg16_bn_small"), 0.03)
    said, key = [], [("jpeg", 4.0)]
    full = {"full": True, "n": 4, "log": said.append, "black_boxes": ["function:my_box:by_brightness"]}
    (path,) = boundaries.measure("smoke", key, **full)
    about, arrays = load_predictions(path)
    assert about["directions"][:2] == [f"ra:{SOURCE}", "ra:vgg16_bn_small"] and about["black_boxes"] == ["by_brightness"]
    assert list(about["readers"])[-1] == "by_brightness" and "gradient:by_brightness" not in about["directions"]
    assert arrays["planes"].shape == (3, len(about["readers"]), 3, 3, 2)
    assert set(np.unique(arrays["planes"][:, -1])) <= {1, 7}
    said.clear()
    boundaries.measure("smoke", key, n=4, log=said.append)
    boundaries.measure("smoke", key, **full)
    assert said == ["jpeg 4: measured already"] * 2
    with pytest.raises(StudyError, match="function:my_box:unknown cannot be imported"):
        boundaries.measure("smoke", key, n=4, log=said.append, black_boxes=["function:my_box:unknown"])
    with pytest.raises(StudyError, match="two recognisers would both be called 'by_brightness'"):
        boundaries.measure("smoke", key, n=4, log=said.append, black_boxes=2 * full["black_boxes"])


def test_two_equal_runs_are_refused(two_runs):
    """RA that gives plain's very pictures has no direction."""
    plain, ra = two_runs
    save_untrained(ra, 0)
    with pytest.raises(StudyError, match=rf"direction ra:{SOURCE} is zero for 4 of 4 pictures.*equal.*take another run"):
        boundaries.measure("smoke", [("jpeg", 4.0)], n=4)
    weights_file(ra).write_bytes(weights_file(plain).read_bytes())
    with pytest.raises(StudyError, match=r"ra-.*holds the weights of another run \(mode='plain', not 'ra'\)"):
        boundaries.measure("smoke", [("jpeg", 4.0)], n=4)


def test_an_unknown_task_measures_nothing(study_root, capsys):
    """It is no word for all of them."""
    for task in ("xyz", "blind"):
        assert main(["boundaries", "--preset", "smoke", "--task", task]) == 2
        assert f"task='{task}' is unknown; use one of sr, dn, jpeg" in capsys.readouterr().err


def test_missing_runs(study_root):
    """Named with the commands that make them."""
    sweep = "rastudy sweep --preset smoke --task jpeg"
    with pytest.raises(StudyError, match=rf"smoke, jpeg 4: no weights of plain; run {sweep}"):
        boundaries.measure("smoke", [("jpeg", 4.0)], n=4)
    plain = make_config("smoke", "jpeg", "plain")
    save_weights(weights_file(plain), build_models(plain)[0], plain)
    with pytest.raises(StudyError, match=rf"no weights of ra:{SOURCE}; run {sweep}"):
        boundaries.measure("smoke", [("jpeg", 4.0)], n=4)
    assert boundaries.trained("smoke") == []
    with pytest.raises(StudyError, match=r"boundaries is empty; run rastudy boundaries --preset smoke"):
        similarity.make_tables("smoke")
    with pytest.raises(StudyError, match=r"no such table; run rastudy boundaries --preset smoke"):
        similarity.load_table("smoke", "boundary_pairs")
    with pytest.raises(StudyError, match=r"not measured; run rastudy boundaries --preset smoke --task jpeg"):
        boundary_plots.load_measured("smoke", "jpeg", 4.0)


def test_one_picture(two_runs, monkeypatch):
    """Its planes and its strip are drawn; there is no picture beyond the last."""
    monkeypatch.setattr(boundary_plots, "DRAWN", 5)
    pictures = gallery.pictures_to_show(two_runs[0], "test")
    around = boundary_plots.look_around(two_runs[0], pictures, 2, SOURCE)
    assert around.label == pictures.labels[2] and f"ra_unsupervised:{SOURCE}" not in around.steps
    figure = boundary_plots.plot_planes(two_runs[0], around, [SOURCE, "vgg16_bn_small"])
    assert len(figure.axes) == 3 * 2  # there is no unsupervised run
    assert len(boundary_plots.plot_strip(two_runs[0], around, [SOURCE]).axes) == 6
    with pytest.raises(StudyError, match="picture 60: there are 60, from 0 to 59"):
        boundary_plots.look_around(two_runs[0], pictures, 60, SOURCE)
    with pytest.raises(StudyError, match="no weights of RA from vgg16_bn_small; run rastudy sweep"):
        boundary_plots.look_around(two_runs[0], pictures, 0, "vgg16_bn_small")


def test_a_batch_has_no_slider(monkeypatch):
    """Nobody moves it, and a sweep need not wait for its messages."""
    monkeypatch.setenv("RASTUDY_BATCH", "1")
    assert boundary_plots.slider(make_config("smoke", "jpeg", "ra"), None, []) is None


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"smoke"}))
def test_the_committed_points_have_the_tables_gains(preset):
    """A study's tables of boundaries are made again after more trainings, or they tell another gain than its others."""
    folder = ROOT / "results" / preset
    if not (folder / "boundary_points.csv").is_file():
        pytest.skip(f"{preset}: no boundaries were measured")
    key = ["task", "strength", "source", "target"]
    gains = pd.read_csv(folder / "gains.csv").query("main and mode == 'ra' and baseline == 'plain'")
    gains = gains.rename(columns={"source_arch": "source", "target_arch": "target"}).set_index(key)["value"]
    others = [pd.read_csv(path).query("mode == 'ra' and metric == 'top1' and variant in ['families', reader]")
              for name in ("families", "black_box") if (path := folder / f"transfer_{name}.csv").is_file()]  # fmt: skip
    for table in others:
        table = table.rename(columns={"source_arch": "source", "reader": "target"}).set_index(key)["value"]
        gains = pd.concat([gains, table[~table.index.isin(gains.index)]])
    points = pd.read_csv(folder / "boundary_points.csv").set_index(key)["gain"]
    shared = points.index.intersection(gains.index)
    assert len(shared) >= 2 and points[shared].tolist() == gains[shared].tolist()


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"smoke"}))
def test_unseen_means_what_the_studys_other_tables_mean(preset):
    """Every target but the source; no copies, families, black boxes that were measured beside them. And n is the stratum's."""
    folder = ROOT / "results" / preset
    if not (folder / "boundary_distances.csv").is_file():
        pytest.skip(f"{preset}: no boundaries were measured")
    unseen = pd.read_csv(folder / "gains.csv").query("main and mode == 'ra' and baseline == 'plain' and role == 'unseen'")
    for (task, strength), rows in pd.read_csv(folder / "boundary_distances.csv").groupby(["task", "strength"]):
        m = similarity.load_measured(preset, task, strength)
        wanted = set(unseen.query("task == @task and strength == @strength")["target_arch"])
        assert {reader for reader in m.readers if m.is_unseen(reader, f"ra:{m.source}")} == wanted
        assert all(m.pair_of(one, other) == "architectures" for one, other in itertools.combinations([m.source, *wanted], 2))
        assert not any(m.pair_of(m.source, reader) == "architectures" for reader in set(m.readers) - wanted - {m.source})
        rows = rows.query("along == @ra and metric == 'reached'", local_dict={"ra": f"ra:{m.source}"})
        for _, part in rows.groupby("stratum"):
            n = part.set_index("reader")["n_images"]
            own = n[n.index.isin(wanted)]
            assert own.max() <= n["mean_unseen"] <= own.sum()
