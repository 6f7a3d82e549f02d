"""Of all final trainings of a study one is FINISHED, whatever machines they ran on and when they were sent."""

from collections.abc import Callable

import optuna
import pytest

from pneumonia.data.index import Index
from pneumonia.registry.versions import enter
from pneumonia.runs.context import RunContext
from pneumonia.search import connection, leader, resume
from pneumonia.search import study as studies
from pneumonia.search.worker import Task
from pneumonia.tracking.record import Record
from pneumonia.tracking.store import Tracker
from pneumonia.tracking.sync import sent
from tests.search.conftest import BASE, SPACE

Final = Callable[[str], Record]


@pytest.fixture
def study(url: str) -> optuna.Study:
    """Of the name under which `copy_trained` files its records."""
    return studies.create_or_resume(connection.connect(url), "study", BASE, SPACE, changed=True)


@pytest.fixture
def final(copy_trained: Callable[..., Record], tracker: Tracker) -> Final:
    """A final training that is complete, and not sent: `final(run_id)`, of the search that is that run."""

    def make(parent: str) -> Record:
        tags = {"study.key": "k", "best.trial": "3"}
        record = copy_trained(parent, register="pneumonia", role="final", parent=parent)
        record.update(tags={**record.run.tags, **tags})
        record.finish("COMPLETE")
        return record

    return make


@pytest.fixture
def task(index: Index, tracker: Tracker, study: optuna.Study, tmp_path_factory: pytest.TempPathFactory) -> Task:
    """Of a search on another machine than `home`."""
    context = RunContext(home=tmp_path_factory.mktemp("elsewhere"), tracker=tracker)
    return Task(
        index=index,
        base=BASE,
        long=False,
        changed=True,
        context=context,
        storage="",
        study=study.study_name,
        goal=1,
        keep_models=1,
        pruner="none",
    )


@pytest.fixture
def searches(tracker: Tracker, study: optuna.Study) -> tuple[str, str, leader.Lead]:
    """The run of a search that died as leader, and run and lead of the one that took over."""
    experiment = tracker.experiment_id("pneumonia")
    dead, heir = (tracker.client.create_run(experiment).info.run_id for _ in range(2))
    lead = None
    for run_id in (dead, heir):
        lead = leader.claim(study, study.user_attrs.get("leader"))
        assert lead is not None
        lead.begin(run_id)
    assert lead is not None
    return dead, heir, lead


def status(tracker: Tracker, record: Record) -> tuple[str, str | None]:
    run = tracker.client.get_run(sent(record)["run_id"])
    return run.info.status, run.data.tags.get("reason")


def test_what_a_dead_leader_had_not_sent_is_withdrawn_when_its_command_is_typed_again(
    study: optuna.Study, tracker: Tracker, final: Final, searches: tuple[str, str, leader.Lead]
) -> None:
    dead, heir, _ = searches
    mine, newest = final(dead), final(heir)
    home = mine.folder.parent.parent.parent
    resume.withdraw_finals(study, home)
    for record in (mine, newest):
        tracker.send(record)
    assert status(tracker, mine) == ("KILLED", resume.OVERTAKEN)
    assert status(tracker, newest) == ("FINISHED", None)
    resume.withdraw_finals(study, home)  # what is sent stays
    assert newest.status is not None
    assert newest.status["state"] == "COMPLETE"


def test_what_was_sent_too_late_to_be_gone_on_with_is_closed_by_the_newest_leader(
    study: optuna.Study, tracker: Tracker, final: Final, searches: tuple[str, str, leader.Lead], task: Task
) -> None:
    dead, heir, lead = searches
    mine, newest = final(dead), final(heir)
    for record in (mine, newest):
        tracker.send(record)
    experiment = tracker.experiment_id("pneumonia")
    resume.settle(study, lead, heir, task, experiment, final=newest, key="k")
    assert status(tracker, mine) == ("KILLED", resume.OVERTAKEN)
    assert status(tracker, newest) == ("FINISHED", None)


def test_whose_model_the_registry_has_is_finished(
    study: optuna.Study, tracker: Tracker, final: Final, searches: tuple[str, str, leader.Lead], task: Task
) -> None:
    """The dead leader's machine sent and registered its model meanwhile, by `pneumonia sync`."""
    dead, heir, lead = searches
    mine, newest = final(dead), final(heir)
    for record in (mine, newest):
        tracker.send(record)
        assert enter(tracker, record).version == "1"
    resume.settle(study, lead, heir, task, tracker.experiment_id("pneumonia"), final=newest, key="k")
    assert status(tracker, mine) == ("FINISHED", None)
    assert status(tracker, newest)[0] == "KILLED"
