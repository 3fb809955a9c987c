"""A share of the cases for each of several tasks, and the script that starts them as an array under SLURM."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from diffatlas.cohort.attempts import FOLDER
from diffatlas.errors import BadInput

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Part ``index`` (1 to ``count``) of the cases: every ``count``-th one, whatever has become of any of them."""

    index: int
    count: int

    def of(self, cases: Sequence[T]) -> list[T]:
        return list(cases[self.index - 1 :: self.count])


def parse_part(text: str | None, environment: Mapping[str, str] | None = None) -> Part | None:
    """``I/N``, or what SLURM says of the task of an array that this is; None outside of one."""
    if text is not None:
        match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise BadInput(f"--part must look like I/N with I from 1 to N (3/40), not {text!r}")
        return Part(int(match[1]), int(match[2]))
    environment = os.environ if environment is None else environment
    try:
        task, count = (int(environment[f"SLURM_ARRAY_TASK_{key}"]) for key in ("ID", "COUNT"))
        low, high = (int(environment[f"SLURM_ARRAY_TASK_{key}"]) for key in ("MIN", "MAX"))
    except KeyError:
        return None
    except ValueError as error:
        raise BadInput("the variables SLURM_ARRAY_TASK_* are not numbers; give --part I/N") from error
    step = int(environment.get("SLURM_ARRAY_TASK_STEP") or 1)
    if (high - low) // max(step, 1) + 1 != count or (task - low) % max(step, 1):
        # Some indices of a larger array again: how many parts there were cannot be told from them.
        raise BadInput("this SLURM array has gaps, so the number of parts is not known; give --part I/N")
    return Part((task - low) // max(step, 1) + 1, count)


def parts_left(done: Sequence[bool], count: int) -> list[int]:
    """Which of ``count`` parts (from 1) still have a case that is not done."""
    return [index for index in range(1, count + 1) if not all(done[index - 1 :: count])]


def array_of(indices: Sequence[int]) -> str:
    """``1-40`` or ``3,7-9``, as ``sbatch --array`` takes it."""
    runs: list[list[int]] = []
    for index in sorted(indices):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def slurm_script(command: Sequence[str], output: Path, indices: Sequence[int], count: int, *, workers: int) -> str:
    """The text for ``sbatch``: task I runs ``command`` on part I of ``count``; ``indices``: the tasks to start."""
    folder = shlex.quote(str(Path.cwd()))
    logs = output.absolute() / FOLDER
    return f"""#!/bin/bash
# Written by `diffatlas batch --slurm`. Options of sbatch on its command line win over those below:
#   sbatch --partition=gpu --gres=gpu:1 --time=8:00:00 SCRIPT
#SBATCH --job-name=diffatlas
#SBATCH --array={array_of(indices)}
#SBATCH --cpus-per-task={max(2, workers)}
#SBATCH --mem=6G
#SBATCH --output="{logs}/slurm-%A_%a.out"
#SBATCH --requeue
set -eu
cd {folder}
export OMP_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-2}}"
exec {shlex.join(command)} --part "${{SLURM_ARRAY_TASK_ID}}/{count}"
"""
