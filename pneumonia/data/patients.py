"""The patient of each film, from the manifest or from the file's name."""

import re

import pandas as pd

_PERSON = re.compile(r"(person\d+)_(bacteria|virus)(?:_|$)", re.IGNORECASE)
_IM = re.compile(r"(?:NORMAL2-)?(IM-\d+)(?:-|$)", re.IGNORECASE)
_ROBOFLOW = re.compile(r"(.+)\.rf\.[0-9a-z]{6,}\.\w+", re.IGNORECASE)  # its export makes several films of one


def name_patients(table: pd.DataFrame) -> tuple[int, int]:
    """Fills in the patients and subtypes that no manifest gave, in place. Returns how many films had no number in the
    name, and how many are only known by their name before a Roboflow export.

    Kermany's numbers start again in test: the same number in train and test is two patients, so the split is put
    before it. A film without a number is its own patient, named by its content, so that renaming changes nothing.
    """
    patients, subtypes, nameless, exported = [], [], 0, 0
    for path, split, label, patient, subtype, sha256 in zip(
        *(table[name] for name in ("path", "split", "label", "patient", "subtype", "sha256")), strict=True
    ):
        stem = path.rsplit("/", 1)[-1]
        series = "test" if split == "test" else "train"
        person, im = _PERSON.match(stem), _IM.match(stem)
        number = person[1].lower() if person else im[1].upper() if im else None
        if not patient and number is None:
            before = _ROBOFLOW.fullmatch(stem)
            number = f"{label}/{before[1]}" if before else None
            exported += before is not None
            nameless += before is None
        patients.append(patient or f"{series}/{number or sha256[:16]}")
        subtypes.append(subtype or (person[2].lower() if person else ""))
    table["patient"], table["subtype"] = patients, subtypes
    return nameless, exported
