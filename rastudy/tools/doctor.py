"""Say what this machine has and lacks for the study, each with the next step: ``rastudy doctor [--data DIR]``.

``ok``: as it should be; ``absent``: an optional dependency, named with the part of the study that needs it; ``wrong``: the
study cannot run, and the exit status is 1.
"""

import argparse
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from packaging.requirements import Requirement
from torchvision import datasets

from rastudy.analysis.replication import CONSTRAINTS, versions
from rastudy.data.datasets import CIFAR10, CIFAR10_FILES, load_split
from rastudy.data.image_files import is_picture, list_folders, list_pictures
from rastudy.errors import StudyError
from rastudy.models.pretrained import needs_download, torchvision_address
from rastudy.models.weight_files import pinned_hashes, sha256
from rastudy.paths import WEIGHTS, expand, root, short, to_read
from rastudy.presets import PRESETS
from rastudy.registry import DATASETS, names_in
from rastudy.training.run_store import read_records, records_file

NEEDED_BY = {  # an extra: the part of the study that needs it
    "imagenet": "presets of photographs and notebook 00",
    "transfer": "notebook 05, the raters' form and the sliders",
    "judge": "filters and spandrel's networks in rastudy judge",
    "cluster": "the Snakefile",
    "test": "make test",
}
MEMORY, DISK = 4, 2  # GB that `make study` needs
IMAGENET_ADDRESS = "https://www.image-net.org/download.php"


class Finding(NamedTuple):
    """``level``: ok, absent or wrong; ``what`` was looked at and found; ``step``: what to do about it."""

    level: str
    what: str
    step: str = ""


def checked(good: bool, what: str, step: str, otherwise: str = "absent") -> Finding:
    """``ok``, or ``otherwise`` with the next step."""
    return Finding("ok", what) if good else Finding(otherwise, what, step)


def packages() -> Iterator[Finding]:
    """Python and the packages that pyproject.toml lists, by extra."""
    about = importlib.metadata.metadata("rastudy")
    python, wanted = platform.python_version(), about["Requires-Python"]
    step = f"install Python {wanted}, remove .venv and run make study"
    yield checked(Requirement(f"python{wanted}").specifier.contains(python), f"Python {python}", step, "wrong")
    listed = [one for one in map(Requirement, importlib.metadata.requires("rastudy") or ()) if one.name != "rastudy"]
    needed = [one for one in listed if one.marker is None or one.marker.evaluate({"extra": ""})]
    problems = [problem for one in needed if (problem := _problem(one))]
    versions = problems or [f"{one.name} {importlib.metadata.version(one.name)}" for one in needed]
    yield checked(not problems, f"packages: {', '.join(versions)}", f"{sys.executable} -m pip install -e '.'", "wrong")
    for extra in about.get_all("Provides-Extra") or ():
        optional = [one for one in listed if one not in needed and one.marker.evaluate({"extra": extra})]
        problems = [problem for one in optional if (problem := _problem(one))]
        what = ": ".join([f"extra {extra} (for {NEEDED_BY.get(extra, extra)})", *filter(None, [", ".join(problems)])])
        yield checked(not problems, what, f"{sys.executable} -m pip install -e '.[{extra}]'")


def record() -> Iterator[Finding]:
    """Where this machine differs from the one that made the record: versions, and the order of sums."""
    pinned = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines()) if CONSTRAINTS.is_file() else {}
    mine = versions()
    other = [f"{name} {mine[name]} ({version})" for name, version in pinned.items() if mine.get(name, version) != version]
    if pinned:
        what = f"versions that made the record: {len(pinned) - len(other)} of {len(pinned)}{'; not: ' * bool(other)}"
        what += ", ".join(other[:5])
        yield checked(not other, what, f"{sys.executable} -m pip install -c {short(CONSTRAINTS)} -e .")
    capability = torch.backends.cpu.get_cpu_capability()
    step = "figures agree within the spread of trainings; the record's own bits need an x86 CPU with AVX2"
    yield checked(capability in ("AVX2", "AVX512"), f"instructions: {capability}", step)


def _problem(requirement: Requirement) -> str:
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    fits = requirement.specifier.contains(version, prereleases=True)
    return "" if fits else f"{requirement.name} {version} is not {requirement.specifier}"


def machine() -> Iterator[Finding]:
    """GPU, cores, memory, disk, and whether results can be written."""
    gpu = torch.cuda.is_available()
    what = "no GPU: digits run on the CPU in minutes, CIFAR-10 in hours; the preset imagenet needs one"
    if gpu:
        free, total = torch.cuda.mem_get_info()
        what = f"GPU {torch.cuda.get_device_name()}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free"
    yield checked(gpu, what, "if the machine has one, install the torch that fits its driver (https://pytorch.org)")
    memory, room = _free_memory(), shutil.disk_usage(_there(root())).free / 1e9
    what = f"{os.cpu_count()} cores, {memory:.0f} GB of memory free"
    yield checked(memory >= MEMORY, what, f"make study needs {MEMORY} GB; rastudy sweep --jobs 1 half of it")
    yield checked(room >= DISK, f"{room:.0f} GB free at {root()}", f"make room: a study needs {DISK} GB", "wrong")
    for folder in (root() / name for name in ("results", "figures", "runs")):
        if not os.access(_there(folder), os.W_OK):
            yield Finding("wrong", f"{folder} cannot be written", "RASTUDY_ROOT=DIR writes elsewhere")


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists: a study's root is made by its first run."""
    return next(place for place in (folder, *folder.absolute().parents) if place.is_dir())


