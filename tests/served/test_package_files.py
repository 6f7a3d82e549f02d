"""What of a package is loaded is what was written; a file that is another is named."""

import json
import shutil
from pathlib import Path

import pytest

from pneumonia.served import Predictor
from pneumonia.served.package_files import check_files, read_manifest
from pneumonia.serving import export
from pneumonia.serving.export import PackageError, read_networks
from tests.served.conftest import TinyNetwork

FILES = ("model.onnx", "model.safetensors", "served.py", "package.json")


@pytest.fixture
def package(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "package"))


def refusals(package: Path) -> set[str]:
    """What is said by all that load a package."""
    said = set()
    with pytest.raises(ValueError, match="package") as caught:
        Predictor(package)
    said.add(str(caught.value))
    with pytest.raises(PackageError) as caught:
        read_networks(package, 0.0)
    return said | {str(caught.value)}


def test_each_file_has_its_sum(package: Path) -> None:
    manifest = json.loads((package / "package.json").read_text())
    assert sorted(manifest["sha256"]) == sorted(FILES)
    assert all(len(digest) == 64 for digest in manifest["sha256"].values())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_changed_byte_is_found_and_its_file_named(package: Path, name: str, share: float) -> None:
    data = bytearray((package / name).read_bytes())
    data[int(share * len(data))] ^= 1
    (package / name).write_bytes(data)
    (said,) = refusals(package)
    assert name in said or name == "package.json"  # which may then name another file, or a key, wrongly
    assert "\n" not in said


def test_a_threshold_that_was_moved_by_hand_is_found(package: Path) -> None:
    manifest = json.loads((package / "package.json").read_text())
    (package / "package.json").write_text(json.dumps({**manifest, "threshold": 0.01}))
    assert refusals(package) == {
        "the package's package.json is not the one that was written (its SHA-256 is another): fetch the model anew"
    }


@pytest.mark.parametrize("name", FILES[:3])
def test_a_missing_file_is_named(package: Path, name: str) -> None:
    (package / name).unlink()
    assert refusals(package) == {f"the package's {name} is missing: fetch the model anew"}


def test_a_file_too_many_is_named(package: Path) -> None:
    (package / "more.py").write_text("")
    assert refusals(package) == {"the package holds more.py, which was not written with it: take it out, after a look"}


def test_what_python_compiles_beside_the_code_is_no_file_too_many(package: Path) -> None:
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "served.cpython-311.pyc").write_bytes(b"")
    check_files(package, read_manifest(package))


def test_a_manifest_that_is_none_is_refused_in_bounded_memory(package: Path) -> None:
    for text in ("", "[1]", "[" * 100_000, '{"sha256": 3, "format": 2}'):
        (package / "package.json").write_text(text)
        with pytest.raises((ValueError, KeyError)):
            Predictor(package)
    with (package / "package.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="larger than 16 MiB"):
        Predictor(package)


def test_packages_of_before_have_no_sums_and_are_loaded(package: Path, films) -> None:
    expected = Predictor(package).logits(films)
    manifest = json.loads((package / "package.json").read_text())
    del manifest["sha256"]
    (package / "package.json").write_text(json.dumps(manifest))
    (package / "model.safetensors").unlink()
    (package / "notes.txt").write_text("ours")
    assert (Predictor(package).logits(films) == expected).all()


def test_the_same_package_written_anew_over_a_damaged_one_is_whole(package: Path) -> None:
    (package / "model.onnx").write_bytes(b"")
    from tests.served.conftest import write

    write(package, TinyNetwork())
    Predictor(package)
    assert export.GRAPH in FILES
