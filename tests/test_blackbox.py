"""Black boxes: a command, a function, and a web service that is slow, errs, limits its rate and answers nonsense."""

import importlib.util
import itertools
import json
import shutil
import sys
import tempfile
import threading
import time
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from rastudy.data import digits
from rastudy.data.imagenet import wnids
from rastudy.errors import StudyError
from rastudy.transfer import black_box as blackbox
from rastudy.transfer.black_box import Answer, Asked, Function, Service, Tesseract, open_black_box, processes
from rastudy.transfer.directions import variants

GOOD = {"predictions": [{"label": "a", "score": 0.2}, {"label": "b", "score": 0.7}]}


class Server(ThreadingHTTPServer):
    """Answers requests from a script of (status, JSON or bytes, headers, seconds); afterwards GOOD."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.seen = [], []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append((time.monotonic(), dict(self.headers), json.loads(body)))
        status, answer, headers, seconds = self.server.script.pop(0) if self.server.script else (200, GOOD, {}, 0)
        time.sleep(seconds)
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as one:
        yield one
        one.shutdown()


@pytest.fixture
def files(tmp_path) -> list[Path]:
    paths = [tmp_path / f"{k}.png" for k in range(3)]
    for k, path in enumerate(paths):
        Image.new("RGB", (8, 8), (k, 0, 0)).save(path)
    return paths


@pytest.fixture
def service(server, tmp_path, study_root, monkeypatch):
    """Makes a service of the local server."""
    monkeypatch.setenv("no_proxy", "*")

    def make(**settings) -> Service:
        given = {"url": f"http://127.0.0.1:{server.server_port}/read", "per_second": 1000, "timeout": 5} | settings
        (tmp_path / "mine.json").write_text(json.dumps(given))
        return Service(tmp_path / "mine.json")

    return make


# --- a service


def test_a_service_answers(service, server, files):
    """The picture goes there as it is on disk; answers come best first, renamed into the study's classes."""
    found = service(labels={"b": "3"}, fields={"model": "large"}).predict(files[:1])
    assert found == [[Answer("3", 0.7), Answer("a", 0.2)]]
    ((_, _, asked),) = server.seen
    assert asked["model"] == "large" and b64decode(asked["image"]) == files[0].read_bytes()


def test_mended_labels_are_another_reader(service):
    """But its answers, which were paid for, are the same."""
    one, other = service(), service(labels={"b": "3"})
    assert one.version != other.version and one.cache == other.cache


def test_two_black_boxes_of_one_name_are_refused():
    """As variants they would overwrite each other."""
    boxes = "function:one:predict,function:other:predict"
    with pytest.raises(StudyError, match="two black boxes would both be called 'predict'"):
        variants("smoke", "black_box", boxes)
    names = [variant.name for variant in variants("smoke", "black_box", "litert:a/one.tflite,service:b/two.json,rapidocr")]
    assert names == ["one", "two", "rapidocr"]


def test_one_process_asks_a_service():
    """Whatever it is named with."""
    assert processes(4, ["rapidocr", "tesseract"]) == 4
    for several in (["rapidocr", "service:a.json"], ["rapidocr, service:a.json"]):  # wherever the comma stands
        assert processes(4, several) == 1


def test_answers_are_kept(service, server, files):
    """A rerun costs nothing, for the same picture under another name, too; other fields are other questions."""
    one = service()
    assert one.unanswered(files) == 3
    first = one.predict(files)
    copy = files[0].with_name("copy.png")
    shutil.copy(files[0], copy)
    again = service()
    assert again.unanswered([*files, copy]) == 0 and again.predict([*files, copy]) == [*first, first[0]]
    assert len(server.seen) == 3 and again.calls == 0
    assert service(fields={"model": "other"}).unanswered(files) == 3


def test_errors_are_tried_again(service, server, files):
    """After a pause, as long as the service asks for; each try counts as a call."""
    server.script = [(500, b"oops", {}, 0), (429, b"slow down", {"Retry-After": "1"}, 0)]
    one = service()
    assert one.predict(files[:1])[0][0].label == "b" and one.calls == 3
    times = [when for when, _, _ in server.seen]
    assert times[2] - times[1] >= 1


