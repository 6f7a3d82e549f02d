"""The tables of a study's database, read without Optuna's storage, which would make them or refuse them."""

from pathlib import Path

import optuna
import sqlalchemy
from alembic.script import ScriptDirectory
from optuna.storages._rdb.models import StudyModel, StudyUserAttributeModel

from pneumonia.search import attributes

VERSION = optuna.__version__


def migrations() -> ScriptDirectory:
    """The revisions of the tables that the installed Optuna knows, the newest of which it wants."""
    return ScriptDirectory(str(Path(optuna.storages.__file__).parent / "_rdb" / "alembic"))


def count(connection: sqlalchemy.Connection) -> int:
    """How many studies there are."""
    return int(connection.execute(sqlalchemy.select(sqlalchemy.func.count(StudyModel.study_id))).scalar_one())


def unfinished(connection: sqlalchemy.Connection) -> list[str]:
    """The names of the studies that no search has brought to its end."""
    ended = sqlalchemy.select(StudyUserAttributeModel.study_id).where(
        StudyUserAttributeModel.key == attributes.FINISHED
    )
    asked = sqlalchemy.select(StudyModel.study_name).where(StudyModel.study_id.not_in(ended))
    return [str(name) for name in connection.execute(asked).scalars()]
