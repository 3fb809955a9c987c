"""A training run in a process of its own, as the command line starts it; passes on its last line of output."""

from __future__ import annotations

import sys
from pathlib import Path

from qtpy.QtCore import (  # type: ignore[attr-defined, unused-ignore]
    QObject,
    QProcess,
    QProcessEnvironment,
    Signal,
)

COMMAND = (sys.executable, "-m", "diffatlas", "train")
STOP_MS = 10_000


class Training(QObject):
    """``diffatlas train CONFIG``. Its output is also written to ``train.log`` beside the configuration.

    Signals: ``said(str)``, its last line; ``ended(bool)``, whether it went well. A stopped run continues when it is
    started again.
    """

    said = Signal(str)
    ended = Signal(bool)

    def __init__(self) -> None:
        super().__init__()
        self._process: QProcess | None = None
        self._log: Path | None = None
        self._stopped = False

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None

    def start(self, config: Path) -> None:
        """Start the process; does nothing while one runs."""
        if self._process is not None:
            return
        self._stopped = False
        self._log = config.with_name("train.log")
        self._log.write_bytes(b"")
        process = self._process = QProcess(self)
        environment = QProcessEnvironment.systemEnvironment()
        environment.insert("PYTHONUNBUFFERED", "1")
        process.setProcessEnvironment(environment)
        process.setWorkingDirectory(str(config.parent))
        process.setProcessChannelMode(QProcess.ProcessChannelMode.MergedChannels)
        process.readyReadStandardOutput.connect(self._on_output)
        process.finished.connect(lambda code, _: self._on_end(code == 0))
        process.errorOccurred.connect(self._on_error)
        process.start(COMMAND[0], [*COMMAND[1:], str(config)])

    def stop(self) -> None:
        """Ask the process to end; it saves its state."""
        if self._process is not None:
            self._stopped = True
            self._process.terminate()

    def shut_down(self) -> None:
        """The widget closes: end the run, which continues when it is started again."""
        process, self._process = self._process, None
        if process is not None:
            process.blockSignals(True)
            process.terminate()
            if not process.waitForFinished(STOP_MS):
                process.kill()
                process.waitForFinished(STOP_MS)

    def _on_output(self) -> None:
        if self._process is None or self._log is None:
            return
        output = self._process.readAllStandardOutput().data()
        with self._log.open("ab") as log:
            log.write(output)
        lines = output.decode("utf-8", "replace").replace("\r", "\n").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if last:
            self.said.emit(last[:300])

    def _on_error(self, error: QProcess.ProcessError) -> None:
        if error == QProcess.ProcessError.FailedToStart:
            self.said.emit(f"the training could not be started ({COMMAND[0]})")
            self._on_end(False)

    def _on_end(self, well: bool) -> None:
        if self._process is None:
            return
        self._on_output()
        self._process.deleteLater()
        self._process = None
        self.ended.emit(well and not self._stopped)
