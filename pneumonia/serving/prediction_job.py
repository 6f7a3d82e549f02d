"""Scores a list of films of any length into a table: what there is of it is gone on with, after a kill too."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

from tqdm import tqdm

from pneumonia.serving.film_batches import Row, Scorer, score
from pneumonia.serving.film_list import FilmList
from pneumonia.serving.prediction_tables import OutputError, Table, begun, header, line


@dataclass(frozen=True, kw_only=True)
class Job:
    """Films to be scored; `heatmaps` is a folder for heatmaps, which the scorer was made to give."""

    films: FilmList
    scorer: Scorer
    heatmaps: Path | None = None
    progress: bool = False

    def to_file(self, output: Path) -> tuple[int, int, int]:
        """Writes the table, or the rest of it where an earlier run of the same job was stopped.

        Returns:
            Films, how many of them failed, and how many were in the table before.

        Raises:
            OutputError: as `prediction_tables.Table`, or there are heatmaps of another job.
        """
        films = f"{len(self.films)} files (SHA-256 of their names and sizes {self.films.digest[:16]})"
        heatmaps = {} if self.heatmaps is None else {"heatmaps": str(self.heatmaps)}
        if not begun(output):
            self._check_heatmaps()
        with Table(output, {**self.scorer.about, "films": films, **heatmaps}) as table:
            before = table.done
            with closing(self._rows(before)) as rows:
                for row in rows:
                    table.add(row)
            table.finish()
            return table.done, table.failed, before

    def to_stream(self, stream: IO[str]) -> tuple[int, int]:
        """Writes the table as CSV, row by row.

        Returns:
            Films, and how many of them failed.

        Raises:
            OutputError: there are heatmaps of another job.
        """
        self._check_heatmaps()
        stream.write(header(".csv"))
        failed = 0
        with closing(self._rows(0)) as rows:
            for row in rows:
                stream.write(line(row, ".csv"))
                failed += bool(row["error"])
        return len(self.films), failed

    def _rows(self, done: int) -> Generator[Row]:
        rest, total = islice(self.films, done, None), len(self.films)
        with closing(score(self.scorer, rest, first=done, heatmaps=self.heatmaps)) as rows:
            yield from tqdm(rows, total=total, initial=done, desc="predict", unit="film", disable=not self.progress)

    def _check_heatmaps(self) -> None:
        if self.heatmaps is not None and self.heatmaps.is_dir() and any(self.heatmaps.iterdir()):
            raise OutputError(f"the folder for heatmaps {self.heatmaps} is not empty: name another one, or empty it")
