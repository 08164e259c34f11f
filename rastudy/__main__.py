"""The command line: ``rastudy COMMAND``. A command's code is imported when it runs, so that help answers at once."""

import argparse
import contextlib
import dataclasses
import difflib
import io
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from rastudy import PORTABLE, registry, use_native
from rastudy.config import Config, reader_of
from rastudy.errors import StudyError, told
from rastudy.paths import expand, is_checkout, root, shared
from rastudy.presets import PRESETS, settings_of
from rastudy.registry import resolve

Option = tuple[tuple[str, ...], dict[str, Any]]
NO_EFFECT = ("needs", "without")  # of an option: others that it has no effect without, or beside
CORES = os.cpu_count() or 1
LONGEST_NAME = 255  # bytes of a file's name


class Command(NamedTuple):
    """``run``: ``module:function`` of the parsed options, gives an exit status or None; ``says``: one sentence."""

    run: str
    says: str
    options: Callable[[], list[Option]]
    native: bool = False  # in the CPU's own arithmetic, whatever the preset


def option(*names: str, says: str, least: float | None = None, **settings: Any) -> Option:
    """An option of argparse's; its lowest value, which is held, and its default are added to its sentence.

    ``needs="--x"``, ``without="--x --y"``: it is refused where it would have no effect, see :func:`check_effects`.
    """
    default = settings.get("default")
    if least is not None:
        sentence, given, rest = says.partition(" (default")
        says, settings["type"] = f"{sentence}, {least} or more{given}{rest}", partial(number, settings.get("type", int), least)
    elif settings.get("type") is float:
        settings["type"] = partial(number, float, -math.inf)
    if default not in (None, "", []) and "default" not in says:
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else default
        says += f" (default: {shown})"
    if settings.get("nargs") in ("*", "+"):
        settings["action"] = Several
    return names, settings | {"help": says.replace("%", "%%")}


class Several(argparse.Action):
    """Takes several words; an option that is given again adds to what it took before."""

    def __call__(self, parser, namespace, values, option_string=None):
        before = getattr(namespace, self.dest, self.default)
        setattr(namespace, self.dest, values if before is self.default else [*before, *values])


def number(kind: Callable[[str], Any], least: float, word: str) -> float:
    """The number that a user wrote; argparse names the option where it is none or below ``least``."""
    try:
        value = kind(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r} is not {'a whole' if kind is int else 'a'} number") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{word} is not a finite number")
    if value < least:
        raise argparse.ArgumentTypeError(f"{word} is not valid; use {least} or more")
    return value


def place(word: str) -> Path:
    """The path that a user wrote; argparse names the option where it cannot be one."""
    try:
        path = expand(word)
    except StudyError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise argparse.ArgumentTypeError(f"a name in it has more than {LONGEST_NAME} bytes; use a shorter one")
    return path


def flag(*names: str, **settings: Any) -> Option:
    return option(*names, action="store_true", **settings)


OF_PHOTOGRAPHS = ""  # a default preset that depends on the task


def preset(default: str | list[str] = "digits", says: str = "the study", **settings: Any) -> Option:
    unsaid = "imagenet_lite, of blind imagenette" if default == OF_PHOTOGRAPHS else "all that have results"
    says += f": {', '.join(PRESETS)}" + f" (default: {unsaid})" * (not default)
    return option("--preset", says=says, default=default, **settings)


def data(**settings: Any) -> Option:
    return option("--data", says="folder of the pictures, where the data set needs one (default: none)", default="", **settings)


DATA = data()
DEVICE = option("--device", says="auto, cpu or cuda", default="auto")
JOBS = option("--jobs", says="one-thread processes side by side", least=1, default=CORES)
TASK = option("--task", says=f"one of {', '.join(registry.TASKS)}", required=True)
SKIP = flag("--skip-unreadable", says="exit with status 0 even if unreadable pictures were skipped")
MODES = ", ".join(registry.MODES)
OWN = registry.OWN_PROCESSORS


