"""The report: one file that loads nothing, whose numbers are the CSVs', with every figure; legible on a phone."""

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, free_port, needs_browser, wait_for
from bs4 import BeautifulSoup
from PIL import Image

from rastudy import registry
from rastudy.analysis.checks import paper_gains
from rastudy.analysis.tables import GAINS, load_table
from rastudy.config import make_config
from rastudy.errors import StudyError
from rastudy.models.small_nets import build_small
from rastudy.paths import write_csv
from rastudy.report import claims, document, results_page, travel, words
from rastudy.report import html as report
from rastudy.report.captions import PICTURES
from rastudy.report.gallery import turned_table

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """The report of the committed studies, through the command that a user types."""
    before = {path: path.read_bytes() for path in (ROOT / "figures").rglob("turned*.png")}  # drawn anew, where nothing changes
    path = tmp_path_factory.mktemp("report") / "report.html"
    command = [sys.executable, "-m", "rastudy", "report", "-o", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    for figure, content in before.items():
        figure.write_bytes(content)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(r".*report\.html: \d\.\d MB\n", done.stdout)
    return path


@pytest.fixture(scope="module")
def page(file) -> BeautifulSoup:
    return BeautifulSoup(file.read_text(), "html.parser")


def tables_of(page: BeautifulSoup) -> list[list[list[str]]]:
    """Every table's lines of cells, the header's first."""
    cells = lambda line: [cell.get_text() for cell in line.find_all(["th", "td"])]  # noqa: E731
    return [[cells(line) for line in table.find_all("tr")] for table in page.find_all("table")]


def lines_of(markdown: str) -> list[list[str]]:
    lines = [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in markdown.splitlines()]
    return [lines[0], *lines[2:]]


# --- numbers


def test_claims_are_those_of_the_csvs(page):
    """Every gain of the claims table, recomputed from ``gains.csv`` without the code that makes the table."""
    (table,) = [table for table in tables_of(page) if table[0][0] == "claim"]
    within = [line for line in table if "as sources" in line[0]]  # where every R was the source
    assert len(table) - len(within) == 1 + 3 * 3 * 4 and within
    checked = 0
    for what, condition, _, *ours in table[1:]:
        mode = {"RA": "ra", "RA with T": "ra_transformer", "RA unsupervised": "ra_unsupervised"}[what.split(":")[0]]
        for preset, cell in zip(claims.present_studies(), ours, strict=True):
            if "gain of" not in what or not cell:
                continue
            task, _, factor = condition.partition(" x")
            config = make_config(preset, task, mode, **({"strength": float(factor)} if factor else {}))
            rows = pd.read_csv(ROOT / "results" / preset / "gains.csv", keep_default_na=False)
            rows = rows[(rows["mode"] == mode) & (rows["baseline"] == "plain") & (rows["labels"] == "correct")]
            for name in ("task", "strength", "source_arch", "ra_weight", "epochs", "pretrain_epochs", "processor"):
                rows = rows[rows[name] == getattr(config, name)]
            (row,) = rows[
                (rows["role"] == ("source" if "of the source (" in what else "mean_unseen")) & (rows["other"] == "-")
            ].to_dict("records")
            ends = ("trainings_low", "trainings_high") if row["n_seeds"] >= 3 else ("low", "high")
            told = "{:+.1f} [{:+.1f}, {:+.1f}], ".format(*(float(row[name]) for name in ("value", *ends)))
            assert cell.startswith(told + (f"{row['n_seeds']} trainings" if row["n_seeds"] > 1 else "1 training"))
            checked += 1
    assert checked >= 3 * 3 * 2 * 3  # modes, tasks, roles, studies


def test_tables_and_words_are_those_of_the_results(page):
    """RESULTS.md and the report are one text: every table line by line, every sentence."""
    found = tables_of(page)
    text = (ROOT / "results" / "RESULTS.md").read_text()
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) > 15
    for table in tables:
        assert [[re.sub(r"[*]", "", cell) for cell in line] for line in lines_of(table)] in found, table.splitlines()[0]
    shown = " ".join(page.get_text().split())
    plain = lambda markdown: " ".join(re.sub(r"[*`]|\]\(.*?\)|\[(?=[^\]]*\]\()", "", markdown).split())  # noqa: E731
    words = re.sub(r"(?:^\|.*\n)+|^!\[.*$|^#.*$|</?details>.*$", "", text, flags=re.MULTILINE)
    for line in re.split(r"\n\n|^- |^\d\. ", words, flags=re.MULTILINE):
        assert plain(line) in shown, line


