"""Restore pictures of your own with a trained P:

``rastudy restore INPUT... --task jpeg --mode ra -o OUT``

INPUT are PNG, JPEG and WebP files, or folders of them. OUT is a file for one input file, otherwise a folder where files keep
their names. A picture keeps its size (sr: ``--strength`` times it), its pixel format and the colour information in its file:

- EXIF orientation is applied and its tag removed; the other EXIF tags stay, and those that name the size are updated.
- Alpha stays as it is; sr enlarges it bicubically. P also restores the colours beneath transparent pixels.
- Grey pictures stay grey: P sees three equal channels, and the luminance of its output is kept. 16-bit grey stays 16-bit.
- ICC profiles (and PNG's colour chunks) are copied unchanged. P works on the values in the file without converting them, as in
  training, so they mean the same afterwards. Only CMYK is converted, to sRGB.
- Other changes are reported: CMYK and palettes become RGB, black and white becomes grey, 16-bit colour is read as 8-bit.
- JPEG is written with quality 95 without chroma subsampling (4:4:4), WebP lossless (lossy WebP halves the chroma resolution).

With ``--degrade TASK`` INPUT are clean pictures: they are degraded as in the study, then restored. ``--compare MODE...``
restores with several P's, and sets what came out side by side in one more file (:func:`compare_files`).

Animations are refused. An input is overwritten only where OUT is a file and names it; other files at OUT are replaced. Files
appear whole or not at all. A picture that cannot be restored, for whatever reason, is reported, the others are restored, and
the exit status is 1.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import nn
from tqdm import tqdm

from rastudy.config import NOT_APPLICABLE, Config, make_config
from rastudy.data.datasets import names_of_classes
from rastudy.data.degradations import degrade, no_processing, round_to_8_bits, to_tensor, to_uint8
from rastudy.data.image_files import as_read, is_folder, list_pictures, to_rgb
from rastudy.errors import StudyError, one_of
from rastudy.evaluation.evaluate import named_processor
from rastudy.models.classifiers import Classifier, load_classifier
from rastudy.models.pretrained import needs_download
from rastudy.paths import expand, to_read
from rastudy.presets import PRESETS, degradations, of_photographs
from rastudy.registry import MODES as RUNS
from rastudy.registry import TASKS, display_name, mode_name
from rastudy.restore import image_io
from rastudy.restore.image_io import FORMATS, MODES
from rastudy.restore.tiles import TILE, geometry, restore_pixels
from rastudy.training.weights import build_models, check_run, load_weights, weights_file

Told = tuple[str, list[str], list[str]]  # of a picture: what was made, notes for stderr, lines for stdout


class Models(NamedTuple):
    """A trained run: its settings, P, and T where the mode has one, both in eval mode."""

    config: Config
    processor: nn.Module
    transformer: nn.Module | None


def load(
    preset: str = "", task: str = "jpeg", mode: str = "ra", strength: float = -1.0, named: str = "",
    device: str = "auto",
) -> Models:  # fmt: skip
    """Load a preset's P of seed 0, committed or trained here; or the P that is named, with the T beside its file.

    The default preset (:func:`rastudy.presets.of_photographs`) learned from photographs of 224 pixels, digits and
    cifar10 from pictures of 32.

    Args:
        named: see :func:`rastudy.evaluation.evaluate.named_processor`.

    Raises:
        StudyError: no such weights, damaged ones, or a P that was trained for another task.
    """
    run = {"strength": strength, "device": device}
    named = named or str(file_of(make_config(preset or of_photographs(task), task, mode, **run)))
    config, processor = named_processor(named, task, preset, strength, device)
    file = expand(named)
    beside = file.with_name(file.name.replace(".processor.", ".transformer."))
    if not RUNS[config.mode].has_transformer:
        return Models(config, processor, None)
    if beside == file:
        raise StudyError(f"{file}: P of a run with T, which is sought beside NAME.processor.safetensors; give it such a name")
    check_run(beside, config)
    _, transformer = build_models(config)
    return Models(config, processor, load_weights(beside, transformer).eval())


def file_of(config: Config) -> Path:
    """The weight file of a run's P, trained here or committed; StudyError where there is none."""
    if config.is_baseline:
        raise StudyError(f"mode={config.mode!r} has no P; use one of {', '.join(PRESETS[config.preset]['modes'])}")
    file = weights_file(config)
    file = file if file.is_file() else to_read(file)
    if file.is_file():
        check_run(file, config)
        return file
    preset, task, mode = config.preset, config.task, config.mode
    runs = [replace(config, strength=one) for _, one in degradations(preset, task)]
    there = [f"--strength {run.strength:g}" for run in runs if to_read(weights_file(run)).is_file()]
    unsaid = (NOT_APPLICABLE, PRESETS[preset]["source_arch"])
    source = f" --source-arch {config.source_arch}" * (config.source_arch not in unsaid)
    raise StudyError(
        f"{file}: no such weights; there are some for {' and '.join(there) or 'no strength'}, and rastudy train "
        f"--preset {preset} --task {task} --mode {mode} --strength {config.strength:g}{source} makes these; "
        "committed ones are in a clone of the repository, and --processor FILE takes any"
    )


