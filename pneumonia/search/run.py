"""One search from films to a registered model."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from pneumonia.config import SearchConfig
from pneumonia.data import cache
from pneumonia.data.index import Index
from pneumonia.registry.gate import Verdict
from pneumonia.runs.context import RunContext
from pneumonia.runs.listener import SILENT, Listener, Progress
from pneumonia.runs.train import decode_for, suited
from pneumonia.runtime.signals import Interrupted
from pneumonia.search import attributes, connection, final, leader, pool, report, resume
from pneumonia.search import study as studies
from pneumonia.search.final import SearchError
from pneumonia.search.lost_trials import requeue_lost_trials
from pneumonia.search.worker import Task, open_storage
from pneumonia.tracking import kept_models, tags, views
from pneumonia.tracking.connection import TrackingError
from pneumonia.tracking.record import Record, Run, close_dead, records
from pneumonia.tracking.store import finished, tracker_errors
from pneumonia.tracking.sync import sent, unsent

TIDY_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a search. `joined`: it lent its workers to a search that another process leads. `done`: the study
    is done, by the search whose run is `run_id`. `verdict` is None where another process made the model, or the tracker
    was away; `unsent` records wait for `pneumonia sync`."""

    study: str
    run_id: str
    table: pd.DataFrame
    best_params: dict[str, float]
    final: Record | None = None
    verdict: Verdict | None = None
    joined: bool = False
    done: bool = False
    unsent: int = 0


def search(
    config: SearchConfig,
    index: Index,
    context: RunContext,
    *,
    model_name: str = "pneumonia",
    listener: Listener = SILENT,
    heartbeat: int = connection.HEARTBEAT_SECONDS,
    grace: int = connection.GRACE_SECONDS,
) -> Outcome:
    """Searches, trains the best configuration in full, and registers the model.

    The same call again goes on where a killed one stopped; on another machine with the same storage it joins. Where the
    study is done, and is named, shared, or was led from this home by a search that died, it says so (`Outcome.done`);
    `config.new` starts the next one.

    Args:
        config: decided by `SearchConfig.for_data`.
        index: the films, as `data.scan` gives them.
        context: where the runs go; its home holds the default study.
        listener: told once a second while trials run, and about the final training.

    Raises:
        SearchError: no trial came to an end.
        StudyError: the study's database cannot be used.
        TrackingError: the tracking store cannot be reached at the start.
        Interrupted: a stop was requested; the runs are closed and the same call resumes.
    """
    plan = config.decided()
    context.tracker.experiment_id(context.experiment)
    context.home.mkdir(parents=True, exist_ok=True)
    task = Task(
        index=index,
        base=suited(config.recipe(), index, listener=listener),
        long=plan.long,
        changed=config.changed,
        context=replace(context, pictures=config.gallery),
        storage=config.storage or f"sqlite:///{context.home / 'study.db'}",
        study="",
        goal=plan.trials,
        keep_models=plan.keep_models,
        pruner=config.pruner,
        deadline=time.time() + config.timeout if config.timeout else None,
        heartbeat=heartbeat,
        grace=grace,
    )
    with pool.prepared():
        study = _open(config, task, listener)
        task = replace(task, study=study.study_name)
        resume.close_ended_records(study, context.home)
        close_dead(context.home)
        kept_models.sync(context.tracker, context.home)
        return _take_part(study, task, config, model_name, listener)


def _open(config: SearchConfig, task: Task, listener: Listener) -> optuna.Study:
    """The study of these films, this space and this objective, made if need be; or the last one that is done, where
    that is to be answered. Names the unfinished studies of an earlier version.
    """
    ranges, changed, fingerprint = config.ranges(), config.changed, task.index.fingerprint
    name = config.study or studies.default_name(fingerprint, task.base, ranges, changed=changed)
    storage = open_storage(task)
    close_dead(task.context.home, role="search")

    def new(finished: str) -> bool:
        own = config.study is None and config.storage is None
        died = resume.answer_dead_searches(task.context.home, finished)
        return config.new or (own and not died)

    study = studies.create_or_resume(
        storage, name, task.base, ranges, changed=changed, long=task.long, goal=task.goal, new=new
    )
    resume.answer_dead_searches(task.context.home, study.study_name)
    for old, judged in studies.left_behind(storage, fingerprint).items():
        if old != name:
            also = " --disturb 0" if judged == studies.judge(changed=False) else ""
            listener.say(
                f"study {old} of these films is unfinished, from an earlier version that searched differently: "
                f"`--study {old}{also}` resumes it"
            )
    return study


