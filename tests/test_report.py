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
from rastudy.analysis.tables import GAINS
from rastudy.config import make_config
from rastudy.errors import StudyError
from rastudy.paths import write_csv
from rastudy.report import claims
from rastudy.report import html as report
from rastudy.report import results_page as readme
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
        for preset, cell in zip(("digits", "cifar10", "imagenet_lite"), ours, strict=True):
            if "gain of" not in what or not cell:
                continue
            task, _, factor = condition.partition(" x")
            config = make_config(preset, task, mode, **({"strength": float(factor)} if factor else {}))
            rows = pd.read_csv(ROOT / "results" / preset / "gains.csv", keep_default_na=False)
            rows = rows[(rows["mode"] == mode) & (rows["baseline"] == "plain") & (rows["labels"] == "correct")]
            for name in ("task", "strength", "source_arch", "ra_weight", "epochs", "pretrain_epochs", "processor"):
                rows = rows[rows[name] == getattr(config, name)]
            (row,) = rows[
                (rows["role"] == ("source" if "in the loss" in what else "mean_unseen")) & (rows["other"] == "-")
            ].to_dict("records")
            ends = ("trainings_low", "trainings_high") if row["n_seeds"] >= 3 else ("low", "high")
            told = "{:+.1f} [{:+.1f}, {:+.1f}], ".format(*(float(row[name]) for name in ("value", *ends)))
            assert cell.startswith(told + (f"{row['n_seeds']} trainings" if row["n_seeds"] > 1 else "this training"))
            checked += 1
    assert checked >= 3 * 3 * 2 * 3  # modes, tasks, roles, studies


def test_tables_are_the_readmes(page):
    """What the README's tables hold, line by line; of those over several studies, each study's lines under it."""
    found = tables_of(page)
    presets = claims.present_studies()
    whole = [claims.claims_table(), readme.transfer_table(), readme.boundaries_table(), readme.photographs_table(),
             readme.processors_table(), readme.benchmark_table(), readme.timings_table()]  # fmt: skip
    whole += [readme.results_table(preset) for preset in presets]
    whole += [made for table in report.STUDY_TABLES.values() for preset in presets if (made := table([preset])).startswith("|")]
    for table in whole:
        assert lines_of(table) in found, table.splitlines()[0]


def test_gallery_counts_are_the_predictions(page):
    (table,) = [table for table in tables_of(page) if "wrong to right" in table[0]]
    numbers = [[int(cell.replace(",", "")) for cell in line[3:]] for line in table[1:]]
    counts = pd.concat([turned_table(preset) for preset in claims.present_studies()])
    assert numbers == counts[["gained", "lost", "n_images"]].to_numpy().tolist()


def test_the_words_are_the_readmes(page):
    """Findings, deviations and every assumption, word by word."""
    text = " ".join(page.get_text().split())
    plain = lambda markdown: " ".join(re.sub(r"[*`]|\]\(.*?\)|\[(?=[^\]]*\]\()", "", markdown).split())  # noqa: E731
    for title in ("rastudy", "What is the paper's, the release's, and ours"):
        for block in report.section(title).split("\n\n"):
            for line in re.split(r"^- ", block, flags=re.MULTILINE):
                assert plain(line) in text


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
    """The committed figures, those with pictures pixel by pixel, with caption and alternative text."""
    figures = page.find_all("figure")
    expected = [path for path in (ROOT / "figures").rglob("*.png") if "smoke" not in path.parts]
    free = [path for path in expected if path.parent.name in ("figures", "digits") or not path.stem.startswith(report.PICTURES)]
    assert sorted(figure["data-file"] for figure in figures) == sorted(str(path.relative_to(ROOT)) for path in free)
    assert len({figure.find("figcaption").get_text() for figure in figures}) == len(figures)
    for figure in figures:
        (image,) = figure.find_all("img")
        assert len(image["alt"]) > len(figure.find("figcaption").get_text()) > 10
        inside = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
        assert (str(inside.width), str(inside.height)) == (image["width"], image["height"])
        if not Path(figure["data-file"]).stem.startswith("turned"):  # drawn anew, maybe by another matplotlib
            drawn = Image.open(ROOT / figure["data-file"]).convert("RGB")
            apart = np.abs(np.asarray(inside, int) - np.asarray(drawn, int))
            shaded = Path(figure["data-file"]).stem.startswith(report.SHADED)
            assert not apart.any() if shaded else apart.mean() < 0.5, figure["data-file"]


def test_provenance(page):
    """Versions, seeds, hardware, times and the digests of what was read."""
    text = page.get_text()
    for what in ("torch", "cpu (x86_64)", "0; 1; 2; 3; 4; 5", "min", "python", "SHA-256"):
        assert what in text
    (table,) = [table for table in tables_of(page) if table[0][0] == "file"]
    assert {"results/digits/gains.csv", "results/paper_reported.csv"} <= {line[0] for line in table}
    for name, digest in table[1:]:
        assert report.sha256(ROOT / name)[:16] == digest


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
        report.studies_of("")
    with pytest.raises(StudyError, match="preset='digit' is unknown"):
        report.studies_of("smoke, digit") if report.has_results("smoke") else report.studies_of("digit")
    with pytest.raises(StudyError, match="rastudy sweep --preset smoke"):
        report.studies_of("smoke")
    row = dict.fromkeys(GAINS, 1) | {"mode": registry.modes("paper")[1]}
    write_csv(study_root / "results" / "smoke" / "gains.csv", [row], GAINS)
    assert report.studies_of(" smoke ") == ["smoke"]


def test_a_folder_belongs_to_one_study():
    given = dict(report.parameters_of(["digits", "cifar10"], "there"))
    assert given["preset"] == "cifar10" and Path(given["data_dir"]).is_absolute()
    assert dict(report.parameters_of(["cifar10", "digits"], "")) == {
        "studies": "cifar10,digits",
        "preset": "digits",
        "data_dir": "",
    }
    for studies in (["digits"], ["cifar10", "imagenet_lite"]):
        with pytest.raises(StudyError, match="one study's pictures"):
            dict(report.parameters_of(studies, "there"))


def test_pictures_that_are_not_ours_need_their_folder(study_root):
    for name in ("restored_sr", "turned_sr_resnet18_small", "degradations", "turned", "gains"):
        path = study_root / "figures" / "cifar10" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    assert [path.stem for path in report.figures_of("cifar10")] == ["gains", "turned"]
    assert len(report.figures_of("cifar10", pictures=True)) == 5


def test_too_large_a_report_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "LARGEST", 1000)
    with pytest.raises(StudyError, match="name fewer studies"):
        report.write_report(ROOT / "notebooks" / "08_report.ipynb", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_links_and_anchors():
    """Anchors are unique; links to what the page lacks become text."""
    html = '<h2>R\'s <em>own</em></h2><h3>R\'s own</h3><a href="#rs-own">a</a> <a href="#gone">b</a> <a href="x.csv">c</a>'
    html, contents = report._with_anchors(html + ' <a href="https://example.org">d</a>')
    assert re.findall(r'id="([^"]*)"', html) == ["rs-own", "rs-own-2"] == re.findall(r'href="#([^"]*)"', contents)
    assert html.endswith('<a href="#rs-own">a</a> b c <a href="https://example.org">d</a>')


def test_words_that_lead_to_a_removed_command_go_with_it(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text(
        "# A\n\nKept.\n\nRun this:\n\n```sh\n# no heading\n\nmake\n```\n\n![x](y.png)\n\nToo.\n\n## B\n"
    )
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    assert report.section("A") == "Kept.\n\nToo." and report.section("B") == report.section("C") == ""