def _free_memory() -> float:
    """GB that a process can have now, as Linux reports it; elsewhere the machine's."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) / 1e6
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def kernel() -> Iterator[Finding]:
    """Whether notebooks run with the Python that has the study's packages."""
    try:
        own = Path(KernelSpecManager().get_kernel_spec("python3").argv[0])
    except NoSuchKernel:
        yield Finding("wrong", "Jupyter has no kernel python3", f"{sys.executable} -m ipykernel install --sys-prefix")
        return
    same = not own.is_absolute() or own.parent == Path(sys.executable).parent
    step = f"start JupyterLab with {sys.executable} -m jupyter lab, whose Python has the study's packages"
    yield checked(same, f"notebooks run with {own if own.is_absolute() else sys.executable}", step, "wrong")


def _changed(hashes: Mapping[Path, str]) -> list[Path]:
    """The files, sorted, that are missing or have another SHA-256."""
    return sorted(path for path, digest in hashes.items() if not path.is_file() or sha256(path) != digest)


def recognisers() -> Iterator[Finding]:
    """The small recognisers' weights against their pinned hashes, and the published ones."""
    for folder in sorted(path.parent for path in WEIGHTS.glob("*/SHA256SUMS")):
        pinned = {folder / name: digest for name, digest in pinned_hashes(folder).items()}
        bad = _changed(pinned)
        what = f"recognisers of {folder.name}: {len(pinned) - len(bad)} of {len(pinned)} as pinned"
        step = f"git checkout rastudy/weights/{folder.name} restores {', '.join(path.name for path in bad)}"
        yield checked(not bad, what, step, "wrong")
    names = names_in(PRESETS["imagenet"]["target_archs"])
    missing = [torchvision_address(name) for name in names if needs_download(name)]
    what = f"torchvision's weights (preset imagenet): {len(names) - len(missing)} of {len(names)}"
    places = "".join(f"\n            {url} at {file}" for url, file in missing)
    yield checked(not missing, what, f"downloaded when needed; without a network, put{places}")


def results() -> Iterator[Finding]:
    """Committed predictions and weights against the hashes in their records."""
    for preset in PRESETS:
        records, hashes = to_read(records_file(preset)), {}
        folder = records.parent
        for run, record in read_records(records).items():
            for part, name in (("processor", "sha256"), ("transformer", "transformer_sha256")):
                weights = folder / "weights" / f"{run}.{part}.safetensors"
                if name in record.get("trained", {}) and weights.is_file():  # later seeds' are not committed
                    hashes[weights] = record["trained"][name]
            for split in ("val", "test"):
                if split in record:
                    hashes[folder / "predictions" / f"{run}.{split}.npz"] = record[split]["predictions"]
        if hashes:
            bad = [str(short(path)) for path in _changed(hashes)]
            what = f"results of {preset}: {len(hashes) - len(bad)} of {len(hashes)} files are as recorded"
            step = f"git checkout results/{preset} restores committed ones, rastudy sweep remakes others; first {bad[:1]}"
            yield checked(not bad, what, step)


def data(folder: str) -> Iterator[Finding]:
    """The embedded set, and what the user's folder holds."""
    yield Finding("ok", "digits: embedded, in scikit-learn's wheel")
    if not folder:
        step = f"rastudy doctor --data DIR checks a folder; {datasets.CIFAR10.url}, {IMAGENET_ADDRESS}"
        yield Finding("absent", "CIFAR-10 and ImageNet (for their presets): no folder was named", step)
        return
    place = expand(folder)
    try:
        in_parts = (place / "train").is_dir() and (place / "test").is_dir()
        if in_parts or (place / CIFAR10_FILES).is_dir():
            own = in_parts and not set(CIFAR10) & set(list_folders(place / "train"))
            name = "folder" if own else "cifar10"
            pictures = [load_split(name, split, 0, n_val=0, data_dir=folder) for split in ("train", "test")]
            counts = " and ".join(f"{len(part):,} {part.split}" for part in pictures)
            whole = own or [*map(len, pictures)] == [50_000, 10_000]
            what = f"{place}: {DATASETS[name].shown}, {counts} pictures"
            yield checked(whole, what, "of 50,000 and 10,000; unpack it again")
        else:
            files = list_pictures(place)
            bad = [name for name in files if not is_picture(place / name)]
            what = f"{place}: {len(files):,} photographs"
            yield Finding("ok", f"{what}, for the presets imagenet, imagenet_small and imagenet_lite")
            if bad:
                step = "mend or remove them, or run with skip_unreadable"
                yield Finding("wrong", f"{place}: {len(bad):,} cannot be opened, the first {bad[0]}", step)
    except StudyError as error:
        yield Finding("wrong", f"{place}: no data set of the study's", str(error))


def programs() -> Iterator[Finding]:
    """Programs outside Python."""
    what = "tesseract (for the black box of notebook 05)"
    yield checked(shutil.which("tesseract") is not None, what, "install the system's package tesseract-ocr")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (packages, record, machine, kernel, recognisers, results, programs)


def doctor_command(args: argparse.Namespace) -> int:
    findings = [finding for check in CHECKS for finding in check()] + list(data(args.data))
    for level, what, step in findings:
        print(f"{level:7s} {what}")
        if step:
            print(f"{'':7s}   {step}")
    wrong = sum(finding.level == "wrong" for finding in findings)
    print(f"\n{wrong} to be mended before the study runs" if wrong else "\nmake study runs here")
    return int(bool(wrong))