def _take_part(study: optuna.Study, task: Task, config: SearchConfig, model_name: str, listener: Listener) -> Outcome:
    """Leads the study, or joins whoever leads it, until it is done or its last trial is."""
    workers, joined = config.decided().workers, None
    while True:
        standing = leader.ask(study)
        if standing.finished is not None:
            return _done(study, standing.finished, task, listener, joined=joined is not None)
        if standing.leader is not None:
            if joined is not None and joined.run_id == standing.leader["run_id"]:
                _end_adopted(task.context)
                return joined
            joined = _join(study, task, workers, standing.leader["run_id"], listener)
        elif (lead := leader.claim(study, standing.seen)) is not None:
            if joined is not None:
                listener.say("the search that led this study is gone: one of the others leads it now")
            try:
                return _lead(study, lead, task, config, model_name, listener)
            except leader.LeadLost as event:  # this process slept, or was cut off from the database
                listener.say(str(event))
                task = replace(task, context=replace(task.context, run_id=None))


def _done(study: optuna.Study, run_id: str, task: Task, listener: Listener, *, joined: bool) -> Outcome:
    """Says that another search has finished the study."""
    listener.say(f"study {study.study_name} is done: {len(studies.trials(study, *studies.DONE))} trials")
    _end_adopted(task.context)
    return _outcome_of_another(study, run_id, task, joined=joined, done=True)


def _outcome_of_another(study: optuna.Study, run_id: str, task: Task, *, joined: bool, done: bool) -> Outcome:
    """The outcome of a search that the run `run_id` leads or led, once what this home has of it is sent."""
    left = _send_all(task.context)
    resume.end_superseded(study, task.context)
    return Outcome(
        study=study.study_name,
        run_id=run_id,
        table=report.table(study),
        best_params=final.ranked(study)[0].params,
        joined=joined,
        done=done,
        unsent=left,
    )


def _end_adopted(context: RunContext) -> None:
    """Ends the run that `mlflow run` made for a search that did not lead."""
    tracker, run_id = context.tracker, context.run_id
    if run_id is not None:
        with tracker_errors(tracker.uri):
            tracker.client.set_terminated(run_id)


def _send_all(context: RunContext) -> int:
    """Sends all that this home has, for a while if the tracker is away; returns how many records are left."""
    tracker = context.tracker

    def send() -> None:
        if left := kept_models.sync(tracker, context.home)[1]:
            raise TrackingError(f"{len(left)} runs could not be sent")

    with suppress(TrackingError):
        tracker.patiently(send)
    return len(tracker.waiting(context.home))


def _lead(
    study: optuna.Study, lead: leader.Lead, task: Task, config: SearchConfig, model_name: str, listener: Listener
) -> Outcome:
    """Leads the study, as the parent run of all trials: runs trials on this machine, makes the final model, registers
    it.

    Raises:
        LeadLost: another leads by now.
    """
    plan, index, context = config.decided(), task.index, task.context
    home, tracker = context.home, context.tracker
    parent = context.begin(
        Run(
            name=f"search {index.root.name}",
            role="search",
            tags={tags.STUDY: study.study_name},
            description=f"Search over {', '.join(config.ranges())}: {plan.trials} trials of "
            f"{plan.epochs} epochs at {plan.size} px, then the best one trained for {plan.final_epochs}.",
        ),
        index,
        home / "records" / study.study_name / f"search-{time.time_ns()}",
    )
    parent.add_params({k: v for k, v in asdict(config).items() if v is not None})
    goal = final.Goal(
        epochs=plan.final_epochs,
        model_name=model_name,
        key=leader.key(study),
        check=lead.check,
        confirm=lead.confirm,
    )
    with lead.held(), finished(parent, tracker):
        parent_id = tracker.patiently(lambda: tracker.send(parent))
        experiment_id = sent(parent)["experiment_id"]
        tracker.save_view(experiment_id, *views.under(parent_id, parent.run.name))
        task = replace(task, context=context.under(parent_id))
        resumed = resume.take_over(study, lead, parent_id, task, experiment_id, listener)
        data = decode_for(parent, index, context, size=plan.size, listener=listener)
        _run_trials(study, task, plan.workers, listener, check=lead.check)
        trials = final.ranked(study)
        best = trials[0]
        _record_trials(study, best, parent)
        tracker.try_send(parent)
        listener.say(f"best trial: {best.number} with val/objective {best.value:.4f}")
        last, verdict = final.finish(trials, task, replace(goal, resumed=resumed), data, listener)
        parent.summarise(last.summary, step=0)
        with suppress(TrackingError):  # who is away for so long gets the rest by `pneumonia sync`
            resume.settle(study, lead, parent_id, task, experiment_id)
        parent.finish("COMPLETE")  # before the study is done: after that nobody would close it
        tracker.try_send(parent, force=True)
        lead.finish(parent_id)
    return Outcome(
        study=study.study_name,
        run_id=parent_id,
        table=report.table(study),
        best_params=best.params,
        final=last,
        verdict=verdict,
        unsent=_send_all(context),  # a trial that ended while the tracker was away
    )