# --- one picture


def restore_picture(
    picture: Image.Image, processor: nn.Module, tile: int = TILE, done: Callable[[int], object] = lambda n: None
) -> Image.Image:
    """Restore a picture with P: the same mode, with ICC profile, EXIF (see ``image_io.fit_exif``) and resolution in its info.

    Args:
        picture: of one of ``MODES``, as :func:`rastudy.restore.image_io.open_picture` gives it.
        processor, tile, done: see :func:`rastudy.restore.tiles.restore_pixels`.

    Raises:
        StudyError: another mode.
    """
    if picture.mode not in MODES:
        raise StudyError(f"P cannot take mode {picture.mode!r}; rastudy.restore.image_io.prepare makes it {', '.join(MODES)}")
    alpha = picture.getchannel("A") if picture.mode in ("LA", "RGBA") else None
    colours = picture if alpha is None else picture.convert(picture.mode.removesuffix("A"))
    restored = Image.fromarray(restore_pixels(processor, np.asarray(colours), tile, done))
    if alpha is not None:
        restored.putalpha(alpha if alpha.size == restored.size else alpha.resize(restored.size, Image.Resampling.BICUBIC))
    restored.info = {name: picture.info[name] for name in image_io.KEPT if name in picture.info}
    return restored


# --- files


