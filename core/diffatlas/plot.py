"""Plots of runs for scripts and notebooks, with matplotlib: pictures of the steps, curves, volumes, agreement.

Every function returns a `Plot`, which a notebook shows where it is a cell's last value, and which ``savefig`` writes to
a file. None of them touches pyplot: nothing is left open, and no window appears.

    >>> import diffatlas
    >>> volume, truth = diffatlas.example("heart-ct")
    >>> where = ((6, 86), (11, 91), (4, 84))
    >>> frames = list(diffatlas.stream(volume, model="heart", preset="watch", steps=4, roi=where))
    >>> result = frames[-1].result
    >>> diffatlas.plot.run(frames)
    Plot(4 steps: noise, image half, labels; guidance residual, mask change, volume)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecBase, SubplotSpec
from numpy.typing import NDArray

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import LabelMap, LabelScheme, Volume
from diffatlas.render.planes import (
    Canonical,
    Overlay,
    Picture,
    cut,
    display_window,
    plane_named,
    size_px,
    to_gray,
)
from diffatlas.session import Frame, FrameMetrics, Result, model_card, read_report

__all__ = ["Plot", "agreement", "curves", "run", "slices", "volumes"]

Runs = Mapping[str, Any]
LINES = ("-", "--", ":", "-.")
WIDTH_IN = 9.0
SIDE_PX = 240  # of the longer side of a plane's picture
MODEL_WINDOW = (-1.0, 1.0)


class Plot(Figure):
    """A matplotlib figure that notebooks show by themselves; ``what`` says in a line what is on it."""

    def __init__(self, what: str, height_in: float) -> None:
        super().__init__(figsize=(WIDTH_IN, height_in), dpi=100, layout="constrained")
        self.what = what

    def __repr__(self) -> str:
        return f"Plot({self.what})"

    def _repr_png_(self) -> bytes:
        """Called by notebooks: the figure as a PNG."""
        buffer = BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


def run(source: Any, volume: Volume | None = None, *, shown: int = 5, plane: str = "axial") -> Plot:
    """A run at a glance.

    ``source``: frames of `diffatlas.stream` (pictures of up to ``shown`` steps above the curves), a `Result` or a
    report (a path, or what ``json.load`` made of it): the curves alone, and with the ``volume`` of a Result its labels
    in three planes above them. ``plane``: "axial", "coronal" or "sagittal", of the pictures of steps; every step is cut
    where the structures of the last one have their middle. `BadInput` on anything else.

        >>> diffatlas.plot.run(result, volume).savefig("run.png")
    """
    if not isinstance(source, (Result, Mapping, str, os.PathLike)):
        frames = _frames(source)
        figure = Plot(f"{len(frames)} steps: noise, image half, labels; {', '.join(SERIES)}", 6.8)
        above, below = _cells(figure.add_gridspec(2, 1, height_ratios=(1.9, 1)))
        _steps(figure, above, frames, shown, plane)
        _curves(figure, below, {"": ([f.metrics for f in frames], frames[-1].scheme)})
        return figure
    metrics, scheme = _record(source)
    if volume is None or not isinstance(source, Result):
        figure = Plot(f"{len(metrics)} steps: {', '.join(SERIES)}", 2.4)
        (below,) = _cells(figure.add_gridspec(1, 1))
    else:
        figure = Plot(f"labels on {volume.name or 'the image'}; {', '.join(SERIES)}", 5.8)
        above, below = _cells(figure.add_gridspec(2, 1, height_ratios=(1.6, 1)))
        _planes(figure, above, volume, source.labels)
    _curves(figure, below, {"": (metrics, scheme)})
    return figure


def curves(runs: Any) -> Plot:
    """Guidance residual, change of the mask and volumes over the steps, of one run or of several in one plot.

    ``runs``: frames, a `Result`, a report or its path; or a mapping of names to these, of one model. The residual is
    the mean absolute difference between generated and given image, in units of the model's window (width 2).

        >>> diffatlas.plot.curves({"seed 0": result, "the same": frames})
        Plot(2 runs: guidance residual, mask change, volume)
    """
    several = _several(runs)
    records = {name: _record(one) for name, one in several.items()}
    figure = Plot(f"{_count(len(records), 'run')}: {', '.join(SERIES)}", 2.6)
    _curves(figure, figure.add_gridspec(1, 1)[0], records)
    return figure


def volumes(runs: Any, reference: LabelMap | Mapping[str, float] | None = None) -> Plot:
    """Volume of every structure, ml, as bars: of one run or label map, or of several by name.

    ``runs``: a `Result`, a `LabelMap`, a report or its path, or a mapping of structure to ml; or a mapping of names to
    these. ``reference``: a label map or volumes that are marked by a line over each bar, the truth for example.

        >>> diffatlas.plot.volumes({"found": result, "drawn": truth}, reference=truth)
        Plot(2 runs: volumes of 5 structures, ml)
    """
    several = {name: _volumes_ml(one) for name, one in _several(runs).items()}
    names = list(dict.fromkeys(name for found in several.values() for name in found))
    figure = Plot(f"{_count(len(several), 'run')}: volumes of {_count(len(names), 'structure')}, ml", 2.8)
    axes = figure.add_subplot()
    places, width = np.arange(len(names)), 0.8 / len(several)
    for i, (label, found) in enumerate(several.items()):
        left = places - 0.4 + width * (i + 0.5)
        axes.bar(left, [found.get(name, 0.0) for name in names], width * 0.94, label=label, color=f"C{i}")
    if reference is not None:
        true = _volumes_ml(reference)
        axes.hlines([true.get(n, 0.0) for n in names], places - 0.44, places + 0.44, color="black", label="reference")
    axes.set_xticks(places, names)
    axes.tick_params(axis="x", length=0, labelrotation=15 if len(names) > 6 else 0)
    axes.set_ylabel("volume, ml")
    _plain(axes)
    if len(several) > 1 or reference is not None:
        axes.legend(frameon=False)
    return figure


def agreement(source: Frame | Result, volume: Volume | None = None) -> Plot:
    """Where the samples of a run agree: the share of them that give a voxel its label, on the slice where they agree
    least, and how many voxels of the structures have which share.

    ``source``: a Frame, or a `Result` with the ``volume`` it belongs to, of a run with ``samples=2`` or more;
    `BadInput` otherwise. Agreement is not correctness: samples can share an error.

        >>> several = diffatlas.segment(volume, model="heart", samples=2, roi=where)
        >>> diffatlas.plot.agreement(several, volume)
        Plot(agreement of samples)
    """
    if not isinstance(source, (Frame, Result)):
        raise BadInput(f"agreement is of a Frame or a Result, not of {type(source).__name__}")
    if source.confidence is None:
        raise BadInput("there is no agreement of one sample; run with samples=2 or more")
    if isinstance(source, Frame):
        labels = LabelMap(source.labels, source.grid, source.scheme)
        image = Volume(source.image, source.grid, "unknown")
    else:
        labels = source.labels
        if volume is None:
            raise BadInput("a Result holds no image; give the volume that was segmented, too")
        image = volume
    share = source.confidence
    inside = share > 0  # 0: outside of the region that was looked at
    doubted = ((1 - share) * inside).sum(axis=(0, 1))
    z = int(doubted.argmax())
    at_mm = labels.grid.to_world(np.array([*(np.array(labels.grid.shape[:2]) / 2), z]))
    figure = Plot("agreement of samples", 3.2)
    left, middle, right = _cells(figure.add_gridspec(1, 3, width_ratios=(1, 1.18, 1)))
    window = MODEL_WINDOW if isinstance(source, Frame) else display_window(image)
    _show(figure, left, _cut(image.data, image.grid, window, "axial", at_mm, labels), "labels", "axial")
    told = _cut(share, labels.grid, (0.0, 1.0), "axial", at_mm)[..., 0]
    axes = _show(figure, middle, told, "share that agrees", "axial")
    axes.images[0].set(cmap="viridis", clim=(0, 255))
    bar = figure.colorbar(axes.images[0], ax=axes, ticks=[0, 127.5, 255])
    bar.ax.set_yticklabels(["0", "0.5", "1"], fontsize=8)
    axes = figure.add_subplot(right)
    axes.hist(share[(labels.data > 0) | (inside & (share < 1))], bins=[i / 20 for i in range(21)], color="C0")
    axes.set(xlabel="share of samples that agree", ylabel="voxels", yscale="log", xlim=(0, 1))
    _plain(axes)
    return figure


def slices(volume: Volume | Frame, labels: LabelMap | None = None) -> Plot:
    """A volume in three planes through the middle of its structures, radiological (the patient's right is left).

    ``volume``: a `Volume`, with ``labels`` on the same grid or without; or a `Frame`, which brings its own.

        >>> diffatlas.plot.slices(volume, truth)
        Plot(axial, coronal, sagittal)
    """
    figure = Plot("axial, coronal, sagittal", 3.4)
    _planes(figure, figure.add_gridspec(1, 1)[0], volume, labels)
    return figure


# -- what is plotted --------------------------------------------------------------------------------------------------

SERIES = ("guidance residual", "mask change", "volume")


def _several(runs: Any) -> Runs:
    """Runs by name; one alone has the name ""."""
    named = isinstance(runs, Mapping) and runs and "provenance" not in runs
    if named and not all(isinstance(value, (int, float)) for value in runs.values()):
        return dict(runs)
    return {"": runs}


def _frames(source: Any) -> list[Frame]:
    frames = list(source) if isinstance(source, Iterable) else []
    if not frames or not all(isinstance(frame, Frame) for frame in frames):
        raise BadInput(
            f"a run is the frames of diffatlas.stream, a Result, a report or its path, not {type(source).__name__}"
        )
    return frames


def _report(source: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, Any]:
    if isinstance(source, Mapping):
        try:
            source["provenance"]["model"]["name"], source["frames"][0]
        except (KeyError, TypeError, IndexError) as error:
            raise BadInput("this mapping is not a run's report; give what Result.report() returns") from error
        return dict(source)
    return read_report(Path(source))


def _record(source: Any) -> tuple[list[FrameMetrics], LabelScheme | tuple[str, ...]]:
    """Metrics of every step; and the scheme, or the names of the structures where no model at hand has them."""
    if isinstance(source, Result):
        return list(source.metrics), source.labels.scheme
    if not isinstance(source, (Mapping, str, os.PathLike)):
        frames = _frames(source)
        return [frame.metrics for frame in frames], frames[-1].scheme
    report = _report(source)
    try:
        metrics = [FrameMetrics(**values) for values in report["frames"]]
        names = tuple(metrics[-1].volumes_ml)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise BadInput("the report holds no steps that can be plotted") from error
    try:
        scheme = model_card(report["provenance"]["model"]["name"]).scheme
    except BadInput:  # a model that is not on this machine
        return metrics, names
    return metrics, scheme if scheme.names == names else names


def _volumes_ml(source: Any) -> dict[str, float]:
    if isinstance(source, (Result, LabelMap)):
        return dict(source.volumes_ml if isinstance(source, Result) else source.volumes_ml())
    if isinstance(source, Mapping) and source and all(isinstance(value, (int, float)) for value in source.values()):
        return dict(source)
    if isinstance(source, (Mapping, str, os.PathLike)):
        found = _report(source).get("volumes_ml")
        if isinstance(found, dict):
            return found
    raise BadInput(f"volumes are those of a Result, a LabelMap or a report, not of {type(source).__name__}")


# -- how it is drawn --------------------------------------------------------------------------------------------------


def _steps(figure: Plot, place: SubplotSpec, frames: Sequence[Frame], shown: int, plane: str) -> None:
    """Columns of steps: what the network was shown, the image half, the labels on it."""
    if shown < 1:
        raise BadInput(f"shown must be 1 or more, not {shown}")
    picks = sorted({round(i) for i in np.linspace(0, len(frames) - 1, min(shown, len(frames)))})
    last = frames[-1]
    inside = np.argwhere(last.labels > 0)
    middle = inside.mean(axis=0) if len(inside) else (np.array(last.grid.shape) - 1) / 2
    at_mm = last.grid.to_world(middle)
    grid = place.subgridspec(3, len(picks))
    for column, index in enumerate(picks):
        frame = frames[index]
        labels = LabelMap(frame.labels, frame.grid, frame.scheme)
        # Noise of unit variance leaves the image's range: its window opens with t.
        reach = 1 + frame.t
        rows = (
            _cut(frame.noisy_image, frame.grid, (-reach, reach), plane, at_mm),
            _cut(frame.image, frame.grid, MODEL_WINDOW, plane, at_mm),
            _cut(frame.image, frame.grid, MODEL_WINDOW, plane, at_mm, labels),
        )
        for row, picture in enumerate(rows):
            title = f"step {frame.index + 1}, t = {frame.t:.2f}" if row == 0 else ""
            axes = _show(figure, grid[row, column], picture, title, plane if row == column == 0 else None)
            if column == 0:
                axes.set_ylabel(("shown to it", "image half", "labels")[row], fontsize=9)


def _planes(figure: Plot, place: SubplotSpec, image: Volume | Frame, labels: LabelMap | None) -> None:
    """Three planes through the middle of the structures, or of the image where there are none."""
    if isinstance(image, Frame):
        data, window, labels = image.image, MODEL_WINDOW, LabelMap(image.labels, image.grid, image.scheme)
    else:
        data = image.data
        window = display_window(image)
    if labels is not None and not labels.grid.same_as(image.grid):
        raise BadInput("labels and volume do not lie on the same grid")
    inside = np.argwhere(labels.data > 0) if labels is not None else np.empty((0, 3))
    at_mm = image.grid.to_world(inside.mean(axis=0) if len(inside) else (np.array(image.grid.shape) - 1) / 2)
    for cell, plane in zip(_cells(place.subgridspec(1, 3)), ("axial", "coronal", "sagittal"), strict=True):
        _show(figure, cell, _cut(data, image.grid, window, plane, at_mm, labels), plane, plane)


def _cut(
    data: NDArray[Any],
    grid: Grid,
    window: tuple[float, float],
    plane: str,
    at_mm: NDArray[np.float64],
    labels: LabelMap | None = None,
) -> Picture:
    """The plane through a world point, with outlines where there are labels on the same grid: uint8 [H, W, 3]."""
    shown, onto = plane_named(plane), Canonical.of(grid)
    voxel, size_mm = onto.voxel_at(at_mm), onto.size_mm(shown)
    size = size_px(size_mm, SIDE_PX / max(size_mm))
    gray = to_gray(cut(onto.view(data), shown, voxel), window, size)
    if labels is None:
        return np.repeat(gray[..., None], 3, axis=2)
    return Overlay.of(cut(onto.view(labels.data), shown, voxel), size).on(gray, labels.scheme)


def _show(figure: Plot, place: SubplotSpec, picture: NDArray[np.uint8], title: str, plane: str | None) -> Any:
    """Axes with a picture, its title, and the orientation letters of ``plane``."""
    axes = figure.add_subplot(place)
    axes.imshow(picture, interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9)
    if plane is not None:
        places = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.96), (0.5, 0.04))
        for letter, (x, y) in zip(plane_named(plane).letters, places, strict=True):
            axes.text(x, y, letter, color="white", fontsize=7, transform=axes.transAxes, ha="center", va="center")
    return axes


def _curves(
    figure: Plot, place: SubplotSpec, records: Mapping[str, tuple[list[FrameMetrics], LabelScheme | tuple[str, ...]]]
) -> None:
    panels: list[Any] = [figure.add_subplot(cell) for cell in _cells(place.subgridspec(1, 3))]
    residual, change, volume = panels
    for i, (name, (metrics, scheme)) in enumerate(records.items()):
        steps, style = np.arange(1, len(metrics) + 1), LINES[i % len(LINES)]
        marker = "o" if len(metrics) == 1 else None
        told = {"label": name} if name else {}
        residual.plot(steps, _floats([m.guidance_residual for m in metrics]), color=f"C{i}", marker=marker, **told)
        changes = 100 * _floats([m.mask_change for m in metrics])
        change.plot(steps, changes, color=f"C{i}", marker=marker)
        names, colors = _names_and_colors(scheme)
        for structure, color in zip(names, colors, strict=True):
            values = _floats([m.volumes_ml.get(structure) for m in metrics])
            volume.plot(steps, values, style, color=color, marker=marker, label=structure if i == 0 else None)
    for axes, title in ((residual, "guidance residual"), (change, "mask change, %"), (volume, "volume, ml")):
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("step", fontsize=9)
        axes.set_ylim(bottom=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        _plain(axes)
    if all(m.guidance_residual is None for metrics, _ in records.values() for m in metrics):
        residual.text(0.5, 0.5, "no image to compare with", transform=residual.transAxes, ha="center", fontsize=9)
    if any(records):
        residual.legend(frameon=False, fontsize=8)
    volume.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1)


def _names_and_colors(scheme: LabelScheme | tuple[str, ...]) -> tuple[tuple[str, ...], list[Any]]:
    if isinstance(scheme, LabelScheme):
        return scheme.names, [tuple(c / 255 for c in s.color) for s in scheme.structures]
    return scheme, [f"C{k}" for k in range(len(scheme))]


def _floats(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _cells(spec: GridSpecBase) -> list[SubplotSpec]:
    return [spec[i] for i in range(spec.nrows * spec.ncols)]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