def _join(study: optuna.Study, task: Task, workers: int, leader: str, listener: Listener) -> Outcome:
    """Lends this machine's workers to a search that another process leads, as the run `leader`."""
    tracker, run_id = task.context.tracker, task.context.run_id
    listener.say(f"joins study {study.study_name}, led by run {leader}, which trains the best in full and registers it")
    if run_id is not None:
        with tracker_errors(tracker.uri):
            tracker.client.set_tag(run_id, tags.ROLE, "worker")
            tracker.client.set_tag(run_id, tags.JOINED, leader)
    task = replace(task, context=task.context.under(leader))
    cache.decode(task.index.keep("train", "val"), size=task.base.size, home=task.context.home)
    _run_trials(study, task, workers, listener)
    return _outcome_of_another(study, leader, task, joined=True, done=False)


def _run_trials(
    study: optuna.Study, task: Task, workers: int, listener: Listener, *, check: Callable[[], None] = lambda: None
) -> None:
    """Runs trials on this machine until the study has enough; `check` is called every second and may raise."""
    next_look, since = 0.0, len(studies.trials(study))

    def on_poll() -> None:
        nonlocal next_look
        if time.monotonic() < next_look:
            return
        next_look = time.monotonic() + 1.0
        check()
        failed = studies.failures(study, since=since)
        if len(failed) > max(3, task.goal):
            raise SearchError(f"{len(failed)} trials failed; the last said: {failed[-1].user_attrs[attributes.REASON]}")
        listener.on_progress(progress(study, task.goal))

    def on_death() -> int:
        requeue_lost_trials(study, task.context)
        return len(studies.trials(study, *studies.DONE))

    listener.on_progress(progress(study, task.goal))
    if len(studies.trials(study, *studies.DONE)) < task.goal:
        try:
            pool.run(task, workers, on_poll=on_poll, on_death=on_death)
        except Interrupted:
            # An unreachable database or tracking store must not delay the stop.
            tidy = threading.Thread(target=_tidy, args=(study, task.context), daemon=True)
            tidy.start()
            tidy.join(TIDY_SECONDS)
            raise
        listener.on_progress(progress(study, task.goal))


def _tidy(study: optuna.Study, context: RunContext) -> None:
    """Ends what killed workers left: the trials that they were at, and the runs whose end they were sending."""
    requeue_lost_trials(study, context)
    for record in records(context.home / "records" / study.study_name):
        if unsent(record):
            context.tracker.try_send(record)


def progress(study: optuna.Study, goal: int) -> Progress:
    """How far the study is."""
    every = studies.trials(study)
    values = [t.value for t in every if t.state == TrialState.COMPLETE and t.value is not None]
    return Progress(
        done=sum(t.state in studies.DONE for t in every),
        goal=goal,
        failed=sum(t.state == TrialState.FAIL and bool(t.user_attrs.get(attributes.FAULT)) for t in every),
        running={t.number: len(t.intermediate_values) for t in every if t.state == TrialState.RUNNING},
        best=min(values, default=None),
    )


def _record_trials(study: optuna.Study, best: FrozenTrial, parent: Record) -> None:
    parent.add_params({f"best/{name}": value for name, value in best.params.items()})
    parent.add_params({"best/trial": best.number})
    report.table(study).to_csv(parent.artifacts / "trials.csv", index=False)
    report.figures(study, parent.artifacts / "search")
