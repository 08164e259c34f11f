"""The README's tables, regenerated from the CSVs: ``rastudy report --readme`` rewrites what stands between markers.

``<!-- table:NAME --> ... <!-- /table -->`` holds a table; no number in the README is typed by hand.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from rastudy import registry
from rastudy.analysis.comparisons import ESTIMATE, GAIN, UNSEEN
from rastudy.analysis.controls import OVER_RA, control_name
from rastudy.analysis.tables import OVER_ONE, load_table, main_cells, main_table, paper_gains, without_variants
from rastudy.boundaries import tables as similarity
from rastudy.boundaries.tables import load_table as load_boundaries
from rastudy.paths import results_folder, root, write_atomic
from rastudy.presets import PRESETS, degradations
from rastudy.registry import display_name, is_variant, mode_name, reader_name, short_name, small_arch
from rastudy.report.claims import (
    CONDITIONS,
    STUDIES,
    claims_table,
    has_results,
    interval,
    main_rows,
    markdown,
    present_studies,
    study_name,
)
from rastudy.report.figures import BARS, variant_name
from rastudy.transfer.tables import REFERENCE, load_summary

CONDITION_OF = {"sr": "sr x4", "dn": "dn", "jpeg": "jpeg"}  # of the claims table, by the paper's tasks
MARKED = re.compile(r"(<!-- table:(?P<name>[\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)


def results_table(preset: str) -> str:
    """Top-1 of every R, PSNR and SSIM by task and mode."""
    if not has_results(preset):
        return "(No committed results yet.)\n"
    table = main_table(preset)
    rows = []
    for (task, mode), row in table.iterrows():
        digits = {"PSNR": 2, "SSIM": 3, "seeds": 0}
        cells = [f"{row[name]:.{digits.get(name, 1)}f}" for name in table]
        rows.append([task, mode_name(mode), *(cell.replace("nan", "") for cell in cells)])
    return markdown(rows, ["task", "mode", *table.columns])


CONTRASTS = (  # mode, what it is compared with
    ("plain", "plain_one_cycle", "plain against plain in one cycle"),
    ("ra", "plain_one_cycle", "RA against plain in one cycle"),
    ("ra", "plain", "RA against plain"),
)


def controls_table(presets: Sequence[str] = ()) -> str:
    """Plain and RA against plain trained in one uninterrupted cycle of the same length: is the schedule to blame?"""
    rows = []
    for preset in presets or present_studies():
        for condition in CONDITIONS:
            for mode, baseline, shown in CONTRASTS:
                cell = main_rows("gains", preset, condition, baseline, mode=mode)
                if len(cell):
                    values = [interval(cell[cell["role"] == role].iloc[0]) for role in ("source", "mean_unseen")]
                    rows.append([study_name(preset), condition, shown, str(cell["n_seeds"].iloc[0]), *values])
    if not any("one cycle" in row[2] for row in rows):
        return "(`make study-full` runs this control.)\n"
    return markdown(rows, ["data", "task", "top-1, points", "seeds", "the R in the loss", "unseen R's"])


def rounding_table(presets: Sequence[str] = ()) -> str:
    """Top-1 where P's picture is rounded to 8 bits, and where its floats are handed on as they are."""
    rows = []
    for preset in presets or present_studies():
        for condition in CONDITIONS:
            table = without_variants(main_rows("accuracy", preset, condition))
            both = table.pivot_table(index=["mode", "target_arch"], columns="metric", values="value", sort=False)
            for mode in PRESETS[preset]["modes"]:
                if mode in both.index:
                    cell, source = both.loc[mode], PRESETS[preset]["source_arch"]
                    change = (cell["top1"] - cell["top1_float"]).abs().max()
                    shown = [*cell.loc[source, ["top1", "top1_float"]], *cell[["top1", "top1_float"]].drop(source).mean()]
                    shown = [f"{value:.2f}" for value in shown]
                    rows.append([study_name(preset), condition, mode_name(mode), *shown, f"{change:.2f}"])
    return markdown(rows, ["data", "task", "mode", "the R in the loss, 8 bits", "floats", "unseen R's, 8 bits", "floats",
                           "largest change of an R"])  # fmt: skip


