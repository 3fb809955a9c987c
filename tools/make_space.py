"""Make the folder that a hosted Space takes, complete: `app/`, the engine with its weights, and what pip must install.

    python tools/make_space.py FOLDER [--name OWNER/SPACE] [--gpu | --cpu-index ADDRESS]

A Space installs `requirements.txt` before it has the other files, so a wheel beside it cannot be named there; packages
beside `app.py` need no installing. Whatever FOLDER holds under the names that are written here is replaced, all else
(`.git` above all) stays.
"""

from __future__ import annotations

import argparse
import shutil
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
CLUTTER = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def make_space(folder: Path, name: str | None = None, gpu: bool = False, cpu_index: str | None = None) -> None:
    """Fill ``folder``, made if it is not there.

    ``name``: owner and name of the Space, which the address of its thumbnail needs. ``gpu``: its hardware has one;
    otherwise PyTorch is pinned to the version of the tests, and to its build without CUDA, which is a tenth as large,
    where ``cpu_index`` says in which package index that is (PyTorch's installation page does).
    """
    if folder.resolve() == ROOT or (ROOT / "app").resolve() in (folder.resolve(), *folder.resolve().parents):
        raise SystemExit(f"{folder}: is where the sources are; give a folder of its own")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder.mkdir(parents=True, exist_ok=True)
    for source in (ROOT / "app" / "diffatlas_app", ROOT / "core" / "diffatlas"):
        shutil.rmtree(folder / source.name, ignore_errors=True)
        shutil.copytree(source, folder / source.name, ignore=CLUTTER)  # follows the link to the weights
    for source in (ROOT / "app" / "app.py", ROOT / "LICENSE"):
        shutil.copy2(source, folder)
    shutil.copyfile(ROOT / "docs" / "images" / "learn.png", folder / "thumbnail.png")
    page = (ROOT / "app" / "README.md").read_text(encoding="utf-8")
    if name is not None:
        address = f"https://huggingface.co/spaces/{name}/resolve/main/thumbnail.png"
        page = page.replace("\n---\n", f"\nthumbnail: {address}\n---\n", 1)
    if gpu:
        page = page.replace("suggested_hardware: cpu-basic", "suggested_hardware: zero-a10g")
    (folder / "README.md").write_text(page, encoding="utf-8")
    needed = [*project["dependencies"], *project["optional-dependencies"]["app"]]
    # The SDK's version of gradio is named in README.md; a second one here would be installed over it.
    lines = [line for line in needed if Requirement(line).name != "gradio"]
    if not gpu:
        pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        (torch,) = (pin for pin in pins if pin.startswith("torch=="))
        lines = [*(line for line in lines if Requirement(line).name != "torch"), torch.split("+")[0]]
        if cpu_index is not None:
            lines = [f"--extra-index-url {cpu_index}", *lines[:-1], f"{lines[-1]}+cpu"]
    (folder / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    # Reports say which version of the program made them: Python looks for that here.
    for old in folder.glob("napari_diffatlas-*.dist-info"):
        shutil.rmtree(old)
    about = folder / f"napari_diffatlas-{project['version']}.dist-info"
    about.mkdir()
    facts = {"Metadata-Version": "2.4", "Name": project["name"], "Version": project["version"]}
    (about / "METADATA").write_text("".join(f"{k}: {v}\n" for k, v in facts.items()), encoding="utf-8")
    # Hosts of Spaces take files above some MB through git's large file storage only.
    (folder / ".gitattributes").write_text(
        "".join(f"*.{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in ("safetensors", "npz", "png")),
        encoding="utf-8",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder, or a clone of the Space's repository")
    parser.add_argument("--name", metavar="OWNER/SPACE", help="of the Space: for the address of its thumbnail")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--gpu", action="store_true", help="its hardware has a GPU: PyTorch with CUDA")
    which.add_argument("--cpu-index", metavar="ADDRESS", help="index of PyTorch's builds without CUDA")
    given = parser.parse_args()
    folder = given.folder
    make_space(folder, given.name, given.gpu, given.cpu_index)
    print(f"{folder}: {sum(p.stat().st_size for p in folder.rglob('*') if p.is_file()) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
