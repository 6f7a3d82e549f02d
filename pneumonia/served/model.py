"""The served model: a table of films to a table of predictions, and the errors that a client gets."""

import base64
import binascii
import hashlib
import json
import logging
import math
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from pneumonia.served.answer_log import Answer, AnswerLog, answer_log
from pneumonia.served.counters import Counters, counters
from pneumonia.served.dicom_header import warning_of
from pneumonia.served.film import decode, min_side_of, stretch
from pneumonia.served.limits import MAX_BYTES, FilmError
from pneumonia.served.predictor import FAMILIAR, Predictor
from pneumonia.served.refusals import kind_of_refusal

logger = logging.getLogger(__name__)
MAX_RECORDS = 1_000  # films in one request
STRANGE = "the film is unlike those that the model was trained on, so that its probability may mean nothing"
MAX_EXPLAINED = 64  # films in one request with a heat map each, which weighs some 200 KB


class RequestError(MlflowException):
    """What the client gets, whole: HTTP 400 (500 for an internal error) and one sentence.

    MLflow prepends the request's data to `message` and would send that; `serialize_as_json` is what it sends.
    """

    def __init__(self, sentence: str, error_code: int = INVALID_PARAMETER_VALUE) -> None:
        super().__init__(sentence, error_code=error_code)
        self.sentence = sentence

    def serialize_as_json(self) -> str:
        return json.dumps({"error_code": self.error_code, "message": self.sentence})