def test_the_rate_is_kept(service, server, files):
    service(per_second=5).predict(files)
    times = [when for when, _, _ in server.seen]
    assert min(np.diff(times)) > 0.15


def test_no_call_beyond_the_cap(service, server, files):
    """Retries included; what was answered is kept, and the next session goes on from there."""
    server.script = [(500, b"", {}, 0)]
    with pytest.raises(StudyError, match=r"mine: its 3 calls are used up \(max_calls\); the answers so far are kept in"):
        service(max_calls=3).predict(files)
    assert len(server.seen) == 3
    assert len(service(max_calls=1).predict(files)) == 3 and len(server.seen) == 4


@pytest.mark.parametrize(
    ("answer", "message"),
    [((200, b"<html>", {}, 0), "does not fit the fields"), ((200, {"error": 1}, {}, 0), "KeyError: 'predictions'"),
     ((200, {"predictions": [{"label": "a"}]}, {}, 0), "KeyError: 'score'"), ((200, [1], {}, 0), "does not fit"),
     ((200, {"predictions": [{"label": "a", "score": "high"}]}, {}, 0), "could not convert"),
     ((403, b"no key", {}, 0), "answers with status 403: no key"), ((302, b"", {"Location": "/else"}, 0), "status 302")],
)  # fmt: skip
def test_nonsense_is_an_error(service, server, files, answer, message):
    """Named, and not kept: the next try asks again."""
    server.script = [answer]
    with pytest.raises(StudyError, match=message):
        service().predict(files[:1])
    assert service().predict(files[:1])[0][0].label == "b"


def test_a_service_that_never_answers(service, server, files):
    server.script = [(200, GOOD, {}, 1)] * 2
    started = time.monotonic()
    with pytest.raises(StudyError, match="does not answer"):
        service(timeout=0.2, retries=1).predict(files[:1])
    assert time.monotonic() - started < 5 and len(server.seen) == 2


def test_nobody_at_the_address(service, files):
    with pytest.raises(StudyError, match=r"http://127.0.0.1:9/x does not answer"):
        service(url="http://127.0.0.1:9/x", retries=0).predict(files[:1])


def test_the_key_stays_in_the_environment(service, server, files, study_root, monkeypatch):
    """It goes to the service and into no file and no message."""
    monkeypatch.setenv("MY_KEY", "s3cret")
    server.script = [(200, GOOD, {}, 0), (403, b"bad", {}, 0)]
    one = service(key_env="MY_KEY")
    one.predict(files[:1])
    assert server.seen[0][1]["Authorization"] == "Bearer s3cret"
    with pytest.raises(StudyError) as error:
        one.predict(files[1:2])
    assert "s3cret" not in str(error.value)
    kept = [path for path in study_root.rglob("*") if path.is_file()]
    assert kept and not [path for path in kept if b"s3cret" in path.read_bytes()]


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not JSON"), ("[]", "needs the field url"), ('{"url": "ftp://x"}', "begins with http"),
     ('{"url": "http://x", "ulr": 1}', "'ulr' is unknown; use url"),
     ('{"url": "http://x", "timeout": "1"}', "timeout='1' is a str"),
     ('{"url": "http://x", "per_second": 0}', "per_second=0 must be above 0"),
     ('{"url": "http://x", "key_env": "NOT_THERE"}', "no variable NOT_THERE")],
)  # fmt: skip
def test_unusable_settings(tmp_path, text, message):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(StudyError, match=message):
        Service(tmp_path / "s.json")


# --- which one


