"""The tables of README, ``results/RESULTS.md`` and report, made from the CSVs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from typing import Any

import numpy as np
import pandas as pd

from rastudy import registry
from rastudy.analysis import statistics as stats
from rastudy.analysis import style
from rastudy.analysis.checks import OVER_RA, control_name, paper_gains
from rastudy.analysis.comparisons import ESTIMATE, GAIN, UNSEEN
from rastudy.analysis.replication import load_replication
from rastudy.analysis.tables import BENCHMARK, OVER_ONE, TIMINGS, load_table, main_cells, shown_table
from rastudy.boundaries import tables as similarity
from rastudy.boundaries.measure import own_networks
from rastudy.boundaries.tables import load_table as load_boundaries
from rastudy.evaluation.predictions import read_table
from rastudy.paths import results_folder, root, to_read
from rastudy.presets import PRESETS, degradations
from rastudy.registry import dataset_of, display_name, mode_name, reader_name, short_name
from rastudy.report import claims, judgement, travel
from rastudy.report.claims import interval, markdown, study_name, where
from rastudy.report.figures import one_row_a_place, variant_name
from rastudy.report.gallery import turned_table
from rastudy.transfer.tables import UNABLE, load_summary

NOT_RUN = "(Not run yet.)\n"
CONTRASTS = (  # mode, its baseline, and the name to show
    ("plain", "plain_one_cycle", "plain against plain in one cycle"),
    ("ra", "plain_one_cycle", "RA against plain in one cycle"),
    ("ra", "plain", "RA against plain"),
)
SOURCES = {"itself": "itself", "another": "another one, mean", "four_others": "the other four at once", "all_five": "all five"}

Row = list[str]
Maker = Callable[..., str]  # of the presets, none: of every study with committed results


def table(*header: str, missing: str = NOT_RUN, complete: Callable[[list[Row]], bool] = bool) -> Callable[..., Maker]:
    """Make a Markdown table out of a function that yields one preset's rows; ``missing`` unless its rows are ``complete``."""

    def decorate(rows_of_preset: Callable[[str], Iterable[Row]]) -> Maker:
        @wraps(rows_of_preset)
        def make(presets: Sequence[str] = ()) -> str:
            rows = [row for preset in presets or claims.present_studies() for row in rows_of_preset(preset)]
            return markdown(rows, header) if complete(rows) else missing

        return make

    return decorate


def _source_and_unseen(gains: pd.DataFrame) -> Row:
    """The gains of the source and the mean unseen R among the rows of one run."""
    return [interval(gains[gains["role"] == role].iloc[0]) for role in ("source", "mean_unseen")]


# --- a study's runs


def results_table(preset: str) -> str:
    """Top-1 of every R, PSNR and SSIM by task and mode."""
    if not claims.has_results(preset):
        return "(No committed results yet.)\n"
    found = shown_table(preset)
    rows = [[task, mode_name(mode), *row] for (task, mode), *row in found.itertuples(name=None)]
    return markdown(rows, ["task", "mode", *found.columns])


@table("task", "mode", "who", "record", "here", "difference", "spread of retraining", "verdict", "record, seed 0")
def replication_table(preset: str) -> Iterator[Row]:
    """A study that was run here beside the record, gain by gain; without rows for the record itself."""
    path = to_read(results_folder(preset) / "replication.csv")
    for _, row in load_replication(path).iterrows() if path.is_file() else ():
        spread = "" if pd.isna(row["spread"]) else f"{row['spread']:.1f}"
        named = [short_name(row["task"], row["strength"]), mode_name(row["mode"]), display_name(row["target_arch"])]
        seed_0 = "" if pd.isna(row["record_seed_0"]) else f"{row['record_seed_0']:+.1f}"
        yield [*named, *(f"{row[name]:+.1f}" for name in ("record", "ours", "difference")), spread, row["verdict"], seed_0]


