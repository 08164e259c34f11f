"""Judge restorers by how well recognisers read what they make:

``rastudy judge FOLDER... --pictures PLACE``, or ``rastudy judge NAME... --preset digits --task jpeg``

A restorer is a folder of pictures that any program restored, or a name (:func:`.restorers.open_restorer`). All are compared
with a reference on the same pictures, by each recogniser and in the mean of the unseen ones, which no restorer had in its loss.
Memory does not grow with the number of pictures.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from html import escape
from multiprocessing import get_context
from pathlib import Path
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from rastudy.analysis.judged import COLUMNS, Judged, falls_short, keep, kept, table
from rastudy.config import Config, make_config
from rastudy.data.degradations import to_tensor
from rastudy.data.image_files import as_read
from rastudy.errors import StudyError, all_differ
from rastudy.evaluation import metrics
from rastudy.judge import answers
from rastudy.judge.pictures import MANIFEST, Pictures, Restored, of_folder, of_preset
from rastudy.judge.restorers import Restorer, is_named, known, label_of, open_restorer
from rastudy.models.classical import SHALLOW
from rastudy.paths import expand, write_atomic, write_csv
from rastudy.registry import check_folder, check_specs, is_own, name_of, names_in
from rastudy.report.captions import CAPTIONS
from rastudy.report.claims import markdown
from rastudy.report.html import page as page_of
from rastudy.report.html import rendered
from rastudy.report.judgement import as_text, draw, told, wide
from rastudy.training.train import check_classes
from rastudy.transfer.black_box import Asked, is_black_box, processes
from rastudy.transfer.read import reader_of

CHUNK = 100  # pictures at most that a process judges at a time
PIXELS = 400_000  # at most that P gives and R takes at once: 8 photographs of 224 x 224
KINDS = (".npz", ".csv", ".png", ".html")  # of files that a judgement writes


@dataclass(frozen=True)
class Request:
    """What is to be judged; a process opens it for itself.

    ``restorers``: folders and names; ``place``: of the pictures, none: the preset's test pictures; ``readers``: by name, none:
    the preset's; ``sources``: recognisers in the loss of what made the folders.
    """

    restorers: tuple[str, ...]
    preset: str
    task: str = ""
    strength: float = -1.0
    place: str = ""
    data: str = ""
    readers: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    count: int = 0
    device: str = "auto"

    def pictures(self) -> Pictures:
        if self.place:
            return of_folder(expand(self.place), self.preset, self.task, self.strength, self.device)
        if not self.task:
            raise StudyError("no task was named; give --task, or --pictures with what rastudy degrade prepared")
        config = make_config(self.preset, self.task, "none", strength=self.strength, data_dir=self.data, device=self.device)
        check_folder(self.data, config.dataset)
        return of_preset(config, self.count)


# --- measuring, in a process of its own


class _Bench:
    """Pictures, restorers and recognisers, opened; :meth:`judge` takes some places."""

    def __init__(self, request: Request):
        torch.set_num_threads(1)
        self.pictures = request.pictures()
        self.config = self.pictures.config
        self.readers: list[nn.Module] = []
        self.versions: dict[str, str] = {}  # of the recognisers, by name
        check_specs(request.sources)
        for name, version, load in opened_readers(request, self.config):
            self.readers.append(load(self.pictures.classes, False).to(self.config.torch_device()))
            self.versions[name] = version
        check_classes(self.readers, self.pictures.classes, [self.config.image_size] * 2)
        self.stores = [answers.load(answers.store(*one)) for one in self.versions.items()]
        self.restorers = [opened(name, self.pictures) for name in request.restorers]

    def judge(
        self, places: Sequence[int]
    ) -> tuple[list[dict[str, np.ndarray]], np.ndarray, list[answers.Known], list[Counter]]:
        """Arrays by restorer, the originals' checksums, what recognisers said for the first time, and labels of no class."""
        boxes = [reader for reader in self.readers if isinstance(reader, Asked)]
        for box in boxes:
            box.unknown.clear()
        found: list[list[dict[str, np.ndarray]]] = [[] for _ in self.restorers]
        fresh: list[answers.Known] = [{} for _ in self.readers]
        sums: list[int] = []
        for batch, originals in self._batches(places):
            sums += [crc32(original) for original in originals]
            lq = None if self.pictures.degraded is None else [self.pictures.degraded(k) for k in batch]
            for restorer, parts in zip(self.restorers, found, strict=True):
                if isinstance(restorer, Restorer):
                    pictures = restorer.restore(torch.stack(lq))
                else:
                    pairs = zip(batch, originals, strict=True)
                    pictures = np.stack([restorer.read(k, original) for k, original in pairs])
                parts.append(self._measure(pictures, originals, batch, fresh))
        joined = [{name: np.concatenate([part[name] for part in parts], -1) for name in parts[0]} for parts in found]
        return (
            joined,
            np.array(sums, np.uint32),
            fresh,
            [Counter({(box.name, k): n for k, n in box.unknown.items()}) for box in boxes],
        )

    def _batches(self, places: Sequence[int]) -> Iterator[tuple[list[int], np.ndarray]]:
        """Pictures of one size together, at most ``PIXELS``: their places and the originals (N, H, W, 3)."""
        batch: list[int] = []
        originals: list[np.ndarray] = []
        for k in places:
            original = self.pictures.original(k)
            full = (len(batch) + 1) * original.size > 3 * PIXELS
            if originals and (full or original.shape != originals[0].shape):
                yield batch, np.stack(originals)
                batch, originals = [], []
            batch.append(k)
            originals.append(original)
        yield batch, np.stack(originals)

    def _measure(
        self, pictures: np.ndarray, originals: np.ndarray, batch: list[int], fresh: list[answers.Known]
    ) -> dict[str, np.ndarray]:
        both = [torch.stack([to_tensor(one) for one in some]) for some in (pictures, originals)]
        read = np.stack([as_read(picture, self.config.image_size, self.config.decoded) for picture in pictures])
        hits = []
        for reader, store, new in zip(self.readers, self.stores, fresh, strict=True):
            said, first = answers.ask(reader, read, store)
            store.update(first)
            # a black box's answer that names no class is not kept: its labels may be mended
            new.update((key, k) for key, k in first.items() if not isinstance(reader, Asked) or k < len(reader.classes))
            hits.append(said == self.pictures.labels[batch])
        mse, ssim = metrics.mse_per_image(*both).numpy(), metrics.ssim_per_image(both[0], both[1]).numpy()
        return {"hits": np.stack(hits), "mse": mse, "ssim": ssim}