def test_gallery_counts_are_the_predictions(page):
    (table,) = [table for table in tables_of(page) if "corrected" in table[0]]
    numbers = [[int(cell.replace(",", "")) for cell in line[3:]] for line in table[1:]]
    counts = pd.concat([turned_table(preset) for preset in claims.present_studies()])
    assert numbers == counts[["gained", "lost", "n_images"]].to_numpy().tolist()


def test_findings_follow_from_the_csvs():
    """What each finding says in words: beyond a point where it says that a claim holds, not where it says that it does not."""
    low = lambda text: float(text.partition("[")[2].partition(",")[0])  # noqa: E731
    high = lambda text: float(text.partition(", ")[2].rstrip(f"]{words.ONE}"))  # noqa: E731
    value = lambda text: float(text.partition(" ")[0])  # noqa: E731
    roles = ("source", "mean_unseen")
    for condition in ("sr x4", "sr x2", "jpeg"):  # 1
        assert all(low(words.gain("cifar10", condition, role=role)) > 1 for role in roles)
        assert value(words.gain("cifar10", "dn")) < value(words.gain("cifar10", condition))
        assert low(words.moved("cifar10", "datasets", "cifar10_odd", condition)) > 1
    assert high(words.judged("cifar10", "jpeg", "plain")) < -1 and low(words.judged("cifar10", "jpeg", "ra")) > 1
    for condition in ("sr x4", "dn", "jpeg"):  # 2, 3
        assert all(low(words.gain("digits", condition, role=role)) > 0 for role in roles)
        ocr = words.moved("digits", "black_box", "rapidocr", condition)
        assert low(ocr) < 0 < high(ocr) and (-1 < low(ocr) and high(ocr) < 1) == (condition == "dn")
    assert low(words.moved("digits", "datasets", "digits_others", "jpeg")) > 1
    for variant in ("digits_elsewhere", "digits_bare"):
        assert low(words.moved("digits", "datasets", variant, "jpeg")) < 0
    assert value(words.kept("digits", "jpeg", of="within")) < value(words.kept("digits", "jpeg"))
    kin = [words.read_by("imagenette", "sr x4", name) for name in ("efficientnet_lite0", "efficientnet_lite1")]  # 4
    kin += [words.boxed("mobilenet_v2_1.0_224_quant"), words.read_by("imagenette", "sr x4", "squeezenet", "squeezenet")]
    assert all(low(one) > 1 for one in kin) and high(words.read_by("imagenette", "sr x4", "squeezenet")) < 0
    assert high(words.boxed("mobilenet_v1_0.75_192_quant")) < min(low(one) for one in kin)
    assert high(words.read_by("imagenette", "sr x4", "efficientnet_lite0", "squeezenet")) < low(kin[0])
    for name, other in (("squeezenet", ""), ("efficientnet_lite0", "squeezenet")):
        own = words.read_by("imagenette", "dn", name, name)
        assert high(words.read_by("imagenette", "dn", name, other)) < low(own)
    kin = [words.read_by("imagenette", "dn", "efficientnet_lite1"), words.boxed("mobilenet_v2_1.0_224_quant", "", "dn")]
    assert all(low(one) > high(words.read_by("imagenette", "dn", "squeezenet")) for one in kin)
    models = ("efficientnet_lite0", "efficientnet_lite1", "squeezenet")
    lite0, lite1, squeezenet = (words.read_by("imagenette", "jpeg", name) for name in models)
    assert low(lite0) > high(lite1) and low(squeezenet) > 0 and low(lite1) < value(squeezenet) < high(lite1)
    own, other = (words.read_by("imagenette", "jpeg", name, "squeezenet") for name in ("squeezenet", "efficientnet_lite0"))
    assert low(own) > 1 and high(other) < 0
    assert all(low(words.read_by("imagenette", "jpeg", name, ",".join((models[0], models[2])))) > 1 for name in models[::2])
    both, boxes = f"ra:{models[0]},{models[2]}", ("mobilenet_v2_1.0_224_quant", "mobilenet_v1_0.75_192_quant")
    for box in boxes:
        for condition in ("sr x4", "dn", "jpeg"):
            assert (low(words.paired(box, condition, both, "ra")) > 0) == ("v2" in box or condition == "dn")
        more = words.paired(box, "dn", both, "ra:squeezenet")
        assert low(more) < 0 < high(more) and low(words.paired(box, "dn", "ra:squeezenet", "ra")) > 0
    assert all(low(words.paired("squeezenet", condition, "perceptual", "ra")) > 0 for condition in ("sr x4", "dn"))
    jpeg = words.paired("squeezenet", "jpeg", "perceptual", "ra")
    assert low(jpeg) < 0 < high(jpeg)
    ra, plain = ([low(words.judged(preset, "dn", "bm3d", over=over)) for preset in ("imagenet_lite", "imagenette")]
                 for over in ("ra", "plain"))  # fmt: skip
    assert ra[0] > 0 > ra[1] and min(plain) > 0
    assert low(words.gain("cifar10", "sr x2", "ra_unsupervised")) > 1 < low(words.control("perceptual"))  # 5
    lost, kept = (words.read_by("imagenette", "sr x4", "squeezenet", mode=mode) for mode in ("ra_unsupervised", "perceptual"))
    assert high(lost) < 0 and low(kept) > -1
    for condition in ("sr x4", "dn", "jpeg"):  # 4: the feature loss
        own, far = ([words.read_by("imagenette", condition, target, mode=mode) for mode in ("ra", "perceptual")]
                    for target in ("efficientnet_lite0", "squeezenet"))  # fmt: skip
        assert value(own[1]) < value(own[0]) and value(far[1]) > value(far[0])
        assert (low(far[1]) > high(far[0])) == (condition == "dn") and (low(far[1]) > 0) == (condition != "sr x4")
    assert all(low(words.paired("unseen", condition, "ra", "ra_unsupervised")) > 0 for condition in ("sr x4", "dn", "jpeg"))
    paper = paper_gains().groupby(["task", "mode"])["value"].mean().unstack("mode").eval("ra - ra_unsupervised")
    assert paper["sr"] < 1 < min(paper["dn"], paper["jpeg"])
    assert high(words.control("untrained_equal")) < 0
    assert high(words.control("untrained")) < 1 and high(words.control("shuffled", "unseen")) < -1
    with_t = [words.gain("cifar10", "sr x4", "ra_transformer", role) for role in roles]  # 6
    assert low(with_t[0]) > high(with_t[1]) and low(words.gain("cifar10", "dn", "ra_transformer")) < 0
    assert low(words.gain("cifar10", "sr x4", role="mean_unseen")) < value(with_t[1])
    for condition in ("sr x2", "dn", "jpeg"):
        unseen = [words.gain("cifar10", condition, mode, "mean_unseen") for mode in ("ra_transformer", "ra")]
        assert high(unseen[0]) < low(unseen[1])
    assert high(words.gain("cifar10", "dn", "ra_transformer", "mean_unseen")) < 0
    less = [words.paired("unseen", "sr x4", "ra_transformer", "ra", preset) for preset in ("digits", "imagenet_lite")]
    assert all(high(one) < 0 for one in less)
    same = words.paired("unseen", "sr x4", "ra_transformer", "ra", "cifar10")
    assert -1 < low(same) < 0 < high(same) < 1
    both = words.paired("unseen", "sr x4", "ra", "plain", "cifar10"), words.gain("cifar10", "sr x4", role="mean_unseen")
    assert all(abs(of(both[0]) - of(both[1])) < 0.15 for of in (low, value, high))  # one gain, of other resamples
    assert high(words.moved("digits", "black_box", "rapidocr", "jpeg", "ra_transformer")) < 0
    sent = [words.moved("cifar10", "upload", way, "sr x4") for way in ("png", "jpeg75", "jpeg50")]  # 7
    assert high(sent[2]) < low(sent[1]) and high(sent[1]) < low(sent[0])
    without, more = ([words.sent("cifar10", "sr x4", way, "unseen", what) for way in ("png", "jpeg50", "resized")]
                     for what in ("without", "difference"))  # fmt: skip
    assert all(high(one) < low(without[0]) for one in without[1:]) and all(low(one) > 0 for one in more[1:])
    assert value(more[0]) < 0
    sent = [words.moved("digits", "upload", way, "jpeg") for way in ("png", "jpeg50")]
    assert value(sent[1]) > low(sent[0]) > 1
    for way in ("jpeg50", "resized"):
        with_t, ra = (words.moved("cifar10", "upload", way, "sr x4", mode) for mode in ("ra_transformer", "ra"))
        assert low(with_t) > high(ra) and low(with_t) > high(words.sent("cifar10", "sr x4", way, "unseen", "with"))
    for condition in ("sr x2", "jpeg"):
        with_t, ra = (words.moved("cifar10", "upload", "jpeg50", condition, mode) for mode in ("ra_transformer", "ra"))
        assert high(with_t) <= low(ra)
    without = words.sent("cifar10", "jpeg", "png", "unseen", "without")
    for way in ("jpeg50", "resized"):
        assert high(words.sent("cifar10", "jpeg", way, "unseen", "without")) < low(without)
        assert low(words.sent("cifar10", "jpeg", way, "unseen", "difference")) > 0
        for condition in ("sr x4", "jpeg"):
            assert low(words.sent("digits", condition, way, "unseen", "difference")) < 0
            assert high(words.sent("digits", condition, way, "unseen", "difference")) > 0
    for task in ("sr", "dn", "jpeg"):
        blind, plain = (words.beside("cifar10", task, name) for name in ("blind:ra", "plain"))
        assert high(blind) < 0 and (low(blind) > high(plain)) == (task != "dn")
    enter, of = map(int, words.boundaries("enter", claims.present_studies()).split(" of "))  # 8
    leave, _ = map(int, words.boundaries("leave", claims.present_studies()).split(" of "))
    shown, tests = map(int, words.boundaries("gain", claims.present_studies()).split(" of "))
    hopeless = int(words.boundaries("hopeless", claims.present_studies()))
    assert of / 2 < enter < of and 0 < leave < enter and 0 < shown < tests / 4 and 0 < hopeless <= tests - shown


