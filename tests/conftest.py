"""What several test files share: films, a finished record, an empty MLflow store, a real tracking server.

The slow parts are made once a session and copied by each test that changes them. What takes seconds to import is
imported where it is used: the process that hands tests out to others runs none.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from functools import cache as cache_forever
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import threadpoolctl

from pneumonia.config import TrainConfig
from pneumonia.runs.listener import Listener
from pneumonia.runtime.signals import identity
from pneumonia.search import connection
from pneumonia.search_space import search_space
from tests.servers import ENVIRONMENT, TrackingServer, running_tracker

if TYPE_CHECKING:
    from pneumonia.data import cache
    from pneumonia.data import index as data
    from pneumonia.results.exploration import Exploration
    from pneumonia.runs.context import RunContext
    from pneumonia.search.worker import Task
    from pneumonia.tracking.record import Record
    from pneumonia.tracking.store import Tracker
    from pneumonia.training.loop import Epoch

ROOT = Path(__file__).parent.parent  # of the project
NO_SERVER = "http://127.0.0.1:9"  # the port of the discard service: nobody listens
TINY = TrainConfig(size=32, width=4, epochs=3, batch_size=16, lr=3e-3, device="cpu")


def pytest_configure(config: pytest.Config) -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Set in many containers: each process that a test starts would compile anew what it imports, for seconds.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes where all fast tests are asked for; for a few files, and for tests that start servers and take
    times, this one alone."""
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS and not config.option.keyword
    return 2 if whole and config.option.markexpr.startswith("not slow") else 0


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Films and networks of tests are so small that threads would wait for each other longer than they compute."""
    import torch

    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)


@pytest.fixture(scope="session", autouse=True)
def quick_familiarity() -> None:
    """A model's familiarity is fitted to a hundred films instead of a thousand, but where it is what is tested."""
    from pneumonia.training import familiarity

    familiarity.FILMS = 100


@pytest.fixture(scope="session", autouse=True)
def user_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the program keeps its homes while the tests run: not among the data of who runs them."""
    folder = tmp_path_factory.mktemp("user-data")
    os.environ["XDG_DATA_HOME"] = str(folder)
    os.environ.pop("PNEUMONIA_HOME", None)
    return folder


@pytest.fixture(autouse=True)
def blank_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are laid out and written, but blank, for painting them takes half the time of an evaluation: not in tests
    marked `figures`, which look at them, nor in slow ones."""
    if request.node.get_closest_marker("figures") or request.node.get_closest_marker("slow"):
        return
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    monkeypatch.setattr(FigureCanvasAgg, "draw", lambda canvas: canvas.get_renderer().clear())


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of drawn films in the real layout: 64 for training and validation, 16 for testing."""
    from pneumonia.synthetic import dataset as synthetic

    return synthetic.write(tmp_path_factory.mktemp("films"), seed=0, train=64, test=16)


@pytest.fixture(scope="session")
def index(films: Path) -> data.Index:
    from pneumonia.data import index as data

    return data.scan(films)


@pytest.fixture(scope="session")
def decoded(index: data.Index, tmp_path_factory: pytest.TempPathFactory) -> cache.Decoded:
    from pneumonia.data import cache

    return cache.decode(index, size=TINY.size, home=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def trained(index: data.Index, decoded: cache.Decoded, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The record of a tiny training, complete but for its end; nothing of it has been sent. Not to be changed."""
    from pneumonia.runs.context import RunContext, data_tags, dataset_of
    from pneumonia.runs.train import run_training
    from pneumonia.tracking.record import Record, Run
    from pneumonia.tracking.store import Tracker

    run = Run(
        name="train tiny",
        role="train",
        experiment="pneumonia",
        tags=data_tags(index),
        description="A tiny training.",
        dataset=dataset_of(index),
        register="pneumonia",  # so that it has a model card; copies are registered when they are told to
    )
    record = Record.create(tmp_path_factory.mktemp("trained") / "record", run)
    run_training(TINY, decoded, record, RunContext(home=record.folder, tracker=Tracker(NO_SERVER)))
    return record


