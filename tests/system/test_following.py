"""`pneumonia serve` as it is run: MLflow's real servers, a real nginx, a real registry, clients, kills."""

import base64
import json
import random
import re
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
import psutil
import pytest
import requests

from pneumonia.registry.versions import before, promote
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent
from tests.command import Command, Lab, until
from tests.conftest import TrackingServer
from tests.system.test_serving import JPEG, JS_MODULE, NGINX, records

NAME = "pneumonia"
BODY = json.dumps(records(JPEG)).encode()
JSON = {"Content-Type": "application/json"}
nginx_here = pytest.mark.skipif(
    NGINX is None or not JS_MODULE.exists(), reason="needs nginx-light and libnginx-mod-http-js"
)


class Shop:
    """A registry with versions that answer differently, and `pneumonia serve` in front of it."""

    def __init__(self, lab: Lab, tracker: Tracker, trained: Record) -> None:
        self.lab, self.tracker, self.trained = lab, tracker, trained
        self.probability: dict[str, float] = {}  # of JPEG, by version, as the model says outside any server
        self.url = ""
        tracker.client.create_registered_model(NAME)

    def add(self, bias: float, spoil: Callable[[Path], None] | None = None) -> str:
        """Registers a version whose logits are moved by `bias`."""
        folder = self.lab.folder / f"model {bias} {len(self.probability)}"
        shutil.copytree(self.trained.model, folder)
        settings = folder / "artifacts" / "package" / "package.json"
        package = json.loads(settings.read_text())
        package["calibration"]["intercept"] += bias
        del package["sha256"]  # as in packages of before: else the change would be found
        settings.write_text(json.dumps(package))
        probability = own_answer(folder)
        if spoil is not None:
            spoil(folder)
        return self.register(str(folder), probability)

    def register(self, source: str, probability: float, **more: Any) -> str:
        version = str(self.tracker.client.create_model_version(NAME, source=source, **more).version)
        self.probability[version] = probability
        return version

    def champion(self, version: str) -> None:
        self.tracker.client.set_registered_model_alias(NAME, "champion", version)

    def serve(self, *words: str) -> Command:
        port = until(three_in_a_row, "three free ports in a row")
        self.url = f"http://127.0.0.1:{port}"
        command = self.lab.start("serve", "--port", str(port), "--every", "0.5", *words)
        until(lambda: self.says(command, "films go to"), "the first version answers", seconds=300)
        return command

    def says(self, command: Command, words: str, times: int = 1) -> bool:
        assert command.process.poll() is None, command.text()
        return command.text().count(words) >= times

    def ask(self) -> requests.Response:
        return requests.post(f"{self.url}/invocations", data=BODY, headers=JSON, timeout=60)

    def answering(self) -> str:
        """The version that answers."""
        return self.version_of(self.ask())

    def version_of(self, answer: requests.Response) -> str:
        assert answer.status_code == 200, answer.text
        (prediction,) = answer.json()["predictions"]
        (version,) = [v for v, p in self.probability.items() if abs(p - prediction["probability"]) < 1e-6]
        return version


def own_answer(model: Path) -> float:
    """The probability of JPEG."""
    table = pd.DataFrame({"image": [base64.b64encode(JPEG).decode()]})
    return float(mlflow.pyfunc.load_model(str(model)).predict(table)["probability"][0])


def three_in_a_row() -> int | None:
    port = random.randrange(20_000, 32_000)  # below those that connections take for their own end
    for number in (port, port + 1, port + 2):
        try:
            requests.get(f"http://127.0.0.1:{number}", timeout=0.5)
        except requests.ConnectionError:
            continue
        return None
    return port


@pytest.fixture
def lab(tmp_path: Path, films: Path, store: str) -> Iterator[Lab]:
    lab = Lab(tmp_path / "lab", films, tracking=store)
    yield lab
    end(lab)


def end(lab: Lab) -> None:
    """Stops what was started; asked first, it takes its files away."""
    for command in lab.commands:
        command.signal(signal.SIGTERM)
        command.end(60)
    lab.stop()


@pytest.fixture
def shop(lab: Lab, tracker: Tracker, trained: Record) -> Shop:
    shop = Shop(lab, tracker, trained)
    for bias in (0.0, 2.0):
        shop.add(bias)
    shop.champion("1")
    return shop


class Clients:
    """Clients that post a film again and again, half of them on connections that they keep, and what they got."""

    def __init__(self, shop: Shop, count: int) -> None:
        self.shop, self.stop = shop, False
        self.got: Counter[str] = Counter()  # by version or, where something went wrong, by what it was
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.post, args=(number % 2 == 0,)) for number in range(count)]

    def post(self, keeps: bool) -> None:
        with requests.Session() as session:
            while not self.stop:
                headers = JSON if keeps else {**JSON, "Connection": "close"}
                try:
                    answer = session.post(f"{self.shop.url}/invocations", data=BODY, headers=headers, timeout=120)
                    got = f"version {self.shop.version_of(answer)}"
                except Exception as error:  # all of them are counted
                    got = f"{type(error).__name__}: {error}"[:300]
                with self.lock:
                    self.got[got] += 1
                time.sleep(0.05)

    def __enter__(self) -> "Clients":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop = True
        for thread in self.threads:
            thread.join()


