"""The brush of scene 6 with an engine behind it: what a call may say, what is run, who waits, and what comes back."""

from __future__ import annotations

import base64
import gzip
import json
import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from diffatlas.errors import BadInput
from diffatlas_app.runs import brushed
from tests.fakes import FakeBackend
from tests.web.conftest import Site, fake_models, wait_until
from tests.web.requests_by_hand import ask, call, post

pytestmark = pytest.mark.timeout(400)


def place_text(place: Any) -> str:
    return base64.b64encode(np.packbits(place.ravel(order="F")).tobytes()).decode()


def unpacked(text: str) -> Any:
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), np.uint8).reshape((64, 64, 64), order="F")


def a_place() -> Any:
    place = np.zeros((64, 64, 64), bool)
    place[3, 20:30, 40] = place[63, 63, 63] = True
    return place


PLACE = place_text(a_place())


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ([], "scan must be one of as-it-is, no-left-ventricle"),
        (["../patient", PLACE, None], "scan must be one of"),
        ([["as-it-is"], PLACE, None], "scan must be one of"),
        (["as-it-is", None, None], "place must be 64^3 bits in base64, 43692 characters"),
        (["as-it-is", PLACE[:-4], None], "place must be 64^3 bits"),
        (["as-it-is", PLACE + PLACE, None], "place must be 64^3 bits"),
        (["as-it-is", "?" * len(PLACE), None], "place is not base64"),
        (["as-it-is", place_text(np.zeros((64, 64, 64), bool)), None], "nothing is brushed over"),
        (["as-it-is", PLACE, 256], "fill must be a whole number, 0 to 255"),
        (["as-it-is", PLACE, True], "fill must be a whole number"),
        (["as-it-is", PLACE, "75"], "fill must be a whole number"),
        (["as-it-is", PLACE, None, 1], "brush takes 3 arguments"),
    ],
)
def test_what_a_call_may_not_say_is_one_line(site: Site, data: Any, line: str) -> None:
    answer = call(site, "brush", data)
    assert line in (answer if isinstance(answer, str) else answer["error"])
    assert site.backend.requests == []


def test_the_place_is_crossed_out_in_the_second_of_two_runs_of_one_seed(site: Site) -> None:
    answer = call(site, "brush", ["no-right-atrium", PLACE, None])
    first, second = site.backend.requests
    assert first.ignore is None
    assert (second.ignore == a_place()).all()
    assert replace(second, ignore=None).to_json() == first.to_json()
    assert first.preset == "fast"
    before, after = site.backend.volumes
    assert before is not None
    assert after is not None
    assert (before.data == after.data).all()
    assert before.modality == "ct"
    assert before.grid.spacing_mm == pytest.approx((2.5, 2.5, 2.5))
    assert (answer["model"], answer["told"]) == ("heart-phantom", False)
    assert len(answer["sha256"]) == 64
    for part in ("before", "after", "half"):
        assert unpacked(answer[part]).shape == (64, 64, 64)
    assert len(np.unique(unpacked(answer["after"]))) > 1
    assert len(site.served.visitors.turns) == 0


def test_a_filled_place_is_what_the_second_run_sees(site: Site) -> None:
    assert "error" not in call(site, "brush", ["as-it-is", PLACE, 75])
    assert [request.ignore for request in site.backend.requests] == [None, None]
    before, after = site.backend.volumes
    assert before is not None
    assert after is not None
    changed = before.data != after.data
    assert not changed[~a_place()].any()
    assert np.unique(after.data[a_place()]).size == 1


def test_it_waits_in_the_line_and_says_where_and_ends_with_the_caller(site: Site) -> None:
    turns = site.served.visitors.turns
    with turns.ticket() as first:
        assert first.wait(1)
        joined = post(site, "/gradio_api/call/brush", {"data": ["as-it-is", PLACE, None]}).json()
        heard: list[bytes] = []
        path = f"/gradio_api/call/brush/{joined['event_id']}"
        listener = threading.Thread(target=lambda: heard.append(ask(site, path).body))
        listener.start()
        assert wait_until(lambda: len(turns) == 2)
        assert site.backend.requests == []
    listener.join(timeout=60)
    said = [json.loads(line[6:]) for line in heard[0].decode().splitlines() if line.startswith("data: [")]
    assert said[0] == [{"ahead": 1}]
    steps = [row[0]["step"] for row in said if "step" in row[0]]
    assert steps == sorted(steps)
    assert steps[-1] == next(row[0]["of"] for row in said if "of" in row[0])
    assert "after" in said[-1][0]

    site.backend = slow = FakeBackend(delay_s=0.3)
    post(site, "/gradio_api/call/brush", {"data": ["as-it-is", PLACE, None]})  # and never listens
    assert wait_until(lambda: slow.open_runs == 1)
    assert wait_until(lambda: slow.open_runs == 0 and len(turns) == 0)
    assert len(slow.requests) <= 2


def test_a_model_that_can_be_told_comes_first() -> None:
    plain, brain = fake_models()
    told = replace(plain, name="told", architecture={**plain.architecture, "evidence": True})
    assert brushed.model_for((brain, plain, told)).name == "told"
    assert brushed.model_for((brain, plain)).name == plain.name
    with pytest.raises(BadInput, match="no model on this page"):
        brushed.model_for((brain,))
