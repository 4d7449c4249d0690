"""Whether somebody wants this process to end, and whether another one of its job has ended.

Clusters and preemptible machines say the first by SIGTERM; of the second, JAX's errors tell.
"""

import signal
import threading
from types import FrameType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

#: What JAX's errors say when a process of the job does not answer.
_LOST = ("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "heartbeat")


def is_peer_failure(error: BaseException) -> bool:
    """Whether an error means that another process of this job ended or cannot be reached."""
    # In this order: to count processes JAX looks for its devices, which not every mode needs.
    return any(sign in str(error) for sign in _LOST) and jax.process_count() > 1


class PreemptedError(RuntimeError):
    """Training was asked to end and did, with its state saved.

    Attributes:
      exit_status: what the process should say: 0 after SIGTERM, 130 after Ctrl-C, as shells do.
    """

    def __init__(self, message: str, exit_status: int = 0):
        super().__init__(message)
        self.exit_status = exit_status


class Watch:
    """Notices SIGTERM and Ctrl-C while it is entered, instead of ending the process there and then.

    The second one ends it. Where several processes work together, JAX's own service listens for SIGTERM,
    and they agree on a step that all of them reach; Ctrl-C is left as it is.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Python hands signals to the main thread only, and only there may their handlers be set.
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def asked(self, step: int) -> bool:
        """Whether to end after this step; every process of a job gets the same answer."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self.received is not None

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self.__exit__()
