"""The commands that start something larger: demo, app, learn, mcp, napari."""

from __future__ import annotations

import webbrowser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from diffatlas.cli import options as opt
from diffatlas.errors import BadInput

DEMO_MODEL = "heart"
# No training case has a seed near this one.
DEMO_SEED = 1_000_000


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the results go.")] = Path(
        "demo-output"
    ),
    seed: opt.Seed = DEMO_SEED,
    preset: opt.Preset = "watch",
) -> None:
    """Segment a digital heart the model has never seen, and write pictures, labels, a mesh and a report."""
    from diffatlas.cli.outputs import check_folder, publish, staging

    check_folder(output)
    opt.check_model(DEMO_MODEL)

    from diffatlas import io, metrics, render, session
    from diffatlas.cli import terminal
    from diffatlas.cli.outputs import Outputs, save_png
    from diffatlas.cli.run import run_and_write
    from diffatlas.engine.request import Request

    console = terminal.stdout()
    console.print(
        "A digital heart in contrast CT, unknown to the model, is segmented by generating it.", soft_wrap=True
    )
    volume, truth = session.example("heart-ct", seed)
    request = Request(model=DEMO_MODEL, preset=preset, seed=seed)
    with staging(output) as folder:
        image = folder / "image.nii.gz"
        io.write_volume(volume, image)
        io.write_label_map(truth, folder / "truth.nii.gz")
        outputs = Outputs(folder / "labels.nii.gz", report=folder / "report.json", gif=folder / "segment.gif")
        # The report names the final path of the image.
        result = run_and_write(volume, request, outputs, source_path=output.absolute() / image.name, quiet=True)
        picture = render.montage(volume, result.labels)
        save_png(picture, folder / "picture.png")
        save_png(render.curves(result.metrics, len(result.metrics), result.labels.scheme), folder / "convergence.png")
        render.write_glb(result.labels, folder / "heart.glb")
        publish(folder, output)

    scores = metrics.compare(result.labels, truth)
    lines = [
        (row.name, f"{row.dice:.3f}", f"{row.volume_prediction_ml:.0f}", f"{row.volume_reference_ml:.0f}")
        for row in scores.rows
    ]
    lines.append(("mean", f"{scores.mean['dice']:.3f}", "", ""))
    numbers = ("Dice", "found ml", "true ml")
    console.print(terminal.rows(("structure", *numbers), lines, right=numbers))
    seconds = result.metrics[-1].seconds
    console.print(
        f"{len(result.metrics)} steps in {seconds:.1f} s. A phantom, not a patient: for trying the program only."
    )
    width = max(len(str(output / name)) for name in DEMO_FILES)
    for name, what in DEMO_FILES.items():
        console.print(f"  {output / name!s:<{width}}  {what}", soft_wrap=True)
    console.print("Next: make app (web page), make napari, or: diffatlas segment INPUT -o OUTPUT")


DEMO_FILES = {
    "segment.gif": "image and mask coming out of noise",
    "picture.png": "the labels on three planes",
    "convergence.png": "how the run settled",
    "heart.glb": "the structures in 3-D, for any glTF viewer",
    "labels.nii.gz": "on the voxels of image.nii.gz, with MM-WHS ids",
    "report.json": "for diffatlas replay",
}


def web(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default="the first free one")] = None,
    share: Annotated[bool, typer.Option("--share", help="Make it public through gradio's tunnel.")] = False,
    open_browser: Annotated[bool, typer.Option("--open", help="Open a browser.")] = False,
) -> None:
    """Serve the web page on this machine."""
    require("gradio", "app", "the web page")
    import_module("diffatlas_app").main(host=host, port=port, share=share, open_browser=open_browser)


def learn(
    export: Annotated[
        Path | None, typer.Option("--export", metavar="DIR", help="Write the site's files to a new folder instead.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default="a free one")] = None,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser.")] = True,
) -> None:
    """Show the teaching site on this machine, or write it as plain files that any web server serves."""
    site: Any = import_module("diffatlas_app.learn")
    if export is not None:
        size = site.export(export)
        typer.echo(f"{export}: {size / 1e6:.1f} MB; serve the folder, or open {export / 'offline.html'} as it is")
        return
    server = site.serve(port)
    url = f"http://127.0.0.1:{server.server_port}/"
    typer.echo(f"DiffAtlas, learn: {url} (Ctrl-C stops it)")
    if open_browser:
        webbrowser.open(url)
    with server:
        server.serve_forever()


def mcp(
    folder: Annotated[
        Path, typer.Argument(metavar="[FOLDER]", help="Where its tools may read and write; nowhere else.")
    ] = Path(),
) -> None:
    """Offer segment, compare, info and models to an agent, over the Model Context Protocol (stdin and stdout)."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: no such folder")
    require("mcp", "mcp", "the server for agents")
    module: Any = import_module("diffatlas_app.mcp_server")
    module.server(folder).run("stdio")


def napari(
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", help="Volumes to open.")] = None,
) -> None:
    """Open napari with the DiffAtlas widget."""
    for file in files or ():
        if not file.exists():
            raise BadInput(f"{file}: no such file")
    require("napari", "napari", "the viewer")
    require("qtpy", "napari", "the viewer")
    viewer_module: Any = import_module("napari")
    viewer = viewer_module.Viewer(title="DiffAtlas")
    if files:
        viewer.open([str(file) for file in files], plugin="napari-diffatlas")
    viewer.window.add_plugin_dock_widget("napari-diffatlas", "DiffAtlas")
    viewer_module.run()


def require(package: str, extra: str, what: str) -> None:
    """`BadInput` with the line to type where an optional package is missing."""
    if find_spec(package) is None:
        raise BadInput(f"{what} needs {package}: pip install 'napari-diffatlas[{extra}]'")
