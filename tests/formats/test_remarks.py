"""Remarks become warnings, unless somebody listens; nobody hears one twice."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from pathlib import Path

import pytest

from rifenet.formats.remarks import collected, counted, heard, remark, together


def test_a_remark_is_a_warning_of_the_callers_line() -> None:
    with pytest.warns(UserWarning, match=r"^mask file a\.png: It is odd\.$") as said:
        remark("mask file a.png", "It is odd.")
    assert Path(said[0].filename) == Path(__file__)


def test_a_listener_hears_each_once_and_no_warning_is_left() -> None:
    told: list[tuple[str, str]] = []
    with warnings.catch_warnings(), heard(lambda *each: told.append(each)):
        warnings.simplefilter("error")
        for about, sentence in (("a", "1"), ("a", "1"), ("b", "1"), ("a", "2")):
            remark(about, sentence)
    assert told == [("a", "1"), ("b", "1"), ("a", "2")]
    with pytest.warns(UserWarning, match="a: 1"):
        remark("a", "1")


def test_what_a_listener_says_goes_further_out() -> None:
    with collected() as outside, heard(lambda about, sentence: remark(f"photo of {about}", sentence)):
        remark("a", "It is odd.")
    assert outside == ["photo of a: It is odd."]


def odd_work(said: list[str]) -> None:
    with together():
        for about in "abcde":
            remark(about, "It is odd.")
        remark("a", "It is large.")
        assert said == []
        raise ValueError("later")


def test_equal_sentences_come_together_at_the_end_also_after_an_error() -> None:
    with collected() as said, pytest.raises(ValueError, match="later"):
        odd_work(said)
    assert said == ["a, b, c and 2 more: It is odd.", "a: It is large."]


def test_threads_do_not_hear_each_other() -> None:
    inside: list[str] = []

    def other() -> None:
        with collected() as own:
            remark("b", "2")
        inside.extend(own)

    with collected() as said:
        remark("a", "1")
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert (said, inside) == (["a: 1"], ["b: 2"])


@pytest.mark.parametrize(("count", "names"), [(1, "a"), (3, "a, b, c"), (4, "a, b, c and 1 more")])
def test_three_files_are_named(count: int, names: str) -> None:
    with collected() as said, together():
        for about in "abcd"[:count]:
            remark(about, "It is odd.")
    assert said == [f"{names}: It is odd."]


def test_kinds_are_counted_in_order() -> None:
    assert counted(Counter({".txt": 1200, ".md": 2})) == "2 .md, 1,200 .txt"
    assert counted(Counter()) == ""
