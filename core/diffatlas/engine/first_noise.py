"""The frame before the first step: x_1, pure noise in image and mask, on the model grid.

It needs no network, so a front end can show it at once. The first step starts from exactly this noise.
"""

from __future__ import annotations

import numpy as np

from diffatlas.engine.frame import Frame, FrameMetrics
from diffatlas.engine.plan import plan
from diffatlas.engine.request import Request
from diffatlas.engine.walk import SampleNoise
from diffatlas.geometry.distance import distances_to_labels
from diffatlas.geometry.volume import Volume


def first_noise(volume: Volume | None, request: Request) -> Frame:
    """See `session.start`."""
    planned = plan(volume, request)
    card, space = planned.card, planned.card.space
    noise = SampleNoise(request.seed, 0)((1 + len(card.scheme), *space.shape)).numpy()
    sdf = noise[1:] * np.float32(space.sdf_clip_mm)
    return Frame(
        index=-1,
        total=planned.steps,
        t=1.0,
        grid=planned.grid or (space.grid_at(np.zeros(3)) if volume is None else space.place(volume.grid)),
        scheme=card.scheme,
        noisy_image=noise[0],
        image=np.clip(noise[0], -1, 1),
        labels=distances_to_labels(sdf),
        sdf=sdf,
        confidence=None,
        metrics=FrameMetrics(None, None, {}, 0.0),
    )
