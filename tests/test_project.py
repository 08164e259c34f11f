"""The project's own files: environments that agree, commands that exist, a README that its tables and code support."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
ASSUMPTION = re.compile(r"#\s*ASSUMPTION\b(?:: (?P<title>[^.\n]+)\.)?")


@pytest.fixture
def readme() -> str:
    path = ROOT / "README.md"
    if not path.is_file():
        pytest.skip("README.md does not exist yet")
    return path.read_text()


@pytest.fixture
def studied() -> None:
    """Skips while the study that the README shows has not been run."""
    missing = [
        name for name in ("accuracy", "gains", "kept", "tradeoff") if not (ROOT / f"results/digits/{name}.csv").is_file()
    ]
    if missing:
        pytest.skip(f"results/digits has no {', '.join(missing)} yet (make study)")


# --- environments and commands


def test_conda_and_pip_agree():
    """One python range; pip installs this project with its test extra; nothing else is pinned twice."""
    document = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert document["name"] == PYPROJECT["project"]["name"] and document["channels"] == ["conda-forge"]
    plain = [entry for entry in document["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in document["dependencies"] if isinstance(entry, dict)]
    (python,) = [entry.removeprefix("python").strip() for entry in plain if entry.startswith("python")]
    assert python.replace(" ", "") == PYPROJECT["project"]["requires-python"]
    assert "pip" in plain and pip == ["-e .[test]"]
    assert "test" in PYPROJECT["project"]["optional-dependencies"]
    packages = {re.match(r"[\w-]+", entry)[0] for entry in PYPROJECT["project"]["dependencies"]}
    assert not packages & {re.match(r"[\w-]+", entry)[0] for entry in plain}


def test_the_makefiles_python_is_the_projects():
    """The interpreter that make looks for lies in requires-python."""
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PYPROJECT["project"]["requires-python"]).groups()
    first, last = re.search(
        r"\(3, (\d+)\) <= sys\.version_info\[:2\] <= \(3, (\d+)\)", (ROOT / "Makefile").read_text()
    ).groups()
    assert (int(low), int(high) - 1) == (int(first), int(last))


@pytest.mark.parametrize("target", ["study", "study-full", "test", "test-full", "recognisers", "tables", "report", "smoke"])
def test_make_knows(target):
    assert target in TARGETS
    phony = re.search(r"^\.PHONY:(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    assert target in phony.split()


def test_ci_runs_the_documented_tests():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o100
    assert re.search(r"^(exec )?make test$", script.read_text(), re.MULTILINE)


def test_every_module_is_packaged():
    """With the recognisers' weights and their hashes."""
    include = PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    setuptools = pytest.importorskip("setuptools")
    found = setuptools.find_namespace_packages(str(ROOT), include=include)
    folders = {f"rastudy.weights.{path.parent.name}" for path in (ROOT / "rastudy" / "weights").glob("*/SHA256SUMS")}
    assert folders >= {"rastudy.weights.digits", "rastudy.weights.cifar10"}
    assert set(found) == {"rastudy", "rastudy.weights", *folders}
    kinds = PYPROJECT["tool"]["setuptools"]["package-data"]["*"]
    weights = [path for path in (ROOT / "rastudy" / "weights").rglob("*") if path.is_file()]
    assert weights and all(any(path.match(kind) for kind in kinds) for path in weights)
    assert {path.parent.name for path in (ROOT / "rastudy").rglob("*.py")} == {"rastudy"}


# --- the README


def test_readme_tables_are_generated(readme, studied):
    """Every number between markers is what the CSVs give; there are tables."""
    generated = pytest.importorskip("rastudy.report.results_page", reason="rastudy/readme.py does not exist yet")
    assert readme.count("<!-- table:") == readme.count("<!-- /table -->") > 0
    assert generated.render(readme) == readme


def test_assumptions_have_titles():
    """``# ASSUMPTION: title. rest`` in the code, so that they can be listed."""
    found = [(path.name, m) for path in sorted((ROOT / "rastudy").glob("*.py")) for m in ASSUMPTION.finditer(path.read_text())]
    assert found
    assert not [(name, match[0]) for name, match in found if not match["title"]]


