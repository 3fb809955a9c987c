"""Which tests notice a fault? Small faults, one a module, are put into a copy of the tree, one at a time.

    python tools/seeded_faults.py            # this tree
    python tools/seeded_faults.py --then     # also in the tree of commit 5298d4b, which had another layout

For each fault the module's own test files run up to the first failure. The failure counts where the same test passes
without the fault. The table names that test. The exit status is the number of faults that no test of this tree noticed.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
THEN = "5298d4b"
ENGINE = "core/diffatlas/"


@dataclass(frozen=True)
class Fault:
    """``find``, which stands once in ``module``, becomes ``replace``.

    ``tests``: files under tests/. ``then_module``, ``then_tests``: the same code and its tests at commit `THEN`.
    """

    what: str
    module: str
    find: str
    replace: str
    tests: tuple[str, ...]
    then_module: str
    then_tests: tuple[str, ...]

    def seeded(self, text: str) -> str:
        """``text`` with the fault in it; ValueError unless ``find`` stands there exactly once."""
        if text.count(self.find) != 1:
            raise ValueError(f"{self.what}: '{self.find}' stands {text.count(self.find)} times in the module")
        return text.replace(self.find, self.replace)


FAULTS = (
    Fault(
        "voxel to world with the transposed affine",
        ENGINE + "geometry/grid.py",
        ".affine[:3, :3].T + self.affine[:3, 3]",
        ".affine[:3, :3] + self.affine[:3, 3]",
        ("geometry/test_grid.py",),
        ENGINE + "grid.py",
        ("test_grid.py",),
    ),
    Fault(
        "distance from the voxels' centres, not from the surface",
        ENGINE + "geometry/distance.py",
        "half = min(spacing_mm) / 2",
        "half = 0.0",
        ("geometry/test_distance.py",),
        ENGINE + "distance.py",
        ("test_distance.py",),
    ),
    Fault(
        "air outside the volume is grey",
        ENGINE + "geometry/resample.py",
        "np.clip(scaled, -1, 1), fill)",
        "np.clip(scaled, -1, 1), 0.0)",
        ("geometry/test_space.py",),
        ENGINE + "space.py",
        ("test_space.py",),
    ),
    Fault(
        "large label ids overflow their type",
        ENGINE + "geometry/volume.py",
        "max(self.ids, default=0)",
        "min(self.ids, default=0)",
        ("io/test_io.py", "geometry/test_space.py"),
        ENGINE + "volume.py",
        ("test_io.py", "test_space.py"),
    ),
    Fault(
        "the 95 % interval is one of 90 %",
        ENGINE + "metrics.py",
        "[2.5, 97.5]",
        "[5.0, 95.0]",
        ("test_metrics.py", "evaluate/test_evaluate_tables.py"),
        ENGINE + "evaluate/tables.py",
        ("test_metrics.py", "test_evaluate_tables.py"),
    ),
    Fault(
        "a NIfTI file in metres is read as millimetres",
        ENGINE + "io/nifti.py",
        'UNIT_MM.get(int(struct["xyzt_units"]) & 7, 1.0)',
        "1.0",
        ("io/test_io.py", "faults/test_files.py"),
        ENGINE + "io/nifti.py",
        ("test_io.py", "faults/test_files.py"),
    ),
    Fault(
        "a write that failed leaves half a file",
        ENGINE + "io/atomic.py",
        "temporary.unlink(missing_ok=True)",
        "pass",
        ("io/test_atomic.py", "io/test_io.py"),
        ENGINE + "io/atomic.py",
        ("test_io.py",),
    ),
    Fault(
        "label names with blanks around them are not recognised",
        ENGINE + "data/names.py",
        "name.strip().lower()",
        "name.lower()",
        ("data/test_data_own.py",),
        ENGINE + "data/names.py",
        ("test_data_own.py",),
    ),
    Fault(
        "where masks overlap the last one wins",
        ENGINE + "data/labels.py",
        "data[(ids == id_) & (data == 0)] = k",
        "data[ids == id_] = k",
        ("data/test_data_sources.py", "data/test_data_own.py"),
        ENGINE + "data/labels.py",
        ("test_data_sources.py", "test_data_own.py"),
    ),
    Fault(
        "the image's noise level does not trail the mask's",
        ENGINE + "diffusion/schedule.py",
        "1 - (1 - t).square()",
        "1 - (1 - t)",
        ("diffusion/test_schedule.py", "diffusion/test_sample.py", "train/test_train.py"),
        ENGINE + "schedule.py",
        ("test_schedule.py", "test_sample.py", "test_train.py"),
    ),
    Fault(
        "the prediction v with the wrong sign",
        ENGINE + "diffusion/denoise.py",
        "alpha * x - sigma * out",
        "alpha * x + sigma * out",
        ("diffusion/test_schedule.py", "diffusion/test_sample.py"),
        ENGINE + "denoise.py",
        ("test_schedule.py", "test_sample.py"),
    ),
    Fault(
        "voxels that the user pinned may change",
        ENGINE + "diffusion/guidance.py",
        "torch.where(self.pinned, self.mask, x0[:, 1:])",
        "x0[:, 1:]",
        ("diffusion/test_sample.py", "engine/test_session.py"),
        ENGINE + "guidance.py",
        ("test_sample.py", "test_session.py"),
    ),
    Fault(
        "the sampler's second-order term is twice as large",
        ENGINE + "diffusion/sample.py",
        "(x0 - before[0]) / (2 * r).to(x.dtype)",
        "(x0 - before[0]) / r.to(x.dtype)",
        ("diffusion/test_sample.py",),
        ENGINE + "sample.py",
        ("test_sample.py",),
    ),
    Fault(
        "damaged weights are loaded",
        ENGINE + "models/store.py",
        "if file_sha256(path) != card.sha256:",
        "if False:",
        ("models/test_store.py",),
        ENGINE + "checkpoint.py",
        ("test_checkpoint.py",),
    ),
    Fault(
        "the preset overrules the sampler that was asked for",
        ENGINE + "engine/request.py",
        "sampler=self.sampler or preset.sampler",
        "sampler=preset.sampler",
        ("engine/test_session.py", "engine/test_plan.py"),
        ENGINE + "request.py",
        ("test_session.py",),
    ),
    Fault(
        "a run is replayed on a volume elsewhere in the world",
        ENGINE + "engine/run_record.py",
        ".max() > SAME_PLACE_MM",
        ".max() > 1e6 * SAME_PLACE_MM",
        ("engine/test_run_record.py",),
        ENGINE + "report.py",
        ("gui/test_run_files.py", "cli/test_replay.py"),
    ),
    Fault(
        "pictures of slices are mirrored",
        ENGINE + "render/planes.py",
        "part[::-1, ::-1].T",
        "part[:, ::-1].T",
        ("render/test_render.py",),
        ENGINE + "render/planes.py",
        ("test_render.py",),
    ),
    Fault(
        "confidence is compared with the upper end of its bin",
        ENGINE + "evaluate/tables.py",
        "(np.arange(len(given)) + 0.5)",
        "(np.arange(len(given)) + 1.0)",
        ("evaluate/test_evaluate_tables.py",),
        ENGINE + "evaluate/tables.py",
        ("test_evaluate_tables.py",),
    ),
    Fault(
        "a long recording loses its newest step",
        "napari_diffatlas/jobs/recording.py",
        "if i % self._every and i != frame.index]",
        "if i % self._every]",
        ("gui/test_recording.py",),
        "napari_diffatlas/_recording.py",
        ("gui/test_recording.py",),
    ),
)


def copy_now(to: Path) -> Path:
    """The files of this tree in a new folder, without environments and caches."""
    ignore = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", "node_modules", "site", "dist", "build")
    return Path(shutil.copytree(ROOT, to, symlinks=True, ignore=ignore))


def copy_then(to: Path) -> Path:
    """The files of commit `THEN` in a new folder."""
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", THEN], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(to, filter="tar")
    return to


def first_failure(tree: Path, tests: list[str]) -> str:
    """The first test of ``tests`` that fails in ``tree``, "" where all pass; RuntimeError where pytest itself fails."""
    places = os.pathsep.join(str(tree / part) for part in ("core", "app", ""))
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": places, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "1000"}
    ended = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if ended.returncode == 0:
        return ""
    line = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", ended.stdout, re.MULTILINE)
    if line is None:
        raise RuntimeError(ended.stdout + ended.stderr)
    return line[1]


def caught_by(tree: Path, name: str, fault: Fault, tests: tuple[str, ...]) -> str:
    """The first test that fails with the fault in module ``name`` and passes without it; "" where none does."""
    module = tree / name
    sound = module.read_text(encoding="utf-8")
    command = [f"tests/{test}" for test in tests]
    while True:
        module.write_text(fault.seeded(sound), encoding="utf-8")
        failed = first_failure(tree, command)
        module.write_text(sound, encoding="utf-8")
        if not failed or not first_failure(tree, [failed]):
            return failed
        command += ["--deselect", failed]


def main() -> int:
    """Print the table; the number of faults that no test of this tree noticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--then", action="store_true", help=f"Do the same in the tree of commit {THEN}.")
    parser.add_argument("--only", default="", help="Only faults in modules whose path holds this.")
    options = parser.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory() as folder:
        now = copy_now(Path(folder) / "now")
        then = copy_then(Path(folder) / "then") if options.then else None
        header = ["fault", "in", "caught by"] + [f"by the suite of {THEN}"] * options.then
        print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}", flush=True)
        for fault in FAULTS:
            if options.only not in fault.module:
                continue
            answers = [caught_by(now, fault.module, fault, fault.tests)]
            missed += not answers[0]
            if then is not None:
                answers.append(caught_by(then, fault.then_module, fault, fault.then_tests))
            names = [test.removeprefix("tests/").partition("[")[0] for test in answers]
            module = fault.module.removeprefix(ENGINE)
            cells = [fault.what, f"`{module}`", *(f"`{name}`" if name else "**no test**" for name in names)]
            print(f"| {' | '.join(cells)} |", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main())
