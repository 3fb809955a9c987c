"""Pictures of a volume with its structures, and of one denoising step: RGB arrays that both front ends and the command
line show, stream and save.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from diffatlas.errors import BadInput
from diffatlas.geometry.grid import Grid
from diffatlas.geometry.volume import LabelMap, LabelScheme, Volume
from diffatlas.render.planes import (
    Canonical,
    Overlay,
    Picture,
    Plane,
    cut,
    display_window,
    percentile_window,
    plane_named,
    sample_plane,
    size_px,
    to_gray,
)
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
from diffatlas.session import Frame

HEAD_PX = 16
LEGEND_LINE = 22
SWATCH = 10
LETTER: Color = (240, 240, 240)
HALO: Color = (0, 0, 0)
SCALE_BARS_MM = (200, 100, 50, 20, 10, 5, 2, 1)
MODEL_WINDOW = (-1.0, 1.0)


def montage(
    image: Frame | Volume | NDArray[Any],
    labels: LabelMap | NDArray[np.uint8] | None = None,
    scheme: LabelScheme | None = None,
    grid: Grid | None = None,
    *,
    at_mm: NDArray[np.float64] | None = None,
    planes: Sequence[str] = ("axial", "coronal", "sagittal"),
    height_px: int = 256,
    window: tuple[float, float] | None = None,
    theme: ThemeName = "dark",
) -> Picture:
    """Three planes of a volume with its structures as outline and fill, orientation letters, scale bar and legend.

    ``image``: a Frame (brings its labels, scheme and grid), a Volume (brings its grid) or an array [X, Y, Z] on
    ``grid``. ``labels``: a LabelMap on the same grid, or indices uint8 [X, Y, Z] into ``scheme``; None shows the image
    alone. ``at_mm``: world point the planes cut, by default the centroid of the structures. ``height_px``: of the
    tallest plane. ``window``: values shown black and white, by default -250 to 800 HU for CT, otherwise percentiles.

    Returns uint8 [H, W, 3]. Display is radiological on any orientation of the grid, see `planes`.
    """
    data, mask, scheme, grid, window = _resolve(image, labels, scheme, grid, window)
    style = theme_named(theme)
    chosen = {name: plane_named(name) for name in planes}
    if not chosen:
        raise BadInput("a montage needs at least one plane")
    onto = Canonical.of(grid)
    voxel = onto.centre_of(mask) if at_mm is None else onto.voxel_at(at_mm)
    data, mask = onto.view(data), None if mask is None else onto.view(mask)
    # The distances of a frame belong to its own labels; `paint` checks that they do.
    sdf = image.sdf if isinstance(image, Frame) else None

    sizes_mm = [onto.size_mm(plane) for plane in chosen.values()]
    # A slab of a few thick slices is wide and flat: it may not become a picture of many thousand columns.
    scale = min(height_px / max(h for _, h in sizes_mm), 3 * height_px / max(w for w, _ in sizes_mm))
    sizes = [size_px(size, scale) for size in sizes_mm]
    row_height = max(h for _, h in sizes)
    columns = [max(w, text_width(name.capitalize(), TITLE_PX)) for (w, _), name in zip(sizes, chosen, strict=True)]
    entries = [] if scheme is None or mask is None else _entries(scheme, mask=mask)
    width = max(2 * MARGIN + sum(columns) + 2 * GAP * (len(columns) - 1), 320)
    legend = Legend.fit(entries, width - 2 * MARGIN)
    top = MARGIN + TITLE_PX + GAP
    picture = canvas(width, top + row_height + legend.height + MARGIN, style)
    draw = ImageDraw.Draw(picture)

    x = (width - sum(columns) - 2 * GAP * (len(columns) - 1)) // 2
    for (name, plane), size, column in zip(chosen.items(), sizes, columns, strict=True):
        gray = to_gray(cut(data, plane, voxel), window, size)
        if mask is None or scheme is None:
            tile = _rgb(gray)
        else:
            distances = None if sdf is None else _cut_all(sdf, onto, plane, voxel)
            tile = Overlay.of(cut(mask, plane, voxel), size, distances).on(gray, scheme)
        corner = (x + (column - size[0]) // 2, top + (row_height - size[1]) // 2)
        picture.paste(Image.fromarray(tile), corner)
        draw_text(draw, (corner[0], top - GAP), name.capitalize(), style.muted, TITLE_PX)
        _letters(draw, plane, corner, size)
        x += column + 2 * GAP
    room = columns[-1] - text_width(list(chosen)[-1].capitalize(), TITLE_PX) - 3 * GAP
    _scale_bar(draw, x - 2 * GAP, top - GAP, scale, room, style)
    legend.draw(draw, MARGIN, top + row_height, style)
    return np.array(picture)


def slice_picture(
    gray: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    scheme: LabelScheme,
    plane: str,
    size: tuple[int, int],
    *,
    opacity: float = 1.0,
) -> Picture:
    """One slice that is already cut and windowed, with its structures and orientation letters.

    ``gray`` and ``labels``: uint8 [rows, columns] in display order (see `planes`), levels and indices into ``scheme``.
    ``plane``: its name. ``size``: width and height of the picture, pixels. ``opacity``: of the structures, outlines and
    fill, 0 to 1. Returns uint8 [height, width, 3].
    """
    shown = plane_named(plane)
    tile = to_gray(gray, (0.0, 255.0), size)
    overlay = Overlay.of(labels, size).on(tile, scheme)
    picture = Image.blend(Image.fromarray(_rgb(tile)), Image.fromarray(overlay), opacity)
    _letters(ImageDraw.Draw(picture), shown, (0, 0), size)
    return np.array(picture)


def frame_picture(
    frame: Frame,
    source: Volume | None = None,
    *,
    at_mm: NDArray[np.float64] | None = None,
    planes: Sequence[str] = ("axial",),
    cell_px: int = 208,
    theme: ThemeName = "dark",
) -> Picture:
    """One denoising step: the noisy state, the image half the model believes in, the mask on it, and, where the
    patient's volume ``source`` is given, the mask's outlines on the patient's image; a row for each plane.

    ``at_mm``: world point the planes cut. By default it is the middle of the frame's grid and not the structures',
    which move while they form: every picture of a run shows the same place and has the same size, uint8 [H, W, 3].
    """
    style = theme_named(theme)
    chosen = [plane_named(name) for name in planes]
    if not chosen:
        raise BadInput("a picture of a step needs at least one plane")
    onto = Canonical.of(frame.grid)
    voxel = onto.centre_of(None) if at_mm is None else onto.voxel_at(at_mm)
    titles = ["Noisy state", "Image half", "Mask on image half"]
    if source is not None:
        titles.append("Mask on patient")

    scale = min(cell_px / max(onto.size_mm(plane)) for plane in chosen)
    sizes = [size_px(onto.size_mm(plane), scale) for plane in chosen]
    column = max(max(w for w, _ in sizes), *(text_width(title, TITLE_PX) for title in titles))
    width = 2 * MARGIN + len(titles) * column + (len(titles) - 1) * GAP
    legend = Legend.fit(_entries(frame.scheme, volumes_ml=frame.metrics.volumes_ml), width - 2 * MARGIN)
    head = MARGIN + HEAD_PX + GAP + 3
    top = head + 2 * GAP + TITLE_PX + GAP
    height = top + sum(h for _, h in sizes) + GAP * (len(sizes) - 1) + legend.height + MARGIN
    picture = canvas(width, height, style)
    draw = ImageDraw.Draw(picture)

    _progress(draw, frame, width, style)
    for i, title in enumerate(titles):
        draw_text(draw, (MARGIN + i * (column + GAP), top - GAP), title, style.muted, TITLE_PX)
    y = top
    for plane, size in zip(chosen, sizes, strict=True):
        for i, tile in enumerate(_tiles(frame, source, onto, plane, voxel, size)):
            corner = (MARGIN + i * (column + GAP), y)
            picture.paste(Image.fromarray(tile), corner)
            if i == 0:
                _letters(draw, plane, corner, size)
        y += size[1] + GAP
    legend.draw(draw, MARGIN, y - GAP, style)
    return np.array(picture)


def _tiles(
    frame: Frame,
    source: Volume | None,
    onto: Canonical,
    plane: Plane,
    voxel: tuple[int, int, int],
    size: tuple[int, int],
) -> list[Picture]:
    """The cells of one row, each uint8 [height, width, 3]."""
    # Noise of unit variance leaves the image's range: the window opens with t, and is the image's own at t = 0.
    reach = 1 + frame.t
    noisy = to_gray(cut(onto.view(frame.noisy_image), plane, voxel), (-reach, reach), size, voxels=True)
    gray = to_gray(cut(onto.view(frame.image), plane, voxel), MODEL_WINDOW, size)
    mask, sdf = cut(onto.view(frame.labels), plane, voxel), _cut_all(frame.sdf, onto, plane, voxel)
    overlay = Overlay.of(mask, size, sdf)
    tiles = [_rgb(noisy), _rgb(gray), overlay.on(gray, frame.scheme)]
    if source is not None:
        values = sample_plane(source, onto, plane, voxel, size)
        window = display_window(source) if source.modality == "ct" else percentile_window(values)
        tiles.append(overlay.on(to_gray(values, window, size), frame.scheme, fill=0.0))
    return tiles


def _resolve(
    image: Frame | Volume | NDArray[Any],
    labels: LabelMap | NDArray[np.uint8] | None,
    scheme: LabelScheme | None,
    grid: Grid | None,
    window: tuple[float, float] | None,
) -> tuple[NDArray[Any], NDArray[np.uint8] | None, LabelScheme | None, Grid, tuple[float, float]]:
    """What `montage` was given as plain arrays, scheme, grid and window; `ValueError` where they do not fit."""
    if isinstance(image, Frame):
        data, grid, window = image.image, image.grid, window or MODEL_WINDOW
        if labels is None:
            labels, scheme = image.labels, image.scheme
    elif isinstance(image, Volume):
        data, grid, window = image.data, image.grid, window or display_window(image)
    else:
        data, window = image, window or percentile_window(image)
    if isinstance(labels, LabelMap):
        if grid is not None and not grid.same_as(labels.grid):
            raise BadInput("image and labels lie on different grids; resample one onto the other's grid")
        mask: NDArray[np.uint8] | None = labels.data
        scheme, grid = labels.scheme, labels.grid
    else:
        mask = labels
    if grid is None or (mask is not None and scheme is None):
        raise ValueError("an array needs its grid, and labels need their scheme")
    if data.shape != grid.shape or (mask is not None and mask.shape != grid.shape):
        raise ValueError(f"image and labels must have the shape of the grid, {grid.shape}")
    return data, mask, scheme, grid, window


def _cut_all(
    sdf: NDArray[np.float32], onto: Canonical, plane: Plane, voxel: tuple[int, int, int]
) -> NDArray[np.float32]:
    """The slices [K, rows, columns] of signed distances [K, X, Y, Z] on the original grid."""
    return np.stack([cut(onto.view(field), plane, voxel) for field in sdf])


def _rgb(gray: NDArray[np.uint8]) -> Picture:
    return np.repeat(gray[..., None], 3, axis=2)


def _letters(draw: ImageDraw.ImageDraw, plane: Plane, corner: tuple[int, int], size: tuple[int, int]) -> None:
    """Orientation letters inside the four edges of a tile large enough to hold them."""
    if min(size) < 48:
        return
    (x, y), (w, h) = corner, size
    places = (
        (x + 6, y + h / 2, "lm"),
        (x + w - 6, y + h / 2, "rm"),
        (x + w / 2, y + 5, "ma"),
        (x + w / 2, y + h - 5, "md"),
    )
    for letter, (px, py, anchor) in zip(plane.letters, places, strict=True):
        draw_text(draw, (px, py), letter, LETTER, 12, bold=True, anchor=anchor, halo=HALO)


def _scale_bar(draw: ImageDraw.ImageDraw, right: int, baseline: int, scale: float, room: float, style: Theme) -> None:
    """A bar of a round length in mm, its right end at ``right``, with the length beside it, no wider than ``room``."""
    room = min(room - text_width("200 mm", TITLE_PX), 96)
    length = next((mm for mm in SCALE_BARS_MM if mm * scale <= room), None)
    if length is None:
        return
    bar = max(1, round(length * scale))
    y = baseline - TITLE_PX // 2 + 2
    draw.rectangle((right - bar, y, right - 1, y + 2), fill=style.muted)
    draw_text(draw, (right - bar - GAP, baseline), f"{length} mm", style.muted, TITLE_PX, anchor="rs")


def _progress(draw: ImageDraw.ImageDraw, frame: Frame, width: int, style: Theme) -> None:
    """The head of a step's picture: which step, how much noise is left, and a bar of the noise that is gone."""
    baseline = MARGIN + HEAD_PX - 3
    draw_text(draw, (MARGIN, baseline), f"Step {frame.index + 1} of {frame.total}", style.text, HEAD_PX, bold=True)
    draw_text(draw, (width - MARGIN, baseline), f"noise level t = {frame.t:.2f}", style.muted, TITLE_PX, anchor="rs")
    y, right = MARGIN + HEAD_PX + GAP, width - MARGIN
    draw.rectangle((MARGIN, y, right - 1, y + 2), fill=style.line)
    done = MARGIN + round((right - MARGIN) * min(max(1 - frame.t, 0), 1))
    if done > MARGIN:
        draw.rectangle((MARGIN, y, done - 1, y + 2), fill=style.accent)


