"""Errors and the output of other programs, shortened to one line."""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def shortened(text: str, most: int) -> str:
    """At most `most` letters of a text, cut between two words, with ... at the end where something is missing; a single
    word that is longer is cut where it must be.
    """
    if len(text) <= most:
        return text
    room = text[: most - len(" ...") + 1]  # one more, which may be the space after the last word
    words, space, _ = room.rpartition(" ")
    return f"{words.rstrip() if space else room[:-1]} ..."
