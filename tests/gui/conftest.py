"""A widget on a fake engine: no model, no download, milliseconds a run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest

from diffatlas import session
from diffatlas.engine.plan import larger_than_view_note
from diffatlas.engine.request import Request
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.space import ModelSpace, larger_than_view
from diffatlas.geometry.volume import HIPPOCAMPUS, MMWHS, LabelScheme, Volume
from diffatlas.session import Frame, Plan
from napari_diffatlas.forms.options import Planner
from napari_diffatlas.widget import DiffAtlasWidget
from tests.fakes import FakeBackend
from tests.gui.page import Page

FIELD = ModelSpace((16, 16, 16), (2.0, 2.0, 2.0), 10.0, {})


@dataclass(frozen=True)
class FakeCard:
    name: str
    title: str
    scheme: LabelScheme
    limits: tuple[str, ...]
    modalities: tuple[str, ...] = ("ct", "mr")
    space: ModelSpace = FIELD
    guidance_noise: float = 0.25
    licence: str = "Apache-2.0"
    expected_volumes_ml: list[float] | None = None
    evidence: bool = False


CARDS = (
    FakeCard("heart-phantom", "Heart (phantom)", MMWHS, ("Trained on phantoms: for teaching.",), evidence=True),
    FakeCard(
        "hippocampus-mri", "Hippocampus (MRI)", HIPPOCAMPUS, ("Cropped T1 MRI at 1 mm.",), ("mr",), guidance_noise=1.0
    ),
)


def fake_plan(volume: Volume | None, request: Request) -> Plan:
    """The engine's plan for the models above; a volume is never searched."""
    card: Any = {card.name: card for card in CARDS}.get(request.model, CARDS[0])
    large = volume is not None and request.roi is None and larger_than_view(FIELD, volume.grid)
    where = larger_than_view_note(FIELD, volume.grid, "its middle is taken") if volume is not None and large else ""
    filled = request.resolved(session.PRESETS[request.preset], card.guidance_noise)
    assert filled.steps is not None
    return Plan(filled, card, session.PRESETS[request.preset], filled.steps, None, False, where, None, ())


class LongBackend(FakeBackend):
    """A fake run that goes on, its mask turning, until `finish` is set: however slow the machine, no test races it.

    ``total`` is what it claims to take. `FakeBackend.open_runs` counts here too; ``frames_made`` counts its own steps.
    """

    total = 10_000

    def __init__(self, delay_s: float = 0.03) -> None:
        super().__init__()
        self.pause_s = delay_s
        self.finish = threading.Event()

    def stream(self, volume: Volume | None, request: Request) -> Iterator[Frame]:
        with closing(cast(Generator[Frame, None, None], super().stream(volume, replace(request, steps=2)))) as frames:
            first, last = next(frames), next(frames)
            for index in range(self.total - 1):
                if self.finish.wait(self.pause_s):
                    break
                self.frames_made += 1
                labels = np.roll(last.labels, index, axis=0)
                yield replace(first, index=index, total=self.total, labels=labels)
            yield replace(last, index=self.total - 1, total=self.total)


@pytest.fixture
def volume() -> Volume:
    """A volume of 24 x 20 x 18 voxels, 2 x 2 x 3 mm, axes L, P, S, turned about two axes (oblique)."""
    a, b = np.deg2rad((20.0, 12.0))
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([-2.0, -2.0, 3.0])
    affine[:3, 3] = (31.0, 17.0, -42.0)
    data = np.random.default_rng(7).normal(100, 30, (24, 20, 18)).astype(np.float32)
    return Volume(data, Grid((24, 20, 18), affine), "mr", "case 7")


@pytest.fixture
def open_widget(monkeypatch: pytest.MonkeyPatch) -> Callable[..., DiffAtlasWidget]:
    """Dock the widget in a viewer, on the given backend."""
    monkeypatch.setattr(session, "available_models", lambda: CARDS)

    def open_(viewer: Any, backend: FakeBackend, plan: Planner = fake_plan) -> DiffAtlasWidget:
        widget = DiffAtlasWidget(viewer, backend=lambda: backend, plan=plan)
        viewer.window.add_dock_widget(widget, name="DiffAtlas")
        return widget

    return open_


@pytest.fixture
def open_page(
    make_napari_viewer_proxy: Any, qtbot: Any, open_widget: Callable[..., DiffAtlasWidget]
) -> Callable[..., Page]:
    """A new viewer with the widget on the given backend (a plain fake, if none)."""

    def open_(backend: FakeBackend | None = None, plan: Planner = fake_plan) -> Page:
        viewer = make_napari_viewer_proxy()
        backend = backend or FakeBackend()
        return Page(viewer, open_widget(viewer, backend, plan), backend, qtbot)

    return open_
