"""The brushes of the teaching site in a real browser: strokes by keyboard, and strokes that are fast."""

from __future__ import annotations

from tests.web.test_learn_browser import Open, at, move, open_page, pixels, predict, site  # noqa: F401


def test_the_brush_by_keyboard(open_page: Open) -> None:  # noqa: F811
    page = open_page("#scene=fool")
    canvas = page.locator("canvas.brush")
    clean = pixels(page)
    canvas.focus()
    canvas.press("Space")
    assert pixels(page) == clean, "first predict"
    predict(page)
    canvas.press("ArrowLeft")
    assert page.is_visible(".ring")
    canvas.press("Space")
    page.wait_for_selector("text=not yet like one of the recorded places")
    assert pixels(page) != clean
    canvas.blur()
    assert not page.is_visible(".ring")
    page = open_page("#scene=paint&mask=mirrored")
    canvas = page.locator("canvas.brush")
    blank = pixels(page)
    canvas.press("Shift+ArrowUp")
    canvas.press("Space")
    assert pixels(page) != blank


def test_a_fast_stroke_leaves_no_gaps(open_page: Open) -> None:  # noqa: F811
    page = open_page("#scene=paint&mask=mirrored")
    box = page.locator("canvas.brush").bounding_box()
    page.mouse.move(*at(box, (8, 32)))
    page.mouse.down()
    page.mouse.move(*at(box, (56, 32)))
    page.mouse.up()
    row = page.evaluate(
        "[...document.querySelector('canvas.brush').getContext('2d').getImageData(0, 162, 320, 1).data]"
        ".filter((_, i) => i % 4 === 0)"
    )
    assert min(row[45:280]) > 200, "orange all the way"
