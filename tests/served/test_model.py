"""The model that MLflow loads: what it takes, what it answers, and what a client is told."""

import base64
import json

import cv2
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from pneumonia import served
from pneumonia.served import model as serving
from tests.served.conftest import CLASSES, GOOD, SIZE, png

COLUMNS = ["probability", "label", "threshold", "familiarity", "familiar", "warning", "error"]


def test_the_loaded_model_scores_like_the_package(model, folder, films):
    predictor = served.Predictor(folder)
    films = np.stack([cv2.resize(film, (90, 70)) for film in films])
    expected = predictor.probabilities(np.stack([served.read_film(png(film), SIZE) for film in films]))
    as_bytes = model.predict(pd.DataFrame({"image": [png(film) for film in films]}))
    as_text = model.predict(pd.DataFrame({"image": [base64.b64encode(png(film)).decode() for film in films]}))
    assert as_bytes.columns.tolist() == COLUMNS
    assert np.array_equal(as_bytes["probability"], expected)
    assert as_text.equals(as_bytes)
    assert as_bytes["label"].tolist() == [CLASSES[int(p >= 0.4)] for p in expected]
    assert set(as_bytes["threshold"]) == {0.4}


@pytest.mark.parametrize(
    "write",
    [
        lambda data: base64.encodebytes(data).decode(),  # a line break after 76 letters and at the end
        lambda data: base64.b64encode(data).decode() + "\n",
        lambda data: f"data:image/png;base64,{base64.b64encode(data).decode()}",
        lambda data: [base64.b64encode(data).decode()],
        bytearray,
    ],
)
def test_films_are_taken_as_people_write_them(model, write):
    plain = model.predict(pd.DataFrame({"image": [GOOD, GOOD]}))
    assert model.predict(pd.DataFrame({"image": [write(GOOD), write(GOOD)]})).equals(plain)


def test_explain_adds_a_heatmap(model, films):
    film = cv2.resize(films[0], (90, 60))
    table = model.predict(pd.DataFrame({"image": [png(film)]}), params={"explain": True})
    assert table.columns.tolist() == [*COLUMNS, "heatmap"]
    picture = np.frombuffer(base64.b64decode(table["heatmap"][0]), np.uint8)
    assert cv2.imdecode(picture, cv2.IMREAD_COLOR).shape == (60, 90, 3)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pd.DataFrame({"image": [GOOD, None]}), "record 1: the image is missing"),
        (pd.DataFrame({"image": [GOOD, float("nan")]}), "record 1: the image is missing"),
        (pd.DataFrame({"image": [3]}, dtype=object), "record 0: the image must be base64"),
        (pd.DataFrame({"image": [[1, 2]]}), "record 0: the image must be base64"),
        (pd.DataFrame({"image": [{"secret": 1}]}), "record 0: the image must be base64"),
        (pd.DataFrame({"image": ["/etc/secret.png"]}), "record 0: the image is not base64"),
        (pd.DataFrame({"image": ["https://secret.example/a.png"]}), "record 0: the image is not base64"),
        (pd.DataFrame({"image": ["c2VjcmV0IQ=="]}), "record 0: the file is text"),
        (pd.DataFrame({"image": ["c2Vj\ncmV0IQ=\n"]}), "record 0: the image is not base64"),
        (pd.DataFrame({"image": ["sécret"]}), "record 0: the image is not base64"),
        (pd.DataFrame({"image": [""]}), "record 0: the film is empty"),
        (pd.DataFrame({"secret": [GOOD]}), "no records with a column 'image'"),
        (pd.DataFrame({"image": []}, dtype=object), "1 to 1000 records, not 0"),
        (pd.DataFrame({"image": [GOOD] * 1001}), "1 to 1000 records, not 1001"),
    ],
    ids=range(14),
)
def test_wrong_requests_get_one_sentence(model, table, words):
    with pytest.raises(MlflowException) as caught:
        model.predict(table)
    assert caught.value.get_http_status_code() == 400
    caught.value.message = "the server puts the request's data here: secret"
    body = json.loads(caught.value.serialize_as_json())
    assert body.keys() == {"error_code", "message"}
    assert body["error_code"] == "INVALID_PARAMETER_VALUE"
    assert words in body["message"]
    assert "secret" not in body["message"]


def test_many_heatmaps_at_once_are_refused(model):
    table = pd.DataFrame({"image": [GOOD] * (serving.MAX_EXPLAINED + 1)})
    assert len(model.predict(table)) == serving.MAX_EXPLAINED + 1
    with pytest.raises(MlflowException, match="with explain"):
        model.predict(table, params={"explain": True})


def test_an_unforeseen_error_tells_the_client_nothing(folder, monkeypatch, caplog):
    model = serving.ServedModel()
    model.predictor = served.Predictor(folder)
    monkeypatch.setattr(serving, "stretch", lambda *_: 1 / 0)
    with pytest.raises(serving.RequestError) as caught:
        model.predict(pd.DataFrame({"image": [GOOD]}))
    assert caught.value.get_http_status_code() == 500
    assert "zero" not in caught.value.serialize_as_json()
    assert "division by zero" in caplog.text
