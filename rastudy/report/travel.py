"""Pictures that travel: what uploads in R's loss keep of the gain, and what a blind P gains and loses against a specialist."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from rastudy.analysis import style
from rastudy.analysis.comparisons import ESTIMATE, GAIN, headline
from rastudy.errors import NothingToShow
from rastudy.registry import TASKS, short_name, task_name
from rastudy.report import judgement
from rastudy.report.claims import interval, study_name, trainings, where
from rastudy.report.figures import plot_transfer
from rastudy.transfer import aware
from rastudy.transfer.tables import load_table

WAYS = {"png": "none", "jpeg95": "JPEG 95", "jpeg90": "JPEG 90", "jpeg75": "JPEG 75", "jpeg50": "JPEG 50", "resized": "resized"}
READERS = {"source": style.SOURCE, "unseen": style.UNSEEN, "unlike": {"color": "#009e73", "marker": "P"}}
BLIND = ("none", "plain", "blind:plain", "blind:ra")  # what is compared with RA's specialist


def aware_rows(preset: str) -> Iterator[list[str]]:
    """A row per degradation and upload: unseen models' gain without and with uploads in the loss; each reader's difference."""
    shown = [("unseen", "without"), ("unseen", "with"), *((readers, "difference") for readers in READERS)]
    for (_, task, strength, *_), rows in aware.load_table(preset).groupby(list(aware.RUN), sort=False):
        for way, part in rows.groupby("way", sort=False):
            by = part.set_index(["readers", "gain"])
            cells = [interval(by.loc[key]) if key in by.index else "" for key in shown]
            yield [study_name(preset), short_name(task, strength), WAYS[str(way)], *cells, trainings(by.iloc[0])]


def blind_judgements(preset: str) -> list[pd.DataFrame]:
    """The mean unseen model's rows of ``blind_<task>.csv``: no processing, plain and the blind P's against RA's specialist."""
    judged = sorted(judgement.judgements([preset], "blind"), key=lambda one: list(TASKS).index(one["task"].iloc[0]))
    return [_of_blind(one) for one in judged]


def _of_blind(found: pd.DataFrame) -> pd.DataFrame:
    """The rows that count, without the reference; the P's of mixtures are the blind ones there, too."""
    rows = found[(found["reader"] == judgement.UNSEEN) & (found["restorer"] != found["reference"])]
    if rows["task"].iloc[0] == "blind":
        named = {name: f"blind:{name}" for name in ("plain", "ra")}
        rows = rows.assign(restorer=rows["restorer"].replace(named), reference=rows["reference"].replace(named))
    return rows


def blind_rows(preset: str) -> Iterator[list[str]]:
    """A row per degradation and restorer: decibels, and what the mean unseen model gains over RA's specialist."""
    for found in blind_judgements(preset):
        for _, row in found.iterrows():
            names = [judgement.restorer_name(row[name]) for name in ("restorer", "reference")]
            n = f"{int(row['n_images']):,}"
            yield [judgement.place_of(found), *names, f"{row['psnr']:.2f}", interval(row, GAIN), n]


@style.says_what_is_missing
def plot_upload_aware(preset: str) -> Figure:
    """RA's gain over plain after each upload, without and with uploads in its loss: by degradation and kind of reader."""
    found = headline(aware.load_table(preset))
    if found.empty:
        raise NothingToShow(
            f"No run of {preset} has uploads in its loss: rastudy sweep --preset {preset} --direction upload_aware."
        )
    keys, readers = style.degradations_in(found, preset), [name for name in READERS if name in set(found["readers"])]
    figure, axes = style.panels(len(keys), len(readers), 2.6 * len(keys), sharey="row")
    for line, key in zip(axes, keys, strict=True):
        for ax, who in zip(line, readers, strict=True):
            rows = style.rows_of(found[found["readers"] == who], key)
            for shift, (gain, label, fill) in enumerate((("without", "RA", "none"), ("with", "RA, uploads in its loss", None))):
                part = where(rows, gain=gain).set_index("way").reindex(list(WAYS)).reset_index()
                x = np.arange(len(part)) + 0.24 * shift - 0.12
                style.intervals(ax, x, part, ESTIMATE, ms=5, label=label, mfc=fill or READERS[who]["color"], **READERS[who])
            ax.axhline(0, color="black", lw=1)
            ax.set_xticks(range(len(WAYS)), list(WAYS.values()), rotation=30, ha="right")
            ax.set_title(f"{task_name(*key)}: {who}")
        line[0].set_ylabel("gain over plain (pp)")
    seeds = sorted(set(found["n_seeds"]))
    note = (f"n = {found['n_images'].max():,}; {' or '.join(map(str, seeds))} trainings; 95 % intervals, over trainings where "
            "there are three. Open: RA; filled: RA with uploads in its loss.")  # fmt: skip
    return style.finish(figure, note)


def plot_direction(preset: str, direction: str) -> Figure:
    """A direction's gains; of RA with uploads in its loss beside the same RA without them."""
    return plot_upload_aware(preset) if direction == "upload_aware" else plot_transfer(load_table(preset, direction))


@style.says_what_is_missing
def plot_blind(presets: Sequence[str]) -> Figure:
    """What the mean unseen model gains over RA's specialist by no processing, plain and the blind P's; a panel per study."""
    found = {preset: judged for preset in presets if (judged := blind_judgements(preset))}
    if not found:
        raise NothingToShow("No blind P has been judged yet: results/README.md has the command (blind_<task>.csv).")
    figure, axes = style.panels(1, len(found), 3.4)
    for ax, (preset, judged) in zip(axes[0], found.items(), strict=True):
        for k, name in enumerate(BLIND):
            rows = [(place, one[one["restorer"] == name]) for place, one in enumerate(judged)]
            x = [place + 0.18 * (k - 1.5) for place, row in rows for _ in range(len(row))]
            shown = pd.concat([row for _, row in rows])
            style.intervals(ax, x, shown, GAIN, ms=6, label=judgement.restorer_name(name), **judgement.look_of(name))
        ax.axhline(0, color="black", lw=1)
        ax.set_xticks(range(len(judged)), [short_name(one["task"].iloc[0], one["strength"].iloc[0]) for one in judged])
        ax.set_title(f"{study_name(preset)}; n = {int(judged[0]['n_images'].iloc[0]):,}")
    axes[0, 0].set_ylabel("mean unseen top-1,\nminus RA specialist's (pp)")
    note = "Top-1 minus that of RA's specialist (of mixtures: blind RA), 95 % intervals over pictures; one training of each P."
    return style.finish(figure, note, axes[0, 0])
