"""Pictures, curves, films and meshes that both front ends and the command line share: numpy in, numpy or a file out."""

from diffatlas.render.animation import png_bytes, write_gif, write_png
from diffatlas.render.meshes import meshes, write_glb
from diffatlas.render.pictures import frame_picture, montage, slice_picture
from diffatlas.render.planes import display_window
from diffatlas.render.plots import curves

__all__ = [
    "curves",
    "display_window",
    "frame_picture",
    "meshes",
    "montage",
    "png_bytes",
    "slice_picture",
    "write_gif",
    "write_glb",
    "write_png",
]