class ServedModel(PythonModel):
    """A table with a column `image` (base64 text or bytes of one film a record) to a table of predictions.

    What it answers it notes and counts where the environment asks for that (`answer_log`, `counters`).
    """

    log: AnswerLog | None = None
    counters: Counters | None = None

    def load_context(self, context: PythonModelContext) -> None:
        package = Path(context.artifacts["package"])
        self.predictor, self.log = Predictor(package), answer_log(package)
        self.counters = counters(package, self.predictor.classes[1])

    def predict(  # type: ignore[override]  # MLflow lets `context` be left out
        self, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Scores films.

        Args:
            model_input: column `image`, at most `MAX_RECORDS` rows.
            params: `explain` adds a column `heatmap` (base64 PNG), for at most `MAX_EXPLAINED` rows; `any_dicom` reads
                DICOMs that say that they are no chest radiographs; `errors` is `raise` or `return`, which scores the
                other records where one cannot be.

        Returns:
            In the order of the records: `probability` (of the positive class), `label`, `threshold`, `familiarity` (see
            `Predictor.familiarity`), `familiar` (whether that is at least `FAMILIAR`), `warning` (`warning_of`, and
            `STRANGE` where the film is not familiar) and `error`. Of a record that cannot be scored `error` says why,
            the numbers but the threshold are missing, the texts are empty and `familiar` is false.

        Raises:
            RequestError: one sentence; records count from 0.
        """
        answers: list[Answer] = []
        began, status = time.perf_counter(), 200
        try:
            return self._answer(model_input, params or {}, answers)
        except RequestError as error:
            # The client gets nothing else: the record that was refused, or the whole request.
            answers[:] = answers[-1:] or [Answer()]
            answers[0].error = kind_of_refusal(error.sentence)
            status = int(error.get_http_status_code())  # type: ignore[no-untyped-call]
            raise
        finally:
            if self.log is not None:
                self.log.write(answers)
            if self.counters is not None:
                self.counters.count(answers, status, time.perf_counter() - began)

    def _answer(self, table: pd.DataFrame, params: dict[str, Any], answers: list[Answer]) -> pd.DataFrame:
        """`predict`, which notes in `answers` what becomes known of each record."""
        try:
            errors = params.get("errors") or "raise"
            if errors not in ("raise", "return"):
                raise RequestError("the parameter errors must be raise or return")
            explain, any_dicom = bool(params.get("explain")), bool(params.get("any_dicom"))
            return self._predict(table, explain, any_dicom, errors, answers)
        except RequestError:
            raise
        except Exception:  # an unforeseen error goes to the log, not to the client
            logger.exception("prediction failed")
            raise RequestError("the model failed on this request; the server's log says why", INTERNAL_ERROR) from None

    def _predict(
        self, table: pd.DataFrame, explain: bool, any_dicom: bool, errors: str, answers: list[Answer]
    ) -> pd.DataFrame:
        images = table.get("image")
        if not isinstance(images, pd.Series):  # MLflow drops other columns, and with them the count of the records
            raise RequestError("the request has no records with a column 'image'")
        if len(images) == 1 and isinstance(images.iloc[0], list | np.ndarray):
            # MLflow makes one record of a plain list of films, {"inputs": [film, film]} or nested.
            images = pd.Series(np.array(images.iloc[0], dtype=object).ravel(), dtype=object)
        if not 1 <= len(images) <= MAX_RECORDS:
            raise RequestError(f"a request must hold 1 to {MAX_RECORDS} records, not {len(images)}")
        if explain and len(images) > MAX_EXPLAINED:
            raise RequestError(f"with explain a request may hold {MAX_EXPLAINED} records, not {len(images)}")
        rows = []
        for record, image in enumerate(images):
            answers.append(Answer())
            try:
                rows.append(self._row(image, explain, any_dicom, answers[-1]))
            except FilmError as error:
                if errors == "raise":
                    raise RequestError(f"record {record}: {error}") from None
                rows.append({**self._unscored(str(error)), **({"heatmap": ""} if explain else {})})
                answers[-1].error = kind_of_refusal(str(error))
            answers[-1].row = rows[-1]
        # As floats what is missing would be NaN, which is no JSON.
        return pd.DataFrame(rows, dtype=object if any(row["error"] for row in rows) else None)

    def _row(self, image: object, explain: bool, any_dicom: bool, answer: Answer) -> dict[str, object]:
        model, data = self.predictor, _bytes_of(image)
        if self.log is not None:
            answer.sha256 = hashlib.sha256(data).hexdigest()
        began = time.perf_counter()
        try:
            film = decode(data, min_side=min_side_of(model.size), any_dicom=any_dicom)
        finally:
            answer.decode_seconds = time.perf_counter() - began
        began = time.perf_counter()
        small = stretch(film, model.size)
        logit, distance = model.look(small)
        answer.network_seconds = time.perf_counter() - began
        probability, familiarity = float(model.calibrate(np.array(logit))), model.familiarity(distance)
        familiar = familiarity >= FAMILIAR
        row: dict[str, object] = {
            "probability": probability,
            "label": model.classes[int(probability >= model.threshold)],
            "threshold": model.threshold,
            "familiarity": familiarity,
            "familiar": familiar,
            "warning": "; ".join(filter(None, (warning_of(data), "" if familiar else STRANGE))),
            "error": "",
        }
        if explain:
            picture = model.heatmap(film, model.heat(logit, model.evidence(small)))
            row["heatmap"] = base64.b64encode(picture).decode("ascii")
        return row

    def _unscored(self, why: str) -> dict[str, object]:
        numbers = {"probability": None, "label": "", "threshold": self.predictor.threshold, "familiarity": None}
        return {**numbers, "familiar": False, "warning": "", "error": why}


def _without_blanks(text: str) -> str:
    return "".join(text.split())


def _bytes_of(image: object) -> bytes:
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if image is None or image is pd.NA or (isinstance(image, float) and math.isnan(image)):
        raise FilmError("the image is missing")
    if isinstance(image, list | np.ndarray) and len(image) == 1:
        return _bytes_of(image[0])
    if not isinstance(image, str):
        several = isinstance(image, list | np.ndarray)
        raise FilmError("the image is a list: give each film a record" if several else "the image must be base64 text")
    if len(image) > MAX_BYTES * 4 / 3 + 4:
        raise FilmError(f"the film is larger than {MAX_BYTES >> 20} MiB")
    # Line breaks, as MIME and the command base64 make them, and what browsers put before it (RFC 2045, RFC 2397).
    if image[:5] == "data:":
        image = re.sub(r"^data:[^,]{0,200};base64,", "", image, count=1)
    for plain in (str, _without_blanks):
        with suppress(ValueError):  # binascii.Error, or letters outside ASCII
            return binascii.a2b_base64(plain(image), strict_mode=True)
    raise FilmError("the image is not base64 (a path or URL is not read)")
