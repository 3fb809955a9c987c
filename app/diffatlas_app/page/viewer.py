"""The viewer: three planes and a 3-D view of a whole run, as one Gradio component.

`viewer` makes the component. Its value is a message, one JSON string; each function below makes one, and the page
yields it as the component's next value:

    show = viewer("Run", elem_id="view")                    # two with one ``group`` move together
    yield {show: open_message(volume, name="heart.nii.gz")}  # an image, before any run
    yield {show: waiting_message("Third in line…")}          # forgets the steps of the run before
    yield {show: frame_message(session.start(volume, request))}  # the noise that it begins with, before any step
    yield {show: frame_message(frame, metrics, left_s=12.0)}  # each step; ``metrics``: those of all steps so far
    yield {show: done_message(frame, metrics, seconds=31.0)}  # the last step, in place of a frame message
    yield {show: stopped_message()}                          # or error_message("one line"), or empty_message()
    yield {show: recording_message(frames, metrics)}         # a recorded run at once, ready to be played

The browser keeps what it was sent, so that walking back through the steps asks the server for nothing. A message may
get lost on a busy page (only the newest value of a component counts): every message stands on its own, and the curves
of missed steps come with the next ones. Where the browser has no WebGL 2 it cuts the slices and asks `drawn_slices`,
the component's own server function, to draw them. Nothing is kept on the server.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffatlas import render
from diffatlas.geometry.grid import Grid, reorient
from diffatlas.geometry.volume import LabelMap, LabelScheme, Volume
from diffatlas.session import Frame, FrameMetrics
from diffatlas_app.page.slices import drawn_slices
from diffatlas_app.server.files import NIIVUE, address

MAX_SHOWN_VOXELS = 128**3
"""An image with more is shown at a coarser grid (labels and results keep the source's)."""

METRICS_TAIL = 24
"""Steps whose figures are sent again with every frame, in case earlier messages were lost."""

JPEG_QUALITY = 75
"""Of the generated half as it is streamed: a quarter of the bytes of gzip, and 1 to 2 of 255 gray levels off."""

CONFIDENCE_LEVELS = 17
"""Steps of the confidence as it is streamed; up to 16 samples cannot tell apart more."""


def viewer(label: str = "Viewer", *, elem_id: str | None = None, group: str | None = None, **more: Any) -> gr.HTML:
    """The component. ``label`` is its accessible name; viewers with the same ``group`` share crosshair, camera, step.

    ``more`` goes to `gr.HTML` (``visible``, ``scale``, ...). Its value is a message of this module.
    """
    setup = {"label": label, "group": group, "niivue": address(NIIVUE)}
    return gr.HTML(
        empty_message(),
        html_template='<div class="dv" data-state="loading"></div>',
        js_on_load=(
            f"import(new URL({json.dumps(address('viewer.js'))}, document.baseURI).href)"
            f".then((m) => m.mount(element, {json.dumps(setup)}, props, watch, server))"
        ),
        head=f'<link rel="stylesheet" href="{address("viewer.css")}">',
        apply_default_css=False,
        server_functions=[drawn_slices],
        elem_id=elem_id,
        elem_classes="dv-host",
        **more,
    )


def open_message(
    volume: Volume | None,
    scheme: LabelScheme | None = None,
    *,
    name: str = "",
    labels: LabelMap | None = None,
    hint: str = "",
    caption: str | None = None,
) -> str:
    """Show an image, and forget any run before.

    ``volume``: None where there is no patient (a pair drawn from the atlas: the run's own image half is then shown).
    ``scheme``: names and colours of what the run will find, None until known. ``labels``: a mask to show with the image
    (on a grid of its own; brings its scheme). ``hint``: a line below. ``caption``: a heading above the viewer that says
    which run it shows, "" for none; None leaves the one that is there.
    """
    if labels is not None:
        scheme = labels.scheme
    return _message(
        "open",
        name=name or ("" if volume is None else volume.name),
        image=None if volume is None else _image(volume),
        scheme=_scheme(scheme),
        labels=None if labels is None else _packed(labels.data, labels.grid),
        hint=hint,
        **({} if caption is None else {"caption": caption}),
    )


def waiting_message(
    words: str = "Waiting for a free processor…", view: LabelMap | None = None, caption: str | None = None
) -> str:
    """The run was asked for and has not begun; forgets the steps of the one before, keeps the image. ``view``: a box to
    show with it, where a search looks. ``caption``: as in `open_message`.
    """
    scheme, packed = (None, None) if view is None else (_scheme(view.scheme), _packed(view.data, view.grid))
    named = {} if caption is None else {"caption": caption}
    return _message("waiting", words=words, scheme=scheme, view=packed, **named)


def frame_message(
    frame: Frame, metrics: Sequence[FrameMetrics] = (), *, left_s: float | None = None, run: str = ""
) -> str:
    """Show a step, or the noise before the first (`session.start`; it has no metrics).

    ``metrics``: of all steps so far, this one's last (default: this one's alone). ``left_s``: seconds left, None while
    unknown. ``run``: anything that tells runs apart; a step that is not newer than the last one begins a new run in any
    case.
    """
    known = metrics or ((frame.metrics,) if frame.index >= 0 else ())
    return _message("step", **_step(frame, known, METRICS_TAIL), left=left_s, run=run)


def done_message(
    frame: Frame,
    metrics: Sequence[FrameMetrics] = (),
    *,
    seconds: float | None = None,
    run: str = "",
    words: str = "",
    doubt: bool = False,
) -> str:
    """The last step of a run, in place of its `frame_message`; ``words`` replace "Done: 40 steps in 31 s".

    ``doubt``: what was found may not be there, which is said in amber.
    """
    step = _step(frame, metrics or (frame.metrics,), frame.total)
    return _message("done", **step, run=run, seconds=seconds, words=words, doubt=doubt)


def stopped_message(words: str = "") -> str:
    """The run was stopped; the steps so far stay and can be played. ``words`` replace "Stopped at step 12 of 40"."""
    return _message("stopped", words=words)


def error_message(words: str) -> str:
    """One line in red; image and steps stay."""
    return _message("error", words=words)


def empty_message(words: str = "No image yet: choose an example or drop a file.") -> str:
    """Nothing to show."""
    return _message("empty", words=words)


def recording_message(
    frames: Iterable[Frame], metrics: Sequence[FrameMetrics] = (), *, words: str = "", play: bool = True
) -> str:
    """A whole run at once. Any subset of the run's frames, in order; ``metrics``: of all its steps (default: of
    ``frames``). ``play``: start playing. Send `open_message` first, in a yield of its own.
    """
    kept = list(frames)
    steps = [_step(f, (f.metrics,), 1) for f in kept]
    if metrics and steps:
        steps[-1]["metrics"] = _figures(metrics, len(metrics), kept[-1].scheme, len(metrics))
    return _message("recording", steps=steps, words=words, play=play)


def _message(kind: str, **fields: Any) -> str:
    # "<" is escaped so that a file's name can be no markup wherever the string goes.
    return json.dumps({"kind": kind, **fields}, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _step(frame: Frame, metrics: Sequence[FrameMetrics], tail: int) -> dict[str, Any]:
    confidence = frame.confidence
    if frame.result is not None and metrics:
        # The last step's volumes are the result's, on the source's voxels: one structure has one volume on the page.
        metrics = [*metrics[:-1], replace(metrics[-1], volumes_ml=frame.result.volumes_ml)]
    return {
        "index": frame.index,
        "total": frame.total,
        "t": round(float(frame.t), 4),
        "scheme": _scheme(frame.scheme),
        "labels": _packed(frame.labels, frame.grid),
        "half": _mosaic(frame.image, frame.grid),
        "confidence": None if confidence is None else _steps(confidence, frame.grid),
        "metrics": _figures(metrics, frame.index + 1, frame.scheme, tail),
    }


def _figures(metrics: Sequence[FrameMetrics], upto: int, scheme: LabelScheme, tail: int) -> dict[str, Any]:
    """The last ``tail`` rows [residual, change, seconds, ml of each structure], the first of which is step ``from``."""
    rows = [
        [_short(m.guidance_residual), _short(m.mask_change), _short(m.seconds)]
        + [_short(m.volumes_ml.get(name, 0.0)) for name in scheme.names]
        for m in metrics[-tail:]
    ]
    return {"from": upto - len(rows), "rows": rows}


def _short(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def _scheme(scheme: LabelScheme | None) -> list[dict[str, Any]] | None:
    return None if scheme is None else [{"name": s.name, "color": list(s.color)} for s in scheme.structures]


def _image(volume: Volume) -> dict[str, Any]:
    """The volume on at most `MAX_SHOWN_VOXELS`, 8 bits over nearly its whole range, with the window to begin with."""
    data, grid = coarser(volume.data, volume.grid, MAX_SHOWN_VOXELS)
    data = np.nan_to_num(data, nan=float(np.nanmin(data)) if np.isfinite(data).any() else 0.0)
    window = render.display_window(volume)
    low, high = (float(v) for v in np.percentile(data[:: max(1, data.shape[0] // 64)], (0.02, 99.98)))
    low, high = min(low, window[0]), max(high, window[1])
    span = high - low if high > low else 1.0
    packed = _packed(np.rint((np.clip(data, low, high) - low) * (255 / span)).astype(np.uint8), grid)
    units = "HU" if volume.modality == "ct" else ""
    return {**packed, "slope": span / 255, "inter": low, "window": list(window), "units": units}


def coarser(data: NDArray[np.float32], grid: Grid, voxels: int) -> tuple[NDArray[np.float32], Grid]:
    """``data`` [X, Y, Z] averaged over blocks until at most ``voxels`` are left, finest axes first; and its grid."""
    factors = [1, 1, 1]
    while math.prod(max(1, n // f) for n, f in zip(data.shape, factors, strict=True)) > voxels:
        steps = [
            s * f if n // f > 1 else math.inf for s, f, n in zip(grid.spacing_mm, factors, data.shape, strict=True)
        ]
        factors[int(np.argmin(steps))] += 1
    if factors == [1, 1, 1]:
        return data, grid
    shape = [max(1, n // f) for n, f in zip(data.shape, factors, strict=True)]
    cut = data[tuple(slice(0, n * f) for n, f in zip(shape, factors, strict=True))]
    blocks = cut.reshape(shape[0], factors[0], shape[1], factors[1], shape[2], factors[2])
    affine = grid.affine.copy()
    affine[:3, 3] = grid.to_world(tuple((f - 1) / 2 for f in factors))
    affine[:3, :3] = grid.affine[:3, :3] * factors
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32), Grid((shape[0], shape[1], shape[2]), affine)


def _steps(values: NDArray[np.float32], grid: Grid) -> dict[str, Any]:
    """Values in [0, 1] as bytes 0 to 255, in `CONFIDENCE_LEVELS` steps."""
    steps = np.rint(np.clip(np.nan_to_num(values), 0, 1) * (CONFIDENCE_LEVELS - 1))
    return _packed(np.rint(steps * (255 / (CONFIDENCE_LEVELS - 1))).astype(np.uint8), grid)


def _mosaic(image: NDArray[np.float32], grid: Grid) -> dict[str, Any]:
    """An image in [-1, 1] as one gray JPEG: slices of the third axis in rows of ``across``, second axis down."""
    orientation = grid.to_canonical()
    onto = grid.reoriented(orientation)
    x, y, z = onto.shape
    across = math.ceil(math.sqrt(z))
    tiles = np.zeros((across * -(-z // across), y, x), np.uint8)
    values = np.nan_to_num(reorient(image, orientation), nan=-1.0)
    tiles[:z] = np.rint((np.clip(values, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(2, 1, 0)
    picture = tiles.reshape(-1, across, y, x).transpose(0, 2, 1, 3).reshape(-1, across * x)
    out = BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=JPEG_QUALITY)
    return {**_placed(onto), "across": across, "jpeg": base64.b64encode(out.getvalue()).decode("ascii")}


def _packed(data: NDArray[np.uint8], grid: Grid) -> dict[str, Any]:
    """Bytes along the axes closest to RAS+, first axis fastest, gzip and base64; shape, and affine in rows (mm)."""
    orientation = grid.to_canonical()
    onto = grid.reoriented(orientation)
    flat = reorient(data, orientation).tobytes(order="F")
    return {**_placed(onto), "data": base64.b64encode(gzip.compress(flat, 5, mtime=0)).decode("ascii")}


def _placed(grid: Grid) -> dict[str, Any]:
    return {"shape": list(grid.shape), "affine": [round(float(v), 6) for v in grid.affine.ravel()]}
