"""Recognisers that are seen only through their answers: a command, a web service, a function.

Nothing is sent anywhere unless the user names the address.
"""

import csv
import hashlib
import importlib
import importlib.util
import io
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from rastudy.data.degradations import to_uint8
from rastudy.data.imagenet import wnids
from rastudy.errors import StudyError
from rastudy.models.weight_files import sha256, source_version
from rastudy.paths import expand, read_json, shared, write_json
from rastudy.registry import BLACK_BOXES, names_in

ENLARGED = 8  # times: text recognition expects characters of some 30 pixels and more


class Answer(NamedTuple):
    """A label as the black box names it, and its score, higher for surer."""

    label: str
    score: float


def answer(label: object, score: Any) -> Answer:
    """What a function or a service gave; ValueError or TypeError where the score is no finite number."""
    if not math.isfinite(float(score)):
        raise ValueError(f"the score of {label!r} is {score}")
    return Answer(str(label), float(score))


class BlackBox:
    """``version`` says which model answered, as far as one can know; ``keeps``: an answer that it gave costs no second call."""

    name: str
    version: str
    keeps = False

    def predict(self, files: Sequence[Path]) -> list[list[Answer]]:
        """Each picture's labels with scores, best first; empty where it sees nothing."""
        return [self._answer(file) for file in files]

    def _answer(self, file: Path) -> list[Answer]:
        raise NotImplementedError

    def unanswered(self, files: Sequence[Path]) -> int:
        """How many calls the answers for these files would cost."""
        return len(files)


def _surest_first(answer: Answer) -> float:
    return -answer.score


class Function(BlackBox):
    """A Python function ``module:function`` that takes a list of paths and gives a list of (label, score) pairs for each."""

    def __init__(self, spec: str):
        module, _, function = spec.partition(":")
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        try:
            self.function: Callable = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise StudyError(f"black box function:{spec} cannot be imported from {Path.cwd()}: {error}") from error
        self.name, self.version = function, source_version(module) or "function"

    def predict(self, files: Sequence[Path]) -> list[list[Answer]]:
        try:
            found = list(self.function(list(files)))
        except Exception as error:  # the user's own code may raise anything
            raise StudyError(f"black box {self.name} raised {type(error).__name__}: {error}") from error
        if len(found) != len(files):
            raise StudyError(f"black box {self.name} gave {len(found)} answers to {len(files)} pictures")
        try:
            answers = [[answer(label, score) for label, score in one] for one in found]
        except (TypeError, ValueError) as error:
            raise StudyError(f"black box {self.name} must give (label, score) pairs for each picture: {error}") from error
        return [sorted(one, key=_surest_first) for one in answers]


