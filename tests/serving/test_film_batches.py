import os
from pathlib import Path

import pytest

from pneumonia.serving import film_batches
from pneumonia.serving.film_batches import COLUMNS, heatmap_name, score
from tests.serving.fake_scorer import FakeScorer, numbered


def sized(paths: list[Path]) -> list[tuple[Path, int]]:
    return [(path, film_batches.size_of(path)) for path in paths]


def test_rows_come_in_the_order_of_the_films_whichever_thread_is_first(tmp_path: Path) -> None:
    paths = numbered(tmp_path, 50, bad=[7])
    scorer = FakeScorer(seconds=0.01)
    rows = list(score(scorer, sized(paths)))
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert [row["probability"] for row in rows] == [None if n == 7 else n / 100 for n in range(50)]
    assert all(tuple(row) == COLUMNS for row in rows)
    assert rows[7] | {"path": ""} == {
        **{"path": "", "probability": None, "label": "", "threshold": 0.5, "familiarity": None, "familiar": None},
        **{"warning": "", "error": "bad film"},
    }
    assert sum(scorer.asked) == 50
    assert scorer.at_once == 3


def test_a_batch_is_bounded_in_films_and_bytes(tmp_path: Path) -> None:
    scorer = FakeScorer(films_at_once=4, bytes_at_once=10, calls_at_once=1)
    paths = numbered(tmp_path, 6)
    list(score(scorer, [(path, size) for path, size in zip(paths, (3, 3, 3, 50, 1, 1), strict=True)]))
    assert scorer.asked == [3, 1, 2]


def test_no_more_films_are_read_ahead_than_threads_work_at(tmp_path: Path) -> None:
    scorer, taken = FakeScorer(calls_at_once=2), list[Path]()

    def films():
        for path, size in sized(numbered(tmp_path, 90)):
            taken.append(path)
            yield path, size

    rows = score(scorer, films())
    next(rows)
    assert len(taken) <= (2 * 2 + 1) * 4 + 1
    rows.close()
    assert sum(scorer.asked) <= len(taken)


def test_what_cannot_be_read_is_said_and_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_batches, "MAX_BYTES", 1 << 20)
    os.mkfifo(tmp_path / "pipe.png")  # opening it would wait for ever
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate((1 << 20) + 1)
    names = ("pipe.png", "gone.png", "large.png", ".", "a" * 300)
    scorer = FakeScorer()
    rows = list(score(scorer, sized([*(tmp_path / name for name in names), *numbered(tmp_path, 1)])))
    said = ["not a file", "no such file", "the file is larger than 1 MiB", "not a file"]
    assert [row["error"] for row in rows[:4]] == said
    assert rows[4]["error"]
    assert rows[5]["error"] == ""
    assert scorer.asked == [1]


def test_an_error_of_the_scorer_ends_it(tmp_path: Path) -> None:
    class Away(FakeScorer):
        def score(self, films):
            raise RuntimeError("the server is away")

    with pytest.raises(RuntimeError, match="the server is away"):
        list(score(Away(), sized(numbered(tmp_path, 20))))


def test_heatmaps_stand_in_the_folder_by_the_number_of_the_row(tmp_path: Path) -> None:
    paths = numbered(tmp_path / "films", 5, bad=[1])
    rows = list(score(FakeScorer(), sized(paths[2:]), first=2, heatmaps=tmp_path / "maps"))
    assert all(tuple(row) == COLUMNS for row in rows)
    list(score(FakeScorer(), sized(paths[:2]), heatmaps=tmp_path / "maps"))
    found = {path.name: path.read_bytes() for path in (tmp_path / "maps").iterdir()}
    assert found == {f"00000{n + 1}-00{n}.png": b"map of %d" % n for n in (0, 2, 3, 4)}


def test_names_of_heatmaps_cannot_collide_or_leave_the_folder() -> None:
    odd = [
        "../../etc/passwd",
        "a/..",
        "..",
        "a\nb.png",
        "\udcff.png",
        "a" * 300,
        "-rf",
        "CON.png",
        "é/x.png",
        "x/x.png",
    ]
    names = [heatmap_name(number, Path(name)) for number, name in enumerate([*odd, *odd])]
    names += [heatmap_name(number, Path("x.png")) for number in (999_998, 999_999, 1_000_000, 9_999_999)]
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert Path(name).name == name
        assert name.isascii()
        assert len(name) < 120
        assert name[0].isdigit()
