"""The names of what a search notes on a study and on its trials, as Optuna's user attributes; beside these, a trial has
its metrics by their own names. Studies that earlier versions began have them: none may change.
"""

# Of a study.
OBJECTIVE = "objective"  # what judges the trials, in words
SPACE = "space"  # the distribution of each parameter
KEY = "key"  # tells it from all other studies
LEADER = "leader"  # the process that leads, and the count by which it shows that it lives
PARENT = "parent"  # the MLflow run that the trials are under
PARENTS = "parents"  # those that they were under before, the earliest first
FINISHED = "finished"  # the MLflow run of the search that brought it to its end

# Of a trial.
WORKER = "worker"  # the process that runs it
FOLDER = "folder"  # of its record, on the worker's machine
RUN_ID = "run_id"
REASON = "reason"
FAULT = "fault"  # it failed by itself
SURPLUS = "surplus"  # the reason of a trial that was one too many
