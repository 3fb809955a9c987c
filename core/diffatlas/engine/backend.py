"""`Backend` on this machine's CPU or GPU: a volume is planned, placed, walked, and comes out as frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from diffatlas.engine.device import Compute
from diffatlas.engine.frame import Frame
from diffatlas.engine.locate import Look, search
from diffatlas.engine.placement import edited_mask, place
from diffatlas.engine.plan import Plan, plan
from diffatlas.engine.request import Request
from diffatlas.engine.result import Frames
from diffatlas.engine.walk import Walk, denoiser_of, one_step
from diffatlas.errors import BadInput
from diffatlas.geometry.volume import Volume
from diffatlas.models.store import load_model


def hash_beside(volume: Volume) -> Callable[[], str]:
    """`Volume.sha256`, calculated in a thread of its own from now on; call the answer for it."""
    pool = ThreadPoolExecutor(1)
    try:
        return pool.submit(volume.sha256).result
    finally:
        pool.shutdown(wait=False)


class LocalBackend:
    """See `diffatlas.engine.seam.Backend`."""

    def plan(self, volume: Volume | None, request: Request) -> Plan:
        return plan(volume, request)

    def locate(self, volume: Volume, request: Request, limit: int | None = None) -> Iterator[Look]:
        planned = plan(volume, replace(request, task="segment", roi=None, edit=None))
        card = planned.card
        if not card.convention.one_step:
            raise BadInput(
                f"model '{card.name}' knows one noise level for image and mask and cannot answer in one step; "
                f"give a region of interest"
            )
        model = load_model(card.path)
        answer = one_step(model, planned, Compute.of(request, model))
        return search(volume, card.space, answer, card.expected_volumes_ml, limit)

    def stream(self, volume: Volume | None, request: Request) -> Iterator[Frame]:
        """Bad input raises here, before the first frame."""
        begin = time.monotonic()
        planned = plan(volume, request)
        if volume is None and request.task == "segment" and request.guidance != "none":
            raise BadInput("there is no image to segment")
        hashed = None if volume is None else hash_beside(volume)
        model = load_model(planned.card.path)
        compute = Compute.of(request, model)
        placement = place(planned, volume, one_step(model, planned, compute))
        placement = replace(placement, notes=(*compute.notes, *placement.notes))
        edited = edited_mask(planned, placement)
        known = placement.known if request.task == "segment" else None
        walk = Walk(planned, placement, edited, denoiser_of(model, planned, compute, known), compute)
        return Frames(planned, volume, placement, edited, compute.provenance(), begin, hashed).of(walk)