def what_it_is_not_table(presets: Sequence[str] = ()) -> str:
    """RA with one thing changed: does the gain need R's training, its labels, R's verdict, a short training?"""
    rows = []
    for preset in presets or present_studies():
        for _, row in load_table(preset, "controls").iterrows():
            parts = [row[list(names)].set_axis(ESTIMATE) for names in (GAIN, UNSEEN, *OVER_RA)]
            values = ["" if part.isna().any() else interval(part) for part in parts]
            degradation = short_name(row["task"], row["strength"])
            rows.append([study_name(preset), degradation, control_name(row["control"]), str(row["n_seeds"]), *values])
    if not rows:
        return "(Not run yet.)\n"
    return markdown(rows, ["data", "task", "gain of top-1, points", "seeds", "ResNet-18", "unseen R's",
                           "ResNet-18, over RA", "unseen R's, over RA"])  # fmt: skip


SOURCES = {"itself": "itself", "another": "another one, mean", "four_others": "the other four at once", "all_five": "all five"}


def matrix_table(presets: Sequence[str] = ()) -> str:
    """What an R gains from RA with itself, another R or several in the loss: what does more than one source buy?"""
    rows = []
    for preset in presets or present_studies():
        table = load_table(preset, "several_sources")
        for (task, strength, reader), part in table.groupby(["task", "strength", "target_arch"], sort=False):
            gain = {row["sources"]: interval(row) for _, row in part.iterrows()}
            over = part[(part["sources"] == "four_others") & part["over_one"].notna()]
            over = interval(over.iloc[0][list(OVER_ONE)].set_axis(ESTIMATE)) if len(over) else ""
            cells = [short_name(task, strength), display_name(reader), *(gain.get(name, "") for name in SOURCES), over]
            rows.append([study_name(preset), *cells])
    if not rows:
        return "(Not run yet.)\n"
    return markdown(rows, ["data", "task", "the R that reads", *(f"R in the loss: {shown}" for shown in SOURCES.values()),
                           "the other four over another one"])  # fmt: skip


def equal_cost_table(presets: Sequence[str] = ()) -> str:
    """The same recognition by other means: P's and readers, for as many pictures learned from."""
    rows = []
    for preset in presets or present_studies():
        table = load_table(preset, "equal_cost")
        adapted = table["reader"] != PRESETS[preset]["source_arch"]  # notebook 04 shows every picture to each of them
        table = table[(table["mode"] != "clean") & (~adapted | table["mode"].isin(["none", "plain", "ra"]))]
        for _, row in table.iterrows():
            gain, unseen = (interval(row[list(names)].set_axis(ESTIMATE)) for names in (GAIN, UNSEEN))
            quality = ["" if pd.isna(row[name]) else f"{row[name]:.{n}f}" for name, n in (("psnr", 2), ("ssim", 3))]
            degradation = short_name(row["task"], row["strength"])
            rows.append([degradation, mode_name(row["mode"]), reader_name(row["reader"]), gain, unseen, *quality])
    if not rows:
        return "(Not run yet.)\n"
    return markdown(rows, ["task", "picture", "ResNet-18 trained on", "its gain", "unseen R's gain", "PSNR", "SSIM"])


def processors_table() -> str:
    """RA against plain with every P: is the gain SRResNet's alone?"""
    names = ["task", "strength", "ra_weight", "labels", "pretrain_epochs", "epochs", "source_arch", "other"]
    gains, accuracy = load_table("digits", "gains"), load_table("digits", "accuracy")
    main = main_cells(gains, "digits").query("mode == 'ra' and role == 'source'")[names]
    gains = gains[gains["baseline"] == "plain"].merge(main, on=names).query("mode == 'ra'")
    rows = []
    for (*key, processor), cell in gains.groupby(["task", "strength", "processor"], sort=False):
        plain = accuracy.query("mode == 'plain' and processor == @processor and metric == 'psnr'")
        plain = plain.merge(main.drop(columns=["ra_weight", "source_arch"]).query("task == @key[0] and strength == @key[1]"))
        values = [interval(cell[cell["role"] == role].iloc[0]) for role in ("source", "mean_unseen")]
        rows.append([short_name(*key), processor, str(cell["n_seeds"].iloc[0]), f"{plain['value'].iloc[0]:.2f}", *values])
    return markdown(rows, ["task", "P", "seeds", "plain's PSNR", "RA's gain, the R in the loss", "RA's gain, unseen R's"])