class Tesseract(BlackBox):
    """The text recognition of the system's package ``tesseract-ocr``: one digit per picture.

    Pictures are enlarged, and read in one call per batch.
    """

    def __init__(self, command: str = "tesseract"):
        self.command = shutil.which(command) or ""
        if not self.command:
            raise StudyError(f"black box {command}: no such command; install it (apt install tesseract-ocr) or name another")
        shown = subprocess.run([self.command, "--version"], capture_output=True, text=True).stdout
        self.name, self.version = "tesseract", shown.split("\n")[0].removeprefix("tesseract ").strip()

    def predict(self, files: Sequence[Path]) -> list[list[Answer]]:
        with tempfile.TemporaryDirectory() as place:
            pages = [Path(place) / f"{k}.png" for k in range(len(files))]
            for file, page in zip(files, pages, strict=True):
                picture = Image.open(file).convert("L")
                size = (ENLARGED * picture.width, ENLARGED * picture.height)
                picture.resize(size, Image.Resampling.BICUBIC).save(page)
            listed = Path(place) / "pages.txt"
            listed.write_text("".join(f"{page}\n" for page in pages))
            options = ["--psm", "10", "--dpi", "300", "-c", "tessedit_char_whitelist=0123456789", "tsv"]
            command = [self.command, str(listed), "stdout", *options]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_THREAD_LIMIT": "1"})
        if done.returncode:
            raise StudyError(f"{self.command} ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
        answers: list[list[Answer]] = [[] for _ in files]
        for row in csv.DictReader(io.StringIO(done.stdout), delimiter="\t", quoting=csv.QUOTE_NONE):
            text = (row.get("text") or "").strip()
            if text:  # the first of several characters
                answers[int(row["page_num"]) - 1].append(Answer(text[0], float(row["conf"])))
        return [sorted(found, key=_surest_first) for found in answers]


class RapidOCR(BlackBox):
    """PP-OCRv6's recogniser of text lines (``rapidocr``'s wheel): one character per picture, a digit.

    The score of a digit is the probability, summed over all alignments, that the line reads that digit and nothing else.
    """

    SIDE, BLANK = 48, 0

    def __init__(self):
        spec = importlib.util.find_spec("rapidocr")
        try:
            import onnxruntime
        except ImportError:
            spec = None
        if spec is None or spec.origin is None:
            raise StudyError("black box rapidocr needs the packages rapidocr and onnxruntime; pip install -e '.[transfer]'")
        file = Path(spec.origin).parent / "models" / "PP-OCRv6_rec_small.onnx"
        if not file.is_file():
            raise StudyError(f"{file}: no such model; black box rapidocr reads that of rapidocr 3.10.0")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.net = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        characters = self.net.get_modelmeta().custom_metadata_map["character"].splitlines()
        self.digits = [1 + characters.index(str(k)) for k in range(10)]  # the blank is before all characters
        self.name, self.version = "rapidocr", f"{file.stem}:{sha256(file)[:8]}"

    def predict(self, files: Sequence[Path]) -> list[list[Answer]]:
        pictures = []
        for file in files:
            with Image.open(file) as picture:
                line = picture.convert("RGB").resize((self.SIDE, self.SIDE), Image.Resampling.BILINEAR)
            pictures.append(np.asarray(line)[..., ::-1].transpose(2, 0, 1) / np.float32(127.5) - 1)
        (frames,) = self.net.run(None, {self.net.get_inputs()[0].name: np.stack(pictures).astype(np.float32)})
        scores = one_character(frames[..., self.digits].astype(np.float64), frames[..., self.BLANK].astype(np.float64))
        return [sorted((Answer(str(k), float(p)) for k, p in enumerate(row)), key=_surest_first) for row in scores]


def one_character(digits: np.ndarray, blank: np.ndarray) -> np.ndarray:
    """Probabilities (N, K) that a line's frames read blanks, one character, blanks.

    Args:
        digits: (N, T, K) probabilities of each character by frame; blank: (N, T).
    """
    before, inside = np.ones(len(digits)), np.zeros(digits.shape[::2])
    after = np.zeros_like(inside)
    for t in range(digits.shape[1]):
        after = (after + inside) * blank[:, t, None]
        inside = (inside + before[:, None]) * digits[:, t]
        before = before * blank[:, t]
    return inside + after


class LiteRT(BlackBox):
    """A classifier of ImageNet in a ``.tflite`` file, 8-bit red, green and blue in: its classes are named by wnid.

    Pictures are resized to its input. Of 1,001 outputs the first is "background", an answer like any other.

    Raises:
        StudyError: ai-edge-litert is not installed, no such file, or a model of other inputs or outputs.
    """

    FETCH = "https://github.com/google-coral/test_data has mobilenet_v2_1.0_224_quant.tflite and others"

    def __init__(self, file: Path):
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise StudyError(f"black box litert:{file} needs ai-edge-litert; pip install -e '.[transfer]'") from error
        if not file.is_file():
            raise StudyError(f"{file}: no such model; {self.FETCH}; put it there, or name its place: litert:FILE")
        try:
            self.net = Interpreter(str(file), num_threads=1)
            self.net.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise StudyError(f"{file}: not a model that LiteRT runs ({str(error).splitlines()[0]})") from error
        (takes, *others), (gives, *more) = self.net.get_input_details(), self.net.get_output_details()
        shapes, self.names = (tuple(takes["shape"].tolist()), tuple(gives["shape"].tolist())), wnids()
        self.background = shapes[1][-1:] == (len(self.names) + 1,)
        if others or more or takes["dtype"] != np.uint8 or len(shapes[0]) != 4 or shapes[0][::3] != (1, 3) or (
            shapes[1] not in ((1, len(self.names)), (1, len(self.names) + 1))
        ):  # fmt: skip
            raise StudyError(
                f"{file}: takes {np.dtype(takes['dtype']).name} {shapes[0]}, gives {shapes[1]}; a reader of photographs takes "
                "uint8 (1, height, width, 3), gives a score for each of ImageNet's 1,000 classes, or 1,001 with a background"
            )
        self.size, self.places = shapes[0][2:0:-1], (takes["index"], gives["index"])
        self.name, self.version = file.stem, sha256(file)[:8]

    def _answer(self, file: Path) -> list[Answer]:
        with Image.open(file) as picture:
            sized = picture.convert("RGB").resize(self.size, Image.Resampling.BILINEAR)
        self.net.set_tensor(self.places[0], np.asarray(sized)[None])
        self.net.invoke()
        scores = self.net.get_tensor(self.places[1])[0]
        names = ("background", *self.names) if self.background else self.names
        return [Answer(names[k], float(scores[k])) for k in np.argsort(scores, kind="stable")[::-1][:5]]


# what a service's JSON file may hold, with the defaults
SERVICE: dict[str, Any] = {
    "url": "",  # its address; the pictures go there and nowhere else
    "key_env": "",  # the environment variable that holds the key
    "header": "Authorization",  # the HTTP header that carries the key
    "prefix": "Bearer ",  # in front of the key
    "picture": "image",  # the request's field for the PNG file in base64
    "fields": {},  # the request's other fields
    "answers": "predictions",  # the answer's field with the list of labels; a.b is b inside a
    "label": "label",  # an item's field with the label
    "score": "score",  # an item's field with the score
    "labels": {},  # from the service's labels to the study's classes, {"zero": "0"}; labels not listed keep their name
    "timeout": 30,  # seconds
    "retries": 4,  # after an error, after 1, 2, 4, ... seconds or as long as the service asks for
    "per_second": 2,  # calls a second at most
    "max_calls": 1000,  # calls a session at most, retries included
}


class Service(BlackBox):
    """An HTTP service that answers JSON with JSON. Answers are kept on disk, so that a rerun costs nothing.

    Args:
        file: a JSON file with ``url`` and those fields of ``SERVICE`` that differ from their defaults.

    Raises:
        StudyError: an unusable file, or a key that the environment lacks.
    """

    keeps = True

    def __init__(self, file: Path):
        self.settings, self.name, self.calls = read_settings(file), file.stem, 0
        asks = {name: self.settings[name] for name in ("url", "picture", "fields", "answers", "label", "score")}
        digest = lambda what: hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]  # noqa: E731
        self.cache = shared() / "blackbox" / f"{self.name}-{digest(asks)}"  # paid for, whatever the labels are called
        self.version = digest(asks | {"labels": self.settings["labels"]}) if self.settings["labels"] else digest(asks)
        self._next = 0.0

    def unanswered(self, files: Sequence[Path]) -> int:
        return len({place for file in files if not (place := self._place(file)).is_file()})

    def _place(self, file: Path) -> Path:
        return self.cache / f"{hashlib.sha256(file.read_bytes()).hexdigest()}.json"

    def _answer(self, file: Path) -> list[Answer]:
        place, names = self._place(file), self.settings["labels"]
        if not place.is_file():
            write_json(place, {"answers": self._parse(self._ask(file))})
        return [Answer(names.get(label, label), score) for label, score in read_json(place)["answers"]]

    def _ask(self, file: Path) -> bytes:
        """What the service answers to one call, with its retries."""
        try:
            import urllib3
        except ImportError as error:
            raise StudyError("a service needs urllib3; pip install -e '.[transfer]'") from error
        settings, headers = self.settings, {"Content-Type": "application/json"}
        if settings["key_env"]:
            headers[settings["header"]] = settings["prefix"] + os.environ[settings["key_env"]]
        left = settings["max_calls"] - self.calls
        if left <= 0:
            raise StudyError(
                f"{self.name}: its {settings['max_calls']} calls are used up (max_calls); the answers so far are kept in "
                f"{self.cache}; the same command goes on from there"
            )
        body = json.dumps(settings["fields"] | {settings["picture"]: b64encode(file.read_bytes()).decode()})
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._next = time.monotonic() + 1 / settings["per_second"]
        retries = urllib3.Retry(
            total=min(settings["retries"], left - 1), backoff_factor=1, allowed_methods=None, raise_on_status=False,
            status_forcelist=(408, 425, 429, 500, 502, 503, 504), redirect=False,
        )  # fmt: skip
        try:
            others = {"timeout": settings["timeout"], "retries": retries}
            answer = urllib3.request("POST", settings["url"], body=body, headers=headers, **others)
        except urllib3.exceptions.HTTPError as error:
            self.calls += retries.total + 1
            raise StudyError(f"{self.name}: {settings['url']} does not answer ({type(error).__name__})") from error
        self.calls += 1 + len(answer.retries.history)
        if answer.status != 200:
            shown = answer.data[:200].decode(errors="replace")
            raise StudyError(f"{self.name}: {settings['url']} answers with status {answer.status}: {shown}")
        return answer.data

    def _parse(self, data: bytes) -> list[Answer]:
        """The answers in a service's JSON, best first."""
        settings = self.settings
        try:
            found = json.loads(data)
            for name in filter(None, settings["answers"].split(".")):
                found = found[name]
            answers = [answer(one[settings["label"]], one[settings["score"]]) for one in found]
        except (ValueError, TypeError, KeyError, IndexError) as error:
            problem = f"{type(error).__name__}: {error}): {data[:200].decode(errors='replace')}"
            raise StudyError(f"{self.name}: its answer does not fit the fields answers, label and score ({problem}") from error
        return sorted(answers, key=_surest_first)


