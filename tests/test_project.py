"""The project's own files: environments that agree, commands that exist, a README that its tables and code support."""

import ast
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import tomllib
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from rastudy.__main__ import COMMANDS, main, parse
from rastudy.report import document
from rastudy.transfer.directions import DIRECTIONS

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
MODULES = {path.relative_to(ROOT / "rastudy").with_suffix(""): path for path in sorted((ROOT / "rastudy").rglob("*.py"))}
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


def test_make_tables_makes_every_study_with_measured_boundaries():
    (named,) = re.findall(r"boundaries --preset (.*) --tables", (ROOT / "Makefile").read_text())
    assert sorted(named.split()) == sorted({path.parent.parent.name for path in (ROOT / "results").glob("*/boundaries/*.npz")})


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
    code = {".".join(path.parent.relative_to(ROOT).parts) for path in MODULES.values()}
    assert set(found) == {"rastudy.weights", *code, *folders}
    assert all((path.parent / "__init__.py").is_file() for path in MODULES.values())
    kinds = PYPROJECT["tool"]["setuptools"]["package-data"]["*"]
    weights = [path for path in (ROOT / "rastudy" / "weights").rglob("*") if path.is_file()]
    assert weights and all(any(path.match(kind) for kind in kinds) for path in weights)
    assert PYPROJECT["project"]["scripts"] == {"rastudy": "rastudy.__main__:run"}


# --- the command line


def options_of(name: str) -> list[tuple[tuple[str, ...], dict]]:
    return COMMANDS[name].options()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_sentence(name):
    """With its default, or what it takes where it must be given; a flag is off unless it is given."""
    assert re.fullmatch(r"[A-Z].*\.", COMMANDS[name].says)
    for names, settings in options_of(name):
        says = settings["help"]
        assert len(says.split()) > 2 and says.count("(") == says.count(")"), (names, says)
        if not (settings.get("required") or settings.get("action") == "store_true" or not names[0].startswith("-")):
            assert "default" in says, (names, says)


def test_help_names_every_direction():
    """The help needs no torch, so that it cannot read their list: this does."""
    says = {names[0]: settings["help"] for names, settings in options_of("sweep")}["--direction"]
    assert all(name in says for name in DIRECTIONS)


def test_training_has_an_option_for_every_setting():
    """With the range that the setting takes."""
    says = {names[0]: settings["help"] for names, settings in options_of("train")}
    assert {"--seed", "--ra-weight", "--data-dir", "--batch-size", "--micro-batch"} <= set(says) and len(says) > 35
    assert "1 or more" in says["--epochs"] and "above 0" in says["--lr"] and "2 or 4" in says["--strength"]


@pytest.mark.parametrize("arguments, wanted", [
    (["train", "--task", "sr", "--batch", "8"], "unknown option --batch; did you mean --batch-size?"),
    (["train", "--tas", "sr"], "unknown option --tas; did you mean --task?"),
    (["sweep", "--dry-rum"], "unknown option --dry-rum; did you mean --dry-run?"),
    (["swep"], "unknown command 'swep'; did you mean sweep?"),
    (["q"], "unknown command 'q'; use train, evaluate"),
    (["train"], "required: --task"),
])  # fmt: skip
def test_unknown_words_are_answered_with_the_nearest(arguments, wanted, capsys):
    """Abbreviations are unknown, too: a later option could make them mean something else."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and wanted in error and error.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_a_stated_range_is_held(name, capsys):
    """Whatever option says "N or more" refuses N - 1, before anything runs."""
    for names, settings in options_of(name):
        if name != "train" and (low := re.search(r", (\d+) or more", settings["help"])):
            for word, wanted in ((str(int(low[1]) - 1), f"use {low[1]} or more"), ("nan", "nan"), ("x", "number")):
                with pytest.raises(SystemExit) as ended:
                    main([name, names[0], word])
                assert ended.value.code == 2 and wanted in capsys.readouterr().err


def test_what_would_have_no_effect_is_refused(capsys):
    """Whatever an option is declared to need, or to have no effect beside: what was asked for is done, or refused."""
    tried = 0
    for name in COMMANDS:
        known = {names[-1]: settings for names, settings in options_of(name)}
        required = [one for one, settings in known.items() if settings.get("required") or not one.startswith("-")]
        others = [word for one in required for word in ([one, "x"] if one.startswith("-") else ["x"])]
        words = {one: [one] if settings.get("action") == "store_true" else [one, "7"] for one, settings in known.items()}
        for one, settings in known.items():
            needs, without = (settings.get(kind, "").split() for kind in ("needs", "without"))
            assert {*needs, *without} <= known.keys(), (name, one)
            for beside in (*([[]] if needs else []), *(words[other] for other in without)):
                assert main([name, *others, *words[one], *beside]) == 2, (name, one, beside)
                assert "has no effect" in capsys.readouterr().err
                tried += 1
    assert tried > 15


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["sweep", "--help"]], ids=" ".join)
def test_help_needs_no_torch(arguments):
    """It takes 0.15 s of CPU time on the machine where this was written, importing torch 5 s. The bound of 1.5 s is three times
    the half second that we promise: it tells the two apart on any machine that can run the study."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "rastudy", *arguments], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and done.stdout.startswith("usage: rastudy") and "rastudy.config" in imported
    assert not imported & {"torch", "torchvision", "numpy", "pandas", "sklearn", "matplotlib"}
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