def transfer_table(presets: Sequence[str] = ()) -> str:
    """RA's gain in every direction that was tried, beside home, with a verdict."""
    table, rows = _transfers(presets), []
    if table is None:
        return "(Not run yet.)\n"
    for _, row in table.iterrows():
        home = "" if pd.isna(row["reference"]) else interval(row[list(REFERENCE)].set_axis(ESTIMATE))
        what = f"{row['direction'].replace('_', ' ')}: {variant_name(row)}"
        shown = [study_name(row["preset"]), short_name(row["task"], row["strength"]), what, str(row["n_seeds"])]
        rows.append([*shown, f"{interval(row)}{' AP50' * (row['metric'] == 'ap50')}", home, row["verdict"]])
    header = ["data", "task", "direction", "seeds", "RA's gain, mean of the readers", "the same run at home", "verdict"]
    return markdown(rows, header)


def _transfers(presets: Sequence[str]) -> pd.DataFrame | None:
    """The summary's rows of these presets (none named: of all); None before any direction was tried."""
    if not (root() / "results" / "transfer_summary.csv").is_file():
        return None
    table = load_summary()
    return table[(table["metric"] != "ap_voc07") & (table["preset"].isin(presets) | (len(presets) == 0))]


def transfer_words(presets: Sequence[str] = ()) -> str:
    """Where RA's gain arrives, and where it does not, which is against the paper, with intervals."""
    table = _transfers(presets)
    if table is None or table.empty:
        return "(Not run yet.)\n"
    told = table[~table["verdict"].isin(["nothing to transfer"])]
    nothing, transfers = len(table) - len(told), (told["verdict"] == "transfers").sum()
    lines = [
        f"Of {len(table)} rows below, {nothing} have nothing to transfer, for the run gains nothing at home; of the other "
        f"{len(told)} the gain transfers in {transfers}. Where it does not, against the paper, or where that stays open:\n"
    ]
    for row in told[told["verdict"] != "transfers"].to_dict("records"):
        what = f"{study_name(row['preset'])}, {row['direction'].replace('_', ' ')}, {variant_name(row)}"
        home = interval({name: row[own] for name, own in zip(ESTIMATE, REFERENCE, strict=True)})
        unit = " of AP50" if row["metric"] == "ap50" else ""
        where = short_name(row["task"], row["strength"])
        lines.append(f"- **{row['verdict']}**: {what}, {where}: {interval(row)}{unit}, at home {home}.")
    return "\n".join(lines) + "\n"


def _measured_studies(presets: Sequence[str] = ()) -> list[str]:
    return [preset for preset in presets or STUDIES if (results_folder(preset) / "boundary_distances.csv").is_file()]


def _boundary_rows(presets: Sequence[str] = ()) -> Iterator[tuple[str, str, dict]]:
    """(data, task, figures) of every degradation whose boundaries have been measured; figures are (value, low, high)."""
    unlike = registry.unlike_recognisers()
    variant = lambda table: table["other"].map(is_variant).astype(bool)  # noqa: E731
    main = lambda table: ~(variant(table) | table["other"].isin(unlike))  # noqa: E731
    for preset in _measured_studies(presets):
        tables = {name: load_boundaries(preset, name) for name in similarity.TABLES}
        source, distances = PRESETS[preset]["source_arch"], tables["boundary_distances"]
        of = lambda table, **where: table[np.logical_and.reduce([table[k] == v for k, v in where.items()])]  # noqa: E731
        for task, strength in degradations(preset):
            here = {"task": task, "strength": strength}
            ra = of(distances, **here, along=f"ra:{source}", reader="mean_unseen")
            if ra.empty:
                continue
            figures = {(row["stratum"], row["metric"]): row[list(ESTIMATE)].tolist() for _, row in ra.iterrows()}
            kappa = of(tables["boundary_planes"], **here, along="all", metric="kappa")
            again = variant(kappa) & (kappa["reader"] == kappa["other"].map(small_arch))
            for name, rows in (("others", kappa[main(kappa)]), ("again", kappa[again])):
                values = rows.loc[rows["n_images"] >= similarity.FEWEST, "value"]
                figures[name, "kappa"] = [values.median(), values.min(), values.max()] if len(values) else None
            rank = of(tables["boundary_pairs"], **here, along=f"ra:{source}", stratum="leave", metric="rank_over_spectrum")
            rank = rank[main(rank)]["value"]
            figures["rank"] = [rank.median(), rank.min(), rank.max()]
            explains = of(tables["boundary_explains"], **here, test="mantel", similarity="kappa", outcome="gain")
            points = of(tables["boundary_points"], **here)
            to_all = of(tables["boundary_explains"], **here, test="targets", similarity="kappa", outcome="gain")
            wide = len(to_all) and points["target"].isin(unlike).any()
            figures["targets"] = to_all[["rho", "p"]].iloc[0].tolist() if wide else None
            figures["mantel"] = explains[["rho", "p"]].iloc[0].tolist() if len(explains) else None
            yield study_name(preset), short_name(task, strength), figures