def opened(name: str, pictures: Pictures) -> "Restorer | Restored":
    """A restorer by its name, or a folder of restored pictures."""
    if not is_own(name) and expand(name).is_dir():
        if is_named(name):
            raise StudyError(f"{name}: a folder here, and a restorer's name; write ./{name} for the folder, or go elsewhere")
        return Restored(expand(name), label_of(name), pictures.names)
    if pictures.degraded is None:
        step = "prepare them with rastudy degrade, and name that folder with --pictures"
        raise StudyError(f"{name}: no folder of this name, and restorers by name ({known()}) need degraded pictures; {step}")
    return open_restorer(name, pictures.config)


def opened_readers(request: Request, config: Config) -> list[tuple]:
    """Each recogniser's name, version, and what loads it."""
    specs = [one for spec in request.readers for one in names_in(spec)] or list(config.targets)
    check_specs(spec for spec in specs if not is_black_box(spec) and spec not in SHALLOW)
    if shallow := next((spec for spec in specs if spec in SHALLOW), ""):
        raise StudyError(f"recogniser {shallow!r} is fitted to a study's training pictures; name one that has weights")
    readers = [reader_of(spec, config.dataset, lambda: None) for spec in specs]
    all_differ("recognisers", (name for name, *_ in readers), "leave one out, or give its file another name")
    return readers


_bench: _Bench | None = None  # of this process


def _open(request: Request) -> None:
    global _bench
    _bench = _Bench(request)


def _judge(places: list[int]) -> tuple:
    return _bench.judge(places)


# --- the whole


