"""JSON bodies: the values that Python's parser gives, in pieces, and refusals of what is no JSON."""

from __future__ import annotations

import copy
import gc
import json
import sys
from typing import Any, ClassVar

import ijson
import pytest
import requests
from colour_engine import ColourEngine

from rifenet.server import json_bodies
from rifenet.server.app import create_app

from .conftest import running

VALUES: list[Any] = [
    {"a": [1, 2.5, -3e-7, True, None, 'ü \u2028 "quoted"'], "": {}},
    [],
    "text",
    12345678901234567,
    [[[[0.1]]]] * 3,
]


@pytest.mark.parametrize("value", VALUES)
def test_the_values_are_those_of_the_plain_parser(value: Any) -> None:
    body = json.dumps(value).encode()
    found = json_bodies._parsed(body)
    assert found == json.loads(body)
    assert repr(found) == repr(json.loads(body))  # whole numbers stay whole


@pytest.mark.parametrize("body", [b"", b"{", b"[1,]", b"nonsense", b"[1] [2]", b"[NaN]", b"\xff\xfe", b'{"a": 1'])
def test_what_is_no_json_is_refused_in_one_line(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"error|found|complete") as refused:
        json_bodies._parsed(body)
    assert "\n" not in str(refused.value)


def test_no_json_in_a_body_is_refused() -> None:
    with running(create_app(ColourEngine())) as address:
        answer = requests.post(
            f"{address}/labeling/setup", data="[1,]", headers={"content-type": "application/json"}, timeout=30
        )
    assert answer.status_code == 422


def test_a_label_file_is_parsed_until_its_time_is_over() -> None:
    text = json.dumps(list(range(100_000)))
    looks: list[None] = []
    assert json_bodies.parse_labels(text, lambda: looks.append(None), []) == list(range(100_000))
    assert len(looks) >= 10

    def over() -> None:
        if len(looks) > 12:
            raise TimeoutError
        looks.append(None)

    looks.clear()
    with pytest.raises(TimeoutError):
        json_bodies.parse_labels(json.dumps(list(range(1_000_000))), over, [])


def test_a_long_body_is_parsed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two pieces other threads run; one piece of all would hold them back until the end."""
    asked: list[int] = []
    parse = ijson.basic_parse

    def noted(file: Any, *arguments: Any, **options: Any) -> Any:
        read = file.read

        class Noting:
            def read(self, size: int) -> bytes:
                asked.append(size)
                return bytes(read(size))

        return parse(Noting(), *arguments, **options)

    monkeypatch.setattr(ijson, "basic_parse", noted)
    body = json.dumps(list(range(100_000))).encode()
    assert json_bodies._parsed(body) == list(range(100_000))
    assert max(asked) <= 2**16
    assert len(asked) >= len(body) / 2**16


def test_python_looks_for_no_garbage_while_it_parses() -> None:
    """A look goes through all objects in one go: those that are just being made by the hundred thousand, too."""
    looks: list[int] = []

    def noted(phase: str, facts: dict[str, int]) -> None:
        if phase == "start":
            looks.append(facts["generation"])

    body = json.dumps([[number] for number in range(100_000)]).encode()
    gc.callbacks.append(noted)
    try:
        found = json_bodies._parsed(body)
        during = len(looks)
        kept = [[number] for number in range(100_000)]
    finally:
        gc.callbacks.remove(noted)
    assert found == kept
    assert during <= 1  # the one that waited for the end
    assert len(looks) - during > 20  # the same objects made without it


def test_garbage_is_looked_for_again_after_the_last_of_several() -> None:
    assert gc.isenabled()
    with pytest.raises(ValueError, match="error"):
        json_bodies._parsed(b"[1,]")
    assert gc.isenabled()
    first = json_bodies.uncollected
    with first:
        with first:
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


@pytest.mark.parametrize("depth", [101, 5000])
@pytest.mark.parametrize("route", ["setup", "predict", "webhook"])
def test_deep_json_is_refused_while_it_arrives(route: str, depth: int) -> None:
    with running(create_app(ColourEngine())) as address:
        body = '{"project": ' + "[" * depth + "]" * depth + "}"
        answer = requests.post(
            f"{address}/labeling/{route}", data=body, headers={"content-type": "application/json"}, timeout=30
        )
    assert (answer.status_code, answer.json()["detail"]) == (
        413,
        "Expected JSON nested at most 100 deep, but got more.",
    )


def test_wide_json_is_not_taken_for_deep() -> None:
    with running(create_app(ColourEngine())) as address:
        body = json.dumps({"project": "p", "schema": "<View/>", "tasks": [[[]]] * 1000})
        answer = requests.post(
            f"{address}/labeling/setup", data=body, headers={"content-type": "application/json"}, timeout=30
        )
    assert answer.status_code != 413


class _Noted(list[Any]):
    """A list that notes how many lists were still waiting when it was freed."""

    waiting: ClassVar[list[int]] = []

    def __del__(self) -> None:
        self.waiting.append(len(sys._getframe(1).f_locals["waiting"]))


def test_each_list_is_freed_by_itself_and_what_is_kept_stays_whole() -> None:
    _Noted.waiting.clear()
    shared = [[1], {"b": [2]}]
    tree = {"a": _Noted([_Noted([_Noted(), 5]), _Noted()]), "kept": shared}
    values = [tree]
    del tree
    json_bodies._let_go(values)
    assert values == []
    assert len(_Noted.waiting) == len(set(_Noted.waiting)) == 4
    assert shared == [[1], {"b": [2]}]


@pytest.mark.parametrize("body", [{"tasks": [[1]] * 10}, {"action": "ANNOTATION_CREATED", "project": {"id": 1}}])
def test_the_json_of_a_request_is_let_go_when_nothing_else_refers_to_it(
    body: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that of a refused event, to which the error on its way refers."""
    freed: list[tuple[Any, int]] = []
    let_go = json_bodies._let_go

    def noted(values: list[Any]) -> None:
        freed.append((copy.deepcopy(values[0]), sys.getrefcount(values[0])))
        let_go(values)

    monkeypatch.setattr(json_bodies, "_let_go", noted)
    with running(create_app(ColourEngine())) as address:
        status = requests.post(f"{address}/labeling/webhook", json=body, timeout=30).status_code
    assert status == 422
    alone = [{}]
    assert freed == [(body, sys.getrefcount(alone[0]))]


def test_the_json_of_a_label_file_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[Any] = []
    monkeypatch.setattr(json_bodies, "_let_go", lambda values: freed.extend(copy.deepcopy(values)))
    label = {"imagePath": "a.png", "imageWidth": 8, "imageHeight": 8, "shapes": []}
    photos = json.dumps([{"name": "a.png", "width": 8, "height": 8}])
    with running(create_app(ColourEngine())) as address:
        files = {"labels": ("a.json", json.dumps(label))}
        requests.post(f"{address}/api/labels", data={"photos": photos}, files=files, timeout=30)
    assert freed == [label]