def plan(inputs: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    """Pairs of input and output files; StudyError where that is ambiguous or would overwrite an input unasked."""
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
    twice = [target for target, n in Counter(target for _, target in jobs).items() if n > 1]
    if twice:
        raise StudyError(f"{twice[0]}: two inputs have this name; restore them to different folders")
    sources = {source.resolve() for source, _ in jobs}
    mine = next((target for _, target in jobs if target.resolve() in sources), None)
    if mine:
        raise StudyError(f"{mine}: would overwrite an input; name another folder, or a single file to replace it")
    return jobs


def files_of(path: Path, out: Path | None = None) -> list[Path]:
    """The file itself, or the pictures below a folder, sorted, without those below ``out`` (restored earlier).

    Raises:
        StudyError: no such place, no pictures there, or a file of another format.
    """
    if path.is_file():
        if path.suffix.lower() not in FORMATS:
            raise StudyError(f"{path}: suffix {path.suffix!r} is unknown; convert it to one of {', '.join(FORMATS)}")
        return [path]
    if not is_folder(path):
        raise StudyError(f"{path}: no such file or folder")
    return [path / name for name in list_pictures(path, FORMATS, out)]


def restore_files(
    inputs: Sequence[Path], out: Path, models: Models, readers: Sequence[Classifier] = (), tile: int = TILE
) -> list[Path]:
    """Restore files and folders; prints what ``readers`` say, and on stderr a line per picture with what was changed.

    On a terminal a bar on stderr shows the time left.

    Returns:
        the files that could not be restored, of several; for a single one its StudyError is raised.
    """
    jobs = plan(inputs, out)
    pixels = [image_io.pixels_of(source) for source, _ in jobs]
    with tqdm(total=sum(pixels), unit="pixels", unit_scale=True, disable=None) as bar:  # None: off where stderr is no terminal

        def work(k: int, source: Path, target: Path) -> Told:
            bar.set_description(f"[{k + 1}/{len(jobs)}] {source.name}")
            try:
                picture, notes = image_io.open_picture(source)
                factor = geometry(models.processor).factor
                size = factor * picture.width, factor * picture.height
                notes += image_io.check_target(picture, size, target) + image_io.fit_exif(picture, size)
                restored = restore_picture(picture, models.processor, tile, bar.update)
                image_io.save_picture(restored, target)
                lines = verdict_lines(picture, restored, models, readers)
            finally:
                bar.update(sum(pixels[: k + 1]) - bar.n)  # counts a picture that failed, too
            return f"{target}, {restored.width} x {restored.height}", notes, lines

        return _each(jobs, work)


def _each(jobs: Sequence[tuple[Path, Path]], work: Callable[[int, Path, Path], Told]) -> list[Path]:
    """Do a piece of work for each pair of input and output, and say what came of it.

    Returns:
        the inputs for which it failed, of several; for a single one its StudyError is raised.
    """
    failed = []
    for k, (source, target) in enumerate(jobs):
        try:
            made, notes, lines = work(k, source, target)
        except Exception as error:  # whatever one picture does to PIL or torch, the others are done
            problem = str(error) or f"{type(error).__name__}; not enough memory? close other programs"
            problem = problem if str(source) in problem or str(target) in problem else f"{source}: {problem}"
            if len(jobs) == 1:
                raise StudyError(problem) from error
            _say(f"[{k + 1}/{len(jobs)}] {source} failed\nerror: {problem}")
            failed.append(source)
            continue
        _say(f"[{k + 1}/{len(jobs)}] {source} -> {made}")
        for note in notes:
            _say(f"  {source.name}: {note}")
        for line in lines:
            tqdm.write(f"{source.name}  {line}")
    return failed


# --- clean pictures, degraded as in the study


def load_modes(preset: str, task: str, modes: Sequence[str], strength: float = -1.0, device: str = "auto") -> dict[str, Models]:
    """The preset's P of each mode, see :func:`load`."""
    return {mode: load(preset, task, mode, strength, device=device) for mode in modes}


def compare(picture: Image.Image, models: Mapping[str, Models], degraded: bool = True, seed: int = 0) -> dict[str, Image.Image]:
    """A picture, what P's of the same degradation make of it, by mode, and the original: 8-bit RGB of one size.

    Args:
        degraded: the picture is clean, and is degraded as in the study first (of sr the right and lower edges go where they do
            not divide by the factor); else it is taken as it is, and there is no original.
        seed: of dn's noise, of blind's draws.

    Returns:
        ``degraded`` (else ``input``; of sr the bicubic upsampling), a picture per mode, and ``original``.
    """
    config = next(iter(models.values())).config
    rgb = np.asarray(to_rgb(picture))
    if degraded:
        height, width = (side // config.factor * config.factor for side in rgb.shape[:2])
        if not (height and width):
            raise StudyError(
                f"a picture of {picture.width} x {picture.height} pixels is smaller than the factor {config.factor}"
            )
        rgb = np.ascontiguousarray(rgb[:height, :width])
    lq = degrade(rgb, config.task, config.strength, seed) if degraded else to_tensor(rgb)
    found = {"degraded" if degraded else "input": to_uint8(no_processing(lq, config.task, config.strength))}
    finer = degraded and TASKS[config.task].random  # noise is no whole number of levels
    pixels = (lq * 65_535).round().permute(1, 2, 0).numpy().astype(np.uint16) if finer else to_uint8(lq)
    for mode, one in models.items():
        restored = restore_pixels(one.processor, pixels)
        found[mode] = (restored / 257).round().astype(np.uint8) if finer else restored
    return {name: Image.fromarray(one) for name, one in (found | ({"original": rgb} if degraded else {})).items()}


def verdicts_of(
    versions: Mapping[str, Image.Image], models: Mapping[str, Models], readers: Sequence[Classifier]
) -> dict[str, list[tuple[str, float]]]:
    """:func:`verdicts` on each picture of :func:`compare`; T reads P's picture first where the mode has one."""
    config = next(iter(models.values())).config
    of_t = {mode: one.transformer for mode, one in models.items()}
    return {name: verdicts(picture, config, readers, of_t.get(name)) for name, picture in versions.items()}


def strip_of(versions: Mapping[str, Image.Image], side: int = 160) -> Image.Image:
    """Pictures of one size side by side under their names; those smaller than ``side`` pixels are enlarged."""
    width, height = next(iter(versions.values())).size
    scale = max(1, -(-side // max(width, 1)))
    font = ImageFont.load_default(14)
    strip = Image.new("RGB", (len(versions) * (scale * width + 4) - 4, scale * height + 20), "white")
    for k, (name, picture) in enumerate(versions.items()):
        left = k * (scale * width + 4)
        ImageDraw.Draw(strip).text((left + 2, 1), mode_name(name) if name in RUNS else name, "black", font)
        strip.paste(picture.resize((scale * width, scale * height), Image.Resampling.NEAREST), (left, 20))
    return strip


def compare_files(
    inputs: Sequence[Path], out: Path, models: Mapping[str, Models], readers: Sequence[Classifier] = (), degraded: bool = True
) -> list[Path]:
    """:func:`compare` files, and write all versions and a strip of them (``NAME-plain.png`` and so on) into a folder.

    Returns:
        the files that could not be compared, of several; for a single one its StudyError is raised.
    """
    if out.suffix.lower() in FORMATS:
        raise StudyError(f"{out}: names a file; pictures that are compared need a folder")
    jobs = plan(inputs, out)
    stems = Counter(target.with_suffix("") for _, target in jobs)
    if twice := [str(stem) for stem, n in stems.items() if n > 1]:
        raise StudyError(f"{twice[0]}: two inputs have this name but for their suffix; compare them in different folders")

    def work(k: int, source: Path, target: Path) -> Told:
        picture, _ = image_io.open_picture(source)
        versions = compare(picture, models, degraded, seed=k)
        said = verdicts_of(versions, models, readers) if readers else {}
        for name, one in (versions | {"strip": strip_of(versions)}).items():
            image_io.save_picture(one, target.with_name(f"{target.stem}-{name}.png"))
        lines = [", ".join(f"{name} {found[r][0]} ({100 * found[r][1]:.0f} %)" for name, found in said.items())
                 for r in range(len(readers))]  # fmt: skip
        named = [f"{display_name(reader.name)}: {line}" for reader, line in zip(readers, lines, strict=True)]
        return str(target.with_name(f"{target.stem}-strip.png")), [], named

    return _each(jobs, work)


def _say(text: str) -> None:
    """A line on stderr, above the bar."""
    tqdm.write(text, file=sys.stderr)


# --- what recognisers say


def available_readers(config: Config, specs: Sequence[str] = ()) -> list[Classifier]:
    """The recognisers that ``specs`` name, or those of the preset that load without a download; reports the others.

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
    """Each recogniser's first class for a picture and its probability.

    They read the middle square (:func:`.image_files.as_read`): of a long picture a small part of what P gave.

    Raises:
        StudyError: transparent pixels, of which nobody knows what lies behind them.
    """
    rgb = to_rgb(picture)
    length = 4 * min(rgb.size)  # of a longer strip the middle
    left, top = (max(0, (side - length) // 2) for side in rgb.size)
    rgb = rgb.crop((left, top, rgb.width - left, rgb.height - top))
    seen = to_tensor(as_read(np.asarray(rgb), config.image_size, config.decoded))[None].to(config.torch_device())
    seen = round_to_8_bits(seen) if transformer is None else transformer(seen)
    names, found = names_of_classes(config.dataset), []
    for reader in readers:
        probs = reader(seen).float().softmax(1)[0]
        k = int(probs.argmax())
        found.append((names[k] if len(names) == len(probs) else f"class {k}", float(probs[k])))
    return found


def verdict_lines(picture: Image.Image, restored: Image.Image, models: Models, readers: Sequence[Classifier]) -> list[str]:
    """A line per recogniser: its verdict before and after. Before is the baseline ``none``: for sr the bicubic upsampling."""
    if not readers:
        return []
    try:
        before: Image.Image = to_rgb(picture)
    except StudyError as error:  # it is restored all the same
        return [f"not classified: it {error}"]
    if picture.size != restored.size:
        before = before.resize(restored.size, Image.Resampling.BICUBIC)
    both = zip(readers, verdicts(before, models.config, readers),
               verdicts(restored, models.config, readers, models.transformer), strict=True)  # fmt: skip
    return [f"{display_name(reader.name)}: {was} ({100 * p:.0f} %) -> {now} ({100 * q:.0f} %)"
            for reader, (was, p), (now, q) in both]  # fmt: skip


def restore_command(args: argparse.Namespace) -> int:
    task = args.degrade or args.task
    if not task:
        raise StudyError(f"no task was named; give --task or, for clean pictures, --degrade: {', '.join(TASKS)}")
    one_of("task", task, TASKS)
    if args.task and args.task != task:
        raise StudyError(f"--degrade {task} is undone by the P's of {task}, not of --task {args.task}; leave one out")
    readers = lambda config: [] if args.classify is None else available_readers(config, args.classify)  # noqa: E731
    if args.degrade or args.compare:
        modes = load_modes(args.preset, task, args.compare or [args.mode], args.strength, args.device)
        config = next(iter(modes.values())).config
        failed = compare_files(args.input, args.out, modes, readers(config), degraded=bool(args.degrade))
    else:
        models = load(args.preset, task, args.mode, args.strength, args.processor, args.device)
        failed = restore_files(args.input, args.out, models, readers(models.config))
    if failed:
        _say(f"{len(failed)} of the pictures could not be restored")
    return int(bool(failed))