@nginx_here
@pytest.mark.parametrize(
    "switches", [pytest.param(2, marks=pytest.mark.slow), pytest.param(10, marks=pytest.mark.long)]
)
def test_64_clients_see_no_error_while_the_champion_moves(shop: Shop, switches: int) -> None:
    command = shop.serve()
    with Clients(shop, 64) as clients:
        for number in range(1, switches + 1):
            shop.champion(str(1 + number % 2))
            until(partial(shop.says, command, "seen to be champion", number), "it is followed", seconds=300)
        until(lambda: clients.got["version 1"] > 100, "the last one answers many")
    took = [line for line in command.text().splitlines() if "seen to be champion" in line]
    print(clients.got, *took, sep="\n")
    assert set(clients.got) == {"version 1", "version 2"}, clients.got
    assert min(clients.got.values()) > 100
    until(lambda: servers_of(shop) == 1, "the old server has ended", seconds=30)


def servers_of(shop: Shop) -> int:
    """How many scoring servers run."""
    return sum("mlflow.pyfunc.scoring_server.app:app" in " ".join(p.cmdline()) for p in shop.lab.processes())


@nginx_here
@pytest.mark.slow
def test_a_film_that_takes_longer_than_a_switch_is_answered(shop: Shop) -> None:
    """Its first half comes before the champion moves and its second when the old server is gone."""
    command = shop.serve()

    def halves() -> Iterator[bytes]:
        yield BODY[: len(BODY) // 2]
        shop.champion("2")
        until(lambda: shop.says(command, "seen to be champion"), "it is followed", seconds=300)
        until(lambda: servers_of(shop) == 1, "the old server has ended", seconds=60)
        yield BODY[len(BODY) // 2 :]

    answer = requests.post(f"{shop.url}/invocations", data=halves(), headers=JSON, timeout=600)
    assert shop.version_of(answer) == "2"


def unloadable(folder: Path) -> None:
    (folder / "artifacts" / "package" / "model.onnx").write_bytes(b"no graph")


def lying(folder: Path) -> None:
    """The model answers with a probability that is none."""
    code = folder / "served.py"
    text = code.read_text()
    assert '"probability": probability,' in text
    code.write_text(text.replace('"probability": probability,', '"probability": 7.0,'))


def changing(folder: Path) -> None:
    """The model answers otherwise each time."""
    code = folder / "served.py"
    text = code.read_text()
    side = "(model.threshold, 1) if probability >= model.threshold else (0, model.threshold)"
    changed = f'"probability": float(np.random.default_rng().uniform(*({side}))),'
    code.write_text(text.replace('"probability": probability,', changed))


@nginx_here
@pytest.mark.slow
def test_a_version_that_is_broken_is_not_switched_to_and_the_next_one_is(shop: Shop) -> None:
    broken = [shop.add(4.0 + number, spoil) for number, spoil in enumerate((unloadable, lying, changing))]
    command = shop.serve()
    for version, words in zip(
        broken,
        (
            "(does not start|cannot score its own example): ",  # which is seen first
            "answers its own example wrongly: the probability is 7.0",
            "answers its own example otherwise than the model does outside the server",
        ),
        strict=True,
    ):
        shop.champion(version)
        until(partial(shop.says, command, f"version {version} "), "it is tried", seconds=300)
        until(partial(is_refused, command, version), "it is refused", seconds=300)
        assert re.search(f"version {version} {words}", refusals(command))
        assert shop.answering() == "1"
        assert servers_of(shop) == 1
    assert refusals(command).count("goes on being served") == len(broken)
    shop.champion("2")
    until(lambda: shop.says(command, "seen to be champion"), "it goes on asking", seconds=300)
    assert shop.answering() == "2"


def is_refused(command: Command, version: str) -> bool:
    return f"version {version} " in refusals(command)


def refusals(command: Command) -> str:
    return "\n".join(line for line in command.text().splitlines() if "goes on being served" in line)


@nginx_here
@pytest.mark.slow
def test_what_dies_is_started_again_and_what_is_stopped_leaves_nothing(shop: Shop) -> None:
    command = shop.serve("--workers", "2")
    for kind in ("mlflow models serve", "scoring_server.app:app", "nginx: master"):
        (victim, *_) = [p for p in started_by(command) if kind in " ".join(p.cmdline())]
        victim.send_signal(signal.SIGKILL)
        said = "nginx has died" if "nginx" in kind else "answers again"
        until(partial(shop.says, command, said, 2 if "app:app" in kind else 1), "it is seen", seconds=300)
        until(lambda: answers(shop), "films are scored again", seconds=60)
    folder, processes = scratch_of(command), started_by(command)
    assert len(processes) >= 5
    began = time.monotonic()
    command.signal(signal.SIGTERM)
    assert command.end(60) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 30
    assert command.last_line() == "stopped by SIGTERM"
    assert not any(map(lives, processes))
    assert not folder.exists()
    # And where it cannot clean up, what it started ends by itself.
    command = shop.serve()
    folder, processes = scratch_of(command), started_by(command)
    assert len(processes) >= 4
    command.process.send_signal(signal.SIGKILL)
    command.process.wait()
    until(lambda: not any(map(lives, processes)), "no process is left", seconds=60)
    shutil.rmtree(folder)


def started_by(command: Command) -> list[psutil.Process]:
    return psutil.Process(command.process.pid).children(recursive=True)


def lives(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def answers(shop: Shop) -> bool:
    try:
        return shop.ask().status_code == 200
    except requests.ConnectionError:
        return False


def scratch_of(command: Command) -> Path:
    """The folder where the command keeps its files, by its nginx's command line."""
    for process in psutil.Process(command.process.pid).children():
        words = process.cmdline()
        if "nginx" in " ".join(words):
            text = next(word for word in " ".join(words).split() if "pneumonia-serve-" in word)
            return Path(text).parent
    raise AssertionError("there is no nginx")


@nginx_here
@pytest.mark.slow
def test_it_goes_on_without_the_registry(
    server: TrackingServer, tmp_path: Path, films: Path, trained: Record, copy_trained: Callable[..., Record]
) -> None:
    tracker = Tracker(server.uri)
    tracker.experiment_id(NAME)
    lab = Lab(tmp_path / "lab", films, tracking=server.uri)
    shop = Shop(lab, tracker, trained)
    try:
        for bias in (0.0, 2.0):
            record = copy_trained(f"bias {bias}", bias=bias)
            record.finish("COMPLETE")
            probability = own_answer(record.model)
            tracker.send(record)
            have = sent(record)
            shop.register(f"models:/{have['model_id']}", probability, model_id=have["model_id"], run_id=have["run_id"])
        shop.champion("1")
        command = shop.serve()
        server.kill()
        until(lambda: shop.says(command, "version 1 goes on being served"), "it notices", seconds=60)
        # Its own copy of the version is enough to start the server again.
        (victim, *_) = [p for p in lab.processes() if "scoring_server.app:app" in " ".join(p.cmdline())]
        victim.kill()
        until(lambda: shop.says(command, "version 1 answers again"), "it is started again", seconds=300)
        assert shop.answering() == "1"
        assert command.text().count("goes on being served") == 1
        server.start()
        until(lambda: shop.says(command, "the registry names a version again"), "it notices that too", seconds=60)
        shop.champion("2")
        until(lambda: shop.says(command, "seen to be champion"), "it is followed", seconds=300)
        assert shop.answering() == "2"
    finally:
        end(lab)


@pytest.mark.slow
def test_without_nginx_a_switch_is_a_gap(shop: Shop) -> None:
    command = shop.serve("--no-nginx")
    assert shop.answering() == "1"
    promote(shop.tracker, NAME, "2")
    until(lambda: shop.says(command, "pneumonia version 2 answers again"), "it is followed", seconds=300)
    assert shop.answering() == "2"
    promote(shop.tracker, NAME, before(shop.tracker, NAME), back=True)
    until(lambda: shop.says(command, "pneumonia version 1 answers again"), "it goes back", seconds=300)
    assert shop.answering() == "1"


@pytest.mark.slow
def test_without_nginx_the_served_version_is_started_again_from_its_own_files(shop: Shop) -> None:
    """Also where another one was tried, and refused, since then."""
    lies = shop.add(4.0, lying)
    command = shop.serve("--no-nginx")
    shop.champion("2")
    until(lambda: shop.says(command, "pneumonia version 2 answers again"), "it is followed", seconds=300)
    shop.champion(lies)
    until(partial(is_refused, command, lies), "it is refused", seconds=300)
    (victim,) = [p for p in started_by(command) if "scoring_server.app:app" in " ".join(p.cmdline())]
    victim.kill()
    until(lambda: shop.says(command, "version 2 answers again", 2), "it is started again", seconds=300)
    assert shop.answering() == "2"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--model", "pneumonia"), 2, "names no registered version: write models:/pneumonia@champion"),
        (("--model", "models:/pneumonia@nobody"), 1, "models:/pneumonia@nobody names no version"),
        (("--model", "models:/pneumonia/9"), 1, "version 9 cannot be had from the registry"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_sentence(
    lab: Lab, shop: Shop, words: tuple[str, ...], code: int, said: str
) -> None:
    command = lab.start("serve", "--port", "0", *words, "--no-nginx")
    assert command.end() == code
    assert said in command.last_line()
    assert "Traceback" not in command.text()
    assert lab.processes() == []