@table("data", "task", "top-1 (pp)", "trainings", "source", "unseen models",
       missing="(`make study-full` runs this control.)\n",
       complete=lambda rows: any("one cycle" in row[2] for row in rows))  # fmt: skip
def controls_table(preset: str) -> Iterator[Row]:
    """Plain and RA against plain trained in one uninterrupted cycle of the same length: is the schedule to blame?"""
    for condition in claims.CONDITIONS:
        for mode, baseline, shown in CONTRASTS:
            cell = claims.main_rows("gains", preset, condition, baseline, mode=mode)
            if len(cell):
                yield [study_name(preset), condition, shown, str(cell["n_seeds"].iloc[0]), *_source_and_unseen(cell)]


@table(
    "data", "task", "gain of top-1 (pp)", "trainings", "source", "unseen models", "source, over RA", "unseen models, over RA"
)
def what_it_is_not_table(preset: str) -> Iterator[Row]:
    """RA with one thing changed: does the gain need R's training, its labels, R's class scores, a short training?"""
    for _, row in load_table(preset, "controls").iterrows():
        run = [short_name(row["task"], row["strength"]), control_name(row["control"]), str(row["n_seeds"])]
        yield [study_name(preset), *run, *(interval(row, names) for names in (GAIN, UNSEEN, *OVER_RA))]


@table("data", "task", "target model", *(f"source model: {shown}" for shown in SOURCES.values()),
       "the other four over another one")  # fmt: skip
def matrix_table(preset: str) -> Iterator[Row]:
    """What an R gains from RA with itself, another model or several as sources: what does more than one source buy?"""
    found = load_table(preset, "several_sources")
    for (task, strength, reader), part in found.groupby(["task", "strength", "target_arch"], sort=False):
        rows = {row["sources"]: row for row in part.to_dict("records")}
        cells = [interval(rows[name]) if name in rows else "" for name in SOURCES]
        over = interval(rows["four_others"], OVER_ONE) if "four_others" in rows else ""
        yield [study_name(preset), short_name(task, strength), display_name(reader), *cells, over]


@table("task", "picture", "source model trained on", "its gain", "unseen models' gain", "PSNR", "SSIM")
def equal_cost_table(preset: str) -> Iterator[Row]:
    """The same recognition by other means: P's and readers, for as many pictures learned from."""
    found = load_table(preset, "equal_cost")
    adapted = found["reader"] != PRESETS[preset]["source_arch"]  # notebook 04 shows every picture to each of them
    for _, row in found[(found["mode"] != "clean") & (~adapted | found["mode"].isin(["none", "plain", "ra"]))].iterrows():
        quality = ["" if pd.isna(row[name]) else f"{row[name]:.{n}f}" for name, n in (("psnr", 2), ("ssim", 3))]
        named = [short_name(row["task"], row["strength"]), mode_name(row["mode"]), reader_name(row["reader"])]
        yield [*named, interval(row, GAIN), interval(row, UNSEEN), *quality]


@table(
    "data",
    "task",
    "PSNR change, as of",
    "RA: source",
    "feature loss over RA: source",
    "RA: unseen",
    "feature loss over RA: unseen",
)
def matched_table(preset: str) -> Iterator[Row]:
    """A feature loss beside RA at the same decibels, on validation."""
    found = load_table(preset, "matched")
    for (task, strength, mode, weight), rows in found.groupby(["task", "strength", "weight_of", "ra_weight"], sort=False):
        by_role = rows.set_index("role")
        at = f"{rows['psnr_change'].iloc[0]:+.2f}, {mode_name(mode)} at {weight:g}"
        cells = [[f"{row['ra_gain']:+.1f}", interval(row)] for _, row in by_role.loc[["source", "mean_unseen"]].iterrows()]
        yield [study_name(preset), short_name(task, strength), at, *cells[0], *cells[1]]