def test_settings_need_no_torch():
    """Nor does the grid, so that what a study is made of can be listed at once."""
    code = "import sys, rastudy.config, rastudy.grid; assert not {'torch', 'numpy', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("arguments, status", [("sweep --preset smoke --list", 128 + signal.SIGPIPE), ("--help", 0)])
def test_a_closed_pipe_ends_quietly(arguments, status):
    """What ``| head -1`` does: nobody reads on. (argparse itself ignores that its help is not read.)"""
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-u", "-m", "rastudy", *arguments.split()]
    with os.fdopen(writes) as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (status, "")


def test_optimised_python_has_help():
    """Without docstrings and assertions the help is the same."""
    done, plain = (subprocess.run([sys.executable, *flags, "-m", "rastudy", "--help"], capture_output=True, text=True)
                   for flags in (["-OO"], []))  # fmt: skip
    assert done.returncode == 0 and done.stdout == plain.stdout


# --- the README


def test_readme_and_results_are_generated(readme, studied):
    """Every number between markers, and every one of RESULTS.md, is what the CSVs give."""
    assert readme.count("<!-- table:") == readme.count("<!-- /table -->") == 2
    assert document.render(readme) == readme
    assert document.document(document.present_studies(), document.linked) == (ROOT / "results" / "RESULTS.md").read_text()


def test_readme_is_read_in_ten_minutes(readme):
    """At most 250 lines, with the findings, none of them a screen; what one would click on comes before how to run it."""
    assert len(readme.splitlines()) <= 250
    places = [readme.index(mark) for mark in ("```\nx ──", "figures/hero.png", "| term |", "table:findings", "table:main",
                                              "make study ", "## Notebooks", "## One run", "## Your own", "## Judge",
                                              "## The release", "## Layout", "## Licence")]  # fmt: skip
    assert places == sorted(places)
    assert len(re.findall(r"^\d\. \*\*", readme[: readme.index("## Two commands")], re.MULTILINE)) <= 8
    table = readme[readme.index("<!-- table:main") :].partition("<!-- /table")[0]
    assert 2 < len(table.splitlines()) <= 3 + 10


def test_no_number_of_a_finding_is_typed():
    """The templates of findings and results name what they tell; figures with a decimal come from the CSVs."""
    for name in ("findings.md.j2", "results.md.j2"):
        text = re.sub(r"{{.*?}}|{%.*?%}|{#.*?#}", "", (ROOT / "rastudy" / "report" / name).read_text(), flags=re.DOTALL)
        assert not re.findall(r"[+-]\d+\.\d|\d\.\d+ \[", text)


def assumptions() -> list[tuple[str, str | None]]:
    """File and title of every assumption in the code."""
    return [(path.name, match["title"]) for path in MODULES.values() for match in ASSUMPTION.finditer(path.read_text())]


def test_assumptions_have_titles():
    """``# ASSUMPTION: title. rest`` in the code, so that they can be listed."""
    assert assumptions() and not [name for name, title in assumptions() if not title]


def test_results_list_every_assumption():
    """By its title, whatever is bold or code in it."""
    listed = unmarked((ROOT / "results" / "RESULTS.md").read_text())
    assert not sorted(title for _, title in assumptions() if unmarked(title) not in listed)


def unmarked(text: str) -> str:
    """One line of text without emphasis, in lower case."""
    return " ".join(re.sub(r"[*`]", "", text).split()).lower()


