"""How a run converges, drawn live: guidance residual, mask change and volumes over the steps, under one cursor.

Painted with Qt in about a millisecond. matplotlib takes a tenth of a second, which would slow the viewer at every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QPointF, QRectF, Qt, Signal  # type: ignore[attr-defined, unused-ignore]
from qtpy.QtGui import QColor, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QSizePolicy, QWidget

from napari_diffatlas.jobs.recording import Trace

PLOT_PX = 50
TITLE_PX = 18
LEFT_PX = 6
MAX_POINTS = 500  # a curve is not wider than this many pixels
ACCENTS = {True: "#8ab4f8", False: "#1a63c4"}


@dataclass(frozen=True)
class Series:
    """A curve: ``points`` are (step index, value)."""

    points: tuple[tuple[int, float], ...]
    color: QColor


@dataclass(frozen=True)
class Chart:
    """Curves of one quantity; ``now``: its value at the cursor, as text."""

    title: str
    series: tuple[Series, ...]
    now: str = ""

    @property
    def top(self) -> float:
        """The value at the upper edge; round, and never less than every curve."""
        highest = max((value for series in self.series for _, value in series.points), default=0.0)
        return round_up(highest) if highest > 0 else 1.0


class Plot(QWidget):
    """Charts of a `Trace`. Signal: ``clicked(int)``, the step under the pointer."""

    clicked = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._trace: Trace | None = None
        self._cursor: int | None = None
        self._dark = True
        self.charts: tuple[Chart, ...] = ()
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setToolTip("Click to go to a step")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(3 * (PLOT_PX + TITLE_PX) + TITLE_PX)

    def show_trace(self, trace: Trace | None, cursor: int | None) -> None:
        """Draw these steps, with the cursor at step ``cursor``."""
        self._trace, self._cursor = trace, cursor
        self.charts = () if trace is None else charts(trace, cursor, QColor(ACCENTS[self._dark]))
        self.update()

    def set_dark(self, dark: bool) -> None:
        self._dark = dark
        self.show_trace(self._trace, self._cursor)

    def x_of(self, index: float) -> float:
        """Pixel column of a step."""
        return LEFT_PX + self._span() * index / max(self._last(), 1)

    def index_at(self, x: float) -> int:
        """The step at a pixel column; the first and the last beyond the ends."""
        return round(min(max((x - LEFT_PX) / self._span(), 0.0), 1.0) * self._last())

    # -- Qt ----------------------------------------------------------------------------------------------------------
    def mousePressEvent(self, event: Any) -> None:
        self.clicked.emit(self.index_at(event.position().x()))

    def mouseMoveEvent(self, event: Any) -> None:  # only while a button is held
        self.clicked.emit(self.index_at(event.position().x()))

    def paintEvent(self, _: Any) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        text = QColor("#e8eaed") if self._dark else QColor("#1c1e22")
        faint = QColor(text)
        faint.setAlphaF(0.25)
        top = 0.0
        for chart in self.charts:
            box = QRectF(LEFT_PX, top + TITLE_PX, self._span(), PLOT_PX - 6)
            self._draw(painter, chart, box, text, faint)
            top += TITLE_PX + PLOT_PX
        if self.charts:
            feet = QRectF(LEFT_PX, top - 4, self._span(), TITLE_PX)
            painter.setPen(text)
            painter.drawText(feet, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, "step 1")
            painter.drawText(feet, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, str(self._last() + 1))
        painter.end()

    def _draw(self, painter: QPainter, chart: Chart, box: QRectF, text: QColor, faint: QColor) -> None:
        painter.setPen(text)
        head = QRectF(box.left(), box.top() - TITLE_PX, box.width(), TITLE_PX)
        painter.drawText(head, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, chart.title)
        painter.drawText(head, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, chart.now)
        painter.setPen(QPen(faint, 1))
        for level in (0.0, 0.5, 1.0):
            y = box.bottom() - level * box.height()
            painter.drawLine(QPointF(box.left(), y), QPointF(box.right(), y))
        if self._cursor is not None:
            painter.setPen(QPen(text, 1))
            x = self.x_of(self._cursor)
            painter.drawLine(QPointF(x, box.top()), QPointF(x, box.bottom()))
        if not any(series.points for series in chart.series):
            painter.setPen(faint)
            painter.drawText(box, Qt.AlignmentFlag.AlignCenter, "nothing to show")
        for series in chart.series:
            points = [
                QPointF(self.x_of(i), box.bottom() - box.height() * value / chart.top) for i, value in series.points
            ]
            painter.setPen(QPen(series.color, 1.6))
            if len(points) > 1:
                painter.drawPolyline(QPolygonF(points))
            at = next((p for p, (i, _) in zip(points, series.points, strict=True) if i == self._cursor), None)
            if at is not None:
                painter.setBrush(series.color)
                painter.drawEllipse(at, 2.5, 2.5)
                painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.setPen(text)
        small = QRectF(box.left() + 2, box.top(), box.width(), TITLE_PX)
        painter.setOpacity(0.7)
        painter.drawText(small, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop, f"{chart.top:g}")
        painter.setOpacity(1.0)

    def _span(self) -> float:
        return max(self.width() - 2.0 * LEFT_PX, 1.0)

    def _last(self) -> int:
        return 0 if self._trace is None else max(self._trace.total - 1, 0)


def charts(trace: Trace, cursor: int | None, accent: QColor) -> tuple[Chart, Chart, Chart]:
    """The three charts of a run, with their values at step ``cursor``."""
    every = 1 + len(trace.metrics) // MAX_POINTS
    steps = [(i, m) for i, m in sorted(trace.metrics.items()) if i % every == 0 or i == cursor]
    residual = tuple((i, m.guidance_residual) for i, m in steps if m.guidance_residual is not None)
    change = tuple((i, 100 * m.mask_change) for i, m in steps if m.mask_change is not None)
    structures = trace.scheme.structures if trace.scheme is not None else ()
    volumes = tuple(
        Series(tuple((i, m.volumes_ml[s.name]) for i, m in steps if s.name in m.volumes_ml), QColor(*s.color))
        for s in structures
    )
    now = trace.metrics.get(cursor) if cursor is not None else None
    total = "" if now is None else f"{sum(now.volumes_ml.values()):.3g} ml in all"
    return (
        Chart("Guidance residual", (Series(residual, accent),), _at(residual, cursor, "")),
        Chart("Mask change, %", (Series(change, accent),), _at(change, cursor, " %")),
        Chart("Volumes, ml", volumes, total),
    )


def round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5, 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * f for f in (1, 2, 2.5, 5, 10) if value <= power * f * (1 + 1e-9))


def _at(points: tuple[tuple[int, float], ...], cursor: int | None, unit: str) -> str:
    value = dict(points).get(-1 if cursor is None else cursor)
    return "" if value is None else f"{value:.3g}{unit}"
