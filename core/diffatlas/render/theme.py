"""Colours, type and the drawing of text: what makes every picture of this package look like one family.

Type is DejaVu Sans, which matplotlib ships, so that a picture is the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from diffatlas.errors import BadInput

Color = tuple[int, int, int]
ThemeName = Literal["dark", "light"]

# Pixels: every distance between two things is one of these.
TITLE_PX = 13
GAP = 8
MARGIN = 16


@dataclass(frozen=True)
class Theme:
    """``text`` and ``muted`` have a contrast of at least 7:1 and 4.5:1 to ``background``; ``line`` is for rules."""

    background: Color
    text: Color
    muted: Color
    line: Color
    accent: Color


THEMES: dict[str, Theme] = {
    "dark": Theme((17, 19, 24), (235, 237, 240), (150, 156, 166), (52, 57, 66), (138, 180, 248)),
    "light": Theme((255, 255, 255), (28, 30, 34), (98, 104, 114), (216, 220, 226), (26, 99, 196)),
}


def theme_named(name: str) -> Theme:
    """The theme called "dark" or "light"; `BadInput` on any other name."""
    if name not in THEMES:
        raise BadInput(f"theme must be one of {', '.join(THEMES)}, not {name!r}")
    return THEMES[name]


@lru_cache(maxsize=32)
def font(size_px: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans at ``size_px``."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    # The basic layout engine gives the same glyph positions whether or not libraqm is there.
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(str(path), size_px, layout_engine=ImageFont.Layout.BASIC)


def text_width(text: str, size_px: int, bold: bool = False) -> int:
    """Advance width of one line of text, pixels."""
    return int(font(size_px, bold).getlength(text) + 0.999)


def fit_text(text: str, size_px: int, width_px: int) -> str:
    """``text``, shortened with an ellipsis where it is wider than ``width_px``."""
    if text_width(text, size_px) <= width_px:
        return text
    while text and text_width(text + "…", size_px) > width_px:
        text = text[:-1]
    return text.rstrip() + "…"


def draw_text(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    text: str,
    color: Color,
    size_px: int,
    *,
    bold: bool = False,
    anchor: str = "ls",
    halo: Color | None = None,
) -> None:
    """Write one line; ``anchor`` as in PIL ("ls": left, on the baseline); ``halo`` outlines it for use on an image."""
    stroke = {} if halo is None else {"stroke_width": 2, "stroke_fill": halo}
    draw.text(at, text, fill=color, font=font(size_px, bold), anchor=anchor, **stroke)  # type: ignore[arg-type]


def canvas(width: int, height: int, theme: Theme) -> Image.Image:
    """An empty picture in the theme's background."""
    return Image.new("RGB", (width, height), theme.background)


def mix(a: Color, b: Color, share: float) -> Color:
    """The colour ``share`` of the way from ``a`` to ``b``."""
    r, g, bl = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return r, g, bl
