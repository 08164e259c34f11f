"""Caption and alternative text of each figure, by its name."""

import re
from pathlib import Path

from rastudy import registry
from rastudy.presets import PRESETS
from rastudy.registry import TASKS, display_name, task_name
from rastudy.report.claims import study_name

# by the beginning of a figure's name: its caption, and what is plotted; the order is the report's
CAPTIONS = {
    "hero": ("What recognition-aware processing does",
             "Left, a row per task: the first test picture of the digits that RA corrects for the source recogniser "
             "and for an unseen one: degraded, plain's, RA's, original, with predictions. Right: points with 95 % "
             "intervals, RA's gain over plain by study and kind of reader; open: the paper's."),
    "degradations": ("What each P gets to see", "Test pictures, a column each: the original and its degraded versions."),
    "strengths": ("Top-1 against the strength of each degradation", "Lines with 95 % bands, one per recogniser, a panel per "
                  "task; the study's own strength is marked."),
    "accuracy": ("Top-1 of every recogniser under every mode", "Points with 95 % intervals: a panel per degradation, a group "
                 "per recogniser, a colour and marker per mode, from no processing to clean."),
    "gains": ("Differences to plain on the same pictures",
              "Coloured tables, one per degradation, each with its own scale: rows are modes, columns the recognisers that "
              "read; each cell is a difference of top-1 in percentage points with its 95 % interval, blue for a gain; the "
              "source model is framed."),
    "paper": ("Our gains beside the paper's", "Points by recogniser, a panel per task: filled are ours with 95 % intervals, "
              "open the paper's on ImageNet."),
    "matrix": ("Gain by source and target model",
               "Coloured tables: rows are source models, columns target ones; each cell is RA's gain over plain in "
               "percentage points with its 95 % interval; framed where the source itself reads."),
    "controls": ("What the gain is not", "Points with 95 % intervals: a line per control, gains over its baseline of the "
                 "source recogniser and of the mean unseen one."),
    "equal_cost": ("The same recognition by other means", "Points with 95 % intervals: a line per picture and reader, gains "
                   "over plain of ResNet-18, adapted or not, and of unseen recognisers, with PSNR at the side."),
    "tradeoff": ("What the weight costs, on validation",
                 "Lines: gains of the source and of unseen recognisers with 95 % bands, and below them the change of PSNR, "
                 "against the recognition weight; the chosen weight is ringed."),
    "judgement": ("Decibels against recognition", "Points with 95 % intervals, a panel per set of pictures and degradation: "
                  "restorers by PSNR and by the gain of the mean unseen recogniser over no processing."),
    "blind": ("Blind P's against specialists", "Points with 95 % intervals, a panel per set of pictures: top-1 of the mean "
              "unseen recogniser minus what it reads after RA's specialist, by degradation; open: blind P's."),
    "curves": ("Training", "Image loss against the pictures seen, a line per mode, a panel per degradation."),
    "restored": ("Restored pictures, not chosen",
                 "Rows are the first test pictures, columns the modes; under each picture the predictions of the source "
                 "recogniser and of an unseen one, a check mark where right, a cross where wrong."),
    "boundary_distances": ("How soon recognisers' predictions change along a direction",
                           "Curves with bands, RA's direction among random ones: share of pictures whose boundary is reached "
                           "against RA steps, mean and range of the unseen recognisers."),
    "boundary_reached": ("Boundaries within four RA steps",
                         "Coloured tables: rows are directions, columns recognisers; per cent of the pictures."),
    "boundary_pairs": ("How alike two recognisers' boundaries are", "Coloured tables over pairs of recognisers."),
    "boundary_path": ("On the way from plain's picture to RA's", "Lines: what recognisers read at each part of the way."),
    "boundary_planes": ("Predictions on planes through a picture", "Maps of the class that each recogniser names in a plane."),
    "boundary_strip": ("A picture on the way from plain's to RA's", "The picture at several places with predictions."),
    "boundary_difference": ("What RA changes in a picture", "Plain's picture, RA's, and their difference, amplified."),
    "boundary_added": ("What RA adds to pictures", "Bars: energy by frequency, at edges, in colour."),
    "boundary_explains": ("Whether similarity explains the gain", "Points, one per pair of recognisers."),
    "boundary": ("Decision boundaries", "Measurements around plain's pictures."),
    "transfer_summary": ("RA's gain in every direction that was tried",
                         "Coloured tables, one per study: rows are directions, columns degradations; each cell is RA's mean "
                         "gain over plain in percentage points and a mark of its verdict."),
    "transfer_upload_aware": ("RA's gain after an upload, without and with uploads in its loss",
                              "Points with 95 % intervals by upload, a panel per degradation and kind of reader."),
    "transfer": ("Transfer", "Gains over plain with 95 % intervals, a panel per degradation; open: at home."),
    "turned": ("How many pictures RA corrects and breaks", "Bars by recogniser, a panel per degradation: test pictures that RA "
               "breaks to the left, that it corrects to the right."),
    "turned_": ("Pictures that RA corrects and breaks", "A column per picture, the corrected ones first: degraded, plain's and "
                "RA's with the predictions, the original, the difference amplified."),
}  # fmt: skip

PICTURES = ("degradations", "restored", "turned_", "boundary_difference", "boundary_strip")  # these show pictures


def _parts(stem: str) -> tuple[str, str, str, str]:
    """A figure's name: the longest of ``CAPTIONS`` that it begins with, task, strength, and what is left."""
    key = max((key for key in CAPTIONS if stem.startswith(key)), key=len, default="")
    rest = stem[len(key) :].strip("_")
    degradation = re.fullmatch(rf"({'|'.join(TASKS)})([\d.]*)(?:_(.+))?", rest)
    task, strength, left = degradation.groups("") if degradation else ("", "", rest)
    return key, task, strength, left


def rank_of(stem: str) -> tuple[int, int, str]:
    """A figure's place in the report: by kind, task and name."""
    key, task, *_ = _parts(stem)
    return list(CAPTIONS).index(key) if key else len(CAPTIONS), list(TASKS).index(task) if task else -1, stem


def caption_of(path: Path) -> tuple[str, str]:
    """A figure's caption, with data, degradation and recogniser from its name, and what is plotted."""
    key, task, strength, rest = _parts(path.stem)
    caption, plotted = CAPTIONS.get(key, ("A figure", "A figure of the study."))
    words = [study_name(path.parent.name)] if path.parent.name in PRESETS else []
    words += [task_name(task, float(strength) if strength else None)] if task else []
    if rest:
        words += [f"read by {display_name(rest)}" if rest in registry.main_recognisers() else rest.replace("_", " ")]
    return f"{caption}{': ' * bool(words)}{', '.join(words)}", plotted
