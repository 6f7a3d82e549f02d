"""What a model's URI names in the registry, now or later, and its files."""

import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException

from pneumonia.runtime.messages import first_line, shortened
from pneumonia.runtime.secrets import without_secrets
from pneumonia.serving.model_integrity import check_model
from pneumonia.serving.scoring_server import NotServed
from pneumonia.tracking import places
from pneumonia.tracking.connection import TrackingError, reach
from pneumonia.tracking.store import Tracker, tracker_errors


@dataclass(frozen=True)
class ModelUri:
    """`models:/NAME@ALIAS` or `models:/NAME/VERSION`."""

    uri: str
    name: str
    alias: str | None
    number: str | None

    @classmethod
    def of(cls, uri: str) -> "ModelUri":
        """Raises:
        ValueError: it names no version of a registered model.
        """
        found = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", uri)
        if found is None:
            raise ValueError(
                f"{uri} names no registered version: write models:/pneumonia@champion or models:/pneumonia/3"
            )
        return cls(uri, *found.groups())

    def version(self, tracker: Tracker) -> str:
        """Raises:
        TrackingError: there is no such version, or the registry does not answer.
        """
        if self.number is not None:
            return self.number
        assert self.alias is not None
        reach(tracker.uri)
        try:
            with tracker_errors(tracker.uri):
                return str(tracker.client.get_model_version_by_alias(self.name, self.alias).version)
        except TrackingError as error:
            cause = error.__cause__
            missing = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST")
            if isinstance(cause, MlflowException) and cause.error_code in missing:
                raise TrackingError(f"{self.uri} names no version") from error
            raise

    def fetch(self, tracker: Tracker, version: str, within: Path) -> Path:
        """The files of a version, copied into a new folder in `within`: so that its server can be started again while
        the registry is away, and whatever is fetched later.

        Raises:
            NotServed: they are not there, cannot be had, or are not those that were logged.
        """
        uri = f"models:/{self.name}/{version}"
        folder = Path(tempfile.mkdtemp(prefix=f"version-{version}-", dir=within))
        gone = None
        try:
            place = places.model_files(uri, tracker.client)
            gone = None if place is None else places.missing(place, tracker.uri)
            mlflow.artifacts.download_artifacts(uri, dst_path=str(folder))
        except Exception as error:  # each kind of store has errors of its own
            shutil.rmtree(folder)
            said = gone or shortened(without_secrets(first_line(error)), 300)
            raise NotServed(f"cannot be had from the registry: {said}") from error
        try:
            check_model(folder)
        except (ValueError, OSError) as error:
            shutil.rmtree(folder)
            raise NotServed(f"cannot be served: {error}") from error
        return folder