@table("task", "P", "trainings", "plain's PSNR", "RA's gain, source", "RA's gain, unseen models")
def processors_table(preset: str) -> Iterator[Row]:
    """RA against plain with every P, of presets with more than one: is the gain SRResNet's alone?"""
    if "processors" not in PRESETS[preset]:
        return
    same = ["task", "strength", "labels", "pretrain_epochs", "epochs", "other"]
    gains, accuracy = load_table(preset, "gains"), load_table(preset, "accuracy")
    main = main_cells(gains, preset).query("mode == 'ra' and role == 'source'")[[*same, "ra_weight", "source_arch"]]
    psnr = accuracy.query("mode == 'plain' and metric == 'psnr'").merge(main[same])
    gains = gains.query("mode == 'ra' and baseline == 'plain'").merge(main)
    for (*key, processor), cell in gains.groupby(["task", "strength", "processor"], sort=False):
        plain = style.rows_of(psnr, key).query("processor == @processor")["value"].iloc[0]
        yield [short_name(*key), processor, str(cell["n_seeds"].iloc[0]), f"{plain:.2f}", *_source_and_unseen(cell)]


@table("task", "mode", "gain, mean of all models", "resolves", "source", "unseen models", "PSNR (dB)",
       "published, mean of five models")  # fmt: skip
def photographs_table(preset: str) -> Iterator[Row]:
    """Real photographs: each mode's gain averaged over the R's, the smallest gain that so few resolve, the published gain."""
    if not dataset_of(PRESETS[preset]["dataset"]).photographs:
        return
    quality = main_cells(load_table(preset, "accuracy"), preset).query("metric == 'psnr' and split == 'test'")
    psnr = quality.set_index(["task", "mode"])["value"]
    published = paper_gains().groupby(["task", "mode"])["value"].mean()
    rows = main_cells(load_table(preset, "overall"), preset)
    for _, row in rows[rows["task"].isin(claims.OF_PAPER)].iterrows():
        task, mode = key = row["task"], row["mode"]
        gains = _source_and_unseen(claims.main_rows("gains", preset, claims.OF_PAPER[task], mode=mode))
        paper = claims.published(published[key]) if key in published else "not available"
        shown = [short_name(task, row["strength"]), mode_name(mode), interval(row), f"{row['resolves']:.1f}"]
        yield [*shown, *gains, f"{psnr[key] - psnr[task, 'plain']:+.2f}", paper]


@table("data", "restorer", "PSNR (dB)", "SSIM", "gain of the mean unseen model", "dB per pp", missing="")
def judged_table(preset: str) -> Iterator[Row]:
    """Restorers by how well the mean unseen model reads what they make."""
    for found in judgement.judgements([preset]):
        for _, row in found[(found["reader"] == judgement.UNSEEN) & (found["restorer"] != found["reference"])].iterrows():
            cost = "" if pd.isna(row["db_per_point"]) else f"{row['db_per_point']:+.2f}"
            shown = [
                judgement.place_of(found),
                judgement.restorer_name(row["restorer"]),
                f"{row['psnr']:.2f}",
                f"{row['ssim']:.3f}",
            ]
            yield [*shown, interval(row, GAIN), cost]


@table("data", "task", "upload", "RA: unseen", "with uploads in its loss: unseen", "difference: source", "difference: unseen",
       "difference: unlike", "over", missing="")  # fmt: skip
def upload_aware_table(preset: str) -> Iterator[Row]:
    """RA's gain over plain after each upload, without and with uploads in its loss."""
    yield from travel.aware_rows(preset)


@table("data", "restorer", "compared with", "PSNR (dB)", "mean unseen model: difference", "pictures", missing="")
def blind_table(preset: str) -> Iterator[Row]:
    """No processing, plain and the blind P's beside RA's specialist."""
    yield from travel.blind_rows(preset)


# --- transfer


