import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest

from pneumonia.serving import prediction_tables
from pneumonia.serving.film_batches import COLUMNS, TYPES, Row
from pneumonia.serving.prediction_tables import OutputError, Table, begun, check_output

ABOUT = {"model": "one", "films": "these"}
FORMATS = ("csv", "jsonl", "parquet")


def row(number: int, *, error: str = "") -> Row:
    good = {"probability": 1 / (number + 3), "label": "PNEUMONIA", "familiarity": 1e-5 * number, "familiar": True}
    missing = {"probability": None, "label": "", "familiarity": None, "familiar": None}
    path = f"/films/{number}, “ü” \n.png"
    return {"path": path, **(missing if error else good), "threshold": 0.41, "warning": "", "error": error}


ROWS = [row(number, error='not a film, by its "first" bytes' if number % 4 == 1 else "") for number in range(10)]


def read(path: Path) -> pd.DataFrame:
    """A table, as its users read it."""
    texts = {name: "" for name, kind in TYPES.items() if kind == "str"}
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
    elif path.suffix == ".csv":
        table = pd.read_csv(path, keep_default_na=False, na_values={name: [""] for name in TYPES if name not in texts})
    else:
        table = pd.DataFrame([json.loads(line) for line in path.read_text().splitlines()])
    return table.fillna(texts).astype(TYPES)


def write(path: Path, rows: Sequence[Row], *, about: dict[str, str] = ABOUT) -> int:
    """Writes a table, or the rest of it; returns how many rows were there before."""
    with Table(path, about) as table:
        before = table.done
        for one in rows[before:]:
            table.add({name: one[name] for name in COLUMNS})
        table.finish()
    return before


def killed(path: Path, rows: Sequence[Row], *, torn: bytes = b"") -> None:
    """What a kill in the middle of a table leaves: rows that were kept, and perhaps more."""
    with Table(path, ABOUT) as table:
        for one in rows:
            table.add({name: one[name] for name in COLUMNS})
    with next(table.folder.glob("rows.*")).open("ab") as file:
        file.write(torn)


EXPECTED = pd.DataFrame(ROWS, columns=list(COLUMNS)).astype(TYPES)


@pytest.mark.parametrize("kind", FORMATS)
def test_tables_keep_every_digit_and_every_reason(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"table.{kind}"
    assert write(path, ROWS) == 0
    pd.testing.assert_frame_equal(read(path), EXPECTED, check_exact=True)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("torn", [b"", b'"/films/4, half a li', "/films/4.png,0.3,PNEUM\n{}\nü".encode()[:-1]])
def test_a_table_goes_on_where_it_was_killed(kind: str, torn: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"table.{kind}"
    killed(path, ROWS[:4], torn=torn)
    assert not path.exists()
    assert begun(path)
    assert write(path, ROWS) == 4
    pd.testing.assert_frame_equal(read(path), EXPECTED, check_exact=True)
    assert not begun(path)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_kill_after_every_byte_repeats_and_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each state of the folder that was on the disk at once: rows before the state that counts them."""
    monkeypatch.setattr(prediction_tables, "KEPT_SECONDS", -1.0)
    path = tmp_path / "table.csv"
    for kept in range(len(ROWS)):
        with Table(path, ABOUT) as table:
            assert table.done == kept
            table.add(ROWS[kept])
            state = (table.folder / prediction_tables.STATE).read_bytes()
            if kept + 1 < len(ROWS):
                table.add(ROWS[kept + 1])
        (table.folder / prediction_tables.STATE).write_bytes(state)  # the kill came between the two
    assert write(path, ROWS) == len(ROWS)
    pd.testing.assert_frame_equal(read(path), EXPECTED, check_exact=True)


def test_a_table_is_finished_that_was_killed_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    killed(path, ROWS)
    assert write(path, ROWS) == len(ROWS)
    pd.testing.assert_frame_equal(read(path), EXPECTED, check_exact=True)


@pytest.mark.parametrize("about", [{"model": "two", "films": "these"}, {"model": "one"}, {**ABOUT, "heatmaps": "maps"}])
def test_rows_of_something_else_are_refused_and_kept(about: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    killed(path, ROWS[:3])
    with pytest.raises(OutputError, match=r"table\.csv\.part holds 3 rows of another table .*delete it to begin anew"):
        write(path, ROWS, about=about)
    assert write(path, ROWS) == 3


def test_rows_that_were_cut_off_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    killed(path, ROWS[:3])
    rows = tmp_path / "table.csv.part" / "rows.csv"
    rows.write_bytes(rows.read_bytes()[:-1])
    with pytest.raises(OutputError, match="has lost rows"):
        write(path, ROWS)


def test_two_processes_do_not_write_one_table(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with Table(path, ABOUT), pytest.raises(OutputError, match="another process is writing"):
        Table(path, ABOUT)
    assert write(path, ROWS) == 0


def test_a_finished_table_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write(path, ROWS[:2])
    before = path.read_bytes()
    killed(path, ROWS[:3])
    assert path.read_bytes() == before
    write(path, ROWS)
    assert len(read(path)) == len(ROWS)


@pytest.mark.parametrize("name", ["table.xlsx", "table", "csv"])
def test_an_unknown_output_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"must end in \.csv, \.jsonl or \.parquet"):
        check_output(tmp_path / name)


def test_a_folder_as_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        check_output(tmp_path / "a.csv")