def test_what_a_test_of_few_networks_could_have_shown():
    """Five networks have 120 orders: alone that is enough, beside seven others it is not, beside a sure one it is the next."""
    few, many, sure = [0.4, 0.5, 120], [0.4, 0.5, 5040], [0.9, 0.001, 720]
    best = lambda *tests: list(results_page.best_of_tests([{"mantel": test} for test in tests]).values())  # noqa: E731
    assert best(few) == [1 / 120]
    assert best(few, *(list(many) for _ in range(7))) == pytest.approx([8 / 120, *[8 / 5040] * 7])
    assert best(few, sure) == pytest.approx([1 / 120, 2 / 720])


def test_what_the_page_says_of_blind_and_matched_holds():
    """Sentences without a figure of their own: blind P's of photographs, and the feature loss at RA's decibels."""
    found = {one["task"].iloc[0]: one.set_index("restorer") for one in travel.blind_judgements("imagenette")}
    assert found["sr"].loc[["blind:ra", "blind:plain"], "gain"].max() < found["sr"].loc["none", "gain"]
    assert found["blind"].loc["none", "gain_high"] >= 0
    matched = load_table("cifar10", "matched")
    assert (matched["high"] > 0).all() and (matched["low"] > 0).any()


def test_the_sizes_that_the_readme_states():
    """P's channels in every study, and the range of the small recognisers' parameters."""
    parameters = [sum(p.numel() for p in build_small(name, 10).parameters()) for name in registry.main_recognisers()]
    text = " ".join((ROOT / "README.md").read_text().split())
    assert f"of {min(parameters) / 1e6:.2f} to {max(parameters) / 1e6:.2f} million parameters" in text
    assert {make_config(preset, "sr", "ra").channels for preset in claims.present_studies()} == {16}
    assert "P has 16 channels" in text


