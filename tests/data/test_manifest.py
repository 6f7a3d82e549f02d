"""Tables of films, as people write them."""

import re
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pneumonia.data.index import DataError, scan
from tests.data.conftest import film


def manifest(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    frame = pd.DataFrame(rows)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest(tmp_path: Path, suffix: str) -> None:
    far = film(tmp_path / "far/away.png")
    rows: list[dict[str, object]] = [
        {"Path": f"films/{n}.png", "label": n % 2, "patient": f"00{n // 2}", "subtype": "x" if n % 2 else None}
        for n in range(12)
    ]
    for row in rows:
        film(tmp_path / "set" / str(row["Path"]))
    rows.append({"Path": str(far), "label": 1, "patient": "007", "subtype": "x"})
    rows.append({"Path": "films/missing.png", "label": 1, "patient": "008", "subtype": "x"})
    index = scan(manifest(tmp_path / f"set/films{suffix}", rows))
    assert index.classes == ("0", "1")
    assert index.root == tmp_path / "set"
    table = index.table.set_index("path")
    assert table.at["films/3.png", "patient"] == "001"
    assert table.at["films/3.png", "subtype"] == "x"
    assert table.at["films/2.png", "subtype"] == ""
    assert table.at[far.as_posix(), "label"] == 1
    (((path, why)),) = index.report.corrupt
    assert path == "films/missing.png"
    assert re.fullmatch(rf"no such file; film 14 of films\{suffix}( \(line 15\))?, column path", why)
    assert set(table["split"]) == {"train", "val"}
    assert index.report.found == index.report.used + 1


def test_a_manifests_val_and_patients_are_believed(tmp_path: Path) -> None:
    rows = [
        {"path": film(tmp_path / f"{n}.png").name, "label": n % 2, "patient": p, "split": split}
        for n, (p, split) in enumerate(
            [
                ("p", "train"),
                ("p", "Testing"),
                ("q", "valid"),
                ("q", "train"),
                ("r", "training"),
                ("s", "Train"),
                ("t", "test"),
            ]
        )
    ]
    index = scan(manifest(tmp_path / "m.csv", rows))
    assert dict(zip(index.table["path"], index.table["split"], strict=True)) == {
        "1.png": "test", "2.png": "val", "4.png": "train", "5.png": "train", "6.png": "test",
    }  # fmt: skip
    assert [(g.why, g.left_out) for g in index.report.leaks] == [
        ("the same patient p in train and test", ("0.png",)),
        ("the same patient q in train and val", ("3.png",)),
    ]


def test_a_row_given_twice_counts_once(tmp_path: Path) -> None:
    rows = [
        {"path": film(tmp_path / f"{n}.png").name, "label": n % 2, "split": "test" if n > 3 else "train"}
        for n in range(8)
    ]
    index = scan(manifest(tmp_path / "m.csv", rows + rows[3:5]))
    assert len(index.table) == 8
    assert index.report.found == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,klass\na.png,1\n", "looked for the columns path and label in .* found path, klass: label missing"),
        ("path,label\na.png,1\nb.png,\n", "film 2 of .* has no label"),
        (
            "path,label,split\na.png,1,holdout\n",
            r"film 1 of .* \(line 2\) has the split 'holdout': it must be train, val or test",
        ),
        ("path,label\na.png,1\nb.png,1\n", "two classes in .* found 1: 1"),
        ("path,label\na.png,1\nb.png,0\nc.png,2\n", "two classes in .* found 3: 0, 1, 2"),
        ("path,label\nx.png,1\ny.png,0\n", "found none; of 2 files named, none exists"),
        ("path,label\nx.png,1\ny.png,0\n", r"tried /.*/x\.png \(no such file; film 1 of .*\) and /.*/y\.png"),
        ("path,label\n", "found none: it has a header, but no rows"),
        ("", "cannot be read: it is empty"),
        ("\n\n", "cannot be read: it is empty"),
        (
            "path,label\na.png,1\nb,b.png,0\n",
            r"film 2 of .* \(line 3\) has 3 cells, .* 2 columns, path, label",
        ),
        ('path,label\na.png,1\n"b.png,0\n', r"cannot be read: line 3: "),
        ("path,Label,label\na.png,1,1\nb.png,1,0\n", r"column label twice, as Label and label, and film 2 .*'1'.*'0'"),
        ("path,label\n" + "a" * 300 + ".png,1\n", r"too long; film 1 of .* \(line 2\), column path\)"),
    ],
)
def test_manifest_errors(tmp_path: Path, text: str, message: str) -> None:
    for name in "abc":
        film(tmp_path / f"{name}.png")
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError, match=message) as error:
        scan(tmp_path / "m.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["m.csv", "m.parquet"])
def test_a_manifest_of_rubbish(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\x00rubbish\x00\n" * 3)
    with pytest.raises(DataError, match=f"^the manifest .*{name} cannot be read: ") as error:
        scan(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        b"path,label\n{0},0\n{1},1\n",
        b"path,label,\n{0},0,\n{1},1,\n",
        b"path,label\n{0},0,\n{1},1,,\n",
        b"Path;LABEL\r\n{0};0\r\n{1};1\r\n",
        b"path\tlabel\n{0}\t0\n{1}\t1\n",
        b"sep=;\npath;label\n{0};0\n{1};1\n",
        b",path,label\n0,{0},0\n1,{1},1\n",
        b"path,Label,label\n{0},0,0\n{1},1,1\n",
        b'"path", "label"\n\n"{0}", "0"\n"{1}", "1"\n,\n',
        b"path,label\n.\\{0},0\n.\\{1},1\n",
        b"path,label,patient\n{0},0,N/A\n{1},1,N/A\n",
        b"path,label,patient\n{0},0,nan\n{1},1,\n",
        b"path,label,patient,split\n{0},0,007,\n{1},1,007,\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_manifests_as_people_write_them(tmp_path: Path, text: bytes, encoding: str) -> None:
    names = [film(tmp_path / f"films/{n}, Müller.png").relative_to(tmp_path).as_posix() for n in range(2)]
    quoted = [name if b'"{0}"' in text or b"\t" in text or b";" in text else f'"{name}"' for name in names]
    if b"\\" in text:
        quoted = [name.replace("/", "\\") for name in quoted]
        text = text.replace(b".\\{0}", b"{0}").replace(b".\\{1}", b"{1}")
    (tmp_path / "m.csv").write_bytes(text.decode().format(*quoted).encode(encoding))
    table = scan(tmp_path / "m.csv").table
    assert dict(zip(table["path"], table["label"], strict=True)) == {names[0]: 0, names[1]: 1}
    assert table["patient"].nunique() == 2
    assert set(table["split"]) == {"train"}


def test_one_path_that_is_too_long_costs_one_film(tmp_path: Path) -> None:
    rows = [{"path": film(tmp_path / f"{n}.png").name, "label": n % 2} for n in range(4)]
    index = scan(manifest(tmp_path / "m.csv", [*rows, {"path": "a" * 300 + ".png", "label": 1}]))
    assert index.report.used == 4
    (((path, why)),) = index.report.corrupt
    assert path == "a" * 300 + ".png"
    assert why == "File name too long; film 5 of m.csv (line 6), column path"
    assert max(map(len, index.report.lines())) < 300


def test_films_without_a_patient_are_said(tmp_path: Path) -> None:
    rows = [
        {"path": film(tmp_path / f"{n}.png").name, "label": n % 2, "patient": "p" if n < 4 else "N/A"}
        for n in range(20)
    ]
    index = scan(manifest(tmp_path / "m.csv", rows))
    assert index.table["patient"].nunique() == 17
    assert any("16 films have no patient in the manifest, but N/A" in note for note in index.report.notes)
    assert "the 16 films whose patient is not known were all of one" in index.report.notes[0]


def test_a_parquet_cell_that_is_no_text_is_named(tmp_path: Path) -> None:
    rows = [{"path": "a.png", "label": [1]}, {"path": "b.png", "label": [0]}]
    with pytest.raises(DataError, match=r"film 1 of .* has ndarray in the column label"):
        scan(manifest(tmp_path / "m.parquet", rows))


def test_a_manifest_by_a_link_or_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, object]] = [{"path": f"films/{n}.png", "label": n % 2} for n in range(20)]
    for row in rows:
        film(tmp_path / "set" / str(row["path"]))
    (tmp_path / "set/m.csv").symlink_to(manifest(tmp_path / "elsewhere.csv", rows))
    monkeypatch.chdir(tmp_path / "set")
    for name in (tmp_path / "set/m.csv", "m.csv"):
        index = scan(name)
        assert index.report.used == 20, "paths start from where the link stands, not from where it leads"
        assert index.root == tmp_path / "set"
    monkeypatch.chdir(tmp_path)
    assert (index.root / index.table["path"].iloc[0]).is_file(), "the index outlives a change of folder"


def test_a_table_of_more_bytes_than_are_read_is_refused_unopened(tmp_path: Path) -> None:
    for name in ("films.csv", "films.parquet"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 42)  # a hole, which takes no room on the disk
        with pytest.raises(DataError, match=r"too large to be read, its file has more than 256 MiB: split it"):
            scan(tmp_path / name)


def test_short_rows_below_a_header_of_very_many_columns_are_refused(tmp_path: Path) -> None:
    """Each of 40 kB of rows would be filled up with 50,000 cells."""
    header = ",".join(["path", "label", *(f"c{number}" for number in range(50_000))])
    (tmp_path / "films.csv").write_text(header + "\n" + "a,b\n" * 10_000)
    with pytest.raises(DataError, match=r"more than 20,000,000 cells in 50,002 columns"):
        scan(tmp_path / "films.csv")


def test_a_small_parquet_that_would_unpack_to_gigabytes_is_refused(tmp_path: Path) -> None:
    """One path of 100 kB in twenty thousand rows, which the file holds once."""
    long = pa.DictionaryArray.from_arrays(pa.array([0] * 20_000), pa.array(["a " * 50_000]))
    table = pa.table({"path": long, "label": ["NORMAL"] * 20_000})
    pq.write_table(table, tmp_path / "films.parquet")
    assert (tmp_path / "films.parquet").stat().st_size < 1 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="too large to be read, it unpacks to more than 256 MiB"):
        scan(tmp_path / "films.parquet")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_a_parquet_of_more_rows_than_are_read_is_refused(tmp_path: Path) -> None:
    zeros = pa.nulls(11_000_000, pa.int8())
    pq.write_table(pa.table({"path": zeros, "label": zeros}), tmp_path / "films.parquet")
    with pytest.raises(DataError, match="it has 11,000,000 rows"):
        scan(tmp_path / "films.parquet")
