"""The real scoring server, started on a model folder that was moved away from this project, without torch."""

import base64
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import mlflow.pyfunc
import numpy as np
import pandas as pd
import psutil
import pydicom
import pytest
import requests
from pydicom.encaps import get_frame
from pydicom.uid import JPEGLosslessSV1

from pneumonia import served
from pneumonia.served import model
from pneumonia.served import model as serving
from pneumonia.serving import export as package
from pneumonia.serving import film_batches, page_server, predict
from pneumonia.serving.scoring_client import ScoringClient
from tests.conftest import ROOT
from tests.served.conftest import CLASSES, deep, dicom, film, lossless, png_bomb, write

pytestmark = pytest.mark.slow

# Hides what is none of the model's own requirements, as where it is not installed.
BLOCKER = """
import sys
from importlib.machinery import PathFinder
ABSENT = {"torch", "pneumonia", "onnx", "optuna", "safetensors", "seaborn"}
ABSENT |= {"alembic", "docker", "flask", "graphene", "matplotlib", "pyarrow", "scipy", "sklearn", "sqlalchemy"}
class Blocker(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else super().find_spec(name, path, target)
sys.meta_path = [Blocker if finder is PathFinder else finder for finder in sys.meta_path]
"""


class Server(NamedTuple):
    url: str
    process: psutil.Process
    predictor: served.Predictor
    log: Path

    def post(self, body: object, **options: Any) -> requests.Response:
        return requests.post(f"{self.url}/invocations", **{"json": body, "timeout": 60, **options})

    def megabytes(self) -> float:
        tree = [self.process, *self.process.children(recursive=True)]
        return sum(process.memory_info().rss for process in tree) / 2**20


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, *, ready: tuple[int, ...] = (200,)) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            if requests.get(f"{url}/ping", timeout=5).status_code in ready:
                return
        except requests.ConnectionError:
            time.sleep(0.2)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("serving")
    folder = write(home / "package", size=96)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_UV_AUTO_DETECT", "false")
        mlflow.pyfunc.save_model(home / "saved", **package.pyfunc_arguments(folder))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.move(home / "saved", elsewhere / "model")
    predictor = served.Predictor(folder)
    shutil.rmtree(home)
    (elsewhere / "blocker").mkdir()
    (elsewhere / "blocker" / "sitecustomize.py").write_text(BLOCKER)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "PYTHON"))},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(elsewhere / "blocker"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "model", "--env-manager", "local"]
    log = elsewhere / "log.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "-h", "127.0.0.1", "-p", str(port)],
            cwd=elsewhere,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, process, log)
        yield Server(url, psutil.Process(process.pid), predictor, log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def records(*films: bytes) -> dict[str, object]:
    return {"dataframe_records": [{"image": text(data)} for data in films]}


def expected(server: Server, data: bytes) -> dict[str, object]:
    film = served.read_film(data, 96)
    probability = server.predictor.probabilities(film[np.newaxis])[0]
    familiarity = server.predictor.familiarity(server.predictor.look(film)[1])
    familiar = familiarity >= served.FAMILIAR
    return {
        **{"probability": probability, "label": CLASSES[int(probability >= 0.4)], "threshold": 0.4},
        **{"familiarity": familiarity, "familiar": familiar, "warning": "" if familiar else serving.STRANGE},
        "error": "",
    }


def noisy(seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 30, (300, 400))
    return np.clip(film(300, 400) + cv2.GaussianBlur(noise, (0, 0), 3) * 5, 0, 255).astype(np.uint8)


JPEG, PNG = (cv2.imencode(kind, noisy(0))[1].tobytes() for kind in (".jpg", ".png"))
DICOM = dicom(deep(), BitsStored=12)
BITS = {"BitsAllocated": 16, "BitsStored": 12}
LOST = JPEG[: len(JPEG) // 2] + b"\xff\xd9"  # half of the scan is gone, the end is not


def jpeg_lossless() -> bytes:
    """The frame of a JPEG Lossless film."""
    return get_frame(pydicom.dcmread(io.BytesIO(lossless(deep(), "JPEGLosslessProcess14_1"))).PixelData, 0)


def test_every_format_is_scored_as_in_process(server):
    films = [JPEG, PNG, DICOM]
    answer = server.post(records(*films))
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"predictions": [expected(server, data) for data in films]}
    split = {"dataframe_split": {"columns": ["image"], "data": [[text(JPEG)]]}}
    assert server.post(split).json() == {"predictions": [expected(server, JPEG)]}


def forms(film: str) -> list[tuple[dict[str, object], int]]:
    """Requests that mean one film or two, and how many."""
    return [
        ({"instances": [film, film]}, 2),
        ({"inputs": [film, film]}, 2),
        ({"inputs": [film]}, 1),
        ({"instances": [[film], [film]]}, 2),
        ({"inputs": {"image": [film, film]}}, 2),
        ({"dataframe_records": [{"image": film + "\n"}]}, 1),
        ({"dataframe_records": [{"image": "data:image/jpeg;base64," + film}]}, 1),
        ({"dataframe_records": [{"image": base64.encodebytes(base64.b64decode(film)).decode()}]}, 1),
    ]


def test_films_are_taken_in_the_forms_that_people_send(server):
    for body, count in forms(text(JPEG)):
        answer = server.post(body)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"predictions": [expected(server, JPEG)] * count}


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("page", ["README.md", "docs/guide/serve.md"])
def test_the_command_of_a_page_sends_a_film_of_full_size(page, server, tmp_path):
    """A word of a command line holds 128 KiB at most, which a film in base64 exceeds."""
    (command,) = re.findall(r"^printf .*\n.* -d @-$", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    large = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (600, 800), dtype=np.uint8))[1].tobytes()
    assert len(large) > 2**17
    (tmp_path / "film.jpeg").write_bytes(large)
    command = command.replace("localhost:5001", server.url)
    answer = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=True, timeout=60)
    assert json.loads(answer.stdout)["predictions"] == [expected(server, large)]