def test_no_heading_names_a_model():
    """Which models a row is of differs from study to study, and a heading that names one preset's is wrong over another's."""
    headings = re.findall(
        r"^@table\((.*?)\)(?:  #[^\n]*)?\ndef", Path(results_page.__file__).read_text(), re.MULTILINE | re.DOTALL
    )
    assert len(headings) > 12
    for name in {registry.display_name(name).split("-")[0] for name in registry.RECOGNISERS} | {"Lite"}:
        assert not any(name in heading for heading in headings), name


def test_a_study_of_other_settings_has_a_column_without_pictures(monkeypatch):
    """Nothing in it is of the main comparison."""
    gains = load_table("digits", "gains")
    assert claims.claims_table(["digits"]).splitlines()[0].endswith("| ours, digits (2,500 pictures of 500 digits) |")
    monkeypatch.setattr(claims, "load_table", lambda *_: gains.assign(main=False))
    assert claims.claims_table(["digits"]).splitlines()[0].endswith("| ours, digits |")


def test_a_sentence_without_its_row_is_not_written():
    with pytest.raises(StudyError, match="digits, sr x4, ra, third: 0 rows where a sentence needs one; rebuild the tables"):
        words.gain("digits", "sr x4", role="third")


# --- the file


def test_it_loads_nothing(file, page):
    """No script, style sheet, font or frame, and pictures inside the file."""
    assert not page.find_all(["script", "link", "iframe", "object", "embed", "base"])
    sources = [tag[name] for name in ("src", "srcset", "poster", "background") for tag in page.find_all(**{name: True})]
    assert sources and all(source.startswith("data:image/webp;base64,") for source in sources)
    assert not re.search(r"url\(|@import|@font-face", "".join(style.get_text() for style in page.find_all("style")))
    links = {link["href"] for link in page.find_all("a")}
    assert {link for link in links if link.startswith("#")} and all(link.startswith(("#", "https://")) for link in links)
    assert not [link for link in links if link.startswith("#") and not page.find(id=link[1:])]
    assert file.stat().st_size < 10_000_000


