"""One run of the engine at a time: its worker thread and napari's activity bar. The tabs of a widget share a runner."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol, cast

from napari.qt.threading import GeneratorWorker
from napari.utils import progress
from qtpy.QtCore import QObject, QTimer, Signal  # type: ignore[attr-defined, unused-ignore]

from napari_diffatlas.jobs.worker import Failed, Step, Stopped

ACTIVITY_MS = 50


class Job(Protocol):
    """Work for a runner: ``updates`` is iterated in a worker, the other methods are called from any thread.

    ``updates``, a generator, yields `Step`, and values of the job's own, and ends with one `Stopped`, `Failed` or value
    of a type in ``endings``.
    """

    @property
    def endings(self) -> tuple[type, ...]: ...
    def updates(self) -> Iterator[Any]: ...
    def stop(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def shown(self) -> None: ...


class _Worker(GeneratorWorker):
    """Closes what it iterates in its own thread, however it ends.

    napari ends its workers between two values when the viewer closes. What they iterate would stay open then: a run on
    another machine would go on.
    """

    def __init__(self, updates: Generator[Any, None, None]) -> None:
        super().__init__(self._pass_on)
        self._updates = updates

    def work(self) -> Any:
        try:
            return super().work()
        finally:
            self._updates.close()

    def _pass_on(self) -> Iterator[Any]:
        yield from self._updates


class Runner(QObject):
    """Runs a `Job` in a worker and passes its updates to the GUI thread. Signal: ``busy_changed(bool)``."""

    busy_changed = Signal(bool)

    def __init__(self) -> None:
        super().__init__()
        self._run: Job | None = None
        self._client: Callable[[Any], None] | None = None
        self._workers = 0
        self._activity: progress | None = None
        self._froze = False
        self._seen = 0, 0  # steps done, of how many
        self._stop_on_destroyed: Callable[[], None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a job runs."""
        return self._run is not None

    def start(self, run: Job, client: Callable[[Any], None]) -> None:
        """Begin ``run``; ``client`` gets its updates, exactly one `Stopped`, `Failed` or of its ``endings`` last.

        An update counts as drawn when ``client`` returns. Does nothing while another run is on its way.
        """
        if self._run is not None:
            return
        self._run, self._client = run, client
        # Python's garbage collector would examine all objects (torch and the viewer: 300 000) at once. Objects that
        # exist before a run are left out until it is over.
        self._froze = gc.get_freeze_count() == 0
        gc.freeze()
        # A viewer that closes deletes its widgets without an event; the run must end with them.
        self._stop_on_destroyed = run.stop
        self.destroyed.connect(self._stop_on_destroyed)
        self.busy_changed.emit(True)
        worker = _Worker(cast(Generator[Any, None, None], run.updates()))
        worker.yielded.connect(self._on_update)
        worker.finished.connect(self._on_finished)
        self._workers += 1
        worker.start()
        # napari's bar processes events when it is made: meanwhile the run may have ended and another started.
        activity = progress(total=0, desc="DiffAtlas")
        if self._run is run:
            self._activity = activity
        else:
            activity.close()

    def stop(self) -> None:
        """Ask the run to end within one step."""
        if self._run is not None:
            self._run.stop()

    def pause(self, paused: bool) -> None:
        """Ask the run to pause after its current step, or to resume."""
        if self._run is not None:
            (self._run.pause if paused else self._run.resume)()

    def abandon(self) -> None:
        """Stop the run and ignore its updates: the widget closes."""
        if self._run is not None:
            self._run.stop()
            self._end()

    def _on_update(self, update: Any) -> None:
        run, client = self._run, self._client
        if run is None or client is None:
            return
        try:
            client(update)
        finally:  # the widget stays usable also where the viewer raises on new layers
            run.shown()
            if isinstance(update, Step):
                self._seen = update.frame.index + 1, update.frame.total
                # napari's bar paints the window at once, but layers that the client is still adding must not be drawn
                # yet (see `Bar`).
                QTimer.singleShot(ACTIVITY_MS, self._show_activity)
            elif isinstance(update, (Stopped, Failed, *run.endings)):
                self._end()

    def _on_finished(self) -> None:
        """A worker's thread has ended; its run has usually reported its end before, and another run may go on."""
        self._workers -= 1
        if self._workers == 0:
            self._on_update(Stopped(0))

    def _end(self) -> None:
        if self._stop_on_destroyed is not None:
            self.destroyed.disconnect(self._stop_on_destroyed)
            self._stop_on_destroyed = None
        self._run = self._client = None
        if self._froze:
            gc.unfreeze()
        activity, self._activity = self._activity, None
        if activity is not None:
            activity.close()
        self.busy_changed.emit(False)

    def _show_activity(self) -> None:
        """napari's own activity bar, which is visible when our dock is not."""
        done, total = self._seen
        activity = self._activity  # moving it processes events: afterwards the run may be over
        if activity is not None:
            if activity.total != total:
                activity.total = total
            if done > activity.n:
                activity.update(done - activity.n)