def test_any_dicom_and_what_is_doubtful(server):
    other = dicom(deep(), BitsStored=12, Modality="OT", ViewPosition="LL")
    assert server.post(records(other)).json()["message"].startswith("record 0: the DICOM is not a plain radiograph")
    for body in ({**records(other, DICOM), "params": {"any_dicom": True}},):
        first, second = server.post(body).json()["predictions"]
        assert "Modality" in first["warning"]
        assert "ViewPosition" in first["warning"]
        assert first["probability"] == second["probability"]
        assert second == expected(server, DICOM)


def test_lossless_dicoms_are_scored_as_the_plain_ones(server):
    data = dicom(jpeg_lossless(), JPEGLosslessSV1, **BITS)
    assert server.post(records(data, DICOM)).json() == {"predictions": [expected(server, DICOM)] * 2}


def test_explain_gives_a_heatmap_in_the_films_aspect(server):
    answer = server.post({**records(JPEG, DICOM), "params": {"explain": True}}).json()["predictions"]
    for prediction, data, shape in zip(answer, (JPEG, DICOM), ((300, 400), (60, 80)), strict=True):
        picture = np.frombuffer(base64.b64decode(prediction.pop("heatmap")), np.uint8)
        assert cv2.imdecode(picture, cv2.IMREAD_COLOR).shape == (*shape, 3)
        assert prediction == expected(server, data)


def test_a_bad_film_spoils_no_other_where_errors_are_returned(server):
    answer = server.post({**records(JPEG, b"secret words", DICOM), "params": {"errors": "return"}})
    assert answer.status_code == 200
    first, bad, third = answer.json()["predictions"]
    assert (first, third) == (expected(server, JPEG), expected(server, DICOM))
    assert (bad["probability"], bad["label"], bad["familiarity"], bad["familiar"]) == (None, "", None, False)
    assert bad["error"].startswith("the file is text")