def transfer_table(presets: Sequence[str] = ()) -> str:
    """RA's mean gain over the readers: a row per direction and variant, a column per degradation."""
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    if not to_read(root() / "results" / "transfer_summary.csv").is_file():
        return NOT_RUN
    summary = load_summary().query("metric != 'ap_voc07'")
    for preset in presets or claims.present_studies():
        of = {claims.degradation_of(preset, name): name for name in claims.CONDITIONS}
        found = summary.query("preset == @preset")
        if found.empty:
            continue
        shown = found.assign(shown=[variant_name(row) for row in found.to_dict("records")])
        for _, row in one_row_a_place(shown, ("direction", "shown", "task", "strength")).iterrows():
            key = study_name(preset), row["direction"].replace("_", " "), row["shown"]
            rows.setdefault(key, {})[of[row["task"], row["strength"]]] = _transfer_cell(row)
    lines = [[*key, *(cells.get(name, "") for name in claims.CONDITIONS)] for key, cells in rows.items()]
    return markdown(lines, ["data", "direction", "variant", *claims.CONDITIONS]) if lines else NOT_RUN


def _transfer_cell(row: pd.Series) -> str:
    """The gain with its interval, marked by the verdict, and how many trainings it rests on where these are several."""
    gain = interval(row) + " AP50" * (row["metric"] == "ap50") + f" ({row['n_seeds']})" * (row["n_seeds"] > 1)
    mark = {"transfers": "**", "does not": "*"}.get(row["verdict"], "")
    after = {UNABLE: " floor", "nothing to transfer": " (home: nothing)"}.get(row["verdict"], "")
    return f"{mark}{gain}{mark}{after}"


# --- boundaries


def measured_boundaries(preset: str) -> Iterator[dict[str, Any]]:
    """``data`` and ``task`` of every degradation whose boundaries have been measured, and what is known of the rest.

    ``enter``, ``leave``: points over random steps by which misclassified pictures enter their true class, correctly classified
    ones leave it. ``kappa_architectures``: of two architectures, mean over pairs, ``kappa_trainings``: of two trainings of one,
    and ``kappa_difference``. All of these with their intervals. ``rank``: rank correlation over random directions, median,
    least, most. ``mantel``: of kappa and gain over the pairs of recognisers rho, p and the number of permutations; ``targets``:
    over the targets of one source, where less similar recognisers are among them.
    """
    if not to_read(results_folder(preset) / "boundary_distances.csv").is_file():
        return
    names = ("distances", "planes", "pairs", "points", "explains")
    tables, unlike = [load_boundaries(preset, f"boundary_{name}") for name in names], registry.unlike_recognisers()
    for key in degradations(preset):
        distances, planes, pairs, points, explains = (style.rows_of(found, key) for found in tables)
        own, ra = own_networks(preset, *key), f"ra:{PRESETS[preset]['source_arch']}"
        steps = where(distances, along=ra, reader="mean_unseen")
        if steps.empty:
            continue
        over = where(steps, metric="over_spectrum").set_index("stratum")[list(ESTIMATE)]
        kappa = where(planes, along="all", reader="mean")
        kappa = kappa[kappa["n_images"] >= similarity.FEWEST].set_index("metric")[list(ESTIMATE)]
        tests = where(explains, similarity="kappa", outcome="gain").set_index("test")[["rho", "p", "permutations"]]
        tests = tests if points["target"].isin(unlike).any() else tests.drop("targets", errors="ignore")
        row = {"data": study_name(preset), "task": short_name(*key)}
        row |= {name: values.tolist() for found in (over, kappa, tests) for name, values in found.iterrows()}
        rank = where(pairs, along=ra, stratum="leave", metric="rank_over_spectrum")
        rank = rank.loc[rank["reader"].isin(own) & rank["other"].isin(own), "value"]
        yield row | ({"rank": [rank.median(), rank.min(), rank.max()]} if rank.notna().any() else {})


@table("data", "task", "misclassified: enters the true class, points over random", "correct: leaves it, points over random",
       "kappa, two architectures", "kappa, two trainings of one", "difference", "rank correlation over random",
       "kappa and gain: rho, uncorrected p")  # fmt: skip