@dataclass(frozen=True)
class Entry:
    """A line of the legend; ``widest`` is the longest text it may ever show, so that columns stay put in a film."""

    name: str
    value: str
    color: Color
    present: bool
    widest: int


@dataclass(frozen=True)
class Legend:
    """Structure names in equal columns under a picture."""

    entries: Sequence[Entry]
    columns: int
    column_px: int

    @classmethod
    def fit(cls, entries: Sequence[Entry], width_px: int) -> Legend:
        """As many columns as ``width_px`` holds, filled evenly."""
        if not entries:
            return cls((), 1, width_px)
        need = min(max(e.widest for e in entries) + SWATCH + GAP + 2 * GAP, width_px)
        rows = -(-len(entries) // max(1, (width_px + 2 * GAP) // need))
        columns = -(-len(entries) // rows)
        return cls(entries, columns, min((width_px + 2 * GAP) // columns, need + 4 * GAP))

    @property
    def height(self) -> int:
        """Pixels, the space above the first line included; 0 without entries."""
        return GAP + LEGEND_LINE * -(-len(self.entries) // self.columns) if self.entries else 0

    def draw(self, draw: ImageDraw.ImageDraw, left: int, top: int, style: Theme) -> None:
        """Write the legend below ``top``; structures that are not there are dimmed."""
        for i, entry in enumerate(self.entries):
            row, column = divmod(i, self.columns)
            x, y = left + column * self.column_px, top + GAP + row * LEGEND_LINE
            middle = y + LEGEND_LINE // 2
            swatch = entry.color if entry.present else mix(entry.color, style.background, 0.7)
            draw.rounded_rectangle((x, middle - SWATCH // 2, x + SWATCH - 1, middle + SWATCH // 2 - 1), 2, fill=swatch)
            color = style.text if entry.present else mix(style.muted, style.background, 0.3)
            room = self.column_px - SWATCH - 3 * GAP - (text_width("  " + entry.value, TITLE_PX) if entry.value else 0)
            name = fit_text(entry.name, TITLE_PX, room)
            draw_text(draw, (x + SWATCH + GAP, middle), name, color, TITLE_PX, anchor="lm")
            if entry.value:
                after = x + SWATCH + GAP + text_width(name + "  ", TITLE_PX)
                draw_text(draw, (after, middle), entry.value, style.muted, TITLE_PX, anchor="lm")


def _entries(
    scheme: LabelScheme, *, mask: NDArray[np.uint8] | None = None, volumes_ml: dict[str, float] | None = None
) -> list[Entry]:
    """Legend entries with volumes in ml where they are given; presence from them or from ``mask``."""
    found = set() if mask is None else set(np.flatnonzero(np.bincount(mask.ravel(), minlength=len(scheme) + 1)))
    entries = []
    for index, structure in enumerate(scheme.structures, start=1):
        value, widest, present = "", structure.name, index in found
        if volumes_ml is not None:
            ml = volumes_ml.get(structure.name, 0.0)
            value, widest, present = _ml(ml), f"{structure.name}  0.00 ml0", ml > 0
        entries.append(Entry(structure.name, value, structure.color, present, text_width(widest, TITLE_PX)))
    return entries


def _ml(volume: float) -> str:
    """Millilitres to about three figures."""
    return f"{volume:.2f} ml" if volume < 10 else f"{volume:.0f} ml"