def boundaries_table(presets: Sequence[str] = ()) -> str:
    """What RA's step does to pictures of unseen R's, against random steps of its spectrum, and how alike two R's are."""
    span = lambda f: f"{f[0]:.2f} ({f[1]:.2f} to {f[2]:.2f})" if f and not np.isnan(f[0]) else ""  # noqa: E731
    points = lambda f: f"{f[0]:+.1f} [{f[1]:+.1f}, {f[2]:+.1f}]" if f else "too few"  # noqa: E731
    rows = [
        [data, task, points(f.get(("enter", "over_spectrum"))), points(f.get(("leave", "over_spectrum"))),
         span(f["others", "kappa"]) or "too few", span(f["again", "kappa"]), span(f["rank"]),
         "{:+.2f}, p {:.2f}".format(*f["mantel"]) if f["mantel"] else ""]
        for data, task, f in _boundary_rows(presets)
    ]  # fmt: skip
    if not rows:
        return "(Not run yet.)\n"
    return markdown(rows, ["data", "task", "misread: enters the true class, points over random",
                           "read rightly: leaves it, points over random", "kappa, two architectures",
                           "kappa, two trainings of one", "rank correlation over random",
                           "similarity and gain: rho"])  # fmt: skip


def boundary_words(presets: Sequence[str] = ()) -> str:
    """What the boundaries show and what they do not, in two sentences."""
    rows = list(_boundary_rows(presets))
    if not rows:
        return "(Not run yet.)\n"
    enter = [(data, task, f["enter", "over_spectrum"]) for data, task, f in rows if ("enter", "over_spectrum") in f]
    if not enter:
        return "(Too few pictures to tell.)\n"
    above = [one for one in enter if one[2][1] > 0]
    data, task, (value, low, high) = max(above or enter, key=lambda one: one[2][1])
    leave = [f["leave", "over_spectrum"] for *_, f in rows if ("leave", "over_spectrum") in f]
    kappa = [f["others", "kappa"][0] for *_, f in rows if f["others", "kappa"]]
    again = [f["again", "kappa"][0] for *_, f in rows if f["again", "kappa"]]
    mantel = [f["mantel"] for *_, f in rows if f["mantel"]]
    alike = ""
    if kappa:
        trainings = f", of two trainings of one architecture at {min(again):.2f} to {max(again):.2f}" if again else ""
        alike = (
            "around plain's pictures the verdicts of two architectures agree at a kappa of "
            f"{min(kappa):.2f} to {max(kappa):.2f}{trainings}, where chance gives 0, and "
        )
    most = f"{data}, {task}: {value:+.1f} points [{low:+.1f}, {high:+.1f}]"
    ranks = {name: [f["rank"][0] for data, _, f in rows if data == name] for name in dict.fromkeys(data for data, *_ in rows)}
    more = "; ".join(f"{name} {min(rank):+.2f} to {max(rank):+.2f}" for name, rank in ranks.items())
    said = (
        "The step to RA's picture leads into the true class of pictures that unseen R's misread more often than random steps "
        f"of its spectrum do, with an interval above 0, in {len(above)} of {len(enter)} cases ({most}), and out of a class "
        f"that was right less often in {sum(f[2] < 0 for f in leave)} of {len(leave)}; {alike}along RA's direction two R's "
        f"distances rank more alike than along random ones by (medians over pairs) {more}."
    )
    if mantel:
        rho, p = zip(*mantel, strict=True)
        said += (
            " Among five convolutional R's they do not tell who gains more from whom: over the ordered pairs kappa and gain "
            f"correlate at {min(rho):+.2f} to {max(rho):+.2f} (the smallest p of {len(p)} permutation tests is {min(p):.2f}; "
            "so few networks could show a strong relation only)"
        )
        wide = [(data, task, *f["targets"]) for data, task, f in rows if f["targets"]]
        if wide:
            found = ", ".join(f"{data}, {task} {rho:+.2f} (p {p:.3f})" for data, task, rho, p in wide)
            said += f"; with a transformer and an MLP mixer, less alike, among the targets of one source at {found}"
            said += f"; these {len(wide)} p are one-sided and not corrected for their number" * (len(wide) > 1)
        said += "."
    return f"{said}\n"