def train_options() -> list[Option]:
    shown = PRESETS["digits"] | settings_of("digits", "sr")
    found = [preset(), TASK, option("--mode", says=f"one of {MODES}", default="plain")]
    for field in dataclasses.fields(Config)[3:]:
        names = [f"--{field.name.replace('_', '-')}", *(["--data"] if field.name == "data_dir" else [])]
        low, value = field.metadata["low"], shown.get(field.name, field.default)
        given = f"default: the preset's; digits, sr: {'none' if value in ('', dataclasses.MISSING) else value}"
        found.append(option(*names, says=f"{field.metadata['says']} ({given})", least=low, type=reader_of(field.name)))
    return [*found, option("--evaluate-on", says="then evaluate the run on: val, or val,test (default: nothing)", default="")]


COMMANDS = {
    "train": Command("rastudy.evaluation.evaluate:train_command", "Train one run, and evaluate it.", train_options),
    "evaluate": Command("rastudy.evaluation.evaluate:evaluate_command", "Test recognisers on P's output.", lambda: [
        option("--processor", says=f"P's safetensors file, as training wrote it, or your own P: {OWN}", required=True),
        option("--transformer", says="T's safetensors file, for ra_transformer (default: none)", type=place),
        TASK,
        preset(OF_PHOTOGRAPHS, "for your own P, the preset whose settings and recognisers are used"),
        option("--strength", says="of a P of your own: factor, sigma or quality (default: the preset's)", type=float,
               default=-1.0),
        option("--data", says="folder of class folders (default: the test pictures of P's own data set)", default=""),
        option("--classes", says="class folders to read, separated by commas (default: all that R knows)", default="",
               needs="--data"),
        option("--target-archs", says="recognisers, separated by commas (default: the preset's)", default=""),
        option("--out", says="also write the rows to this CSV (default: none)", type=place),
        DEVICE, SKIP,
    ]),
    "sweep": Command("rastudy.sweep.sweep:sweep_command", "Run a study: the grid, tables, notebooks.", lambda: [
        preset(),
        flag("--full", says="the full grid: seeds, weights, source models, controls; other options narrow it"),
        option("--task", says="only these tasks (default: all)", nargs="*"),
        option("--mode", says="only these modes and baselines (default: all of the preset's)", nargs="*"),
        option("--seed", says="only these seeds (default: the grid's)", nargs="*", least=0, default=[]),
        option("--source-arch", says="only these recognisers in the loss; a,b trains with both (default: the preset's)",
               nargs="*", default=[]),
        option("--ra-weight", says="only these weights of R's loss (default: the preset's)", nargs="*", type=float, least=0,
               default=[]),
        option("--processor", says=f"only these P's, or your own: {OWN} (default: the preset's)", nargs="*", default=[]),
        option("--split", says="val, test; val alone leaves the test pictures unread", nargs="*", default=["val", "test"],
               without="--direction"),
        DATA, DEVICE, JOBS,
        option("--set", says="other settings of every run, such as test_images=100 (default: none)", nargs="*", default=[],
               metavar="NAME=VALUE", without="--direction"),
        option("--direction", says="run these transfer studies instead: categories, datasets, other_pictures, detection, "
               "families, black_box, upload, upload_aware, multi_source (default: none)", nargs="*", default=[]),
        option("--black-box", says=f"with commas between: {registry.BLACK_BOXES}", default="rapidocr",
               needs="--direction"),
        flag("--keep-committed", says="treat committed runs as finished where their hashes agree"),
        option("--run", says="only the runs with these ids, without tables and notebooks: for job arrays (default: all)",
               nargs="+", default=[], metavar="ID"),
        flag("--list", says="print the ids of the grid's runs in the order of training, and stop",
             without="--status --dry-run"),
        flag("--status", says="list what is done, stale, failed or to do, and stop", without="--dry-run"),
        flag("--dry-run", says="list what would run and what it would cost, and stop"),
        flag("--no-notebooks", says="do not execute the reading notebooks"),
    ]),
    "tables": Command("rastudy.analysis.tables:tables_command", "Rebuild the tables from the predictions.", lambda: [
        preset([], "the studies", nargs="*"),
    ]),
    "transfer": Command("rastudy.transfer.tables:transfer_command", "Rebuild the transfer tables.", lambda: [
        preset([], "the studies", nargs="*"),
        option("--direction", says="which directions (default: all)", nargs="*", default=[]),
    ]),
    "boundaries": Command("rastudy.boundaries.figures:boundaries_command", "Measure decision boundaries.", lambda: [
        preset(["digits"], "the studies", nargs="*"),
        option("--task", says="one task alone, at the preset's first strength (default: all)", default="", without="--tables"),
        flag("--full", says="more pictures; RA from other sources, retrained copies, recognisers of other families",
             without="--tables"),
        option("--pictures", says="test pictures; 0: the preset's number", least=0, default=0, without="--tables"),
        option("--black-box", says="readers known by their answers alone, with commas between: "
               f"{registry.BLACK_BOXES} (default: none)", default="", without="--tables"),
        data(without="--tables"), JOBS, DEVICE,
        flag("--tables", says="only rebuild tables and figures from what has been measured"),
    ]),
    "restore": Command("rastudy.restore.restore:restore_command", "Restore your own pictures.", lambda: [
        option("input", says="PNG, JPEG and WebP files, and folders of them", nargs="+", type=place),
        option("-o", "--out", says="a file for one input file, else a folder", type=place, required=True),
        option("--task", says="sr (enlarge), dn (remove noise), jpeg (remove compression artefacts) or blind (whatever it went "
               "through) (default: --degrade's)", default=""),
        option("--mode", says="how P was trained: plain, ra, ra_unsupervised or ra_transformer", default="ra",
               without="--compare --processor"),
        option("--degrade", says="INPUT are clean pictures: degrade them first as this task's protocol does (default: no)",
               default="", metavar="TASK", without="--processor"),
        option("--compare", says="restore by each of these modes, and set the results side by side in one more file "
               "(default: by --mode alone)", nargs="+", default=[], metavar="MODE", without="--processor"),
        preset(OF_PHOTOGRAPHS, "whose P"),
        option("--strength", says="factor, sigma or quality that P was trained for (default: the preset's)", type=float,
               default=-1.0),
        option("--processor", says=f"P's safetensors file, or your own P: {OWN} (default: the preset's P)", default=""),
        option("--classify", says="these recognisers' predictions before and after; no names: the preset's (default: none)",
               nargs="*", metavar="R"),
        DEVICE,
    ]),
    "degrade": Command("rastudy.judge.pictures:degrade_command",
                       "Degrade your own pictures, for other programs to restore.", lambda: [
        option("folder", says="originals in class folders", type=place),
        TASK,
        option("--strength", says="factor, sigma or quality (default: the preset's)", type=float, default=-1.0),
        preset(OF_PHOTOGRAPHS, "whose protocol and recognisers"),
        option("-o", "--out", says="a new folder, for original/, degraded/ and manifest.json", type=place, required=True),
    ]),
    "judge": Command("rastudy.judge.judge:judge_command",
                     "Judge restorers by how well recognisers read what they make.", lambda: [
        option("restorer", says="folders of restored pictures, and restorers by name: none, a filter (lanczos, unsharp, "
               "median, nl_means, tv, wavelet, bm3d), a mode (plain, ra, ra:SOURCE, blind:ra, ...), P's file, or your own P: "
               f"{OWN}", nargs="+"),
        option("--pictures", says="what rastudy degrade prepared, or originals in class folders (default: the preset's own "
               "test pictures)", type=place),
        option("--preset", says="whose recognisers, P's and test pictures (default: imagenet_lite for --pictures, of blind "
               "imagenette; else digits)",
               default=""),
        option("--task", says="of the preset's own test pictures: sr, dn, jpeg or blind (default: the manifest's)", default=""),
        option("--strength", says="factor, sigma or quality (default: the preset's)", type=float, default=-1.0),
        data(without="--pictures"),
        option("--count", says="only so many of the preset's test pictures: the first; of a set sorted by class evenly spaced "
               "ones; 0: all", least=0, default=0, without="--pictures"),
        option("--readers", says="recognisers (default: the preset's)", nargs="+", default=[], metavar="R"),
        option("--sources", says="recognisers that the folders' restorers, or your own P, had in their losses (default: none)",
               nargs="+", default=[], metavar="R"),
        option("--reference", says="what the others are compared with (default: none, no processing; without degraded "
               "pictures the first folder; of --beside its own)", default=""),
        option("--beside", says="a kept judgement, OUT.npz, that the restorers join: its own need no second reading "
               "(default: none)", type=place),
        option("--at-least", says="points that each restorer named must gain over the reference, by its whole interval, for "
               "the mean recogniser that none had in its loss; else the status is 1 (default: no demand)", type=float),
        option("-o", "--out", says="the files OUT.csv, .png, .html and .npz", type=place, default=shared() / "judgement"),
        JOBS, DEVICE,
    ]),
    "report": Command("rastudy.report.html:report_command", "Write everything found to one HTML file.", lambda: [
        preset([], "the studies", nargs="*"),
        option(
            "--data",
            says="folder of the pictures of the one study named, for its gallery (default: none)",
            default="",
            without="--readme",
        ),
        option("-o", "--output", says="the HTML file", type=place, default=shared() / "report.html", without="--readme"),
        flag("--readme", says="rewrite the record's figures, README and results/RESULTS.md instead"),
    ]),
    "doctor": Command("rastudy.tools.doctor:doctor_command", "Check what this machine has and lacks.", lambda: [
        option("--data", says="a folder to look into: CIFAR-10, or photographs (default: none)", default=""),
    ]),
    "benchmark": Command("rastudy.tools.benchmark:benchmark_command", "Measure how fast this machine runs the study.", lambda: [
        option("--part", says="some of step, evaluation, input, boundaries (default: all)", nargs="*", default=[]),
        option("--rounds", says="timed rounds", least=1, default=5),
        option("--threads", says="threads", least=1, default=CORES),
    ]),
    "recognisers": Command("rastudy.training.fit_classifiers:recognisers_command", "Train the small recognisers.", lambda: [
        option("--preset", says="the data: digits, cifar10, half of either (digits_first, ...), or scenes for the detectors",
               default="digits"),
        option("--arch", says="which recognisers (default: the five; of scenes both detectors)", nargs="*", default=[]),
        DATA,
        option("--seed", says="written to <arch>_seed<S>.safetensors if not 0", least=0, default=0, without="--adapt-to"),
        flag("--untrained", says="initial weights, a control: written to <arch>_untrained.safetensors", without="--adapt-to"),
        option("--adapt-to", says="none or plain: fine-tune on pictures that this mode's seed-0 run gives (default: clean "
               "pictures)", default=""),
        flag("--again", says="train those, too, whose weights are there: over the file, in the package"),
        option("--task", says="with --adapt-to: sr, dn or jpeg (default: none)", default="", needs="--adapt-to"),
        option("--strength", says="with --adapt-to (default: the task's first)", type=float, default=-1.0, needs="--adapt-to"),
    ], native=True),
    "difficulty": Command("rastudy.tools.difficulty:difficulty_command",
                          "Search for degradation strengths as hard as the paper's.", list, native=True),
    "convert": Command("rastudy.tools.release_weights:convert_command", "Convert the authors' weights.", lambda: [
        option("file", says="a weight file of the authors' release, such as model_sr_epoch_5.pth", type=place),
        TASK,
        option("--mode", says="how it was trained: plain, ra, ra_transformer or ra_unsupervised", required=True),
        option("--part", says="processor, or transformer for the release's model_transformer", default="processor"),
        option("--out", says="written as OUT.processor.safetensors", type=place, required=True),
    ]),
    "cache": Command("rastudy.data.photo_cache:cache_command", "Decode photographs ahead of training.", lambda: [
        option("--data", says="folder of photographs: with train/ and val/, or class folders", required=True),
        option("--part", says="train, val (default: whichever exist)", nargs="*", default=[]),
        option("--resize", says="the shorter side in pixels", least=1, default=256),
        option("--cache-dir", says="where caches lie (default: runs/cache)", default=""),
        option("--workers", says="processes", least=1, default=CORES),
        SKIP,
        flag("--verify", says="verify every checksum"),
        flag("--rebuild", says="rebuild what is stale or damaged"),
    ]),
    "voc": Command("rastudy.transfer.voc:voc_command", "Evaluate detectors on PASCAL VOC restored by P.", lambda: [
        option("--processor", says="P's safetensors file, as training wrote it", type=place, required=True),
        option("--data", says="the folder that holds VOCdevkit/VOC2007", type=place, required=True),
        option("--detector", says="torchvision's detectors with COCO weights", nargs="*",
               default=["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn"]),
        option("--split", says="train, val, trainval or test", default="test"),
        option("--out", says="also write the rows to this CSV (default: none)", type=place),
    ]),
}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """Abbreviations are off; an unknown option suggests the nearest one."""

    def __init__(self, prog: str, **settings: Any):
        super().__init__(prog, f"{prog} [options]", allow_abbrev=False, **settings)

    def check_options(self, words: Sequence[str]) -> None:
        known = self._option_string_actions
        for name in (word.partition("=")[0] for word in words):
            if name.startswith("--") and name not in known:
                near = difflib.get_close_matches(name, known, 1)
                self.error(f"unknown option {name}" + (f"; did you mean {near[0]}?" if near else ""))

    def check_effects(self, options: argparse.Namespace, rules: dict[str, list[list[str]]]) -> None:
        """Refuse what was given without an option that it needs, or beside one that leaves it no effect."""
        actions = self._option_string_actions
        given = {name for name, one in actions.items() if getattr(options, one.dest, one.default) != one.default}
        for name in given & rules.keys():
            needs, without = rules[name]
            if needs and not given & {*needs}:
                raise StudyError(f"{name} has no effect without {' or '.join(needs)}; leave it out, or add that")
            if beside := given & {*without}:
                raise StudyError(f"{name} has no effect beside {min(beside)}; leave one of them out")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see {self.prog} --help)\n")


