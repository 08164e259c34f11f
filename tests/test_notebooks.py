"""Notebooks: thin, checked, clean of machine paths, and in step with the files on disk."""

import ast
import hashlib
import re
from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from rastudy.config import configure
from rastudy.report.notebooks import READING

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
PARAMETER = re.compile(r"(?P<name>\w+): (?P<kind>str|int|float|bool) = (?P<value>[^#]+?)  # (?P<help>\S.*)")
ABSOLUTE = re.compile("/(?:" + "|".join(("work", "root", "home", "tmp", "Users", "var", "opt")) + r")/\w|[A-Z]:\\\\")
OF_PHOTOGRAPHS = ("07_own_pictures",)  # all others start with the digits, which need no data
each = pytest.mark.parametrize("name", NOTEBOOKS)


def code_of(name: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(NOTEBOOKS[name], as_version=4).cells if cell.cell_type == "code"]


def parameters_of(name: str) -> nbformat.NotebookNode:
    tagged = [cell for cell in code_of(name) if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1, "exactly one cell is tagged parameters"
    return tagged[0]


def outputs_of(name: str) -> list[nbformat.NotebookNode]:
    return [output for cell in code_of(name) for output in cell.get("outputs", [])]


def text_of(output: nbformat.NotebookNode) -> str:
    """What an output shows as text."""
    data = output.get("data", {})
    return "".join([output.get("text", ""), *(str(value) for kind, value in data.items() if kind.startswith("text"))])


def test_the_sweeps_notebooks_exist():
    assert {*READING, "01_train"} <= NOTEBOOKS.keys()


@each
def test_notebooks_are_valid(name):
    nbformat.validate(nbformat.read(NOTEBOOKS[name], as_version=4))


@each
def test_parameters_are_flat_literals(name):
    """``name: type = literal  # help`` on every line; the literal has the annotated type."""
    for line in parameters_of(name).source.splitlines():
        found = PARAMETER.fullmatch(line)
        assert found, f"{name}: {line!r}"
        assert type(ast.literal_eval(found["value"])).__name__ == found["kind"], line


@each
def test_parameters_are_known(name):
    """Every parameter is a field of the config, or one that the notebook's own ``configure`` call names."""
    namespace: dict = {}
    exec(parameters_of(name).source, namespace)
    calls = [
        node for cell in code_of(name) for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "configure"
    ]  # fmt: skip
    assert len(calls) == 1 and ast.unparse(calls[0].args[0]) == "globals()"
    extra = {keyword.arg: {"str": str, "int": int, "float": float}[keyword.value.id] for keyword in calls[0].keywords}
    config, own = configure(namespace, **extra)
    assert own.keys() == extra.keys()
    assert config.preset == ("imagenet_lite" if name in OF_PHOTOGRAPHS else "digits")


@each
def test_notebooks_start_with_the_question(name):
    """First cell: question, inputs, outputs, run time."""
    first = nbformat.read(NOTEBOOKS[name], as_version=4).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    for word in ("**Question.**", "**Inputs**", "**Outputs**", "**Run time**"):
        assert word in first.source, word


@each
def test_cells_are_thin(name):
    """No function or class, no path tricks; at most 6 lines but for the parameters."""
    parameters = parameters_of(name)
    for cell in code_of(name):
        tree = ast.parse(cell.source)
        assert not any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in ast.walk(tree))
        assert "sys.path" not in cell.source
        assert cell.source == parameters.source or len(cell.source.splitlines()) <= 6, cell.source


@each
def test_no_error_is_committed(name):
    assert not [output for output in outputs_of(name) if output.output_type == "error" or output.get("name") == "stderr"]


@each
def test_no_absolute_paths(name):
    """Neither in the source nor in what was printed."""
    cells = nbformat.read(NOTEBOOKS[name], as_version=4).cells
    texts = [*(cell.source for cell in cells), *(text_of(output) for output in outputs_of(name))]
    assert not [found[0] for text in texts for found in ABSOLUTE.finditer(text)]


def test_the_training_notebook_has_no_outputs():
    assert not outputs_of("01_train")
    assert all(cell.execution_count is None for cell in code_of("01_train"))


@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name != "01_train"])
def test_reading_notebooks_are_in_step_with_the_results(name):
    """Executed from top to bottom; the digests they printed are those of the files on disk."""
    counts = [cell.execution_count for cell in code_of(name)]
    if not any(counts):
        pytest.skip(f"{name} has not been executed yet (make study)")
    assert counts == list(range(1, len(counts) + 1))
    printed = "".join(text_of(output) for output in outputs_of(name))
    inputs = re.findall(r"^input +(results/\S+\.csv) sha256 (\w+)$", printed, re.MULTILINE)
    named = re.findall(r"inputs=\[(.*?)\]", "".join(cell.source for cell in code_of(name)))
    assert len(inputs) == sum(len(names.split(",")) for names in named)
    for path, digest in inputs:
        assert hashlib.sha256((ROOT / path).read_bytes()).hexdigest()[:16] == digest, path


@pytest.mark.slow
def test_an_unknown_parameter_stops_the_training_notebook(study_root, monkeypatch):
    """papermill only warns; the notebook's check raises before anything is written."""
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    output = study_root / "out.ipynb"
    with pytest.raises(PapermillExecutionError) as caught:
        papermill.execute_notebook(
            NOTEBOOKS["01_train"], output, {"preset": "smoke", "ra_wieght": 0.5}, progress_bar=False, cwd=study_root
        )
    assert caught.value.ename == "StudyError"
    assert "ra_wieght" in caught.value.evalue and "ra_weight" in caught.value.evalue
    assert [path.name for path in study_root.iterdir()] == ["out.ipynb"]
