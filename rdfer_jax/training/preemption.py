"""Preemption signals, and detection of failed peer processes."""

import signal
import threading
from types import FrameType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

from rdfer_jax import workarounds


def is_peer_failure(error: BaseException) -> bool:
    """Returns whether an error means that another process of this job ended or cannot be reached."""
    # The text first: jax.process_count() initializes the devices, which not every mode needs.
    return workarounds.reports_lost_peer(error) and jax.process_count() > 1


class PreemptedError(RuntimeError):
    """Training was stopped by a signal, after its state was saved.

    Attributes:
      exit_status: exit status of the process: 0 after SIGTERM, 130 after Ctrl-C as in shells.
    """

    def __init__(self, message: str, exit_status: int = 0):
        super().__init__(message)
        self.exit_status = exit_status


class StopSignals:
    """Catches SIGTERM and Ctrl-C in a with block, so that training can save before it stops.

    A second signal ends the process at once. In a job of several processes, JAX's preemption service
    listens for SIGTERM and the processes agree on a common last step; Ctrl-C is not caught there.

    Attributes:
      received: the signal, or None.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Only the main thread may set signal handlers.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._handlers = {
                number: signal.signal(number, self._receive) for number in self.SIGNALS
            }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def stop_requested(self, step: int) -> bool:
        """Returns whether to stop after this step; the same answer in every process of a job."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.received is not None

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self.__exit__()
