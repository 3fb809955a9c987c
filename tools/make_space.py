"""Make the folder that a hosted Space takes, complete: `app/`, the engine with its weights, and what pip must install.

    python tools/make_space.py FOLDER

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


def make_space(folder: Path) -> None:
    """Fill ``folder``, made if it is not there."""
    if folder.resolve() == ROOT or (ROOT / "app").resolve() in (folder.resolve(), *folder.resolve().parents):
        raise SystemExit(f"{folder}: is where the sources are; give a folder of its own")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder.mkdir(parents=True, exist_ok=True)
    for source in (ROOT / "app" / "diffatlas_app", ROOT / "core" / "diffatlas"):
        shutil.rmtree(folder / source.name, ignore_errors=True)
        shutil.copytree(source, folder / source.name, ignore=CLUTTER)  # follows the link to the weights
    for source in (ROOT / "app" / "app.py", ROOT / "app" / "README.md", ROOT / "LICENSE"):
        shutil.copy2(source, folder)
    needed = [*project["dependencies"], *project["optional-dependencies"]["app"]]
    # The SDK's version of gradio is named in README.md; a second one here would be installed over it.
    lines = [line for line in needed if Requirement(line).name != "gradio"]
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
        "".join(f"*.{kind} filter=lfs diff=lfs merge=lfs -text\n" for kind in ("safetensors", "npz")), encoding="utf-8"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder, or a clone of the Space's repository")
    folder = parser.parse_args().folder
    make_space(folder)
    print(f"{folder}: {sum(p.stat().st_size for p in folder.rglob('*') if p.is_file()) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
