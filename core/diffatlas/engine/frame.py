"""What a run yields and what it leaves: `Frame` and `Result`, numpy only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import LabelMap, LabelScheme, Volume
from diffatlas.models.calibration import Calibration

CUT_OFF = 0.1
"""The share of a structure beyond the image from which on it counts as cut off. The border of a whole structure that
touches the image's is drawn up to a voxel of the model beyond it."""


@dataclass(frozen=True)
class FrameMetrics:
    """What a step can say about itself.

    ``guidance_residual``: mean absolute difference between the image half the model believes in and the patient's
    image, model units (window width 2); None without an image. ``mask_change``: share of structure voxels, in either
    of this frame and the last, whose label differs, 0 to 1; None at the first step. ``volumes_ml``: structure name to
    ml.
    ``seconds``: since the run began.
    """

    guidance_residual: float | None
    mask_change: float | None
    volumes_ml: dict[str, float]
    seconds: float


@dataclass(frozen=True, eq=False, repr=False)
class Frame:
    """One denoising step, numpy, on ``grid``: the model grid placed in world coordinates (viewers overlay by affine).

    ``index`` 0 to total - 1, and -1 for the noise that a run begins with (`session.start`, never part of a stream);
    ``t`` the noise level after the step, 1 (noise) to 0. ``noisy_image`` and ``image`` (the image half as the model now
    believes it): float32 [X, Y, Z] in [-1, 1], the window of the model (noisy_image may leave it).
    ``labels``: uint8 [X, Y, Z] indices into ``scheme``. ``sdf``: float32 [K, X, Y, Z], mm, negative inside.
    ``confidence``: float32 [X, Y, Z] in [0, 1], or None; see `Result`. ``result``: set on the last frame only.
    """

    index: int
    total: int
    t: float
    grid: Grid
    scheme: LabelScheme
    noisy_image: NDArray[np.float32]
    image: NDArray[np.float32]
    labels: NDArray[np.uint8]
    sdf: NDArray[np.float32]
    confidence: NDArray[np.float32] | None
    metrics: FrameMetrics
    result: Result | None = None

    def __repr__(self) -> str:
        return f"Frame({self.index + 1} of {self.total}, t={self.t:.3g}{', with result' if self.result else ''})"


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What a run leaves: labels on the source grid and everything needed to run it again.

    ``labels``: on the source's grid, voxel for voxel (the model grid for the task "generate"). ``images``: the
    generated image of each sample, Volumes on the model grid (tasks "generate" and "paint"; empty otherwise).
    ``masks``: the mask of each sample on the model grid (task "generate", and "segment" with several samples).
    ``confidence``: float32 on the grid of ``labels``, 0 to 1, or None: how likely each label is right where the model's
    card has a calibration, else the share of samples that agree (None with one sample); 0 where the model did not look.
    ``metrics``: of every frame. ``provenance``: plain data for JSON: request, model name and sha256, versions, device,
    precision, sha256 of the source voxels, seconds. ``calibration``: the card's. ``outside``: structure name to the
    share, above 0 to 1, of what the model drew of it that lies beyond the image.
    """

    labels: LabelMap
    confidence: NDArray[np.float32] | None
    metrics: tuple[FrameMetrics, ...]
    provenance: dict[str, Any]
    images: tuple[Volume, ...] = ()
    masks: tuple[LabelMap, ...] = ()
    notes: tuple[str, ...] = ()
    calibration: Calibration | None = None
    outside: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        volumes = ", ".join(f"{name} {ml:.1f} ml" for name, ml in self.volumes_ml.items())
        return f"Result({self.provenance['model']['name']}: {volumes})"

    @property
    def volumes_ml(self) -> dict[str, float]:
        return self.labels.volumes_ml()

    @property
    def cut_off(self) -> dict[str, float]:
        """Those of ``outside`` of which so much is missing that ``volumes_ml`` says little of the whole structure."""
        return {name: share for name, share in self.outside.items() if share > CUT_OFF}

    @property
    def volume_intervals_ml(self) -> dict[str, tuple[float, float]]:
        """Structure name to the volumes (ml) between which the true one lies nine times in ten; empty without a
        calibration. Structures that the image cuts off have none."""
        if self.calibration is None:
            return {}
        whole = {name: ml for name, ml in self.volumes_ml.items() if name not in self.cut_off}
        return self.calibration.volume_intervals_ml(whole)

    @property
    def doubt(self) -> float | None:
        """The expected share of the labelled voxels that are wrong, 0 to 1; None without confidence or label."""
        found = self.labels.data > 0
        if self.confidence is None or not found.any():
            return None
        return float(1 - self.confidence[found].mean(dtype=np.float64))

    def report(self) -> dict[str, Any]:
        """The run as plain data, what ``--report`` writes and ``diffatlas replay`` reads."""
        sure: dict[str, Any] = {}
        if self.calibration is not None:
            sure["volumes_interval_ml"] = {
                k: [round(v, 4) for v in pair] for k, pair in self.volume_intervals_ml.items()
            }
        if self.cut_off:
            sure["cut_off"] = {name: round(share, 4) for name, share in self.cut_off.items()}
        if (doubt := self.doubt) is not None:
            sure["doubt"] = round(doubt, 4)
        return {
            "provenance": self.provenance,
            "volumes_ml": self.volumes_ml,
            **sure,
            "notes": list(self.notes),
            "frames": [asdict(m) for m in self.metrics],
        }
