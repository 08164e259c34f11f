"""Figures that can be seen: legible at a README's width, told apart without colour, written only where they change."""

from itertools import combinations, pairwise
from operator import attrgetter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from rastudy import registry
from rastudy.analysis import style
from rastudy.analysis.checks import paper_gains
from rastudy.errors import StudyError
from rastudy.paths import CHECKOUT
from rastudy.presets import PRESETS
from rastudy.report import drawn, gallery, hero, results_page
from rastudy.report import figures as plots
from rastudy.transfer import directions
from rastudy.transfer import tables as transfer

README, SMALLEST = 840, 9  # pixels: of a figure's width in a README, and of the smallest text there
# Machado, Oliveira and Fernandes (2009), severity 1, of linear RGB
DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
JPEG = ("digits", "jpeg", 4.0)
DRAWN = drawn.plots()


@pytest.mark.parametrize("name", DRAWN)
def test_the_committed_ones_are_legible_and_say_what_the_tables_say(name):
    """The smallest text has 9 pixels where the figure, whatever its height, is 840 wide; all are equally wide."""
    figure = DRAWN[name]()
    assert style.digest_in(drawn.figure_file(name)) == style.digest(figure), "RASTUDY_ROOT=. rastudy report --readme redraws it"
    sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    assert figure.get_figwidth() == style.WIDTH and min(sizes) / 72 * README / style.WIDTH >= SMALLEST
    figure.draw_without_rendering()
    for place in ("title", "xaxis.label"):
        shown = [text for text in map(attrgetter(place), figure.axes) if text.get_text()]
        for one, other in combinations((text.get_window_extent() for text in shown), 2):
            assert not one.padded(-2).overlaps(other), f"{place}s lie over each other"
    for ax in figure.axes:
        names = [name.get_window_extent() for name in ax.get_yticklabels() if name.get_text() and name.get_visible()]
        assert not any(one.padded(-2).overlaps(other) for one, other in pairwise(names)), "names lie over each other"
    plt.close(figure)


def test_the_committed_ones_are_as_wide():
    """Nothing stands out beside the panels and makes all else smaller."""
    for path in (CHECKOUT / "figures").rglob("*.png"):
        with Image.open(path) as picture:
            assert picture.width <= 1.05 * style.WIDTH * style.DPI or "smoke" in path.parts, path


def seen(colour: str) -> np.ndarray:
    """A colour as somebody without green cones sees it."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    found = np.clip(DEUTERANOPIA @ linear, 0, 1)
    return np.where(found <= 0.0031308, 12.92 * found, 1.055 * found ** (1 / 2.4) - 0.055)


def test_verdicts_without_red_and_green():
    """Right and wrong differ in mark and weight, and their colours differ with a deuteranopia, too: red and green do not."""
    (right, look), (wrong, other) = style.verdict("7", 7, 7), style.verdict("7", 3, 7)
    assert right != wrong and look.get("weight") != other["weight"]
    assert style.verdict("7", 7, -1) == ("7", {"color": style.UNKNOWN})
    for one, two in combinations((style.RIGHT, style.WRONG), 2):
        assert np.linalg.norm(seen(one) - seen(two)) > 0.5
    assert np.linalg.norm(seen("#007a33") - seen("#c00000")) < 0.35  # what they were
    assert len(set(plots.VERDICTS.values())) == 4  # undecided is one, whatever the reason


def test_one_colour_for_one_recogniser():
    """By its place in the registry, whoever else is drawn; a variant of it has the same, dashed; no two have the same look."""
    five = [tuple(style.look_of_reader(arch)["color"]) for arch in registry.main_recognisers()]
    assert len(set(five)) == 5
    for arch, colour in zip(registry.main_recognisers(), five, strict=True):
        assert style.look_of_reader(arch.removesuffix("_small"))["color"] == colour
        assert style.look_of_reader(f"{arch}_seed1") == style.look_of_reader(arch) | {"ls": "--"}
    looks = [style.look_of_reader(name) for name in style.FAMILIES]
    assert (
        len({(look["marker"], look["ls"]) for look in looks})
        == len({(str(look["color"]), look["ls"]) for look in looks})
        == len(looks)
    )
    assert style.look_of_reader("my_net") == style.look_of_reader("my_net")


def test_an_unchanged_figure_stays_as_it_is(study_root):
    """Compared by pixels, not by bytes; few colours make a palette; a damaged file is replaced."""
    figure = Figure((2, 1))
    text = figure.text(0.1, 0.5, "one")
    path = study_root / style.save(figure, "smoke", "one")
    with Image.open(path) as picture:
        assert picture.mode == "P"
        info = PngInfo()
        info.add_text(style.SAYS, style.digest_in(path))
        picture.convert("RGB").save(path, compress_level=1, pnginfo=info)  # other bytes, the same pixels
    before = path.read_bytes(), path.stat().st_mtime_ns
    style.save(figure, "smoke", "one")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    text.set_text("two")
    style.save(figure, "smoke", "one")
    assert path.read_bytes() != before[0]
    path.write_bytes(path.read_bytes()[:100])
    style.save(figure, "smoke", "one")
    with Image.open(path) as picture:
        picture.load()


def test_a_digest_is_of_what_a_figure_says():
    """Every number and word that is drawn, whatever its colour; it is in the file."""

    def drawn_with(value: float = 1.0, word: str = "a", **look) -> Figure:
        figure = Figure((2, 1))
        ax = figure.add_subplot()
        ax.errorbar([0, 1], [value, 2], yerr=[[0.1, 0.1], [0.2, 0.2]], label=word, **look)
        ax.barh([0], [value])
        ax.set_xticks([0, 1], ["no", word])
        return figure

    said = style.digest(drawn_with())
    assert style.digest(drawn_with(color="red")) == said == style.digest(drawn_with(value=1.00001))
    assert said != style.digest(drawn_with(value=1.01)) != style.digest(drawn_with(word="b")) != said


def test_photographs_keep_their_colours():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    figure = Figure((1, 1))
    figure.add_axes((0, 0, 1, 1)).imshow(noise)
    assert style.rendered(figure).mode == "RGB"


def test_text_on_colours():
    assert [style.ink(to_rgb(colour)) for colour in ("white", "#4393c3", "#053061", "#fddbc7")] == [
        "black",
        "black",
        "white",
        "black",
    ]


def test_the_first_figures_pictures_are_the_first():
    """No earlier test picture is misread by both in plain's version and read by both in RA's."""
    plain, ra = gallery.pair_of(*JPEG)
    source, unseen = (
        gallery.turned(*(gallery.load_predictions(gallery.predictions_file(run, "test")) for run in (plain, ra)), name)
        for name in gallery.two_readers(plain)
    )
    assert hero.first_turned(*JPEG[1:]) == min(set(source.gained.tolist()) & set(unseen.gained.tolist()))


def test_the_first_figures_numbers():
    """Every study, each kind of reader it has, and the paper's means."""
    rows = hero.gains()
    assert not rows[rows["kind"] == "black_box"].duplicated(["preset", "task", "strength", "variant"]).any()
    assert {"source", "mean_unseen", "families", "black_box"} == set(rows["kind"])
    paper = paper_gains().query("mode == 'ra' and task == 'sr' and role == 'unseen'")["value"]
    (shown,) = rows[(rows["preset"] == hero.PAPER) & (rows["task"] == "sr") & (rows["kind"] == "mean_unseen")]["value"]
    assert shown == pytest.approx(paper.mean())


