import os
from pathlib import Path

import pytest

from pneumonia.housekeeping.sizes import last_touched, readable, size_of


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (999, "999 bytes"), (999.9e3, "1 MB"), (1234, "1.23 kB"), (5.25e9, "5.25 GB"), (2e15, "2e+03 TB")],
)
def test_sizes_have_three_digits(size: float, words: str) -> None:
    assert readable(size) == words


def test_a_folder_is_as_large_as_its_files_and_as_new_as_the_newest(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    empty = size_of(folder)
    for name, size in (("one", 1000), ("deep/two", 2000)):
        (folder / name).write_bytes(b"x" * size)
    (tmp_path / "large").write_bytes(b"x" * 10_000)
    (folder / "link").symlink_to(tmp_path / "large")
    assert 3000 <= size_of(folder) - empty < 4000
    for path in (folder / "one", folder / "deep", folder):
        os.utime(path, (100, 100))
    os.utime(folder / "link", (100, 100), follow_symlinks=False)
    os.utime(folder / "deep" / "two", (200, 200))
    os.utime(folder, (100, 100))
    assert last_touched(folder) == 200
    assert (size_of(tmp_path / "gone"), last_touched(tmp_path / "gone")) == (0, 0)
