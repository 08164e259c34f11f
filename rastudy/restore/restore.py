"""Restore pictures of your own with a trained P:

``rastudy restore INPUT... --task jpeg --mode ra -o OUT``

INPUT are PNG, JPEG and WebP files, or folders of them. OUT is a file for one input file, else a folder, where the names stay.
A picture keeps its size (sr: ``--strength`` times it), its kind of pixels and what its file says of its colours:

- EXIF orientation is applied and its tag removed; the other EXIF tags stay, with the sides where they are named.
- Alpha stays as it is; sr enlarges it bicubically. P also restores the colours beneath transparent pixels.
- Grey pictures stay grey: P sees three equal channels, and the luminance of what it gives is kept. 16-bit grey stays 16-bit.
- ICC profiles (and PNG's colour chunks) go into the output as they are. P works on the values of the file without converting
  them, as it did in training; so they mean after it what they meant before. CMYK alone is converted, to sRGB.
- What cannot stay is said: CMYK and palettes become RGB, black and white becomes grey, of 16 bits in colour PIL reads 8.
- JPEG is written with quality 95 without subsampling of colours (4:4:4), WebP lossless (lossy it halves the colours' sides).

Animations are refused. An input is overwritten only where OUT is a file and names it; other files at OUT are replaced. Files
appear whole or not at all. A picture of a folder that cannot be restored is reported, the others are restored, and the exit
status is 1.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from rastudy.config import Config, make_config
from rastudy.data.degradations import round_to_8_bits, to_tensor
from rastudy.data.image_files import centre_crop, shorter_side
from rastudy.errors import StudyError
from rastudy.evaluation.evaluate import config_of
from rastudy.models.classifiers import Classifier, load_classifier, needs_download
from rastudy.models.processors import ResnetGenerator, build_processor
from rastudy.presets import PRESETS
from rastudy.registry import DATASETS, bounds_of, display_name, half_of, resolve
from rastudy.restore.image_io import (
    FORMATS,
    KEPT,
    MODES,
    check_target,
    eight_bit,
    exif_of_size,
    open_file,
    open_picture,
    save_picture,
)
from rastudy.restore.tiles import TILE, geometry, restore_pixels
from rastudy.training.weights import load_weights, weights_file

PRESET = "imagenet_lite"  # its P's have learned from photographs of 224 pixels, the others' from pictures of 32


class Models(NamedTuple):
    """A trained run: its settings, P, and under ra_transformer T, both in eval mode."""

    config: Config
    processor: nn.Module
    transformer: nn.Module | None


def load(
    preset: str = PRESET, task: str = "jpeg", mode: str = "ra", strength: float = -1.0, file: Path | None = None,
    device: str = "auto",
) -> Models:  # fmt: skip
    """A preset's committed (or trained) P, seed 0, or that of a weight file, whose T lies beside it.

    Raises:
        StudyError: no such weights, damaged ones, or a file that was trained for another task.
    """
    if file is None:
        config = make_config(preset, task, mode, strength=strength, device=device)
        if config.is_baseline:
            raise StudyError(f"mode={mode!r} has no P; use one of {', '.join(PRESETS[preset]['modes'])}")
        file = weights_file(config)
    else:
        config = config_of(file, device)
        if config.task != task:
            raise StudyError(f"{file} was trained for task {config.task!r}, not {task!r}")
    processor = load_weights(file, build_processor(config.processor, config.factor, config.channels, config.blocks))
    transformer, beside = None, file.with_name(file.name.replace(".processor.", ".transformer."))
    if config.mode == "ra_transformer" and beside != file:
        transformer = load_weights(beside, ResnetGenerator(config.transformer_channels, config.transformer_blocks))
    place = lambda net: net and net.to(config.torch_device(), memory_format=torch.channels_last).eval()  # noqa: E731
    return Models(config, place(processor), place(transformer))


# --- one picture


def restore_picture(
    picture: Image.Image, processor: nn.Module, tile: int = TILE, done: Callable[[int], object] = lambda n: None
) -> Image.Image:
    """A picture as P restores it, of the same mode, with ICC profile, EXIF and resolution in its info.

    Args:
        picture: of one of ``MODES``; :func:`rastudy.restore.image_io.open_picture` gives such ones.
        processor, tile, done: see :func:`rastudy.restore.tiles.restore_pixels`.

    Raises:
        StudyError: another mode.
    """
    if picture.mode not in MODES:
        raise StudyError(f"a picture of mode {picture.mode!r} fits no P; rastudy.restore.image_io.prepare makes it {', '.join(MODES)}")
    alpha = picture.getchannel("A") if picture.mode in ("LA", "RGBA") else None
    colours = picture if alpha is None else picture.convert(picture.mode.removesuffix("A"))
    restored = Image.fromarray(restore_pixels(processor, np.asarray(colours), tile, done))
    if alpha is not None:
        restored.putalpha(alpha if alpha.size == restored.size else alpha.resize(restored.size, Image.Resampling.BICUBIC))
    restored.info = {name: picture.info[name] for name in KEPT if name in picture.info}
    if "exif" in restored.info and restored.size != picture.size:
        restored.info["exif"] = exif_of_size(picture, restored.size)
    return restored


# --- files


def plan(inputs: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """Which file is restored to which; StudyError where that is not clear or an input would be overwritten unasked."""
    folders = [path for path in inputs if path.is_dir()]
    jobs = [
        (file, out / (file.relative_to(path) if path in folders else file.name))
        for path in inputs for file in files_of(path, out)
    ]  # fmt: skip
    if out.suffix.lower() in FORMATS and not out.is_dir():
        if len(inputs) > 1 or folders:
            raise StudyError(f"{out}: names a file; for several pictures or a folder -o names a folder")
        return [(inputs[0], out)]
    if out.is_file() or (out.suffix and not out.is_dir() and len(inputs) == 1 and not folders):
        raise StudyError(f"{out}: neither a folder nor a file that ends in one of {', '.join(FORMATS)}; name one of these")
    targets = [target for _, target in jobs]
    twice = [target for target, n in Counter(targets).items() if n > 1]
    if twice:
        raise StudyError(f"{twice[0]}: two inputs have this name; restore them to different folders")
    sources = {source.resolve() for source, _ in jobs}
    mine = next((target for target in targets if target.resolve() in sources), None)
    if mine:
        raise StudyError(f"{mine}: would overwrite an input; name another folder, or a single file to replace it")
    return jobs


def files_of(path: Path, out: Path | None = None) -> list[Path]:
    """The picture itself, or those of a folder, sorted, without hidden ones and those below ``out`` (restored before)."""
    if path.is_file():
        if path.suffix.lower() not in FORMATS:
            raise StudyError(f"{path}: suffix {path.suffix!r} is unknown; convert it to one of {', '.join(FORMATS)}")
        return [path]
    if not path.is_dir():
        raise StudyError(f"{path}: no such file or folder")
    skip = out.resolve() if out and out.resolve() != path.resolve() else None
    files = [p for p in sorted(path.rglob("*")) if p.is_file() and skip not in p.resolve().parents]
    files = [p for p in files if not any(part.startswith(".") for part in p.relative_to(path).parts)]
    found = [p for p in files if p.suffix.lower() in FORMATS]
    if not found:
        raise StudyError(f"{path}: holds no pictures ({', '.join(FORMATS)}); name another folder, or convert them")
    if len(found) < len(files):
        _say(f"{path}: {len(files) - len(found)} files of other kinds are left alone")
    return found


def restore_files(
    inputs: Sequence[Path], out: Path, models: Models, readers: Sequence[Classifier] = (), tile: int = TILE
) -> list[Path]:
    """Restore files and folders; prints what ``readers`` say, and on stderr what was changed and the time left.

    Returns:
        the files that could not be restored, of several; where there is but one, its StudyError is raised.
    """
    jobs, failed = plan(inputs, out), []
    progress = Progress([_pixels(source) for source, _ in jobs])
    for k, (source, target) in enumerate(jobs):
        try:
            progress.start(f"[{k + 1}/{len(jobs)}] {source}")
            picture, notes = open_picture(source)
            factor = geometry(models.processor).factor
            notes += check_target(picture, (factor * picture.width, factor * picture.height), target)
            restored = restore_picture(picture, models.processor, tile, progress.add)
            save_picture(restored, target)
            progress.finish(f"-> {target}, {restored.width} x {restored.height}")
            for note in notes:
                _say(f"  {source.name}: {note}")
            for line in verdict_lines(picture, restored, models, readers):
                print(f"{source.name}  {line}", flush=True)
        except (StudyError, MemoryError) as error:
            problem = str(error) or "not enough memory; close other programs"
            problem = problem if str(source) in problem or str(target) in problem else f"{source}: {problem}"
            if len(jobs) == 1:
                raise StudyError(problem) from error
            progress.finish("failed")
            _say(f"error: {problem}")
            failed.append(source)
    return failed


def _pixels(path: Path) -> int:
    """From the header alone; 1 of a file that will be reported later."""
    try:
        with open_file(path) as file:
            return file.width * file.height
    except Exception:  # whatever PIL's readers raise
        return 1


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Progress:
    """A line per picture on stderr with the time left for all; on a terminal it moves within a picture, too."""

    def __init__(self, pixels: Sequence[int]):
        self.pixels, self.place, self.done, self.began = list(pixels), 0, 0, time.monotonic()
        self.text, self.shown = "", 0.0

    def start(self, text: str) -> None:
        self.text = text
        self.done = sum(self.pixels[: self.place])

    def add(self, pixels: int) -> None:
        self.done += pixels
        if sys.stderr.isatty() and time.monotonic() - self.shown > 0.5:
            self.shown = time.monotonic()
            print(f"\r\033[K{self.text}  {self.left()}", end="", file=sys.stderr, flush=True)

    def finish(self, text: str) -> None:
        self.place += 1
        self.done = sum(self.pixels[: self.place])
        _say(("\r\033[K" if sys.stderr.isatty() else "") + f"{self.text} {text}; {self.left()}")

    def left(self) -> str:
        """The time that the remaining pixels take at the pace so far."""
        spent, total = time.monotonic() - self.began, sum(self.pixels)
        if self.done >= total:
            return f"done after {_duration(spent)}"
        return f"{_duration(spent * (total - self.done) / max(self.done, 1))} left"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


# --- what R's say


def available_readers(config: Config, specs: Sequence[str] = ()) -> list[Classifier]:
    """The R's that ``specs`` name, or of the preset's those that load without a download; says which do not and why.

    Raises:
        StudyError: one that was named does not load, or none of the preset's does.
    """
    names_of_classes(config.dataset)  # raises where their package is missing, before anything is restored
    readers, problems = [], []
    for spec in specs or config.targets:
        try:
            if not specs and needs_download(spec):
                raise StudyError(f"recogniser {spec} would have to be downloaded; name it after --classify to do so")
            readers.append(load_classifier(spec, config.dataset).to(config.torch_device()))
        except StudyError as error:
            if specs:
                raise
            problems.append(str(error))
    if not readers:
        raise StudyError(f"preset {config.preset} has no recogniser here: {'; '.join(problems)}")
    for problem in problems:
        _say(f"left out: {problem}")
    return readers


@torch.inference_mode()
def verdicts(
    picture: Image.Image, config: Config, readers: Sequence[Classifier], transformer: nn.Module | None = None
) -> list[tuple[str, float]]:
    """Each R's first class and its probability for a picture.

    R sees it as the preset's pictures are: the shorter side at ``resize`` (256 of photographs, 32 of small presets), the middle
    square; without alpha. Of a large picture it sees little of what P did.
    """
    rgb = eight_bit(picture).convert("RGB")
    length = 4 * min(rgb.size)  # of a longer strip the middle
    box = [max(0, (side - length) // 2) for side in rgb.size]
    rgb = rgb.crop((*box, rgb.width - box[0], rgb.height - box[1]))
    rgb = shorter_side(rgb, config.resize if config.of_photographs else config.image_size)
    seen = to_tensor(centre_crop(np.asarray(rgb), config.image_size))[None].to(config.torch_device())
    seen = round_to_8_bits(seen) if transformer is None else transformer(seen)
    names, found = names_of_classes(config.dataset), []
    for reader in readers:
        probs = reader(seen).float().softmax(1)[0]
        k = int(probs.argmax())
        found.append((names[k] if len(names) == len(probs) else f"class {k}", float(probs[k])))
    return found


def names_of_classes(dataset: str) -> tuple[str, ...]:
    """A name per label of a data set's R's; empty where only its folders would tell."""
    whole, half = half_of(dataset)
    place = DATASETS[whole].classes
    names = resolve(place) if place else ()
    names = names() if callable(names) else names
    return names[slice(*bounds_of(half, len(names)))] if half else names


def verdict_lines(picture: Image.Image, restored: Image.Image, models: Models, readers: Sequence[Classifier]) -> list[str]:
    """A line per R: what it says before and after. Before is the study's no processing: for sr the bicubic upsampling."""
    if not readers:
        return []
    before = picture
    if picture.size != restored.size:
        before = eight_bit(picture).convert("RGB").resize(restored.size, Image.Resampling.BICUBIC)
    was = verdicts(before, models.config, readers)
    now = verdicts(restored, models.config, readers, models.transformer)
    say = lambda verdict: f"{verdict[0]} ({100 * verdict[1]:.0f} %)"  # noqa: E731
    names = [display_name(reader.name) for reader in readers]
    return [f"{name}: {say(a)} -> {say(b)}" for name, a, b in zip(names, was, now, strict=True)]


def restore_command(args: argparse.Namespace) -> int:
    models = load(args.preset, args.task, args.mode, args.strength, args.processor, args.device)
    readers = [] if args.classify is None else available_readers(models.config, args.classify)
    failed = restore_files([path.expanduser() for path in args.input], args.out.expanduser(), models, readers)
    if failed:
        _say(f"{len(failed)} of the pictures could not be restored")
    return int(bool(failed))