def read_settings(file: Path) -> dict:
    """A service's settings with the defaults filled in; StudyError for settings that cannot be used."""
    if not file.is_file():
        others = {name: value for name, value in SERVICE.items() if name != "url"}
        raise StudyError(f"{file}: no such file; write a JSON file there, with the field url and what differs from {others}")
    try:
        given = json.loads(file.read_text())
    except ValueError as error:
        raise StudyError(f"{file}: not JSON ({error})") from error
    if not isinstance(given, dict) or not str(given.get("url", "")).startswith(("http://", "https://")):
        raise StudyError(f"{file}: needs the field url, an address that begins with http:// or https://")
    for name, value in given.items():
        if name not in SERVICE:
            raise StudyError(f"{file}: the field {name!r} is unknown; use {', '.join(SERVICE)}")
        kind = (int, float) if isinstance(SERVICE[name], int) else type(SERVICE[name])
        if not isinstance(value, kind) or isinstance(value, bool):
            raise StudyError(f"{file}: {name}={value!r} is a {type(value).__name__}, not like {SERVICE[name]!r}")
    settings = SERVICE | given
    for name in ("timeout", "per_second", "max_calls"):
        if settings[name] <= 0:
            raise StudyError(f"{file}: {name}={settings[name]} must be above 0")
    if settings["key_env"] and settings["key_env"] not in os.environ:
        raise StudyError(f"{file}: the environment has no variable {settings['key_env']}, which key_env names for the key")
    return settings