def boundaries_table(preset: str) -> Iterator[Row]:
    """What RA's step does to pictures of unseen R's, against random steps of its spectrum, and how alike two R's are."""
    for row in measured_boundaries(preset):
        shown = {"enter": "{:+.1f} [{:+.1f}, {:+.1f}]", "leave": "{:+.1f} [{:+.1f}, {:+.1f}]"}
        shown |= {f"kappa_{name}": "{:.2f} [{:.2f}, {:.2f}]" for name in ("architectures", "trainings", "difference")}
        shown |= {"rank": "{:.2f} ({:.2f} to {:.2f})", "mantel": "{:+.2f}, p {:.2f}"}
        few = dict.fromkeys(("enter", "leave", "kappa_architectures"), "too few")
        cells = [text.format(*row[name]) if name in row else few.get(name, "") for name, text in shown.items()]
        yield [row["data"], row["task"], *cells]


@table("data", "task", "source model", "read by", "kappa with the source", "gain from the source (pp)", missing="")
def kinship_table(preset: str) -> Iterator[Row]:
    """Where sources are of several families: how alike each target's predictions are to the source's, and what it gains."""
    if not to_read(results_folder(preset) / "boundary_points.csv").is_file():
        return
    points, planes = (load_boundaries(preset, f"boundary_{name}") for name in ("points", "planes"))
    if not points["source"].isin(registry.unlike_recognisers()).any():
        return
    alike = {(row["task"], row["strength"], frozenset((row["reader"], row["other"]))): row
             for _, row in where(planes, along="all", metric="kappa").iterrows()}  # fmt: skip
    ordered = points.sort_values(["task", "source", "kappa"], ascending=[False, True, False], kind="stable")
    for _, row in ordered.iterrows():
        pair = alike[row["task"], row["strength"], frozenset((row["source"], row["target"]))]
        names = [display_name(row[name]) for name in ("source", "target")]
        kappa = interval(pair, ESTIMATE, 2, "")
        yield [study_name(preset), short_name(row["task"], row["strength"]), *names, kappa, interval(row, GAIN)]


def boundary_words(presets: Sequence[str] = ()) -> str:
    """What the boundaries show and what they do not, in two sentences."""
    rows = [row for preset in presets or claims.present_studies() for row in measured_boundaries(preset)]
    if not rows:
        return NOT_RUN
    enter = [row for row in rows if "enter" in row]
    if not enter:
        return "(Too few pictures to tell.)\n"
    above = [row for row in enter if row["enter"][1] > 0]
    most = max(above or enter, key=lambda row: row["enter"][1])
    value, low, high = most["enter"]
    leave, apart = ([row[name] for row in rows if name in row] for name in ("leave", "kappa_difference"))
    kappa, again = ([row[f"kappa_{of}"][0] for row in rows if f"kappa_{of}" in row] for of in ("architectures", "trainings"))
    alike = ""
    if kappa:
        trainings = f", of two trainings of one architecture at {_ends(again)}" if again else ""
        if apart:
            closer = sum(found[1] > 0 for found in apart)
            trainings += f" (more alike, with an interval above 0, in {closer} of {len(apart)} cases)"
        alike = (
            f"around plain's pictures the predictions of two architectures agree at a kappa of {_ends(kappa)}{trainings}, "
            "where chance gives 0, and "
        )
    ranks: dict[str, list[float]] = {}
    for row in (row for row in rows if "rank" in row):
        ranks.setdefault(row["data"], []).append(row["rank"][0])
    more = "; ".join(f"{data} {_ends(rank, '+')}" for data, rank in ranks.items())
    said = (
        "A step in RA's direction takes pictures that unseen R's misclassify into their true class more often than random "
        f"steps with the same spectrum do, with an interval above 0, in {len(above)} of {len(enter)} cases (clearest: "
        f"{most['data']}, {most['task']}, {value:+.1f} points [{low:+.1f}, {high:+.1f}]). It also takes correctly "
        f"classified pictures out of their class more often in {sum(found[1] > 0 for found in leave)} of {len(leave)} cases, "
        f"and less often in {sum(found[2] < 0 for found in leave)}. Moreover, {alike}"
        "the rank correlation of two R's distances along RA's direction minus that along random ones is (medians over "
        f"pairs) {more}."
    )
    return f"{said}{_explained(rows)}\n"


