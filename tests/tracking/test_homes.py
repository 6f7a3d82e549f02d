"""The home of a tracking store: found again by every way to write its address, shared with no other."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pneumonia.cli import context
from pneumonia.runtime import working_folder
from pneumonia.runtime.secrets import masked
from pneumonia.tracking import homes
from pneumonia.tracking.record import Record, write_json


@pytest.fixture(autouse=True)
def user_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("PNEUMONIA_HOME", raising=False)
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "data" / "pneumonia"


@pytest.mark.parametrize(
    "uris",
    [
        ("http://lab:5000", "http://lab:5000/", "http://LAB:5000", "http://me:secret@lab:5000"),
        ("https://lab/mlflow", "https://lab/mlflow/"),
        ("postgresql://me@lab/mlflow", "postgresql+psycopg2://you:secret@lab/mlflow"),
        (
            "sqlite:///mlflow.db",
            "sqlite:///./mlflow.db",
            "sqlite:///../project/mlflow.db",
            "sqlite:///{here}/mlflow.db",
        ),
    ],
    ids=lambda uris: uris[0],
)
def test_one_store_has_one_home_however_it_is_written(uris: tuple[str, ...], user_data: Path) -> None:
    found = {homes.of(uri.format(here=Path.cwd())) for uri in uris}
    assert len(found) == 1
    (home,) = found
    assert home.parent == user_data
    assert "secret" not in (home / "store.json").read_text()


def test_two_stores_have_two_homes() -> None:
    uris = ["http://lab:5000", "http://lab:5001", "https://lab:5000", "http://lab:5000/b", "sqlite:///a.db"]
    uris += ["sqlite:///b.db", "postgresql://lab/a", "postgresql://lab/b", "postgresql://other/a"]
    assert len({homes.of(uri) for uri in uris}) == len(uris)


def test_a_home_says_whose_it_is() -> None:
    assert homes.of("http://lab:5000").name.startswith("lab-5000-")
    home = homes.of("sqlite:///mlflow.db")
    assert home.name.startswith("project-")
    assert str(Path("mlflow.db").absolute()) in (home / "store.json").read_text()


def test_a_home_is_there_before_its_database_and_stays(empty_database: Path) -> None:
    before = homes.of("sqlite:///mlflow.db")
    shutil.copy(empty_database, "mlflow.db")
    assert homes.of("sqlite:///mlflow.db") == before
    assert homes.of("sqlite:///mlflow.db") == before


def test_a_project_that_is_moved_keeps_its_home(empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(empty_database, "mlflow.db")
    home = homes.of("sqlite:///mlflow.db")
    here = Path.cwd()
    moved = here.rename(here.with_name("moved"))
    monkeypatch.chdir(moved)
    assert homes.of("sqlite:///mlflow.db") == home
    here.symlink_to(moved)
    assert homes.of("sqlite:///mlflow.db") == homes.of(f"sqlite:///{here}/mlflow.db") == home


def test_a_copied_project_and_one_in_the_place_of_another_have_homes_of_their_own(
    empty_database: Path, tmp_path: Path
) -> None:
    shutil.copy(empty_database, "mlflow.db")
    home = homes.of("sqlite:///mlflow.db")
    shutil.copytree(Path.cwd(), tmp_path / "copy")
    copied = homes.of(f"sqlite:///{tmp_path}/copy/mlflow.db")
    Path("mlflow.db").unlink()
    MlflowClient("sqlite:///mlflow.db").search_experiments()  # another database
    assert len({home, copied, homes.of("sqlite:///mlflow.db")}) == 3


@pytest.mark.parametrize("kept", ["records", "study.db"])
def test_the_home_of_an_earlier_version_in_this_folder_stays(kept: str) -> None:
    old = Path(".pneumonia").absolute()
    (old / "cache").mkdir(parents=True)
    assert homes.of("http://lab:5000") != old  # nothing there that anybody misses
    if kept == "records":
        (old / "records").mkdir()
    else:
        (old / "study.db").touch()
    assert homes.of("http://lab:5000") == old


def test_under_mlflow_run_the_project_s_old_home_stays_for_its_store(
    new_record: Callable[..., Record], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = new_record()
    write_json(record.folder / "sent.json", {"uri": masked("http://lab:5000")})
    project = tmp_path / "checkout"
    shutil.copytree(home, project / ".pneumonia")
    monkeypatch.setattr(working_folder, "PROJECT", project)
    monkeypatch.setattr(working_folder, "typed_in", lambda: Path.cwd())
    assert homes.of("http://lab:5000") == homes.of("http://lab:5000/") == project / ".pneumonia"
    assert homes.of("http://lab:5001") != project / ".pneumonia"
    monkeypatch.setattr(working_folder, "typed_in", lambda: None)
    assert homes.of("http://lab:5000") != project / ".pneumonia"


def test_pneumonia_home_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (Path(".pneumonia") / "records").mkdir(parents=True)
    monkeypatch.setenv("PNEUMONIA_HOME", str(tmp_path / "mine"))
    assert context.home() == tmp_path / "mine"
    monkeypatch.setenv("PNEUMONIA_HOME", "mine")
    assert context.home() == Path("mine").absolute()


def test_where_nothing_can_be_kept_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with pytest.raises(RuntimeError, match="set PNEUMONIA_HOME"):
        homes.of("http://lab:5000")