@pytest.mark.parametrize("spec", ["tess", "service:", "function:", "https://somewhere", "tesseract:x", "rapidocr:x"])
def test_unknown_black_boxes(spec):
    with pytest.raises(StudyError, match="use rapidocr, tesseract, litert:FILE.tflite, service:FILE.json or function"):
        open_black_box(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [("service:nowhere.json", "no such file"), ("function:no_module:f", "cannot be imported"),
     ("function:json:nothing", "cannot be imported"), ("function:json", "cannot be imported")],
)  # fmt: skip
def test_missing_black_boxes(spec, message):
    with pytest.raises(StudyError, match=message):
        open_black_box(spec)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "gave 0 answers to 1 pictures"),
        ([[("a",)]], "pairs"),
        ([[("a", "x")]], "pairs"),
        ([3], "pairs"),
        ([[("a", float("nan"))]], "score of 'a' is nan"),
        ([[("a", 1.0), ("b", float("inf"))]], "score of 'b' is inf"),
    ],
)
def test_functions_must_answer(files, monkeypatch, answers, message):
    module = type(sys)("boxes")
    module.give = lambda _files: answers
    monkeypatch.setitem(sys.modules, "boxes", module)
    with pytest.raises(StudyError, match=message):
        Function("boxes:give").predict(files[:1])


# --- as a recogniser


class Says:
    """Answers what it was told to."""

    name, version = "says", "1"

    def __init__(self, *answers):
        self.answers, self.seen = answers, []

    def predict(self, files):
        self.seen += [np.asarray(Image.open(file)) for file in files]
        return list(self.answers)

    def unanswered(self, files):
        return len(files)


