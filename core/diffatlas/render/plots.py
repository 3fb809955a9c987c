"""How a run converges, as three small plots over its steps: agreement with the patient's image, change of the mask, and
the volume of every structure.

Drawn with PIL like the pictures beside them: some milliseconds a step where matplotlib's axes take a tenth of a second,
which two cores that also run the model would feel. matplotlib still chooses the tick values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ImageDraw

from diffatlas.geometry.volume import LabelScheme
from diffatlas.render.theme import (
    GAP,
    MARGIN,
    TITLE_PX,
    Color,
    Theme,
    ThemeName,
    canvas,
    draw_text,
    fit_text,
    mix,
    text_width,
    theme_named,
)
from diffatlas.session import FrameMetrics

Floats = NDArray[np.float64]

# Lines are drawn this many times larger and averaged down: PIL's own lines have hard edges.
FINE = 3
LINE_PX = 1.6
DOT_PX = 2.8
SMALL_PX = 12
NAME_LINE = 15
# Left of every plot, for its scale, pixels.
SCALE_PX = 36


def curves(
    metrics: Sequence[FrameMetrics],
    total: int,
    scheme: LabelScheme,
    *,
    cursor: int | None = None,
    width_px: int = 888,
    height_px: int = 176,
    theme: ThemeName = "dark",
) -> NDArray[np.uint8]:
    """Guidance residual, mask change (%) and volumes (ml) over the steps so far; the axis always spans ``total`` steps.

    ``metrics``: of steps 1, 2, ... in order; any number, none included. ``cursor``: index of the step that a viewer
    shows, marked by a line. A series that does not exist (no image to be guided by) leaves its plot empty and says so.
    Returns uint8 [height_px, width_px, 3].
    """
    style = theme_named(theme)
    names_px = max((text_width(name, SMALL_PX) for name in scheme.names), default=0)
    names_px = min(names_px, width_px // 5)
    plot_px = (width_px - 2 * MARGIN - 2 * MARGIN - 3 * SCALE_PX - 2 * GAP - names_px) / 3
    top, bottom = MARGIN + TITLE_PX + 2 * GAP, height_px - MARGIN - SMALL_PX - GAP
    volumes = [_series([m.volumes_ml.get(name) for m in metrics]) for name in scheme.names]
    residual = _series([m.guidance_residual for m in metrics])
    change = _series([m.mask_change for m in metrics]) * 100
    contents: list[tuple[str, list[tuple[Floats, Color]], float]] = [
        ("Guidance residual", [(residual, style.accent)], 0.01),
        ("Mask change, %", [(change, style.accent)], 1.0),
        ("Volume, ml", [(v, s.color) for v, s in zip(volumes, scheme.structures, strict=True)], 0.1),
    ]
    plots = []
    for i, (title, series, smallest) in enumerate(contents):
        left = MARGIN + SCALE_PX + i * (plot_px + SCALE_PX + MARGIN)
        highest = max([smallest, *(1.06 * float(v[np.isfinite(v)].max(initial=0.0)) for v, _ in series)])
        plots.append(Plot(title, series, (left, top, left + plot_px, bottom), total, highest))

    fine = canvas(width_px * FINE, height_px * FINE, style)
    for plot in plots:
        plot.draw_lines(ImageDraw.Draw(fine), cursor, style)
    picture = fine.reduce(FINE)
    draw = ImageDraw.Draw(picture)
    for plot in plots:
        plot.draw_texts(draw, style)
    _names(draw, plots[-1], scheme, names_px, style)
    if metrics and np.isnan(residual).all():
        left, _, right, _ = plots[0].box
        middle = ((left + right) / 2, (top + bottom) / 2)
        draw_text(draw, middle, "no image to compare with", style.muted, SMALL_PX, anchor="mm")
    return np.array(picture)


@dataclass(frozen=True)
class Plot:
    """Series over steps 1 to ``total`` in a box (left, top, right, bottom) of pixels; y axis 0 to ``highest``."""

    title: str
    series: list[tuple[Floats, Color]]
    box: tuple[float, float, float, float]
    total: int
    highest: float

    def x(self, index: float) -> float:
        """Pixel column of step ``index`` (0 is the first)."""
        left, _, right, _ = self.box
        return left + (right - left) * index / max(self.total - 1, 1)

    def y(self, value: float) -> float:
        """Pixel row of a value."""
        _, top, _, bottom = self.box
        return bottom - (bottom - top) * value / self.highest

    def ticks(self) -> list[tuple[float, str]]:
        """Round values within the axis, with as many decimals as they need; only the base line without data."""
        if not any(np.isfinite(values).any() for values, _ in self.series):
            return [(0.0, "0")]
        from matplotlib.ticker import MaxNLocator

        values = MaxNLocator(nbins=3, steps=[1, 2, 2.5, 5, 10]).tick_values(0, self.highest)
        shown = [float(v) for v in values if 0 <= v <= self.highest]
        digits = next((d for d in range(6) if all(math.isclose(v, round(v, d), abs_tol=1e-9) for v in shown)), 6)
        return [(v, f"{v:.{digits}f}") for v in shown]

    def draw_lines(self, draw: ImageDraw.ImageDraw, cursor: int | None, style: Theme) -> None:
        """Grid, cursor, curves, and a dot on each at the cursor or its newest value, at `FINE` times the size."""
        left, top, right, bottom = self.box
        faint = mix(style.line, style.background, 0.35)
        for value, _ in self.ticks():
            self._line(draw, [(left, self.y(value)), (right, self.y(value))], style.line if value == 0 else faint, 1)
        if cursor is not None and 0 <= cursor < self.total:
            self._line(draw, [(self.x(cursor), top), (self.x(cursor), bottom)], style.muted, 1)
        for values, color in self.series:
            known = np.flatnonzero(np.isfinite(values))
            points = [(self.x(float(i)), self.y(float(values[i]))) for i in known]
            if len(points) > 1:
                self._line(draw, points, color, LINE_PX)
            at = cursor if cursor is not None else int(known[-1]) if len(known) else -1
            if 0 <= at < len(values) and np.isfinite(values[at]):
                x, y, r = self.x(at) * FINE, self.y(values[at]) * FINE, DOT_PX * FINE
                draw.ellipse((x - r, y - r, x + r, y + r), fill=color)

    def draw_texts(self, draw: ImageDraw.ImageDraw, style: Theme) -> None:
        """The title, the scale, and the first and last step."""
        left, top, right, bottom = self.box
        draw_text(draw, (left, top - 2 * GAP), self.title, style.text, TITLE_PX)
        for value, text in self.ticks():
            draw_text(draw, (left - GAP, self.y(value)), text, style.muted, SMALL_PX, anchor="rm")
        draw_text(draw, (left, bottom + GAP), "step 1", style.muted, SMALL_PX, anchor="la")
        if self.total > 1:
            draw_text(draw, (right, bottom + GAP), str(self.total), style.muted, SMALL_PX, anchor="ra")

    @staticmethod
    def _line(draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], color: Color, width: float) -> None:
        draw.line([(x * FINE, y * FINE) for x, y in points], fill=color, width=round(width * FINE), joint="curve")


def _names(draw: ImageDraw.ImageDraw, plot: Plot, scheme: LabelScheme, width_px: int, style: Theme) -> None:
    """Write each structure's name right of the plot at the height of its newest volume, pushed apart where needed."""
    _, top, right, bottom = plot.box
    known = [
        (structure, plot.y(values[-1]) - top)
        for structure, (values, _) in zip(scheme.structures, plot.series, strict=True)
        if len(values) and np.isfinite(values[-1])
    ]
    # A scheme of very many structures has no room for names; the picture's legend has them.
    if not known or len(known) * NAME_LINE > bottom - top + NAME_LINE:
        return
    heights = spread([y for _, y in known], min(NAME_LINE, (bottom - top) / len(known)), bottom - top)
    for (structure, _), y in zip(known, heights, strict=True):
        color = mix(structure.color, style.text, 0.35)
        at = (right + 2 * GAP, top + y)
        draw_text(draw, at, fit_text(structure.name, SMALL_PX, width_px), color, SMALL_PX, anchor="lm")


def spread(positions: Sequence[float], gap: float, length: float) -> list[float]:
    """Positions in [0, length] at least ``gap`` apart, in the same order and near where they were.

    ``len(positions) * gap <= length`` is the caller's to keep.
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed = [0.0] * len(positions)
    floor = gap / 2
    for i in order:
        placed[i] = floor = max(positions[i], floor)
        floor += gap
    ceiling = length - gap / 2
    for i in reversed(order):
        placed[i] = ceiling = min(placed[i], ceiling)
        ceiling -= gap
    return placed


def _series(values: Sequence[float | None]) -> Floats:
    return np.array([math.nan if v is None else v for v in values], dtype=np.float64)