@pytest.fixture(scope="session")
def explored(index: data.Index, tmp_path_factory: pytest.TempPathFactory) -> Exploration:
    """What is found in `films` before a training. Not to be changed."""
    from pneumonia.runs.explore import explore

    return explore(index, home=tmp_path_factory.mktemp("explored"), batch_size=16)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def gone() -> dict[str, Any]:
    """The identity of a process on this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    return {**identity(), "pid": process.pid, "started": 0.0}


@pytest.fixture
def new_record(home: Path) -> Callable[..., Record]:
    """Makes records without training: `new_record("name", role="trial")`."""
    from pneumonia.tracking.record import Record, Run

    def make(name: str = "one", **fields: Any) -> Record:
        run = Run(**{"name": name, "role": "train", "experiment": "pneumonia", **fields})
        return Record.create(home / "records" / "study" / name, run)

    return make


@pytest.fixture
def copy_trained(trained: Record, home: Path) -> Callable[..., Record]:
    """Copies of `trained` as runs of their own. `bias` is added to the calibrated logit of the model, so that copies
    predict differently: `copy_trained("worse", bias=3.0, register="pneumonia")`. Without `pictures` the copy lacks the
    gallery, which takes longest to send."""
    from pneumonia.runtime.signals import identity
    from pneumonia.tracking.record import Record

    def make(name: str = "trained", *, bias: float = 0.0, pictures: bool = False, **changes: Any) -> Record:
        folder = home / "records" / "study" / name
        shutil.copytree(trained.folder, folder, ignore=None if pictures else shutil.ignore_patterns("images"))
        record = Record(folder)
        (folder / "status.json").unlink()  # as a training leaves it to who began it
        record.update(**{"register": None, "name": name, "key": uuid.uuid4().hex, "owner": identity(), **changes})
        settings = folder / "model" / "artifacts" / "package" / "package.json"
        package = json.loads(settings.read_text())
        package["calibration"]["intercept"] += bias
        del package["sha256"]  # as in packages of before: else the change would be found
        settings.write_text(json.dumps(package))
        return record

    return make


@pytest.fixture
def registered(tracker: Tracker, copy_trained: Callable[..., Record]) -> Record:
    """A copy of `trained` that is the champion of the registered model `pneumonia`."""
    from pneumonia.registry.versions import enter

    record = copy_trained("champion", register="pneumonia", role="final")
    record.finish("COMPLETE")
    tracker.send(record)
    enter(tracker, record)
    return record


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated MLflow database without runs: migrating takes seconds, copying does not."""
    from mlflow import MlflowClient
    from mlflow.store.db import utils
    from mlflow.utils import requirements_utils

    folder = tmp_path_factory.mktemp("database")
    MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").search_experiments()
    # Each store that is opened asks for the newest migration, which reads all of them: half the time of a small test.
    utils._get_latest_schema_revision = cache_forever(utils._get_latest_schema_revision)
    # Each model that is loaded asks for each of its packages, and each time all that is installed is gone through.
    name = "_init_packages_to_modules_map"
    setattr(requirements_utils, name, cache_forever(getattr(requirements_utils, name)))
    return folder / "mlflow.db"


@pytest.fixture
def store(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty store of one's own, MLflow's default one for the test; artifacts stand in tmp_path."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)  # artifacts of a sqlite store go to ./mlruns
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def tracker(store: str) -> Tracker:
    from pneumonia.tracking.store import Tracker

    tracker = Tracker(store)
    tracker.experiment_id("pneumonia")
    return tracker


@pytest.fixture
def server(empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrackingServer]:
    """A real tracking server, started, with an empty store; MLFLOW_TRACKING_URI names it. For tests marked slow."""
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(empty_database, folder / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    with running_tracker(folder) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
        yield server


class Told(Listener):
    """A listener that notes the sentences, and does what it is given to do at each epoch."""

    def __init__(self, on_epoch: Callable[[Epoch], Any] = lambda epoch: None) -> None:
        self.said: list[str] = []
        self.seeds: list[int] = []
        self.at_epoch = on_epoch

    def say(self, line: str) -> None:
        self.said.append(line)

    def on_seed(self, seed: int) -> None:
        self.seeds.append(seed)

    def on_epoch(self, epoch: Epoch) -> bool | None:
        return self.at_epoch(epoch)


@pytest.fixture
def context(home: Path, tracker: Tracker) -> RunContext:
    from pneumonia.runs.context import RunContext

    return RunContext(home=home, tracker=tracker)


@pytest.fixture
def task(index: data.Index, tracker: Tracker, home: Path) -> Task:
    """A search of three trials for a worker in this process."""
    from pneumonia.runs.context import RunContext
    from pneumonia.search import study as studies
    from pneumonia.search.worker import Task

    base = TrainConfig(size=32, width=8, epochs=2, device="cpu")
    home.mkdir()
    url = f"sqlite:///{home / 'study.db'}"
    study = studies.create_or_resume(connection.connect(url), "films", base, search_space(long=True), changed=True)
    return Task(
        index=index,
        base=base,
        long=False,
        changed=True,
        context=RunContext(
            home=home, tracker=tracker, parent=tracker.client.create_run(tracker.experiment_id("pneumonia")).info.run_id
        ),
        storage=url,
        study=study.study_name,
        goal=3,
        keep_models=3,
        pruner="none",
    )
