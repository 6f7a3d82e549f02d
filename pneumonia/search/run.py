"""One search from films to a registered model."""

import threading
import time
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
from pneumonia.search import attributes, final, leader, pool, report, resume
from pneumonia.search import study as studies
from pneumonia.search.final import SearchError
from pneumonia.search.lost_trials import requeue_lost_trials
from pneumonia.search.worker import Task, open_storage
from pneumonia.tracking import tags, views
from pneumonia.tracking.record import Record, Run, close_dead
from pneumonia.tracking.store import finished, tracker_errors
from pneumonia.tracking.sync import sent

TIDY_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a search. `verdict` is None where another process ends the study, or the tracker was away;
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
    context: RunContext,
    *,
    model_name: str = "pneumonia",
    listener: Listener = SILENT,
    heartbeat: int = studies.HEARTBEAT_SECONDS,
    grace: int = studies.GRACE_SECONDS,
) -> Outcome:
    """Searches, trains the best configuration in full, and registers the model.

    The same call again goes on where a killed one stopped; on another machine with the same storage it joins.

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
    study = _open(config, task, listener)
    task = replace(task, study=study.study_name)
    resume.close_ended_records(study, context.home)
    close_dead(context.home)
    context.tracker.sync(context.home)
    return _follow(study, task, plan.workers, listener) or _lead(study, task, config, model_name, listener)


def _open(config: SearchConfig, task: Task, listener: Listener) -> optuna.Study:
    """The study of these films, this space and this objective, made if need be. Names the unfinished studies of an
    earlier version."""
    ranges, changed, fingerprint = config.ranges(), config.changed, task.index.fingerprint
    name = config.study or studies.default_name(fingerprint, task.base, ranges, changed=changed)
    storage = open_storage(task)
    study = studies.create_or_resume(storage, name, task.base, ranges, changed=changed, long=task.long, goal=task.goal)
    for old, judged in studies.left_behind(storage, fingerprint).items():
        if old != name:
            also = " --disturb 0" if judged == studies.judge(changed=False) else ""
            listener.say(
                f"study {old} of these films is unfinished, from an earlier version that searched differently: "
                f"`--study {old}{also}` resumes it"
            )
    return study


def _follow(study: optuna.Study, task: Task, workers: int, listener: Listener) -> Outcome | None:
    """Joins whoever leads the study, until it is finished; None as soon as the lead is ours."""
    while (holder := leader.holder(study)) is not None or not leader.claim(study):
        if holder is None:
            continue  # another claimed at the same time: it is the next holder
        outcome = _join(study, task, workers, holder["run_id"], listener)
        if attributes.FINISHED in studies.with_retries(lambda: study.user_attrs) or leader.holder(study) is not None:
            tracker, run_id = task.context.tracker, task.context.run_id
            with tracker_errors(tracker.uri):
                if run_id is not None:
                    tracker.client.set_terminated(run_id)
            return outcome
        listener.say("the search that led this study is gone: one of the others leads it now")
    return None


def _lead(study: optuna.Study, task: Task, config: SearchConfig, model_name: str, listener: Listener) -> Outcome:
    """Leads the study, as the parent run of all trials: runs trials on this machine, makes the final model, registers
    it.
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
    parent_id = tracker.send(parent)
    tracker.save_view(sent(parent)["experiment_id"], *views.under(parent_id, parent.run.name))
    task = replace(task, context=context.under(parent_id))
    with finished(parent, tracker), leader.lead(study, parent_id):
        resume.take_over(study, parent_id, task, sent(parent)["experiment_id"], listener)
        data = decode_for(parent, index, context, size=plan.size, listener=listener)
        _run_trials(study, task, plan.workers, listener)
        trials = final.ranked(study)
        best = trials[0]
        _record_trials(study, best, parent)
        tracker.try_send(parent)
        listener.say(f"best trial: {best.number} with val/objective {best.value:.4f}")
        last, verdict = final.finish(trials, task, plan.final_epochs, data, model_name, listener)
        parent.summarise(last.summary, step=0)
        studies.with_retries(lambda: study.set_user_attr(attributes.FINISHED, parent_id))
    return Outcome(
        study=study.study_name,
        run_id=parent_id,
        table=report.table(study),
        best_params=best.params,
        final=last,
        verdict=verdict,
        unsent=len(tracker.sync(home)[1]),  # a trial that ended while the tracker was away
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
    return Outcome(
        study=study.study_name,
        run_id=leader,
        table=report.table(study),
        best_params=final.ranked(study)[0].params,
        joined=True,
        unsent=len(tracker.sync(task.context.home)[1]),
    )


def _run_trials(study: optuna.Study, task: Task, workers: int, listener: Listener) -> None:
    next_look, since = 0.0, len(studies.trials(study))

    def on_poll() -> None:
        nonlocal next_look
        if time.monotonic() < next_look:
            return
        next_look = time.monotonic() + 1.0
        failed = studies.failures(study, since=since)
        if len(failed) > max(3, task.goal):
            raise SearchError(f"{len(failed)} trials failed; the last said: {failed[-1].user_attrs[attributes.REASON]}")
        listener.on_progress(progress(study, task.goal))

    listener.on_progress(progress(study, task.goal))
    if len(studies.trials(study, *studies.DONE)) < task.goal:
        try:
            pool.run(task, workers, on_poll=on_poll, on_death=lambda: requeue_lost_trials(study, task.context))
        except Interrupted:
            # A killed worker left its trial; an unreachable database must not delay the stop.
            tidy = threading.Thread(target=requeue_lost_trials, args=(study, task.context), daemon=True)
            tidy.start()
            tidy.join(TIDY_SECONDS)
            raise
        listener.on_progress(progress(study, task.goal))


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
