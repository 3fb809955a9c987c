"""The page's look: the system's own fonts, greys, one accent colour; pictures on black in both themes."""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils import colors, sizes

from diffatlas_app.server.files import address


def theme() -> gr.themes.Base:
    """A gradio theme that loads nothing from elsewhere."""
    sans = [gr.themes.Font(name) for name in ("Segoe UI", "Helvetica Neue", "Noto Sans", "DejaVu Sans", "sans-serif")]
    mono = [gr.themes.Font(name) for name in ("SFMono-Regular", "Consolas", "DejaVu Sans Mono", "monospace")]
    return gr.themes.Base(
        primary_hue=colors.sky,
        secondary_hue=colors.sky,
        neutral_hue=colors.slate,
        radius_size=sizes.radius_md,
        font=sans,
        font_mono=mono,
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="#0b0f16",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_background_fill="white",
        block_background_fill_dark="#121823",
        block_border_color="*neutral_200",
        block_border_color_dark="#222b3a",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_600",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
    )


CSS = """
.gradio-container { max-width: 1280px !important; margin: 0 auto !important; }
#header, #view, #second, #result, #files, #gallery { padding: 0 !important; }
#header .html-container, #view .html-container, #second .html-container, #result .html-container,
#files .html-container, #gallery .html-container { padding: 0 !important; }
#source, #card, #hint, #limits, #region { background: var(--block-background-fill); }
#source .html-container, #card .html-container { padding: 10px 12px !important; }
#hint .html-container, #limits .html-container, #region .html-container { padding: 0 12px 8px !important; }
#limits .html-container { padding-top: 8px !important; }
#region:not(:has(p)), #centre:not(:has(input)) { display: none; }

.da-header { display: flex; justify-content: space-between; align-items: flex-start; gap: 16px; }
.da-header h1 { font-size: 26px; line-height: 1.2; font-weight: 650; margin: 0 0 4px; letter-spacing: -0.01em; }
.da-header p { margin: 0; color: var(--body-text-color-subdued); }
.da-links { display: flex; flex-wrap: wrap; gap: 2px 14px; margin-top: 4px; font-size: 13px; }
.da-links a { color: var(--primary-700) !important; text-decoration: underline; }
.dark .da-links a { color: var(--primary-300) !important; }
.da-badge { flex: none; padding: 4px 10px; border-radius: 6px; font-size: 13px; font-weight: 600;
  color: #7c2d12; background: #ffedd5; border: 1px solid #fdba74; }
.dark .da-badge { color: #fed7aa; background: #431407; border-color: #9a3412; }

#preset .wrap { gap: 6px; flex-wrap: nowrap; }
#preset label { flex: 1 1 auto; justify-content: center; padding: 6px 9px; font-size: 13px;
  white-space: nowrap; }
#upload { border: 1px dashed var(--border-color-primary) !important; }
#upload .wrap { font-size: 13px; line-height: 1.35; }

/* no comma within brackets: gradio takes selectors apart at commas */
#result:not(:has(table)):not(:has(p)), #files:not(:has(a)):not(:has(p)), #gallery:not(:has(button)) { display: none; }
#learn, #learn .html-container { padding: 0 !important; }
#learn-frame { display: block; width: 100%; height: 1400px; border: 0; border-radius: 8px; }
/* a low bar: what a run shows has to stay in sight on a small screen */
#pages { margin-top: -12px; }
#pages > .tab-wrapper { padding: 0; height: 34px; margin-bottom: 4px; }
#pages > .tab-wrapper button { padding: 4px 12px; }
#pages > .tabitem { padding: 0; border: 0; }
#transport { align-items: center; flex-wrap: nowrap; }
#seeds { align-items: flex-end !important; padding-right: 12px; background: var(--block-background-fill); }
#seeds #new-seed { margin-bottom: 12px; height: 36px; align-self: flex-end; border-radius: 6px; }

.gradio-container .da-status p { margin: 0; font-variant-numeric: tabular-nums; }
.gradio-container .da-error p { color: #b91c1c; font-weight: 600; overflow-wrap: anywhere; }
.gradio-container.dark .da-error p, .dark .gradio-container .da-error p { color: #fca5a5; }

.da-source p, .da-card p, .da-hint { margin: 2px 0 0; font-size: 13px; color: var(--body-text-color-subdued); }
.da-source strong { overflow-wrap: anywhere; }
.gradio-container .da-note { font-size: 13px; margin: 6px 0 0; padding-left: 8px; border-left: 3px solid #f59e0b; }
.da-card { font-size: 13px; }
.da-structures { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 8px 0; }
.da-structures i, .da-volumes i { display: inline-block; width: 10px; height: 10px; border-radius: 2px;
  margin-right: 6px; }
.da-card dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 10px; margin: 6px 0; }
.da-card dt { color: var(--body-text-color-subdued); }
.da-card dd { margin: 0; overflow-wrap: anywhere; }
.da-card summary { cursor: pointer; }
.da-limits { margin: 4px 0 0; padding-left: 18px; }
.da-limits li { margin: 0 0 2px !important; }

.da-result { overflow-x: auto; }
.gradio-container .da-h2 { margin: 0 0 6px; font-size: 16px; font-weight: 650; }
.da-doubt { padding: 10px 12px; border: 1px solid #f59e0b; border-radius: 8px; background: #fffbeb; }
.dark .da-doubt { background: #2a1d05; }
.da-doubt summary { cursor: pointer; }
.da-result .da-note { margin: 0 0 12px; max-width: 760px; }
/* gradio styles tables and links of its own accord, and wins without the "important" */
.da-volumes { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; margin: 0 !important;
  width: auto !important; }
.da-volumes caption { text-align: left; font-weight: 600; padding-bottom: 4px; }
.da-volumes, .da-volumes thead, .da-volumes tbody, .da-volumes tr, .da-volumes td, .da-volumes th {
  border: 0 !important; }
.da-volumes tr { border-bottom: 1px solid var(--border-color-primary) !important; }
.da-volumes td, .da-volumes th { padding: 3px 0 3px 24px !important; text-align: right; font-weight: 400; }
.da-volumes th[scope=row], .da-volumes thead td { text-align: left; padding-left: 0 !important; }
.da-volumes thead th { color: var(--body-text-color-subdued); font-size: 13px; }
.da-downloads { display: flex; flex-wrap: wrap; gap: 8px; }
.da-download { padding: 8px 14px !important; border-radius: 6px; font-weight: 600 !important;
  text-decoration: none !important; color: var(--body-text-color) !important;
  border: 1px solid var(--border-color-primary); background: var(--block-background-fill); }
.da-download:hover { border-color: var(--primary-600); }
.da-gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 8px; }
.da-gallery button { padding: 0; border: 1px solid var(--border-color-primary); border-radius: 6px; overflow: hidden;
  background: #0d1117; cursor: pointer; }
.da-gallery button:hover, .da-gallery button:focus-visible { border-color: var(--primary-600); }
.da-gallery img { display: block; width: 100%; height: auto; }
.da-gallery span { display: block; padding: 3px; font-size: 13px; color: #e2e8f0; }
@media (max-width: 720px) {
  .da-header { flex-direction: column; gap: 8px; }
  /* the tabs first, then the viewer, then the fields of the tab */
  #main { display: flex; flex-direction: column; }
  #controls, #tasks { display: contents; }
  #controls > *, #tasks > * { order: 3; width: 100%; }
  #tasks > .tab-wrapper { order: 1; }
  #viewer { order: 2; }
  #transport { flex-wrap: wrap; }
}
"""

# Gradio confines CSS to the page's content; the frame around it is reached from the head.
# By default that frame is as wide as its content, and the viewer has no width of its own.
_FRAME = """<style>.gradio-container { width: 100%; }
@media (max-width: 720px) {
  .main.fillable { padding: 14px !important; }
  footer .divider { display: none; }
}</style>"""


def head() -> str:
    """The HTML of the page's head: its own script, and the style of the frame."""
    return f'<script type="module" src="{address("page.js")}"></script>{_FRAME}'
