"""The direction of imports, read from the source: a module of the engine imports only what stands above it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "core" / "diffatlas"

# Top to bottom, as in docs/decisions/0001: a later package may import the earlier ones, never the other way.
LAYERS = (
    "errors",
    "values",
    "geometry",
    "io",
    "metrics",
    "phantom",
    "anatomies",
    "data",
    "diffusion",
    "models",
    "published",
    "engine",
    "session",
    "remote",
    "render",
    "plot",
    "cohort",
    "review",
    "train",
    "evaluate",
    "distill",
    "bundle",
    "cli",
)
FRONT_ENDS = {"diffatlas_app": ROOT / "app", "napari_diffatlas": ROOT / "napari_diffatlas"}
FOR_FRONT_ENDS = {"errors", "geometry", "io", "metrics", "session", "engine.request", "render"}
FOR_FRONT_ENDS |= {"cohort", "remote", "review"}
USES_TORCH = {"diffusion", "models.unet", "models.conv", "models.monai_unet", "published"}
USES_TORCH |= {f"engine.{name}" for name in ("backend", "device", "walk", "first_noise")}
USES_TORCH |= {"train", "evaluate", "distill"}


def imports(path: Path, *, at_import_only: bool = False) -> Iterator[str]:
    """Dotted names that a module imports; ``from diffatlas import io`` counts as ``diffatlas.io``."""
    yield from _imports(ast.parse(path.read_text(encoding="utf-8")), at_import_only)


def _imports(tree: ast.AST, at_import_only: bool) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "diffatlas":
                yield from (f"diffatlas.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""
        elif at_import_only and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        elif at_import_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from (name for other in node.orelse for name in _imports(other, at_import_only))
        else:
            yield from _imports(node, at_import_only)


def modules_of(top: str) -> list[Path]:
    single = ENGINE / f"{top}.py"
    return [single] if single.is_file() else sorted((ENGINE / top).rglob("*.py"))


def test_every_module_has_its_place_in_the_order() -> None:
    found = {path.stem for path in ENGINE.glob("*.py")} | {path.parent.name for path in ENGINE.glob("*/*.py")}
    assert found - {"__init__", "__main__"} <= set(LAYERS)


def test_the_picture_of_the_tree_shows_every_layer() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    picture = next(part for part in text.split("```") if "errors -> values" in part)
    engine, front_ends = (set(re.findall(r"[a-z.]+", part)) for part in picture.split("napari_diffatlas,"))
    assert engine >= set(LAYERS)
    assert front_ends >= FOR_FRONT_ENDS


@pytest.mark.parametrize("top", LAYERS)
def test_a_module_imports_only_from_those_above_it(top: str) -> None:
    allowed = {*LAYERS[: LAYERS.index(top) + 1]}
    for path in modules_of(top):
        for name in imports(path):
            package, _, rest = name.partition(".")
            assert package not in FRONT_ENDS, f"{path}: the engine imports no front end, but {name}"
            if package == "diffatlas":
                assert rest.split(".")[0] in allowed, f"{path}: imports {name}, which stands below {top}"


@pytest.mark.parametrize("package", FRONT_ENDS)
def test_front_ends_import_the_seam_the_values_and_the_pictures(package: str) -> None:
    for path in FRONT_ENDS[package].rglob("*.py"):
        for name in imports(path):
            top, _, rest = name.partition(".")
            others = FRONT_ENDS.keys() - {package}
            assert top not in others, f"{path}: one front end imports the other, {name}"
            if top == "diffatlas":
                assert rest in FOR_FRONT_ENDS or rest.split(".")[0] in FOR_FRONT_ENDS, f"{path}: imports {name}"


@pytest.mark.parametrize("top", [name for name in LAYERS if name not in USES_TORCH])
def test_torch_waits_for_its_first_use(top: str) -> None:
    for path in modules_of(top):
        if f"{top}.{path.stem}" in USES_TORCH:
            continue
        for name in imports(path, at_import_only=True):
            assert name.split(".")[0] not in {"torch", "monai", "lightning_fabric"}, f"{path}: imports {name} at import"


@pytest.mark.parametrize(
    "module",
    ["diffatlas", "diffatlas.session", "diffatlas.io", "diffatlas.render", "diffatlas.cli", "napari_diffatlas"],
)
def test_importing_loads_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(' '.join({{'torch', 'napari', 'gradio', 'qtpy'}} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_offers_its_names_lazily() -> None:
    code = (
        "import sys, diffatlas\n"
        "assert 'numpy' not in sys.modules, 'numpy'\n"
        "assert all(hasattr(diffatlas, name) for name in diffatlas.__all__)\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
        "assert diffatlas.__version__.count('.') == 2\n"
        "assert not hasattr(diffatlas, 'no_such_name')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_lazy_names_are_those_that_type_checkers_see() -> None:
    import diffatlas

    tree = ast.parse((ENGINE / "__init__.py").read_text(encoding="utf-8"))
    guard = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in guard.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(seen) == set(diffatlas.__all__)
    assert {name for name, module in seen.items() if module == "diffatlas"} == set(diffatlas._MODULES)
    seen = {name: module for name, module in seen.items() if module != "diffatlas"}
    assert {name: f"diffatlas.{module}" for name, module in diffatlas._MODULE_OF.items()} == seen