def test_it_says_nothing_of_this_machine(page):
    assert str(ROOT) not in page.get_text() and not re.search(r"/(work|root|home|tmp)/\w", page.get_text())


def test_every_figure_is_in_it_once(page):
    """The committed figures, pixel by pixel, with caption and alternative text."""
    figures = page.find_all("figure")
    expected = [path for path in (ROOT / "figures").rglob("*.png") if "smoke" not in path.parts]
    free = [path for path in expected if path.parent.name in ("figures", "digits") or not path.stem.startswith(PICTURES)]
    assert sorted(figure["data-file"] for figure in figures) == sorted(str(path.relative_to(ROOT)) for path in free)
    assert len({figure.find("figcaption").get_text() for figure in figures}) == len(figures)
    for figure in figures:
        (image,) = figure.find_all("img")
        assert len(image["alt"]) > len(figure.find("figcaption").get_text()) > 10
        inside = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
        assert (str(inside.width), str(inside.height)) == (image["width"], image["height"])
        if not Path(figure["data-file"]).stem.startswith("turned"):  # drawn anew, maybe by another matplotlib
            drawn = Image.open(ROOT / figure["data-file"]).convert("RGB")
            assert np.array_equal(inside, drawn), figure["data-file"]


def test_provenance(page):
    """Versions, seeds, hardware, times and the digests of what was read."""
    text = page.get_text()
    for what in ("torch", "cpu (x86_64)", "0; 1; 2; 3; 4; 5", "min", "python", "SHA-256"):
        assert what in text
    (table,) = [table for table in tables_of(page) if table[0][0] == "file"]
    assert {"results/digits/gains.csv", "results/paper_reported.csv"} <= {line[0] for line in table}
    for name, digest in table[1:]:
        assert document.sha256(ROOT / name)[:16] == digest


