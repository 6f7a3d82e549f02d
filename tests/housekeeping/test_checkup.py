"""One check never stops the others, whatever it does."""

import threading
import time

import pytest

from pneumonia.housekeeping.checkup import Check, Look, bounded, examine


def test_checks_that_fail_or_hang_are_errors_by_their_names_and_the_others_go_on() -> None:
    def fails() -> Check:
        raise ConnectionError("http://me:s3cret@lab does not answer\nTraceback")

    let_go = threading.Event()

    def hangs() -> Check:
        let_go.wait(60)
        return Check("never", "ok", "")

    fine = Check("fine", "ok", "all is well")
    several = [Check("one", "warning", "a"), Check("two", "note", "b")]
    looks = [
        Look("bad", fails),
        Look("slow", hangs, 0.2),
        Look("fine", lambda: fine),
        Look("many", lambda: several),
        Look("none", lambda: []),
    ]
    began = time.monotonic()
    bad, slow, *others = examine(looks)
    let_go.set()
    assert time.monotonic() - began < 30
    assert (bad.name, bad.state) == ("bad", "error")
    assert "ConnectionError" in bad.sentence
    assert "s3cret" not in bad.sentence
    assert "\n" not in bad.sentence
    assert slow == Check("slow", "error", "no answer within 0.2 s")
    assert others == [fine, *several]


def test_results_come_as_they_are_found() -> None:
    def later() -> Check:
        raise AssertionError("the first result was not waited for")

    assert next(examine([Look("first", lambda: Check("first", "ok", "")), Look("later", later)])).name == "first"


def test_what_a_bounded_call_raises_is_raised() -> None:
    with pytest.raises(ValueError, match="no such thing"):
        bounded(lambda: (_ for _ in ()).throw(ValueError("no such thing")), 10)
    assert bounded(lambda: None, 10) is None
