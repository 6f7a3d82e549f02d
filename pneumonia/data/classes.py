"""Which of two classes is the positive one, by what their names mean."""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pneumonia.data.file_kinds import DataError
from pneumonia.data.inventory import some

_OPACITIES = re.compile(r"pneumoni|opaci|consolid|infiltrat|covid", re.IGNORECASE)
_NOT = {"no", "non", "not", "without", "false"}
_WELL = {
    *("normal", "normals", "negative", "negatives", "neg", "healthy", "control", "controls", "benign", "clear"),
    *("absent", "absence", "none", "free", "unaffected", "uninfected", "noninfected", "nofinding", "nofindings"),
}
_LETTERS = ({"n", "p"}, {"n", "y"}, {"f", "t"})  # negative, no, false, each beside its opposite
_FORMERLY = re.compile(r"(normal|negative|healthy|controls?)\b|(no|non) ")


@dataclass(frozen=True)
class Choice:
    """Two classes, negative and positive; `swapped` where versions before 0.2 took them the other way round."""

    classes: tuple[str, str]
    swapped: bool


def choose(
    names: Iterable[str], data: Path, *, positive: str | None = None, like: tuple[str, str] | None = None
) -> Choice:
    """Which of the two classes among `names` is positive.

    Args:
        positive: the positive one, as the user writes it, in any case.
        like: (negative, positive) of a model, which decide where they are the same two.

    Raises:
        DataError: there are not two, `positive` is none of them, or it is not given and their names do not tell.
    """
    spelt: dict[str, str] = {}
    for name in names:
        key = name.casefold()
        spelt.setdefault(key, name.upper() if key in ("normal", "pneumonia") else name)
    if len(spelt) != 2:
        raise DataError(
            f"looked for films of two classes in {data} and found {len(spelt)}: {some(sorted(spelt.values()))}"
        )
    same = like is not None and {name.casefold() for name in like} == spelt.keys()
    if like is not None and same:
        spelt = {name.casefold(): name for name in like}
    first, last = sorted(spelt)
    if positive is not None:
        high = positive.strip().casefold()
        if high not in spelt:
            raise DataError(
                f"the positive class is to be {positive}, but the films are {spelt[first]} and {spelt[last]}: "
                "--positive takes one of these two"
            )
    elif like is not None and same:
        high = like[1].casefold()
    else:
        negative = [key for key, other in ((first, last), (last, first)) if is_negative(spelt[key], spelt[other])]
        if len(negative) != 1 and like is not None:
            raise DataError(
                f"the model tells {' from '.join(like)}, but the films are {spelt[first]} and {spelt[last]}"
            )
        if len(negative) != 1:
            raise DataError(
                f"the names of the classes {spelt[first]} and {spelt[last]} do not tell which is the positive one: "
                f"say so with --positive, such as --positive {shlex.quote(spelt[last])}"
            )
        high = last if negative == [first] else first
    low = last if high == first else first
    return Choice((spelt[low], spelt[high]), swapped=low != _formerly_negative(first, last))


def is_negative(name: str, other: str) -> bool:
    """Whether a class is, by its name, that of films without what is looked for; `other` is the class beside it.

    Normal, Lung_Normal, healthy lungs, covid-negative, No Finding, without pneumonia, NonPneumonia, 0, false. Not so:
    abnormal, not normal, and, since numbers before and after a name only count, 0_PNEUMONIA beside 1_NORMAL.
    """
    try:
        return float(name) <= 0  # as text it may be -1
    except ValueError:
        pass
    words, beside = _words(name), _words(other)
    if words[:-1] == beside[:-1] and {words[-1], beside[-1]} in ({"0", "1"}, *_LETTERS):
        return (words[-1] in ("0", "n", "f")) != bool(_WELL & {*words[:-1]})  # pneumonia=0, but normal=1
    words, beside = _named(words), _named(beside)
    if any(word in _WELL and before not in _NOT for before, word in zip(["", *words], words, strict=False)):
        return True
    if not _WELL & {*beside} and "".join(words) in {no + "".join(beside) for no in ("no", "non", "not", "un")}:
        return True
    if words[0] in _NOT and (len(words) == 1 or words[1] not in _WELL):
        return True
    return words[-1] in _NOT and not _WELL & {*words}


def is_opacity_task(classes: tuple[str, str]) -> bool:
    """Whether the negative class is normal and the positive one ill by opacities of the lungs, by their names.

    Not so for two illnesses, nor where their names do not tell which class is which.
    """
    negative, positive = classes
    return (
        is_negative(negative, positive)
        and not is_negative(positive, negative)
        and _OPACITIES.search(positive) is not None
    )


def differ(told: tuple[str, ...], there: tuple[str, str]) -> str | None:
    """How a model's classes differ from the films', as the end of a sentence; None if they do not."""
    if told == there:
        return None
    if tuple(reversed(told)) == there:
        return f"takes {told[1]} for the positive class, but of the films it is to be {there[1]}"
    return f"tells {' from '.join(told)}, but the films are {' and '.join(there)}"


def _words(name: str) -> list[str]:
    """NonPneumonia as non, pneumonia; w/o as without; normal2 as normal, 2."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"\bw/o\b", "without", name, flags=re.IGNORECASE))
    return re.findall(r"\d+|[^\W\d_]+", apart.casefold()) or [""]


def _named(words: list[str]) -> list[str]:
    """Without the numbers around a name: 1_PNEUMONIA, NORMAL 2."""
    kept = list(words)
    while len(kept) > 1 and kept[0].isdecimal():
        kept.pop(0)
    while len(kept) > 1 and kept[-1].isdecimal():
        kept.pop()
    return kept


def _formerly_negative(first: str, last: str) -> str:
    """The negative class as versions before 0.2 chose it: by words they knew, else by the alphabet. Where that choice
    is the same as today's, so is the fingerprint."""
    known = [key for key in (first, last) if _FORMERLY.match(re.sub(r"[\W_]+", " ", key).strip())]
    return known[0] if len(known) == 1 else first