def test_what_it_cannot_name_is_wrong():
    """No answer and an unknown label fall into a class of their own, which no picture has."""
    box = Says([Answer("1", 0.9)], [], [Answer("one", 0.9), Answer("1", 0.1)])
    asked = Asked(box, ("0", "1"))
    pictures = torch.rand(3, 3, 4, 4)
    assert asked(pictures).argmax(1).tolist() == [1, 2, 2] and asked.unknown == {"one": 1}
    assert (box.seen[0] == (pictures[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()).all()


def test_counting_asks_nobody():
    box = Says()
    asked = Asked(box, ("0", "1"), counting=True)
    assert asked(torch.rand(5, 3, 4, 4)).shape == (5, 3) and asked.to_ask == 5 and not box.seen


# --- Tesseract


@pytest.mark.skipif(not shutil.which("tesseract"), reason="tesseract-ocr is not installed")
def test_tesseract_reads_print(tmp_path):
    """Large printed digits, all in one call; a blank picture has no answer. So its floor on ours is the pictures'."""

    paths = []
    for digit in ("7", "4", ""):
        picture = Image.new("RGB", (32, 32), "white")
        ImageDraw.Draw(picture).text((9, 2), digit, "black", ImageFont.load_default(24))
        picture.save(tmp_path / f"{digit or 'blank'}.png")
        paths.append(tmp_path / f"{digit or 'blank'}.png")
    box = Tesseract()
    found = box.predict(paths)
    assert [one[0].label if one else "" for one in found] == ["7", "4", ""]
    assert box.version[0].isdigit() and blackbox.is_black_box("tesseract")
    pictures, _, _ = digits.render("test", 3)
    for k, picture in enumerate(pictures):
        Image.fromarray(picture).save(paths[k])
    assert all(answer.label in "0123456789" for one in box.predict(paths) for answer in one)


def test_the_probability_of_one_character():
    """That of all alignments which are blanks, the character once or more in a row, blanks."""
    rng = np.random.default_rng(0)
    frames = rng.random((2, 4, 3))  # N, T, blank and two characters
    found = blackbox.one_character(frames[..., 1:], frames[..., 0])
    for n, k in itertools.product(range(2), (1, 2)):
        paths = [path for path in itertools.product((0, k), repeat=4)
                 if [symbol for symbol, _ in itertools.groupby(path)].count(k) == 1]  # fmt: skip
        assert found[n, k - 1] == pytest.approx(sum(frames[n, range(4), path].prod() for path in paths))


def test_rapidocr_reads_digits():
    """A printed one, and most of the study's own clean pictures; a digit is its only answer."""
    pytest.importorskip("rapidocr")
    pytest.importorskip("onnxruntime")
    box, (pictures, labels, _) = blackbox.open_black_box("rapidocr"), digits.render("test", 60)
    with tempfile.TemporaryDirectory() as place:
        paths = [Path(place) / f"{k}.png" for k in range(61)]
        for picture, path in zip(pictures, paths, strict=False):
            Image.fromarray(picture).save(path)
        printed = Image.new("RGB", (32, 32), "white")
        ImageDraw.Draw(printed).text((9, 2), "7", "black", ImageFont.load_default(24))
        printed.save(paths[-1])
        found = box.predict(paths)
    assert found[-1][0].label == "7" and {answer.label for one in found for answer in one} == set("0123456789")
    assert np.mean([one[0].label == str(label) for one, label in zip(found, labels, strict=False)]) > 0.7
    assert box.version.startswith("PP-OCRv6_rec_small:")


class Interpreter:
    """LiteRT's, of a model that answers with the mean of red for class 3 and of blue for the background."""

    takes, kind, gives = (1, 20, 24, 3), np.uint8, (1, 1001)

    def __init__(self, path, num_threads):
        if Path(path).read_bytes() == b"damaged":
            raise ValueError("Model provided has model identifier 'dama', should be 'TFL3'")

    def allocate_tensors(self):
        pass

    def get_input_details(self):
        return [{"shape": np.array(self.takes), "dtype": self.kind, "index": 0}]

    def get_output_details(self):
        return [{"shape": np.array(self.gives), "index": 1}]

    def set_tensor(self, _, pictures):
        assert pictures.shape == self.takes and pictures.dtype == self.kind
        self.scores = np.zeros(self.gives, np.uint8)
        self.scores[0, self.gives[1] - 997], self.scores[0, 0] = pictures[..., 0].mean(), pictures[..., 2].mean()

    def invoke(self):
        pass

    def get_tensor(self, _):
        return self.scores


@pytest.fixture
def litert(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", SimpleNamespace(Interpreter=Interpreter))
    monkeypatch.setitem(sys.modules, "ai_edge_litert", SimpleNamespace())
    (tmp_path / "net_quant.tflite").write_bytes(b"model")
    return tmp_path / "net_quant.tflite"


@pytest.mark.parametrize("outputs", [1000, 1001])
def test_litert(litert, outputs, monkeypatch):
    """Named by wnid, resized to its input; a background before ImageNet's classes moves none, and is no class."""
    monkeypatch.setattr(Interpreter, "gives", (1, outputs))
    box = open_black_box(f"litert:{litert}")
    asked = Asked(box, wnids())
    pictures = torch.zeros(2, 3, 32, 32)
    pictures[0, 0], pictures[1, 2] = 1, 1  # red, blue
    classes = asked(pictures).argmax(1).tolist()
    assert classes[0] == 3 and box.name == "net_quant" and len(box.version) == 8
    assert (classes[1], asked.unknown) == ((1000, {"background": 1}) if outputs == 1001 else (0, {}))


@pytest.mark.parametrize("name, value, says", [
    ("takes", (1, 3, 224, 224), r"takes uint8 \(1, 3, 224, 224\)"), ("kind", np.float32, "takes float32"),
    ("gives", (1, 91), r"gives \(1, 91\); a reader of photographs takes uint8"),
])  # fmt: skip
def test_litert_of_another_shape(litert, name, value, says, monkeypatch):
    monkeypatch.setattr(Interpreter, name, value)
    with pytest.raises(StudyError, match=says):
        open_black_box(f"litert:{litert}")


def test_litert_missing(litert, monkeypatch):
    with pytest.raises(StudyError, match="nowhere.tflite: no such model; https://.*put it there"):
        open_black_box("litert:nowhere.tflite")
    litert.write_bytes(b"damaged")
    with pytest.raises(StudyError, match="not a model that LiteRT runs .*identifier"):
        open_black_box(f"litert:{litert}")
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(StudyError, match=r"needs ai-edge-litert; pip install -e '\.\[transfer\]'"):
        open_black_box(f"litert:{litert}")


@pytest.mark.parametrize("package", ["rapidocr", "onnxruntime"])
def test_rapidocr_missing(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(StudyError, match=r"pip install -e '\.\[transfer\]'"):
        blackbox.RapidOCR()


def test_tesseract_missing():
    with pytest.raises(StudyError, match="apt install tesseract-ocr"):
        Tesseract("no-such-tesseract")