def test_readme_lists_every_assumption(readme):
    """By its title, whatever is bold or code in it."""
    titles = {m["title"] for path in (ROOT / "rastudy").glob("*.py") for m in ASSUMPTION.finditer(path.read_text())}
    assert not sorted(title for title in titles if unmarked(title) not in unmarked(readme))


def unmarked(text: str) -> str:
    """One line of text without emphasis, in lower case."""
    return " ".join(re.sub(r"[*`]", "", text).split()).lower()


def test_readme_commands_exist(readme):
    """``make X`` and ``python -m rastudy.X`` in code."""
    targets = re.findall(r"(?:^|`)make ([a-z][\w-]*)", readme, re.MULTILINE)
    modules = re.findall(r"python -m rastudy\.(\w+)", readme)
    assert targets and modules
    assert not set(targets) - TARGETS
    assert not [name for name in modules if not (ROOT / "rastudy" / f"{name}.py").is_file()]


def test_readme_links_lead_somewhere(readme, studied):
    """Relative links and pictures are files of the checkout."""
    links = re.findall(r"\]\(([^)#\s]+)\)", readme)
    assert not [link for link in links if "://" not in link and not (ROOT / link).exists()]


def test_readme_layout_is_the_layout(readme):
    """Every module has its place in the table, every entry of the checkout its line; nothing is named that is not there."""
    layout = readme[readme.index("## Layout") :]
    rows = re.findall(r"^\| [a-z ]+ \| (`.*) \|$", layout, re.MULTILINE)
    named = re.findall(r"`(\w+)`", " ".join(rows))
    assert sorted(named) == sorted(path.stem for path in (ROOT / "rastudy").glob("*.py") if path.stem != "__init__")
    block = re.search(r"```\n(.*?)```", layout, re.DOTALL)[1]
    entries = {path.relative_to(ROOT).parts[0] for path in tracked()} - {".ci", ".gitignore", "README.md"}
    assert set(re.findall(r"(?:^|  )([\w.]+?)/?(?=\s|$)", block, re.MULTILINE)) >= entries
    assert all((ROOT / name).exists() for name in re.findall(r"^([\w.]+)/? ", block, re.MULTILINE) if name != "runs")


def test_the_way_from_picture_to_table_has_ten_lines(readme):
    lines = re.findall(r"^\d+\. (`\w+`.*)$", readme[readme.index("**From picture to table**") :], re.MULTILINE)
    assert len(lines) == 10
    modules = {name for line in lines for name in re.findall(r"`(\w+)`", line)}
    assert sum((ROOT / "rastudy" / f"{name}.py").is_file() for name in modules) >= 20


@pytest.mark.parametrize("command", [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]], ids=" ".join)
def test_lint_is_silent(command):
    """Style, format and types, as `pyproject.toml` has them."""
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = PYPROJECT["project"]
    assert citation["version"] == project["version"] and citation["license"] == project["license"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_contributing_names_what_exists():
    """Modules, files and commands."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`(\w+)\.\w+(?:\.\w+)?`", text)
    assert named and not [name for name in named if name != "tests" and not (ROOT / "rastudy" / f"{name}.py").is_file()]
    assert not [
        name for name in re.findall(r"python -m rastudy\.(\w+)", text) if not (ROOT / "rastudy" / f"{name}.py").is_file()
    ]
    assert not set(re.findall(r"`make ([a-z-]+)`", text)) - TARGETS


# --- what is tracked


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode or not done.stdout:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_machine_paths_are_tracked():
    """Neither in text nor in weights or predictions."""
    needles = [f"/{name}/".encode() for name in ("work", "root", "home")]
    found = [str(path.relative_to(ROOT)) for path in tracked() if any(n in path.read_bytes() for n in needles)]
    assert not found


def test_no_data_or_runs_are_tracked():
    """No run folders, no smoke results, no file above 5 MB."""
    names = {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked()}
    assert not [name for name in names if name.startswith(("runs/", "results/smoke/", "figures/smoke/", "data/"))]
    assert not [name for name, size in names.items() if size > 5_000_000]


def test_the_evidence_is_not_ignored():
    """Everything under results/ and the pinned recognisers can be committed, but for smoke's and later seeds' weights."""
    tracked()  # skips outside a checkout
    command = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "results", "rastudy/weights"]
    ignored = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert not [name for name in ignored if not re.match(r"results/smoke/|results/\w+/weights/.*-s[1-9]", name)]