GOOD = {"image": text(JPEG)}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"image": None}], "record 0: the image is missing"),
        ([GOOD, {}], "record 1: the image is missing"),
        ([{"image": 12.5}], "record 0: the image must be base64 text"),
        ([{"image": True}], "record 0: the image must be base64 text"),
        ([{"image": [[1, 2], [3]]}], "record 0: the image is a list"),
        ([{"image": {"secret": {"secret": []}}}], "record 0: the image must be base64 text"),
        ([{"image": "s e c r e t"}], "record 0: the image is not base64"),
        ([{"image": "/etc/passwd"}], "record 0: the image is not base64"),
        ([{"image": "/etc/hosts00"}], "record 0: the file is not a JPEG, PNG or DICOM film"),
        ([{"image": "file:///etc/secret.png"}], "record 0: the image is not base64"),
        ([{"image": "https://example.org/secret.png"}], "record 0: the image is not base64"),
        ([{"image": "data:image/jpeg," + text(JPEG)}], "record 0: the image is not base64"),
        ([{"image": ""}], "record 0: the film is empty"),
        ([{"secret": 1}], "no records with a column 'image'"),
        ([], "no records with a column 'image'"),
        ([{"image": "AAAA"}] * 10_000, "1 to 1000 records, not 10000"),
        ([GOOD, GOOD, {"image": text(b"secret words")}, GOOD], "record 2: the file is text"),
        ([GOOD, {"image": text(JPEG[: len(JPEG) // 2])}], "record 1: the JPEG is damaged or cut short"),
        ([GOOD, {"image": text(dicom(deep(), Modality="CT"))}], "record 1: the DICOM is not a plain radiograph"),
        ([GOOD, {"image": text(LOST)}], "record 1: the JPEG is damaged or cut short"),
        (
            [GOOD, {"image": text(dicom(jpeg_lossless()[:-400], JPEGLosslessSV1, **BITS))}],
            "record 1: the DICOM's compr",
        ),
    ],
    ids=range(21),
)
def test_a_wrong_request_gets_400_and_one_sentence(server, rows, words):
    answer = server.post({"dataframe_records": rows})
    assert answer.status_code == 400
    body = answer.json()
    assert body.keys() == {"error_code", "message"}
    assert body["error_code"] == "INVALID_PARAMETER_VALUE"
    assert words in body["message"]
    assert len(body["message"]) < 150
    for trace in ("Traceback", "secret", "/etc", "site-packages", "\n", "elsewhere", text(JPEG)[:20]):
        assert trace not in answer.text


def test_bombs_are_refused_in_bounded_memory_and_time_and_the_next_request_is_served(server):
    server.post(records(JPEG))
    bombs = (png_bomb(20_000), png_bomb(9_000, 16, 6))
    before, start = server.megabytes(), time.monotonic()
    for bomb in bombs:
        answer = server.post(records(JPEG, bomb))
        assert answer.status_code == 400
        assert "record 1: the film is too large" in answer.json()["message"]
    assert time.monotonic() - start < 2
    assert server.megabytes() - before < 50
    assert server.post(records(JPEG)).json() == {"predictions": [expected(server, JPEG)]}


def test_clients_at_once_each_get_what_a_single_client_gets(server):
    films = [cv2.imencode(".jpg", noisy(seed))[1].tobytes() for seed in range(8)]
    answers = [{"predictions": [expected(server, data)]} for data in films]
    bad = records(b"secret words")

    def client(number: int, seconds: float) -> int:
        served_films, end = 0, time.monotonic() + seconds
        with requests.Session() as session:
            while time.monotonic() < end:
                which = (number + served_films) % len(films)
                url = f"{server.url}/invocations"
                assert session.post(url, json=records(films[which]), timeout=60).json() == answers[which]
                if number % 4 == 0:
                    assert session.post(url, json=bad, timeout=60).status_code == 400
                if number % 4 == 1:  # breaks off
                    host, port = server.url.removeprefix("http://").split(":")
                    with socket.create_connection((host, int(port))) as connection:
                        connection.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\n{")
                served_films += 1
        return served_films

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(client, range(16), [3.0] * 16))
        before = server.megabytes()
        counts = list(pool.map(client, range(16), [5.0] * 16))
    assert min(counts) > 0
    assert server.megabytes() < 1.1 * before


# --- behind nginx

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
JS_MODULE = Path("/usr/lib/nginx/modules/ngx_http_js_module.so")
SERVING = Path(package.__file__).parent
MAIN_CONF = """
load_module {module};
daemon off;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include conf.d/*.conf;
}}
"""


@contextmanager
def nginx(
    backend: str,
    prefix: Path,
    *,
    ready: tuple[int, ...] = (200,),
    prepare: Callable[[Path], object] = lambda conf: None,
) -> Iterator[tuple[str, Path]]:
    """URL and log of an nginx with the configuration that the README gives, but for two ports and the page's place.
    `prepare` is called with the folder of the configuration before it starts.
    """
    if NGINX is None or not JS_MODULE.exists():
        pytest.skip("needs nginx with its JavaScript module: apt-get install nginx-light libnginx-mod-http-js")
    port, log = free_port(), prefix / "log.txt"
    shutil.copytree(SERVING / "nginx", prefix / "conf.d")
    site = prefix / "conf.d" / "pneumonia.conf"
    changes = {
        "127.0.0.1:5001;": f"{backend};",
        "listen 8080;": f"listen 127.0.0.1:{port};",
        "/usr/share/nginx/pneumonia;": f"{SERVING / 'page'};",
    }
    for old, new in changes.items():
        assert old in site.read_text()
        site.write_text(site.read_text().replace(old, new))
    prepare(prefix / "conf.d")
    (prefix / "nginx.conf").write_text(MAIN_CONF.format(module=JS_MODULE))
    with log.open("wb") as output:
        command = [NGINX, "-p", str(prefix), "-c", "nginx.conf"]
        process = subprocess.Popen(command, stderr=output, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(url, process, log, ready=ready)
        yield url, log
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@pytest.fixture(scope="module")
def guarded(server: Server, tmp_path_factory) -> Iterator[Server]:
    """The same server behind nginx."""
    with nginx(server.url.removeprefix("http://"), tmp_path_factory.mktemp("nginx")) as (url, log):
        yield server._replace(url=url, log=log)


def test_nginx_passes_films_in_every_form_and_their_answers(server, guarded):
    one, data = expected(server, JPEG), text(JPEG)
    for body, count in (
        (records(JPEG), 1),
        ({"dataframe_records": [{"image": data, "name": "a"}, {"name": "b", "image": data}]}, 2),
        ({"dataframe_split": {"columns": ["name", "image"], "index": [7], "data": [["a", data]]}}, 1),
        ({"instances": [{"image": data}]}, 1),
        ({"inputs": {"image": [data, data]}}, 2),
        ({"inputs": {"image": data}}, 1),
        ({"inputs": [{"image": data}]}, 1),
        ({**records(JPEG), "params": {}}, 1),
        ({**records(JPEG), "params": None}, 1),
        ({**records(JPEG), "params": {"explain": None}}, 1),
        ({**records(JPEG), "params": {"any_dicom": True}}, 1),
        *forms(data),
    ):
        answer = guarded.post(body)
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"predictions": [one] * count}
        assert answer.headers["Content-Type"] == "application/json"
    for body in (
        records(JPEG, PNG, DICOM),
        {**records(dicom(deep(), Modality="OT")), "params": {"any_dicom": True}},
        records(LOST),
        {**records(*[JPEG] * model.MAX_EXPLAINED), "params": {"explain": True}},
        {**records(*[JPEG] * (model.MAX_EXPLAINED + 1)), "params": {"explain": True}},
        records(*[b"x"] * (model.MAX_RECORDS + 1)),
        records(b"secret words"),
        {**records(JPEG, b"secret words"), "params": {"errors": "return"}},
        {"dataframe_records": [GOOD, {}]},
        {"dataframe_records": []},
    ):
        bare, behind = server.post(body), guarded.post(body)
        assert (behind.status_code, behind.json()) == (bare.status_code, bare.json())


def test_nginx_takes_a_body_in_chunks(server, guarded):
    body = json.dumps(records(JPEG)).encode()
    parts = (body[at : at + 1000] for at in range(0, len(body), 1000))
    answer = guarded.post(None, data=parts, headers={"Content-Type": "application/json; charset=utf-8"})
    assert answer.json() == {"predictions": [expected(server, JPEG)]}


@pytest.mark.parametrize(
    ("data", "kind"),
    [(JPEG, "image/jpeg"), (PNG, "image/png"), (DICOM, "application/dicom"), (PNG, "application/octet-stream")],
)
def test_nginx_takes_a_film_as_a_file(server, guarded, data, kind):
    answer = guarded.post(None, data=data, headers={"Content-Type": kind})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"predictions": [expected(server, data)]}
    asked = {**records(data), "params": {"explain": True, "any_dicom": True}}
    behind = guarded.post(
        None, data=data, headers={"Content-Type": kind}, params={"explain": "true", "any_dicom": "true"}
    )
    assert behind.json() == server.post(asked).json()


def test_nginx_takes_a_large_film_as_a_file_and_in_chunks(server, guarded):
    noise = np.random.default_rng(0).integers(0, 256, (4500, 4500), dtype=np.uint8)
    large = cv2.imencode(".png", noise)[1].tobytes()
    assert len(large) > 16 * 2**20
    for sent in (large, (large[at : at + 2**20] for at in range(0, len(large), 2**20))):
        answer = guarded.post(None, data=sent, headers={"Content-Type": "image/png"})
        assert answer.json() == {"predictions": [expected(server, large)]}


@pytest.mark.parametrize(
    ("data", "address", "words"),
    [
        (b"", "", "record 0: the film is empty"),
        (b"secret words", "", "record 0: the file is text, not a JPEG, PNG or DICOM film"),
        (JPEG[: len(JPEG) // 2], "", "record 0: the JPEG is damaged or cut short"),
        (JPEG, "?secret=1", "params may hold explain, any_dicom, errors only"),
        (JPEG, "?explain=secret", "params.explain must be true or false"),
        (JPEG, "?explain=true&explain=true", "params.explain must be true or false"),
        (JPEG, "?errors=secret", "params.errors must be raise or return"),
    ],
)
def test_nginx_refuses_a_file_that_is_no_film(guarded, data, address, words):
    answer = requests.post(
        f"{guarded.url}/invocations{address}", data=data, headers={"Content-Type": "image/jpeg"}, timeout=30
    )
    assert answer.status_code == 400
    assert answer.json().keys() == {"error_code", "message"}
    assert words in answer.json()["message"]
    assert "secret" not in answer.text


def test_nginx_gives_the_page(guarded):
    for address, (name, media) in page_server.FILES.items():
        answer = requests.get(guarded.url + address, timeout=10)
        assert answer.content == (SERVING / "page" / name).read_bytes()
        assert answer.headers["Content-Type"] == f"{media}; charset=utf-8"
        for header, value in page_server.HEADERS.items():
            assert answer.headers[header] == value


def test_the_bare_server_takes_tables_of_films(server):
    """MLflow's server itself reads CSV, with films in base64 and without params. For Parquet it needs
    pyarrow, which would add a third to the served environment; without it the sentence says so.
    """
    films = [JPEG, PNG, DICOM]
    answers = {"predictions": [expected(server, data) for data in films]}
    csv = pd.DataFrame({"image": [text(data) for data in films]}).to_csv(index=False)
    answer = server.post(None, data=csv, headers={"Content-Type": "text/csv"})
    assert answer.json() == answers, answer.text
    bad = pd.DataFrame({"image": [text(JPEG), text(b"secret words")]})
    answer = server.post(None, data=bad.to_csv(), headers={"Content-Type": "text/csv"})
    assert answer.status_code == 400
    assert answer.json()["message"].startswith("record 1: the file is text")
    parquet = pd.DataFrame({"image": films}).to_parquet()
    answer = server.post(None, data=parquet, headers={"Content-Type": "application/vnd.apache.parquet"})
    assert answer.status_code == 400
    assert "pyarrow" in answer.json()["message"]


DEEP = '{"dataframe_records": ' + "[" * 5000 + "]" * 5000 + "}"
GOOD_TEXT = json.dumps(records(JPEG))[1:-1]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", "not valid JSON"),
        ("secret", "not valid JSON"),
        ('{"dataframe_records": [{"image": "secret"', "not valid JSON"),
        ("{" + GOOD_TEXT + ', "params": {"explain": NaN}}', "not valid JSON"),
        (b'{"dataframe_records": [{"image": "secret\xff"}]}', "not valid UTF-8"),
        (DEEP, "nested too deeply"),
        ('["secret"]', "must be a JSON object"),
        ("null", "must be a JSON object"),
        ('{"secret": 1}', "must hold one of dataframe_records"),
        ("{" + GOOD_TEXT + ', "inputs": {"image": "secret"}}', "must hold one of"),
        ("{" + GOOD_TEXT + ', "secret": 1}', "may hold params"),
        ('{"__proto__": {"dataframe_records": []}}', "must hold one of"),
        ('{"dataframe_records": "secret"}', "must be a list of objects"),
        ('{"dataframe_records": ["secret"]}', "must be a list of objects"),
        ('{"instances": "secret"}', "must be a list of objects"),
        ('{"instances": [{"image": "AAAA"}, {"secret": 1}]}', "record 0: the file is not"),
        ('{"inputs": "secret"}', "must be a list of objects"),
        ('{"inputs": {"image": ["s e c", "secret"], "other": [1, 2, 3]}}', "record 0: the image is not base64"),
        ('{"inputs": {"image": {"secret": 1}}}', "record 0: the image must be base64 text"),
        ('{"dataframe_split": {"secret": 1}}', "lists of columns and data"),
        ('{"dataframe_split": {"columns": ["secret"], "data": []}}', "must have one column 'image'"),
        ('{"dataframe_split": {"columns": ["image", "image"], "data": [["secret", "secret"]]}}', "one column 'image'"),
        ('{"dataframe_split": {"columns": ["image"], "data": [["secret", 1]]}}', "a value for every column"),
        ('{"dataframe_split": {"columns": ["image"], "index": "secret", "data": [["s e c"]]}}', "is not base64"),
        ("{" + GOOD_TEXT + ', "params": {"secret": 1}}', "params may hold explain, any_dicom, errors only"),
        ("{" + GOOD_TEXT + ', "params": "secret"}', "params may hold explain, any_dicom, errors only"),
        ("{" + GOOD_TEXT + ', "params": {"explain": "secret"}}', "must be true or false"),
        ("{" + GOOD_TEXT + ', "params": {"explain": [true]}}', "must be true or false"),
        ("{" + GOOD_TEXT + ', "params": {"errors": "secret"}}', "must be raise or return"),
        ('{"dataframe_records": [{"image": ' + "9" * 5000 + "}]}", "record 0: the image"),
        ('{"dataframe_records": [{"image": "\\ud800"}]}', "record 0: the image is not base64"),
        ('{"dataframe_records": [' + "{}," * 30_000 + "{}]}", "too many values"),
        (json.dumps({"dataframe_records": [{str(n): 1} for n in range(19_000)]}), "1 to 1000 records, not 19000"),
    ],
    ids=range(33),
)
def test_nginx_refuses_what_the_model_cannot(guarded, body, words):
    answer = guarded.post(None, data=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json().keys() == {"error_code", "message"}
    assert words in answer.json()["message"]
    assert len(answer.json()["message"]) < 150
    for trace in ("Traceback", "stack_trace", "secret", "site-packages", text(JPEG)[:20]):
        assert trace not in answer.text
    assert guarded.post(records(JPEG)).status_code == 200


@pytest.mark.parametrize(
    "kind",
    [None, "text/plain", "text/csv", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "secret"],
)
def test_nginx_refuses_a_wrong_content_type(guarded, kind):
    answer = guarded.post(None, data=json.dumps(records(JPEG)).encode(), headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 415
    assert answer.json()["message"].startswith("the Content-Type must be application/json, or image/jpeg")


def test_nginx_answers_other_paths_and_methods_in_one_sentence(guarded):
    for method, path, status in (
        ("GET", "/invocations", 405),
        ("POST", "/ping", 404),
        ("GET", "/score", 404),
        ("GET", "/docs", 404),
        ("GET", "/index.html", 404),
        ("GET", "/page.js/", 404),
        ("POST", "/", 405),
    ):
        answer = requests.request(method, guarded.url + path, timeout=10)
        assert answer.status_code == status, path
        assert answer.json().keys() == {"error_code", "message"}


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # TLS
        (b"secret\r\n\r\n", 400),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /ping HTTP/1.1\r\nHost: x\r\nSecret: " + b"a" * 40_000 + b"\r\n\r\n", 400),
        (b"TRACE /ping HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: secret\r\n\r\n", 501),
        (b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", 413),
    ],
    ids=["tls", "words", "long-address", "long-header", "trace", "encoding", "large"],
)
def test_nginx_answers_what_is_hardly_http_in_one_sentence(guarded, request_bytes, status):
    host, port = guarded.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request_bytes)
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        assert reply.status == status
        body = json.loads(reply.read())
    assert body.keys() == {"error_code", "message"}
    assert "secret" not in str(body)


@pytest.mark.parametrize("behind_nginx", [False, True])
def test_predict_through_the_server_gives_the_table_of_the_model(behind_nginx, server, request, tmp_path):
    url = request.getfixturevalue("guarded").url if behind_nginx else server.url
    films = {"a.jpeg": JPEG, "b.dcm": DICOM, "c.jpeg": b"text", "d.jpeg": JPEG[: len(JPEG) // 2], "e.jpeg": JPEG}
    paths = []
    for number in range(100):
        for name, data in films.items():
            paths.append((tmp_path / f"{number}-{name}", len(data)))
            paths[-1][0].write_bytes(data)
    local = predict.LocalScorer(predict.load(str(server.log.parent / "model")))
    table = list(film_batches.score(ScoringClient(url), paths))
    assert table == list(film_batches.score(local, paths))
    assert [bool(row["error"]) for row in table] == [False, False, True, True, False] * 100
    explains = ScoringClient(url, explain=True)
    list(film_batches.score(explains, paths[:10], heatmaps=tmp_path / "maps"))
    drawn = [(tmp_path / "maps" / f"00000{n + 1}-0-{name}.png").read_bytes() for n, name in ((0, "a"), (1, "b"))]
    assert drawn == predict.heatmaps(local.model, [path for path, _ in paths[:2]])
    assert len(list((tmp_path / "maps").iterdir())) == 6


def test_nginx_takes_eight_large_requests_at_once_and_small_ones_besides(guarded):
    """A large request takes five times its size in memory."""
    host, port = guarded.url.removeprefix("http://").split(":")
    large = json.dumps(records(JPEG)).encode().ljust(1_000_000)
    json_type = {"Content-Type": "application/json"}
    head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"

    def status(connection: socket.socket) -> int:
        reply = http.client.HTTPResponse(connection)
        reply.begin()
        reply.read()
        return reply.status

    with ExitStack() as stack:
        under_way = []
        for framing in [b"Content-Length: 1000000\r\n\r\n"] * 7 + [b"Transfer-Encoding: chunked\r\n\r\n"]:
            connection = stack.enter_context(socket.create_connection((host, int(port)), timeout=30))
            connection.sendall(head + framing)
            under_way.append(connection)
        deadline = time.monotonic() + 10
        while (one_more := guarded.post(None, data=large, headers=json_type)).status_code != 429:
            assert time.monotonic() < deadline  # nginx has not seen all eight yet
        assert one_more.headers["Retry-After"] == "1"
        assert one_more.json().keys() == {"error_code", "message"}
        assert guarded.post(records(JPEG)).status_code == 200
        under_way[0].sendall(large)
        assert status(under_way[0]) == 200
        assert guarded.post(None, data=large, headers=json_type).status_code == 200


def test_nginx_says_that_the_scoring_server_does_not_answer(tmp_path):
    with nginx(f"127.0.0.1:{free_port()}", tmp_path, ready=(502,)) as (url, _):
        for answer in (
            requests.get(f"{url}/ping", timeout=10),
            requests.post(f"{url}/invocations", json=records(JPEG)),
        ):
            assert answer.status_code == 502
            message = "the scoring server does not answer"
            assert answer.json() == {"error_code": "TEMPORARILY_UNAVAILABLE", "message": message}


# --- with TLS and passwords

LINE = "# include conf.d/pneumonia.access;"


@pytest.fixture(scope="module")
def secrets(tmp_path_factory) -> Path:
    """A certificate that signed itself, its key, and one user `ward` with the password `right`."""
    folder = tmp_path_factory.mktemp("secrets")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2"),
            *("-keyout", "pneumonia.key", "-out", "pneumonia.crt"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    made = subprocess.run(["openssl", "passwd", "-apr1", "right"], check=True, capture_output=True, text=True)
    (folder / "pneumonia.users").write_text(f"ward:{made.stdout}")
    return folder


@contextmanager
def with_access(server: Server, prefix: Path, secrets: Path) -> Iterator[tuple[str, str]]:
    """The addresses without and with TLS of an nginx whose line about access is on."""
    port = free_port()

    def turn_on(conf: Path) -> None:
        site = conf / "pneumonia.conf"
        assert site.read_text().count(LINE) == 1
        site.write_text(site.read_text().replace(LINE, LINE.removeprefix("# ")))
        access = conf / "pneumonia.access"
        assert "listen 8443 ssl;" in access.read_text()
        access.write_text(access.read_text().replace("listen 8443 ssl;", f"listen 127.0.0.1:{port} ssl;"))
        Path(shutil.copytree(secrets, conf.parent / "secrets")).chmod(0o755)

    with ExitStack() as stack:
        for folder in (prefix, *prefix.parents) if os.getuid() == 0 else ():  # nginx's workers are others
            folder.chmod(folder.stat().st_mode | 0o111)
        backend = server.url.removeprefix("http://")
        plain, _ = stack.enter_context(nginx(backend, prefix, ready=(426,), prepare=turn_on))
        yield plain, f"https://127.0.0.1:{port}"


def test_nginx_with_access_on_answers_only_who_has_a_password_and_only_by_tls(server, secrets, tmp_path):
    with with_access(server, tmp_path, secrets) as (plain, url), requests.Session() as session:
        session.trust_env = False  # with REQUESTS_CA_BUNDLE in it requests forgets the next line
        session.verify = str(secrets / "pneumonia.crt")
        right, wrong = ("ward", "right"), ("ward", "wrong")
        answer = session.post(f"{url}/invocations", json=records(JPEG), auth=right)
        assert answer.json() == {"predictions": [expected(server, JPEG)]}
        assert session.post(f"{url}/invocations", json=records(b"secret"), auth=right).status_code == 400
        assert session.get(f"{url}/ping", auth=right).status_code == 200
        for auth in (None, wrong, ("other", "right")):
            for refused in (
                session.post(f"{url}/invocations", json=records(JPEG), auth=auth),
                session.get(f"{url}/ping", auth=auth),
            ):
                assert refused.status_code == 401
                assert refused.headers["WWW-Authenticate"].startswith("Basic ")
                assert refused.json() == {
                    "error_code": "UNAUTHENTICATED",
                    "message": "a name and a password are needed",
                }
        for refused in (
            session.post(f"{plain}/invocations", json=records(JPEG), auth=right),
            session.get(f"{plain}/ping", auth=right),
        ):
            assert refused.status_code == 426
            assert refused.json().keys() == {"error_code", "message"}


def test_nginx_as_shipped_asks_nobody_who_he_is(guarded):
    assert LINE in (Path(package.__file__).parent / "nginx" / "pneumonia.conf").read_text()
    assert guarded.post(records(JPEG)).status_code == 200