def _explained(rows: Sequence[dict[str, Any]]) -> str:
    """Whether similar boundaries go with larger gains; empty where it was not tested. Holm-corrected for all tests told."""
    corrected, mantel = corrected_tests(rows), [row["mantel"] for row in rows if "mantel" in row]
    if not mantel:
        return ""
    rho, p = [rho for rho, *_ in mantel], [corrected[id(test)] for test in mantel]
    best = min(best_of_tests(rows)[id(test)] for test in mantel)
    hopeless = f"; {mantel[0][2]:.0f} orders of five networks: corrected, no relation would show" * (best >= stats.SURE)
    said = (
        " Among the five small CNNs similarity does not predict who gains more from whom: over ordered pairs, kappa and gain "
        f"correlate at {_ends(rho, '+')} (the smallest corrected p of {len(p)} permutation tests is {min(p):.2f}{hopeless})"
    )
    wide = [f"{row['data']}, {row['task']} {row['targets'][0]:+.2f} (p {corrected[id(row['targets'])]:.3f})"
            for row in rows if "targets" in row]  # fmt: skip
    if wide:
        said += f"; over the targets of one source, with less similar models of other families among them, at {', '.join(wide)}"
        said += "; p are one-sided, and Holm-corrected for all of these tests"
    return f"{said}."


def corrected_tests(rows: Sequence[dict[str, Any]]) -> dict[int, float]:
    """The p of every test of the rows, by its ``id``, Holm-corrected for all of them."""
    told = _tests(rows)
    return dict(zip(map(id, told), stats.holm(np.array([p for _, p, _ in told])) if told else [], strict=True))


def best_of_tests(rows: Sequence[dict[str, Any]]) -> dict[int, float]:
    """The smallest corrected p that each test of the rows could have had, by its ``id``, the others being what they are."""
    told = _tests(rows)
    found = np.array([p for _, p, _ in told])
    best = [np.where(np.arange(len(told)) == k, 1 / many, found) for k, (_, _, many) in enumerate(told)]
    return {id(test): float(stats.holm(p)[k]) for k, (test, p) in enumerate(zip(told, best, strict=True))}


def _tests(rows: Sequence[dict[str, Any]]) -> list[Sequence[float]]:
    return [row[name] for row in rows for name in ("mantel", "targets") if name in row]


def _ends(values: Sequence[float], sign: str = "") -> str:
    low, high = f"{min(values):{sign}.2f}", f"{max(values):{sign}.2f}"
    return low if low == high else f"{low} to {high}"


# --- speed, and the README itself


BARS = {"release / ours": 1.4, "share of the bound": 0.9, "cache / decoding": 5.0}  # what the benchmark must reach


def benchmark_table() -> str:
    """The benchmark's ratios beside what they must reach, and how near the training step comes to the machine's own speed."""
    path = to_read(root() / "results" / "benchmark.csv")
    if not path.is_file():
        return "(`rastudy benchmark` writes its ratios here.)\n"
    found = read_table(path, BENCHMARK, "rastudy benchmark")
    ratios = found[found["unit"] == "ratio"].set_index("variant")
    shown = {"release / ours": "RA step, the release's time / ours",
             "share of the bound": "five R's in one pass: share of the bound",
             "cache / decoding": "photographs from the cache / decoded",
             "one after the other / at once": "distances to boundaries, a loop over pictures / all at once"}  # fmt: skip
    rows = [[what, f"{r['value']:.2f} [{r['low']:.2f}, {r['high']:.2f}]", f"{BARS[name]:g}" if name in BARS else ""]
            for name, what in shown.items() if name in ratios.index for r in [ratios.loc[name]]]  # fmt: skip
    speed = found[found["unit"] == "GFLOP/s"].set_index("variant")["value"]
    rows[len(BARS) : len(BARS)] = [
        [f"RA step, {name}: share of a matrix product's speed", f"{speed[name] / speed['peak']:.2f}", ""]
        for name in ("ours", "release")
    ]
    return markdown(rows, ["measured", "median [quartiles]", "must reach"])