ALONE: dict[str, Callable[[], BlackBox]] = {"rapidocr": RapidOCR, "tesseract": Tesseract}  # named by their kind alone
OF_FILES: dict[str, Callable[[Path], BlackBox]] = {"litert": LiteRT, "service": Service}


def open_black_box(spec: str) -> BlackBox:
    """``rapidocr``, ``tesseract``, ``litert:FILE.tflite``, ``service:FILE.json`` or ``function:MODULE:NAME``.

    Raises:
        StudyError: anything else, or what the black box lacks here.
    """
    kind, _, rest = spec.partition(":")
    if kind in ALONE and not rest:
        return ALONE[kind]()
    if kind in OF_FILES and rest:
        return OF_FILES[kind](expand(rest))
    if kind == "function" and rest:
        return Function(rest)
    raise StudyError(f"black_box={spec!r} is unknown; use {BLACK_BOXES}")


def is_black_box(spec: str) -> bool:
    return spec.partition(":")[0] in (*ALONE, *OF_FILES, "function")


def processes(jobs: int, specs: Iterable[str]) -> int:
    """How many processes may read with these recognisers: one with a service among them, since one counts its calls."""
    return 1 if any(name.startswith("service:") for spec in specs for name in names_in(spec)) else jobs


class Asked(nn.Module):
    """A black box where a recogniser is expected: pictures (N, 3, H, W) in [0, 1] to scores (N, K + 1).

    It gets each picture as a PNG file. The last column is "none of the classes": no answer, or a label that is no class, counts
    as misclassified. ``unknown`` counts such labels. ``counting``: answer nothing and count in ``to_ask`` how many calls the
    pictures would cost.
    """

    def __init__(self, box: BlackBox, classes: Sequence[str], counting: bool = False):
        super().__init__()
        self.box, self.classes, self.counting = box, {name: k for k, name in enumerate(classes)}, counting
        self.name, self.weights, self.unknown, self.to_ask = box.name, box.version, Counter[str](), 0
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        none = len(self.classes)
        scores = torch.zeros(len(pictures), none + 1)
        with tempfile.TemporaryDirectory() as place:
            files = [Path(place) / f"{k}.png" for k in range(len(pictures))]
            for picture, file in zip(pictures, files, strict=True):
                Image.fromarray(to_uint8(picture.cpu())).save(file)
            if self.counting:
                self.to_ask += self.box.unanswered(files)
                return scores
            for row, answers in zip(scores, self.box.predict(files), strict=True):
                label = answers[0].label if answers else ""
                if answers and label not in self.classes:
                    self.unknown[label] += 1
                row[self.classes.get(label, none)] = 1
        return scores