def photographs_table() -> str:
    """Real photographs: each mode's gain averaged over the R's, what so few pictures resolve, and the published gain."""
    preset = "imagenet_lite"
    if preset not in present_studies():
        return "(Not run yet.)\n"
    overall, rows = main_cells(load_table(preset, "overall"), preset), []
    quality = main_cells(load_table(preset, "accuracy"), preset).query("metric == 'psnr' and split == 'test'")
    quality = quality.set_index(["task", "mode"])["value"]
    published = paper_gains().groupby(["task", "mode"])["value"].mean()
    for row in overall.to_dict("records"):
        task, mode = row["task"], row["mode"]
        cells = [interval(main_rows("gains", preset, CONDITION_OF[task], mode=mode, role=role).iloc[0])
                 for role in ("source", "mean_unseen")]  # fmt: skip
        paper = f"{published[task, mode]:+.1f}" if (task, mode) in published else "not at hand"
        cost = quality[task, mode] - quality[task, "plain"]
        shown = [short_name(task, row["strength"]), mode_name(mode), interval(row), f"{row['resolves']:.1f}"]
        rows.append([*shown, *cells, f"{cost:+.2f}", paper])
    return markdown(rows, ["task", "mode", "gain, mean of the three R's", "resolves", "Lite0, in the loss",
                           "Lite1 and 2, unseen", "PSNR (dB)", "published, mean of five R's"])  # fmt: skip


def benchmark_table() -> str:
    """The benchmark's ratios beside what they must reach, and how near the training step comes to the machine's own speed."""
    table = pd.read_csv(root() / "results" / "benchmark.csv")
    ratios = table[table["unit"] == "ratio"].set_index("variant")
    shown = {"release / ours": "RA step, the release's time / ours",
             "share of the bound": "five R's in one pass: share of the bound",
             "cache / decoding": "photographs from the cache / decoded"}  # fmt: skip
    rows = [[shown[name], f"{r['value']:.2f} [{r['low']:.2f}, {r['high']:.2f}]", f"{bar:g}"]
            for name, bar in BARS.items() for r in [ratios.loc[name]]]  # fmt: skip
    speed = table[table["unit"] == "GFLOP/s"].set_index("variant")["value"]
    for name in ("ours", "release"):
        rows.append([f"RA step, {name}: share of a matrix product's speed", f"{speed[name] / speed['peak']:.2f}", ""])
    grown = table[table["variant"].str.endswith(": exponent")]
    if (loop := "one after the other / at once") in ratios.index:
        r = ratios.loc[loop]
        rows.append(["distances to boundaries, a loop over pictures / all at once",
                     f"{r['value']:.2f} [{r['low']:.2f}, {r['high']:.2f}]", ""])  # fmt: skip
    for r in grown.to_dict("records"):
        work = "distances to boundaries" if r["part"] == "boundaries" else "an evaluation"
        what = f"{'memory' if r['part'] == 'memory' else 'time'} of {work} against {r['variant'].split(':')[0]}"
        rows.append([f"{what}, exponent", f"{r['value']:.2f}", ""])
    return markdown(rows, ["measured", "median [quartiles]", "must reach"])


def timings_table(preset: str = "digits") -> str:
    """Wall-clock of each part of `make study`, or of another preset's sweep."""
    path = results_folder(preset) / "timings.csv"
    if not path.is_file():
        return "(`make study` writes its times here.)\n"
    table = pd.read_csv(path)
    rows = [[row["part"], f"{row['minutes']:.1f} min", row["machine"]] for _, row in table.iterrows()]
    return markdown(rows, [f"part of `{'make study' if preset == 'digits' else f'--preset {preset}'}`", "time", "on"])


def render(text: str) -> str:
    """The README's text with every marked table regenerated from the CSVs."""
    makers = {"claims": claims_table, "timings": timings_table, "controls": controls_table, "processors": processors_table,
              "rounding": rounding_table, "what-it-is-not": what_it_is_not_table, "matrix": matrix_table,
              "equal-cost": equal_cost_table, "transfer": transfer_table, "transfer-words": transfer_words,
              "boundaries": boundaries_table, "boundary-words": boundary_words, "photographs": photographs_table,
              "benchmark": benchmark_table}  # fmt: skip
    makers |= {f"results-{preset}": lambda preset=preset: results_table(preset) for preset in STUDIES}
    return MARKED.sub(lambda m: m[1] + makers[m["name"]]() + m[3], text)


def refresh_readme() -> None:
    """Rewrite the tables of the README."""
    path = root() / "README.md"
    text = render(path.read_text())
    write_atomic(path, lambda p: p.write_text(text))

