"""Notebooks: thin, checked, clean of machine paths, and in step with the files on disk."""

import ast
import hashlib
import re
import shutil
from pathlib import Path

import nbformat
import papermill
import pytest
from nbclient import NotebookClient
from papermill.exceptions import PapermillExecutionError

from rastudy.config import configure
from rastudy.report import kernels
from rastudy.report.notebooks import COPIES, READING

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
PARAMETER = re.compile(r"(?P<name>\w+): (?P<kind>str|int|float|bool) = (?P<value>[^#]+?)  # (?P<help>\S.*)")
ABSOLUTE = re.compile("/(?:" + "|".join(("work", "root", "home", "tmp", "Users", "var", "opt")) + r")/\w|[A-Z]:\\\\")
LONGEST = 15  # lines of a cell
REPORT = "08_report"
SOURCES = [name for name in NOTEBOOKS if not name.endswith(tuple(COPIES)) and name != REPORT]
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
    assert {f"{name}_{preset}" for preset, names in COPIES.items() for name in names} <= NOTEBOOKS.keys()


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
    extra = {
        keyword.arg: {"str": str, "int": int, "float": float, "bool": bool}[keyword.value.id] for keyword in calls[0].keywords
    }
    config, own = configure(namespace, **extra)
    assert own.keys() == extra.keys()
    assert config.preset == "digits"  # which needs no data


@each
def test_notebooks_start_with_the_question(name):
    """First cell: question, inputs, outputs, run time."""
    first = nbformat.read(NOTEBOOKS[name], as_version=4).cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ")
    for word in ("**Question.**", "**Inputs**", "**Outputs**", "**Run time**"):
        assert word in first.source, word


@each
def test_cells_are_thin(name):
    """No function or class, no path tricks; few lines but for the parameters."""
    parameters = parameters_of(name)
    for cell in code_of(name):
        tree = ast.parse(cell.source)
        assert not any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in ast.walk(tree))
        assert "sys.path" not in cell.source
        assert cell.source == parameters.source or len(cell.source.splitlines()) <= LONGEST, cell.source


@pytest.mark.parametrize("name", SOURCES)
def test_no_result_is_typed(name):
    """Decimals stand in code, or in what it prints."""
    cells = nbformat.read(NOTEBOOKS[name], as_version=4).cells
    assert not [found for cell in cells if cell.cell_type == "markdown" for found in re.findall(r"\d+\.\d+", cell.source)]


@pytest.mark.parametrize("name", SOURCES)
def test_outputs_are_for_readers(name):
    """Neither reprs of paths and lists, nor six decimals, nor numbers that are none."""
    for output in outputs_of(name):
        shown = text_of(output)
        assert not re.search(r"(Posix|Windows)Path\(|\bNaN\b|\bnan\b|\binf\b|\d\.\d{5}|^\[", shown), shown


@pytest.mark.parametrize("copy", [f"{name}_{preset}" for preset, names in COPIES.items() for name in names])
def test_copies_are_of_their_sources(copy):
    """The same cells, and papermill's own with the preset."""
    name, _, preset = copy.rpartition("_")
    mine, theirs = (
        [cell.source for cell in nbformat.read(NOTEBOOKS[one], as_version=4).cells
         if "injected-parameters" not in cell.metadata.get("tags", [])] for one in (copy, name)
    )  # fmt: skip
    assert mine == theirs
    assert any(f'preset = "{preset}"' in cell.source for cell in code_of(copy))


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
@pytest.mark.parametrize(("name", "given", "said"), [
    ("01_train", {"preset": "smoke", "ra_wieght": 0.5}, "did you mean ra_weight?"),
    ("02_cross_architecture", {"tsk": "sr"}, "did you mean task? use one of this notebook's: data_dir, preset, task"),
])  # fmt: skip
def test_an_unknown_parameter_stops_a_notebook(study_root, monkeypatch, name, given, said):
    """papermill only warns; the notebook's check raises before anything is written."""
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    output = study_root / "out.ipynb"
    with pytest.raises(PapermillExecutionError) as caught:
        papermill.execute_notebook(NOTEBOOKS[name], output, given, progress_bar=False, cwd=study_root)
    assert caught.value.ename == "StudyError"
    assert said in caught.value.evalue and "is unknown" in caught.value.evalue
    assert [path.name for path in study_root.iterdir()] == ["out.ipynb"]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with the digits' results, boundaries of the degradation that notebooks show alone."""
    root = tmp_path_factory.mktemp("record")
    others = shutil.ignore_patterns("dn0.2.npz", "srx4.npz")
    shutil.copytree(ROOT / "results" / "digits", root / "results" / "digits", ignore=others)
    for path in (ROOT / "results").glob("*.csv"):
        shutil.copy(path, root / "results")
    return root


SCRATCH = """task = 3; preset = None; count, own_idea = "x", {"a": 1}
ra_weight: str = "tried out"
%precision 3"""
SMALLER = {"01_train": ('"digits"', '"smoke"'), "00_degradations": ("count: int = 400", "count: int = 20")}


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_a_notebook_runs_twice_in_one_kernel(name, record, warm_kernels):
    """From top to bottom, then again after a cell that somebody tried out: no error, and the same kinds of output."""
    once = [cell.source for cell in code_of(name)]
    if name in SMALLER:
        assert SMALLER[name][0] in once[0]
        once[0] = once[0].replace(*SMALLER[name])
    again = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in (*once, SCRATCH, *once)])
    with warm_kernels() as patch:
        patch.setenv("RASTUDY_ROOT", str(record))
        kernels.use_warm_kernels()
        NotebookClient(again, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(record)}}).execute()
    first, second = again.cells[: len(once)], again.cells[len(once) + 1 :]
    kinds = [[{output.output_type for output in cell.outputs} for cell in cells] for cells in (first, second)]
    assert all(one - {"stream"} == other - {"stream"} for one, other in zip(*kinds, strict=True)) and any(kinds[0])
