"""One search from films to a registered model."""

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from pneumonia import cache, views
from pneumonia.config import SearchConfig
from pneumonia.data import Index
from pneumonia.gate import Verdict
from pneumonia.record import Record, Run, close_dead
from pneumonia.search import final, lease, pool, report, resume
from pneumonia.search import study as studies
from pneumonia.search.final import SearchError
from pneumonia.search.worker import Task, open_storage, reap
from pneumonia.stop import Interrupted
from pneumonia.tracking import Tracker, finished, tracker_errors
from pneumonia.train import Epoch, Step
from pneumonia.trial import data_tags, dataset_of, suited

TIDY_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a search is; `running` says for each running trial how many epochs it has done."""

    done: int
    goal: int
    failed: int
    running: dict[int, int]
    best: float | None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a search came to. `verdict` is None where another process ends the study, or the tracker was away;
    `unsent` records wait for `pneumonia sync`."""

    study: str
    run_id: str
    table: pd.DataFrame
    best_params: dict[str, float]
    final: Record | None = None
    verdict: Verdict | None = None
    joined: bool = False
    unsent: int = 0


def search(
    config: SearchConfig,
    index: Index,
    *,
    home: Path,
    tracker: Tracker,
    experiment: str = "pneumonia",
    run_id: str | None = None,
    model_name: str = "pneumonia",
    tags: dict[str, str] | None = None,
    heartbeat: int = studies.HEARTBEAT_SECONDS,
    grace: int = studies.GRACE_SECONDS,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_step: Callable[[Step], None] = lambda step: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Searches, trains the best configuration in full, and registers the model.

    The same call again goes on where a killed one stopped; on another machine with the same storage it joins.

    Args:
        config: decided by `SearchConfig.for_data`.
        index: the films, as `data.scan` gives them.
        home: folder for records, caches and the default study.
        run_id: an MLflow run to adopt as the parent, as `mlflow run` makes it.
        on_progress: told once a second while trials run.
        on_step, on_epoch: told about the final training.
        say: told in words what happens.

    Raises:
        SearchError: no trial came to an end.
        StudyError: the study's database cannot be used.
        TrackingError: the tracking store cannot be reached at the start.
        Interrupted: a stop was requested; the runs are closed and the same call resumes.
    """
    plan = config.decided()
    base = suited(config.recipe(), index, say=say)
    experiment_id = tracker.experiment_id(experiment)
    tags = {**data_tags(index), **(tags or {})}
    task = Task(
        index=index,
        base=base,
        long=plan.long,
        changed=config.changed,
        home=home,
        storage=config.storage or f"sqlite:///{home / 'study.db'}",
        study="",
        goal=plan.trials,
        keep_models=plan.keep_models,
        experiment=experiment,
        tracking_uri=tracker.uri,
        parent="",
        tags=tags,
        pruner=config.pruner,
        pictures=config.gallery,
        deadline=time.time() + config.timeout if config.timeout else None,
        heartbeat=heartbeat,
        grace=grace,
    )
    home.mkdir(parents=True, exist_ok=True)
    ranges = config.ranges()
    name = config.study or studies.default_name(index.fingerprint, base, ranges, changed=config.changed)
    storage = open_storage(task, tracker)
    study = studies.create_or_resume(
        storage, name, base, ranges, changed=config.changed, long=plan.long, goal=plan.trials
    )
    for old, judged in studies.left_behind(storage, index.fingerprint).items():
        if old != name:
            also = " --disturb 0" if judged == studies.judge(changed=False) else ""
            say(
                f"study {old} of these films was begun by an earlier version, which searched otherwise, and is not "
                f"finished; it stays as it is, and `--study {old}{also}` goes on with it"
            )
    task = replace(task, study=study.study_name)
    resume.settle(study, home)
    close_dead(home)
    tracker.sync(home)
    while (holder := lease.holder(study)) is not None or not lease.claim(study):
        if holder is None:
            continue  # another claimed at the same time: it is the next holder
        outcome = _join(study, replace(task, parent=holder["run_id"]), plan.workers, on_progress, say, tracker, run_id)
        if "finished" in studies.patiently(lambda: study.user_attrs) or lease.holder(study) is not None:
            with tracker_errors(tracker.uri):
                if run_id is not None:
                    tracker.client.set_terminated(run_id)
            return outcome
        say("the search that this one joined is gone: one of those that joined leads on")

    parent = Record.create(
        home / "records" / study.study_name / f"search-{time.time_ns()}",
        Run(
            name=f"search {index.root.name}",
            role="search",
            experiment=experiment,
            run_id=run_id,
            tags={**tags, "study": study.study_name},
            description=f"Search over {', '.join(ranges)}: {plan.trials} trials of "
            f"{plan.epochs} epochs at {plan.size} px, then the best one trained for {plan.final_epochs}.",
            dataset=dataset_of(index),
        ),
    )
    parent.add_params({k: v for k, v in asdict(config).items() if v is not None})
    parent_id = tracker.send(parent)
    tracker.save_view(experiment_id, *views.under(parent_id, parent.run.name))
    task = replace(task, parent=parent_id)
    with finished(parent, tracker), lease.held(study, parent_id):
        resume.take_over(study, parent_id, task, tracker, experiment_id, say)
        data = cache.decode(index.keep("train", "val"), size=plan.size, home=home, progress=True)
        parent.add_json("data_report.json", index.without(data.failures).report.as_dict())
        for line in data.unread():
            say(line)
        _run_trials(study, task, plan.workers, on_progress, tracker)
        trials = final.ranked(study)
        best = trials[0]
        _record_trials(study, best, parent)
        tracker.try_send(parent)
        say(f"best trial: {best.number} with val/objective {best.value:.4f}")
        last, verdict = final.finish(trials, task, plan.final_epochs, data, tracker, model_name, on_step, on_epoch, say)
        parent.summarise(last.summary, step=0)
        studies.patiently(lambda: study.set_user_attr("finished", parent_id))
    return Outcome(
        study=study.study_name,
        run_id=parent_id,
        table=report.table(study),
        best_params=best.params,
        final=last,
        verdict=verdict,
        unsent=len(tracker.sync(home)[1]),  # a trial that ended while the tracker was away
    )


def _join(
    study: optuna.Study,
    task: Task,
    workers: int,
    on_progress: Callable[[Progress], None],
    say: Callable[[str], None],
    tracker: Tracker,
    run_id: str | None,
) -> Outcome:
    """Lends this machine's workers to a search that another process leads."""
    say(f"joins study {study.study_name}, led by run {task.parent}: that one trains the best in full and registers it")
    if run_id is not None:
        with tracker_errors(tracker.uri):
            tracker.client.set_tag(run_id, "role", "worker")
            tracker.client.set_tag(run_id, "joined", task.parent)
    cache.decode(task.index.keep("train", "val"), size=task.base.size, home=task.home)
    _run_trials(study, task, workers, on_progress, tracker)
    return Outcome(
        study=study.study_name,
        run_id=task.parent,
        table=report.table(study),
        best_params=final.ranked(study)[0].params,
        joined=True,
        unsent=len(tracker.sync(task.home)[1]),
    )


def _run_trials(
    study: optuna.Study, task: Task, workers: int, on_progress: Callable[[Progress], None], tracker: Tracker
) -> None:
    next_look, since = 0.0, len(studies.trials(study))

    def on_poll() -> None:
        nonlocal next_look
        if time.monotonic() < next_look:
            return
        next_look = time.monotonic() + 1.0
        failed = studies.failures(study, since=since)
        if len(failed) > max(3, task.goal):
            raise SearchError(f"{len(failed)} trials failed; the last said: {failed[-1].user_attrs['reason']}")
        on_progress(progress(study, task.goal))

    on_progress(progress(study, task.goal))
    if len(studies.trials(study, *studies.DONE)) < task.goal:
        try:
            pool.run(task, workers, on_poll=on_poll, on_death=lambda: reap(study, task.home, tracker))
        except Interrupted:
            # A worker that had to be killed left its trial; a database that is away must not hold up the stop.
            tidy = threading.Thread(target=reap, args=(study, task.home, tracker), daemon=True)
            tidy.start()
            tidy.join(TIDY_SECONDS)
            raise
        on_progress(progress(study, task.goal))


def progress(study: optuna.Study, goal: int) -> Progress:
    """How far the study is."""
    every = studies.trials(study)
    values = [t.value for t in every if t.state == TrialState.COMPLETE and t.value is not None]
    return Progress(
        done=sum(t.state in studies.DONE for t in every),
        goal=goal,
        failed=sum(t.state == TrialState.FAIL and bool(t.user_attrs.get("fault")) for t in every),
        running={t.number: len(t.intermediate_values) for t in every if t.state == TrialState.RUNNING},
        best=min(values, default=None),
    )


def _record_trials(study: optuna.Study, best: FrozenTrial, parent: Record) -> None:
    parent.add_params({f"best/{name}": value for name, value in best.params.items()})
    parent.add_params({"best/trial": best.number})
    report.table(study).to_csv(parent.artifacts / "trials.csv", index=False)
    report.figures(study, parent.artifacts / "search")