def timings_table() -> str:
    """Wall-clock of each part of `make study`."""
    path = to_read(results_folder("digits") / "timings.csv")
    if not path.is_file():
        return "(`make study` writes its times here.)\n"
    found = read_table(path, TIMINGS, "make study")
    rows = [[row["part"], f"{row['minutes']:.1f} min", row["machine"]] for _, row in found.iterrows()]
    return markdown(rows, ["part of `make study`", "time", "on"])


@table("data", "task", "source's top-1: plain / clean", "RA: source", "RA: unseen", "unseen: share of own gain as sources",
       "PSNR change (dB)", "paper: source", "paper: unseen", "trainings")  # fmt: skip
def main_table_of(preset: str) -> Iterator[Row]:
    """The README's table: RA in every study and degradation, beside the paper's ImageNet."""
    published = paper_gains()
    for condition in (name for name in claims.CONDITIONS if claims.degradation_of(preset, name)):
        gains = claims.main_rows("gains", preset, condition, mode="ra")
        if gains.empty:
            continue
        task, strength = claims.degradation_of(preset, condition)
        source = gains["source_arch"].iloc[0]
        top1 = claims.main_rows("accuracy", preset, condition, metric="top1", target_arch=source).set_index("mode")["value"]
        psnr = claims.main_rows("accuracy", preset, condition, metric="psnr").set_index("mode")["value"]
        kept = claims.main_rows("kept", preset, condition, mode="ra")
        own = claims.within(kept.iloc[0]) if len(kept) else ""
        same_task = claims.OF_PAPER[task] == condition
        paper = where(published, task=task, mode="ra").groupby("role")["value"].mean() if same_task else {}
        share = f"{top1['plain'] / top1['clean']:.0%}" if "clean" in top1 else ""
        loss = f"{psnr['ra'] - psnr['plain']:+.2f}"
        published_gains = [claims.published(paper[role]) if role in paper else "" for role in ("source", "unseen")]
        named = [study_name(preset), short_name(task, strength), share]
        yield [*named, *_source_and_unseen(gains), own, loss, *published_gains, str(gains["n_seeds"].iloc[0])]


@table("data", "task", "read by", "corrected", "broken", "of test pictures")
def turned_counts(preset: str) -> Iterator[Row]:
    """How many pictures RA corrects and breaks."""
    for _, row in turned_table(preset).iterrows():
        counts = [f"{row[name]:,}" for name in ("gained", "lost", "n_images")]
        yield [study_name(preset), short_name(row["task"], row["strength"]), display_name(row["target_arch"]), *counts]


MAKERS: dict[str, Maker] = {
    "claims": claims.claims_table, "timings": timings_table, "controls": controls_table, "processors": processors_table,
    "judged": judged_table, "upload-aware": upload_aware_table, "blind": blind_table,
    "what-it-is-not": what_it_is_not_table, "matrix": matrix_table, "equal-cost": equal_cost_table, "matched": matched_table,
    "transfer": transfer_table, "boundaries": boundaries_table, "kinship": kinship_table,
    "photographs": photographs_table, "benchmark": benchmark_table,
    "main": main_table_of, "replication": replication_table, "turned": turned_counts,
    "results": lambda presets=(): "".join(map(results_table, presets)),
}  # fmt: skip
FOR_ALL = ("benchmark", "timings")  # of no study in particular
