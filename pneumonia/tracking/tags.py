"""The names of the tags that this program writes in MLflow. Stores of earlier versions have them: none may change."""

# Of a run. Those of its record (`Run.tags`) are the logged model's and the registered version's too.
ROLE = "role"
RECORD = "record"  # the record's key, by which a run that a broken-off sending made is found again
REASON = "reason"
JOINED = "joined"  # of a worker's run: the search that it joined
RESUMED_BY = "resumed_by"  # of a search's run: the one that went on with it
RESUMED_FROM = "resumed_from"  # of a training's run: the one that left the checkpoint which it went on from
STUDY = "study"
STUDY_KEY = "study.key"  # of a search's final training: tells studies of one name apart
ANSWERED = "search.answered"  # of a search that died: the same command was typed again since
TRIAL_NUMBER = "trial.number"
TRIAL_STATE = "trial.state"
TRIAL_EPOCHS = "trial.epochs"
BEST_TRIAL = "best.trial"
BEST_TRIALS = "best.trials"
DROPPED = "model.dropped"  # the run's model was given up for better ones (see `keep_models`)
FINGERPRINT = "data.fingerprint"
CLASSES = "data.classes"
NEGATIVE = "data.negative"
POSITIVE = "data.positive"
ANY_DICOM = "data.any_dicom"
MODEL = "model"  # of an evaluation: the URI of what was scored
VERSION = "model.version"  # of an evaluation: name/number of the version that it was of
TEST_OPENINGS = "test.openings"  # of an evaluation; of a version or logged model, so far
PLACE = "adapt.place"  # of an adapting, and of the version that it made
PARENT = "adapt.parent"  # of these: the URI of the model that was adapted; name/number where it is a version
PARENT_RUN = "adapt.parent_run"  # of these: the run that made the model that was adapted
METHOD = "adapt.method"  # of these: fine-tuned, recalibrated, or unlabelled

# Of a version.
BY_HAND = "gate.by_hand"  # it was promoted by hand: the highest version that was there, and when
UNUSABLE = "gate.unusable"  # it could not be scored when a candidate came
LOG_LOSS = "gate.log_loss."  # and what identifies the films
CHAMPION_SINCE = "champion.since."  # and when it became champion, in milliseconds since 1970: how, who, why (JSON)