def test_nothing_of_the_notebook_shows(page):
    assert not page.find_all(class_=["input", "input_area", "output_error", "output_stderr"]) and "¶" not in page.get_text()
    assert [h.name for h in page.find_all("h1")] == ["h1"] and page.html["lang"] == "en" and page.title.get_text()
    ids = [tag["id"] for tag in page.find_all(id=True)]
    assert len(ids) == len(set(ids))
    assert len(page.nav.find_all("li")) == len(page.find_all(["h2", "h3"])) > 10


@needs_browser
def test_on_a_phone(file):
    """At 390 pixels nothing is wider than the screen but what scrolls in its box; dark where the reader wants it."""
    shown = BrowserPage(file)
    try:
        for width in (390, 1200):
            for scheme in ("light", "dark"):
                shown.open(width, scheme)
                assert shown.page.run("document.documentElement.scrollWidth") <= width
                dark = shown.page.run("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
                assert dark == (scheme == "dark")
                assert shown.page.run("[...document.images].every(i => i.complete && i.naturalWidth > 100)")
        assert shown.page.run("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
    finally:
        shown.close()


class BrowserPage:
    """The file in a headless browser."""

    def __init__(self, file: Path):
        import json
        import urllib.request

        from browser import Page

        port, self.file = free_port(), file
        self.process = subprocess.Popen(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--remote-debugging-port={port}",
             f"--user-data-dir={file.parent / 'browser'}", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        read = lambda: json.loads(opener.open(f"http://127.0.0.1:{port}/json", timeout=5).read())  # noqa: E731
        pages = wait_for(read, 60, "chromium")
        self.page = Page(next(one["webSocketDebuggerUrl"] for one in pages if one["type"] == "page"))

    def open(self, width: int, scheme: str) -> None:
        self.page.send("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=width < 500)
        self.page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.page.send("Page.navigate", url=self.file.as_uri())
        self.page.wait("document.readyState == 'complete' && document.images.length > 0")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)


# --- what it refuses


def test_studies(study_root):
    """Unknown ones, and those without results."""
    with pytest.raises(StudyError, match="results/ holds no study"):
        document.studies_of("")
    with pytest.raises(StudyError, match="preset='digit' is unknown"):
        document.studies_of("smoke, digit") if claims.has_results("smoke") else document.studies_of("digit")
    with pytest.raises(StudyError, match="rastudy sweep --preset smoke"):
        document.studies_of("smoke")
    row = dict.fromkeys(GAINS, 1) | {"mode": registry.modes("paper")[1], "main": True, "primary": False}
    write_csv(study_root / "results" / "smoke" / "gains.csv", [row], GAINS)
    assert document.studies_of(" smoke ") == ["smoke"]


def test_a_folder_belongs_to_one_study():
    assert report.folder_of(["digits", "cifar10"], "there") == "cifar10"
    assert report.folder_of(["cifar10", "digits"], "") == ""
    for studies in (["digits"], ["cifar10", "imagenet_lite"]):
        with pytest.raises(StudyError, match="one study's pictures"):
            report.folder_of(studies, "there")


def test_pictures_that_are_not_ours_need_their_folder(study_root):
    for name in ("restored_sr", "turned_sr_resnet18_small", "degradations", "turned", "gains"):
        path = study_root / "figures" / "cifar10" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    assert [path.stem for path in document.figures_of("cifar10")] == ["gains", "turned"]
    assert len(document.figures_of("cifar10", pictures=True)) == 5


def test_too_large_a_report_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "LARGEST", 1000)
    with pytest.raises(StudyError, match="name fewer studies"):
        report.write_report(tmp_path / "report.html", ["imagenet_lite"])
    assert not (tmp_path / "report.html").exists()


def test_links_and_anchors():
    """Anchors are unique; links to what the page lacks become text."""
    html = '<h2>R\'s <em>own</em></h2><h3>R\'s own</h3><a href="#rs-own">a</a> <a href="#gone">b</a> <a href="x.csv">c</a>'
    html, contents = report._with_anchors(html + ' <a href="https://example.org">d</a>')
    assert re.findall(r'id="([^"]*)"', html) == ["rs-own", "rs-own-2"] == re.findall(r'href="#([^"]*)"', contents)
    assert html.endswith('<a href="#rs-own">a</a> b c <a href="https://example.org">d</a>')
