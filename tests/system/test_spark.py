"""The model on Spark, by MLflow's own function, as docs/guide/batches.md shows it."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
import pytest

from pneumonia.serving import predict
from tests.serving.test_predict import film, save

pytestmark = [pytest.mark.slow, pytest.mark.spark]


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    sql = pytest.importorskip("pyspark.sql", reason="needs PySpark: uv sync --group spark")
    if shutil.which("java") is None:
        pytest.skip("needs Java: apt-get install default-jre-headless")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        builder = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
        builder = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", "64")
        session = builder.config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()
        yield session
        session.stop()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_UV_AUTO_DETECT", "false")
        return save(tmp_path_factory.mktemp("model"))


def test_a_bad_film_is_a_row_and_the_others_are_scored(spark: Any, model: Path, tmp_path: Path) -> None:
    paths = [film(tmp_path / "films" / f"{number:03d}.png", number % 5) for number in range(150)]
    paths[70].write_text("not a film")
    files = spark.read.format("binaryFile").load(str(tmp_path / "films")).repartition(4)
    score = mlflow.pyfunc.spark_udf(spark, str(model), env_manager="local", params={"errors": "return"})
    scored = files.select("path", score("content").alias("said")).select("path", "said.*")
    scored.write.parquet(str(tmp_path / "scored"))

    found = pd.read_parquet(tmp_path / "scored").sort_values("path", ignore_index=True)
    assert tuple(found.columns) == predict.COLUMNS
    expected = predict.predict(predict.load(str(model)), paths)
    assert found["path"].str.removeprefix("file:").tolist() == expected["path"].tolist()
    assert found["error"].tolist() == expected["error"].tolist()
    assert bool(found["error"][70])
    columns = ["probability", "label", "threshold", "familiarity"]
    pd.testing.assert_frame_equal(found[columns], expected[columns], check_dtype=False, atol=1e-12)
    good = found.index != 70
    assert found["familiar"][good].tolist() == expected["familiar"][good].tolist()


def test_the_column_has_to_be_named(spark: Any, model: Path) -> None:
    """Since it is optional in the signature (`export.signature` says why)."""
    score = mlflow.pyfunc.spark_udf(spark, str(model), env_manager="local")
    with pytest.raises(mlflow.MlflowException, match="without column names"):
        score()
