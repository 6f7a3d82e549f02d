"""Splits several names in one text: MLflow passes an MLproject parameter on as a single word."""

import re
import shlex
from collections.abc import Callable, Iterable
from contextlib import suppress

MOST = 12  # words that a name with spaces may have


def split(texts: Iterable[str], is_there: Callable[[str], bool]) -> list[str]:
    """The names in `texts`. A text that names something is taken whole; else it is several, with spaces or commas
    between them. A word that names nothing is joined with those behind it to a name that does, so that paths may hold
    spaces; quotation marks, as a shell takes them, leave no doubt.

    Args:
        is_there: whether a text names something, such as a file.
    """
    return [name for text in texts for name in ([text] if text and is_there(text) else _names(text, is_there))]


def _names(text: str, is_there: Callable[[str], bool]) -> list[str]:
    if re.search(r"(^|[\s,])[\"']", text):
        words = shlex.shlex(text, posix=True)
        words.whitespace_split, words.escape, words.commenters = True, "", ""  # a backslash is part of a path
        words.whitespace += ","
        with suppress(ValueError):  # an unclosed quotation mark is part of a name
            return [word for word in words if word]
    spans = [match.span() for match in re.finditer(r"[^\s,]+", text)]
    names, at = [], 0
    while at < len(spans):
        start = spans[at][0]
        longer = [text[start:end] for _, end in spans[at : at + MOST]]
        taken = next((number for number, name in enumerate(longer) if is_there(name)), 0)
        names.append(longer[taken])
        at += taken + 1
    return names