def commands_in(text: str) -> list[list[str]]:
    """The words after ``rastudy`` of every command in code blocks and between backticks."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = [re.fullmatch(r"(?:.*-m |[./\w]*/)?rastudy (.*)", line) for line in lines]
    words = [shlex.split(match[1], comments=True) for match in found if match]
    return [one for one in words if one != ["COMMAND"]]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "results/README.md", "results/RESULTS.md", "CHANGELOG.md"])
def test_documented_commands_exist(name):
    """``make X``; and ``rastudy COMMAND`` with options that parse;
    "..." stands for what is left out, and prose may name a command alone."""
    text = (ROOT / name).read_text()
    assert "python -m rastudy." not in text and not set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", text, re.MULTILINE)) - TARGETS
    found = commands_in(text)
    for words in found:
        if "..." in words or len(words) == 1:
            known = [option for names, _ in options_of(words[0]) for option in names]
            assert not [word for word in words if word.startswith("--") and word not in known], words
        else:
            command, given = parse(words)
            assert command == COMMANDS[words[0]] and isinstance(given, Namespace)
    if name == "README.md":
        assert {words[0] for words in found} == set(COMMANDS)
        assert len(found) > 30


def test_readme_links_lead_somewhere(readme, studied):
    """Relative links and pictures are files of the checkout."""
    for folder, text in ((ROOT, readme), (ROOT / "results", (ROOT / "results" / "RESULTS.md").read_text())):
        links = re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", text)
        assert links and not [link for link in links if "://" not in link and not (folder / link).exists()]


def test_readme_layout_is_the_layout(readme):
    """Every folder of the package has its line, every entry of the checkout its own; nothing is named that is not there."""
    layout = readme[readme.index("## Layout") :]
    folders = re.findall(r"^\| `([a-z/]+)/` \| .* \|$", layout, re.MULTILINE)
    there = {path.parent.name for path in (ROOT / "rastudy").rglob("*") if path.suffix in (".py", ".safetensors")}
    parents = {path.name for path in (ROOT / "rastudy").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert sorted(folders) == sorted({"rastudy", *there & parents, "weights"})
    block = re.search(r"```\n(.*?)```", layout, re.DOTALL)[1]
    entries = {path.relative_to(ROOT).parts[0] for path in tracked()} - {".ci", ".gitignore", "README.md"}
    assert set(re.findall(r"(?:^|  )([\w.]+?)/?(?=\s|$)", block, re.MULTILINE)) >= entries
    assert all((ROOT / name).exists() for name in re.findall(r"^([\w.]+)/? ", block, re.MULTILINE) if name != "runs")


def test_the_way_from_picture_to_table_has_eight_lines(readme):
    """Each names the modules that take the step."""
    lines = re.findall(r"^\d\. (`[\w.]+`.*)$", readme[readme.index("**From picture to table**") :], re.MULTILINE)
    assert len(lines) == 8
    for line in lines:
        named = [Path(*name.split(".")) for name in re.findall(r"`([a-z]+(?:\.[a-z_]+)?)`", line)]
        assert any(name in MODULES for name in named), line
        assert all(name in MODULES or (ROOT / "rastudy" / name).is_dir() or name == Path("lq") for name in named), line


@pytest.mark.slow
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
    """Modules, attributes of modules, files."""
    text = re.sub(r"```.*?```", "", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    files = re.findall(r"`((?:rastudy|tests|results)/[\w/.]+)`", text)
    assert files and not [name for name in files if not (ROOT / name).is_file()]
    named = re.findall(r"`((?:[a-z]+\.)?[a-z_]+)\.([A-Z]\w+|[a-z_]+)`", text)
    for place, name in named:
        path = next((MODULES[p] for p in (Path(*place.split(".")), Path(*place.split("."), name)) if p in MODULES), None)
        assert path is not None, (place, name)
        assert path.stem == name or re.search(rf"^(?:def |class )?{name}\b", path.read_text(), re.MULTILINE), (place, name)
    assert len(named) >= 6


def test_contributing_shows_what_an_addition_takes():
    """The diffs apply to the files as they are, what comes out is Python, and entries are what the registry takes."""
    blocks = re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert len(blocks) == 5 and all(block.count("\n+") <= 12 for block in blocks)
    added = []
    for block in blocks:
        for name, hunk in re.findall(r"^--- a/(\S+)\n\+\+\+ b/\1\n(.*?)(?=^--- |\Z)", block, re.MULTILINE | re.DOTALL):
            context = "".join(line[1:] for line in hunk.splitlines(keepends=True) if line[0] == " ")
            new = "".join(line[1:] for line in hunk.splitlines(keepends=True) if line[0] == "+")
            source = (ROOT / name).read_text()
            assert source.count(context) == 1 or not context, f"{name} has no {context!r}"
            source = source.replace(context, context + new) if context else f"{source}\n\n{new}"
            ast.parse(source)
            if name in ("rastudy/registry.py", "rastudy/presets.py", "rastudy/transfer/directions.py"):
                names: dict = {"__name__": "with_an_addition"}
                exec(compile(source, name, "exec"), names)
                added += [key for table in ("MODES", "DATASETS", "RECOGNISERS", "DIRECTIONS") for key in names.get(table, ())]
                added += [f"{key:g}" for _, key in names["PRESETS"]["digits"]["degradations"]] if "presets" in name else []
    assert {"l1", "20", "letters", "shufflenet_small", "retrained"} <= set(added)


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
    """All under results/ and the pinned recognisers can be committed, but for locks, smoke's and later seeds' weights."""
    tracked()  # skips outside a checkout
    command = ["git", "ls-files", "--others", "--ignored", "--exclude-standard", "results", "rastudy/weights"]
    ignored = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert not [name for name in ignored if not re.match(r"results/smoke/|results/\w+/weights/.*-s[1-9]|.*\.lock$", name)]