def judge(request: Request, jobs: int = 1, beside: Judged | None = None, need_unseen: bool = False) -> Judged:
    """Judge every restorer on every picture; ``jobs`` one-thread processes side by side. A bar on stderr shows the time left.

    Args:
        beside: a kept judgement that the restorers join.
        need_unseen: whether there must be a recogniser that no restorer had in its loss.

    Raises:
        StudyError: what the pictures, restorers and recognisers raise; two restorers of one name; ``beside`` is of other
            pictures, another degradation or other recognisers.
    """
    bench = _Bench(request)  # what is wrong is said before any process starts
    jobs = processes(jobs, request.readers)
    names, versions = [one.name for one in bench.restorers], bench.versions
    called = [*(beside.arrays if beside else ()), *names]
    all_differ("restorers", called, "rename a folder or leave one out")
    by_hand = {one.name for spec, one in zip(request.restorers, bench.restorers, strict=True)
               if is_own(spec) or isinstance(one, Restored)}  # fmt: skip
    if request.sources and not by_hand:
        raise StudyError("--sources tells what folders and your own P had in their losses, and none is judged; leave it out")
    stated = tuple(map(name_of, request.sources))
    sources = {one.name: stated if one.name in by_hand else one.sources for one in bench.restorers}
    sources = (beside.sources if beside else {}) | sources
    empty = Judged(bench.config, versions, sources, bench.pictures.groups, np.array([]), {})
    if need_unseen and not empty.unseen:
        raise StudyError("--at-least needs a recogniser that no restorer had in its loss; name one with --readers")
    places = list(range(len(bench.pictures)))
    if beside:
        own, found = beside.config, bench.config
        _alike(own.science() == found.science(), "protocol", f"{own.preset} {own.task} {own.strength:g}")
        _alike(len(beside.groups) == len(places), "number of pictures", str(len(beside.groups)))
        _alike(list(beside.readers.items()) == list(versions.items()), "list of recognisers", ", ".join(beside.readers))
    size = min(CHUNK, -(-len(places) // (4 * jobs)))  # several for each process, for the bar and an even end
    chunks = [places[k : k + size] for k in range(0, len(places), size)]
    fresh: list[answers.Known] = [{} for _ in versions]
    unknown: Counter[tuple[str, str]] = Counter()
    parts: list[list[dict[str, np.ndarray]]] = []
    sums: list[int] = []
    try:
        with tqdm(total=len(places), unit="pictures", disable=None) as bar:
            for chunk, (found, checksums, new, strange) in zip(
                chunks, _in_processes(request, bench, chunks, jobs), strict=True
            ):
                if beside:
                    start = len(sums)
                    _alike(np.array_equal(beside.originals[start : start + len(checksums)], checksums), "set of pictures",
                           "by their contents")  # fmt: skip
                parts.append(found)
                sums.extend(checksums)
                for mine, theirs in zip(fresh, new, strict=True):
                    mine.update(theirs)
                unknown.update(sum(strange, Counter()))
                bar.update(len(chunk))
    finally:  # of an interrupted one, too
        for (name, version), new in zip(versions.items(), fresh, strict=True):
            if new:
                answers.save(answers.store(name, version), new)
    for (name, label), n in unknown.items():
        print(f"WARNING: {name} answered {label!r} to {n} pictures, which is no class and counts as wrong", file=sys.stderr)
    arrays = {name: {key: np.concatenate([part[k][key] for part in parts], -1) for key in parts[0][k]}
              for k, name in enumerate(names)}  # fmt: skip
    return empty._replace(originals=np.array(sums, np.uint32), arrays=(beside.arrays if beside else {}) | arrays)


def _alike(same: bool, what: str, told: str) -> None:
    if not same:
        raise StudyError(f"--beside: the kept judgement has another {what} ({told}); judge with the same, or without it")


def _in_processes(request: Request, bench: _Bench, chunks: list[list[int]], jobs: int) -> Iterator[tuple]:
    jobs = min(jobs, len(chunks))
    if jobs < 2:
        yield from map(bench.judge, chunks)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), _open, (request,)) as pool:
        yield from pool.map(_judge, chunks)


def judge_command(args: argparse.Namespace) -> int:
    prepared = args.pictures is None or (args.pictures / MANIFEST).is_file()
    beside = kept(args.beside) if args.beside else None
    there = list(beside.arrays) if beside else []
    first = next((name for name in args.restorer if not is_own(name) and expand(name).is_dir()), args.restorer[0])
    typed = args.reference or (beside.reference if beside else "none" if prepared else first)
    reference = label_of(typed)
    restorers = [*([typed] if reference not in (*map(label_of, args.restorer), *there) else []), *args.restorer]
    preset = args.preset or ("" if args.pictures else "digits")
    sources = tuple(one for spec in args.sources for one in names_in(spec))
    request = Request(tuple(dict.fromkeys(restorers)), preset, args.task, args.strength, str(args.pictures or ""), args.data,
                      tuple(args.readers), sources, args.count, args.device)  # fmt: skip
    judged = judge(request, args.jobs, beside, args.at_least is not None)
    found = table(judged, reference)
    stem = args.out.with_suffix("") if args.out.suffix in KINDS else args.out
    arrays, rows, figure, page = (stem.with_name(stem.name + kind) for kind in KINDS)
    keep(judged, arrays, reference)
    write_csv(rows, found.to_dict("records"), COLUMNS)
    draw(found, figure)
    write_page(found, page, figure)
    print(as_text(found))
    if args.at_least is None:
        return 0
    short = falls_short(found, args.at_least, set(judged.arrays) - set(there))
    for line in short:
        print(f"below {args.at_least:g} points for unseen recognisers: {line}", file=sys.stderr)
    return int(bool(short))


def write_page(found: pd.DataFrame, path: Path, picture: Path) -> None:
    """Write the HTML page: sentence, table, figure."""
    rows, header = wide(found)
    table = markdown([list(map(escape, row)) for row in rows], header)
    html = rendered(
        f"# Restorers, judged by recognisers\n\n{told(found)}\n\n{table}\n@@0@@\n", [picture], lambda _: CAPTIONS["judgement"]
    )
    write_atomic(path, lambda p: p.write_bytes(page_of(html)))