@pytest.mark.parametrize(
    "preset, variant, source, name",
    [
        ("imagenette", "mobilenet_v2_1.0_224_quant", "efficientnet_lite0", "MobileNetV2 (8-bit)"),
        ("imagenette", "mobilenet_v2_1.0_224_quant", "squeezenet", "MobileNetV2 (8-bit), from SqueezeNet 1.1"),
        ("imagenette", "mobilenet_v2_1.0_224_quant_on_imagenet_lite", "efficientnet_lite0",
         "MobileNetV2 (8-bit) on 700 photographs"),
        ("imagenette", "imagenet_lite", "efficientnet_lite0,squeezenet",
         "700 photographs, from EfficientNet-Lite0 and SqueezeNet 1.1"),
        ("digits", "held_out", "resnet18_small,resnet50_small", "2 source models"),
        ("digits", "detection_at_home", "fcos_small", "detection at home, taught by FCOS (small)"),
        ("digits", "jpeg50", "resnet18_small", "jpeg50"),
    ],
)  # fmt: skip
def test_a_variants_name_tells_what_differs(preset, variant, source, name):
    assert plots.variant_name({"preset": preset, "variant": variant, "source_arch": source}) == name


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"smoke"}))
@pytest.mark.parametrize("direction", [one.name for one in directions.DIRECTIONS.values()])
def test_no_row_of_the_record_is_shown_over_another(preset, direction):
    """Neither in a direction's figure nor in the summary's figure and table: a second row for a place is refused."""
    if not (CHECKOUT / "results" / preset / f"transfer_{direction}.csv").is_file():
        pytest.skip(f"{preset}: {direction} was not tried")
    table = transfer.load_table(preset, direction)
    plots.plot_transfer(table)
    twice = pd.concat([table, table.assign(value=0.0)])
    with pytest.raises(StudyError, match="rows too many for one place"):
        plots.plot_transfer(twice)
    plt.close("all")


def test_no_row_of_the_summary_is_shown_over_another(monkeypatch):
    summary = transfer.load_summary()
    plots.plot_transfer_summary(summary)
    assert results_page.transfer_table().count("\n") > 20
    twice = pd.concat([summary, summary.assign(value=0.0)])
    monkeypatch.setattr(results_page, "load_summary", lambda: twice)
    for show in (results_page.transfer_table, lambda: plots.plot_transfer_summary(twice)):
        with pytest.raises(StudyError, match="rows too many for one place"):
            show()


def test_no_transfer_at_all(monkeypatch):
    """A study in which no direction was tried has no rows, and is no error."""
    summary = transfer.load_summary()
    monkeypatch.setattr(results_page, "load_summary", lambda: summary.iloc[:0])
    assert results_page.transfer_table(["digits"]) == results_page.NOT_RUN


def test_a_figure_of_several_sets_tells_both_numbers():
    rows = pd.DataFrame({"n_images": [300, 2949], "n_groups": [300, 2949], "n_seeds": [1, 3]})
    assert style.sample(rows) == ("300 to 2,949 test pictures", "1 to 3 trainings")
    assert style.sample(rows[:1], "validation") == ("300 validation pictures", "1 training")