def parse(arguments: Sequence[str]) -> tuple[Command, argparse.Namespace]:
    """The command and its options; exits with status 2 if they cannot be used."""
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:{width}}  {command.says}" for name, command in COMMANDS.items())
    about = f"Recognition-aware image processing: a study that you can run.\n\n{listing}"
    top = Parser("rastudy COMMAND", formatter_class=argparse.RawDescriptionHelpFormatter, description=about,
                 epilog="rastudy COMMAND --help shows a command's options.")  # fmt: skip
    if not arguments or arguments[0] in ("-h", "--help"):
        top.parse_args(["--help"])
    name = arguments[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(COMMANDS)}"
        top.error(f"unknown command {name!r}; {hint}")
    command = COMMANDS[name]
    parser, rules = Parser(f"rastudy {name}", description=command.says), {}
    for names, settings in command.options():
        rules[names[-1]] = [settings.pop(kind, "").split() for kind in NO_EFFECT]
        parser.add_argument(*names, **settings)
    parser.check_options(arguments[1:])
    options = parser.parse_args(arguments[1:])
    parser.check_effects(options, rules)
    return command, options


@contextlib.contextmanager
def arithmetic_of(command: Command, options: argparse.Namespace) -> Iterator[None]:
    """The CPU's own instructions for every study but those whose preset asks for portable sums."""
    named = getattr(options, "preset", [])
    presets = [PRESETS.get(name, {}) for name in ([named] if isinstance(named, str) else named)]
    portable = not command.native and any(preset.get("portable") for preset in presets)
    before = dict(os.environ)
    if not portable:
        use_native()
    try:
        yield
    finally:
        for name in ("RASTUDY_ARITHMETIC", *PORTABLE):
            if name in before:
                os.environ[name] = before[name]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status: 0, 1 (something failed), 2 (unusable input), 130 (Ctrl-C), 141 (closed pipe)."""
    for stream in (sys.stdout, sys.stderr):  # file names may hold what no encoding knows
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        command, options = parse(sys.argv[1:] if arguments is None else arguments)
        with arithmetic_of(command, options), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_others: print(f"warning: {message}", file=sys.stderr)
            if not (is_checkout() or os.environ.get("RASTUDY_ROOT")):
                print(f"results/ and runs/ are in {root()}; RASTUDY_ROOT=DIR names another place", file=sys.stderr)
            status = resolve(command.run)(options) or 0
        sys.stdout.flush()
        return status
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever reads our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        print(f"error: {told(error)}", file=sys.stderr)
        return 2


def run() -> NoReturn:
    """The console script; after an interruption it ends at once, for threads may still wait for kernels that are gone."""
    status = main()
    if status in (130, 143):
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
