"""The arithmetic of a run of several processes, on which they agree once they can talk to each other."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from lightning_fabric.plugins.precision.amp import MixedPrecision
from lightning_fabric.plugins.precision.precision import Precision


class AgreedPrecision(MixedPrecision):
    """bf16 by autocast where ``bf16`` is set, else float32.

    Fabric is given its arithmetic before its processes run. What "auto" finds may differ between them, and they must
    not differ: the first process decides, and all set ``bf16`` before anything is calculated.
    """

    def __init__(self, device: str) -> None:
        super().__init__("bf16-mixed", device)
        self.bf16 = False

    def forward_context(self) -> AbstractContextManager[Any]:
        return super().forward_context() if self.bf16 else Precision.forward_context(self)

    def convert_input(self, data: Any) -> Any:
        return super().convert_input(data) if self.bf16 else Precision.convert_input(self, data)

    def convert_output(self, data: Any) -> Any:
        return super().convert_output(data) if self.bf16 else Precision.convert_output(self, data)
