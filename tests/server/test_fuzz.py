"""Generated requests after the server's own description: no failure, and answers as described."""

from __future__ import annotations

import collections
import contextlib
import time
from typing import Any

import pytest
import requests
import schemathesis
import schemathesis.checks as checks
from colour_engine import ColourEngine
from hypothesis import HealthCheck, Phase, given, reject, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from rifenet.server.app import create_app
from rifenet.server.limits import Limits

from .conftest import encoded, quarter, running, scene, shot
from .test_labeling import CONFIG, NAME, PROJECT

EXAMPLES = 10  # of each route in each round
PICTURES = st.lists(
    st.sampled_from([encoded(scene()), encoded(quarter("left")), b"no picture"]), min_size=1, max_size=2
)
ACTIONS = st.sampled_from(
    ["ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED", "TASKS_DELETED", "START_TRAINING", "OTHER"]
)


@pytest.mark.parametrize("seconds", [18, pytest.param(180, marks=pytest.mark.slow)], ids=["18 s", "180 s"])
def test_generated_requests(seconds: float) -> None:
    counted: collections.Counter[tuple[str, int]] = collections.Counter()
    with running(create_app(ColourEngine(), limits=Limits(seconds=10))) as address:
        learned = requests.post(
            f"{address}/api/classes", data={"name": "red"}, files=shot(), headers={"X-Project": "fuzz"}, timeout=30
        )
        assert learned.status_code == 200
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        routes = [route.ok() for route in schema.get_all_operations()]
        assert len(routes) == 17
        until, number = time.monotonic() + seconds, 0
        while number < 2 or time.monotonic() < until:  # right and wrong requests once at least, on any machine
            for route in routes:
                _one_round(address, route, number, until, counted)
            number += 1
    assert {route.label for route in routes} == {label for label, _ in counted}, counted
    assert [key for key in counted if key[1] >= 500 and key[1] != 503] == []
    assert counted["POST /api/segment", 200] > 0, counted  # some forms do reach the model
    assert all(counted[f"POST /labeling/{name}", 200] > 0 for name in ("setup", "predict", "webhook")), counted
    assert all(counted[label, 422] > 0 for label in ("POST /api/classes", "POST /api/segment")), counted
    print(dict(counted))


def _one_round(
    address: str, route: schemathesis.APIOperation, number: int, until: float, counted: collections.Counter
) -> None:  # type: ignore[type-arg]
    modes = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)

    @seed(number)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=route.as_strategy(generation_mode=modes[number % 2]), pictures=PICTURES, action=ACTIONS)
    def ask(case: schemathesis.Case, pictures: list[bytes], action: str) -> None:
        if number >= 2 and time.monotonic() > until:
            return
        if number % 2 == 0 and isinstance(case.body, dict) and case.media_type == "multipart/form-data":
            response = _with_pictures(f"{address}{case.formatted_path}", case.body, pictures)
        elif number % 2 == 0 and isinstance(case.body, dict):
            response = _of_project(f"{address}{case.formatted_path}", case.body, action)
        else:
            try:
                response = case.call(timeout=30)
            except TypeError:  # lists of lists and the like, which its HTTP library cannot put into a form
                reject()
        counted[route.label, response.status_code] += 1
        case.validate_response(
            response,
            checks=[
                checks.not_a_server_error,
                checks.status_code_conformance,
                checks.content_type_conformance,
                checks.response_schema_conformance,
            ],
        )

    with contextlib.suppress(Unsatisfiable):  # a route that takes nothing has no wrong request
        ask()


def _of_project(url: str, body: dict[str, Any], action: str) -> requests.Response:
    """A generated body for a labeling project that could be one, which else would hardly ever be met."""
    project = PROJECT if url.endswith("webhook") else NAME
    known = {"project": project, "schema": CONFIG, "label_config": CONFIG, "action": action}
    try:
        return requests.post(url, json={**body, **known}, timeout=30)
    except ValueError:  # numbers and letters that are no JSON
        reject()


def _with_pictures(url: str, body: dict[str, Any], pictures: list[bytes]) -> requests.Response:
    """A generated form with pictures for its files, which else would hardly ever be one, to a project with a class."""
    files = [(field, ("a.png", each)) for field in ("images", "masks") if field in body for each in pictures]
    data = {name: str(value) for name, value in body.items() if name not in ("images", "masks")}
    return requests.post(url, files=files, data=data, headers={"X-Project": "fuzz"}, timeout=30)
