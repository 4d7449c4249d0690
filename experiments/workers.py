"""Worker processes that train the cells of a grid, one after the other, each on its share of the machine.

A worker keeps its compiled programs and opened data sets between cells. So it prefers a cell that needs the
program of its last one, and then those that no other worker is compiling.
"""

import collections
import contextlib
import logging
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

from etils import epath

from experiments import cell

log = logging.getLogger(__name__)

#: On one core, threads of XLA only get in each other's way.
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


class Queue:
    """The folders of cells that wait, by the program that they need."""

    def __init__(self, programs: Mapping[epath.Path, str]):
        """Takes the program of each folder."""
        self._waiting: dict[str, collections.deque[epath.Path]] = {}
        for folder, program in programs.items():
            self._waiting.setdefault(program, collections.deque()).append(folder)
        self._users: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    def take(self, last: str | None) -> tuple[epath.Path, str] | None:
        """Returns a folder and its program, for a worker whose last program is `last`.

        Without a cell for its last program, the worker gets one for the program that the fewest workers
        use and, among those, that the most cells wait for. None if all are taken.
        """
        with self._lock:
            if not self._waiting:
                return None
            if last is None or last not in self._waiting:
                last = min(self._waiting, key=lambda p: (self._users[p], -len(self._waiting[p])))
                self._users[last] += 1
            folder = self._waiting[last].popleft()
            if not self._waiting[last]:
                del self._waiting[last]
            return folder, last


class Worker:
    """A process that trains cells on its share of the machine."""

    def __init__(self, slot: int, jobs: int):
        """Starts the process.

        Args:
          slot: number of this worker, in [0, jobs).
          jobs: number of workers.
        """
        self._slot, self._jobs = slot, jobs
        self._start()

    def train(self, folder: epath.Path) -> bool:
        """Trains a cell; returns whether it finished. A process that died is replaced."""
        try:
            self._connection.send(str(folder))
            return bool(self._connection.recv())
        except (EOFError, OSError):
            self.close()
            with (folder / "log.txt").open("a") as file:
                file.write(f"the process ended with exit code {self._process.exitcode}\n")
            self._start()
            return False

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.terminate()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, self._slot, self._jobs), daemon=True
        )
        self._process.start()
        theirs.close()


def run(
    programs: Mapping[epath.Path, str], jobs: int, done: Callable[[epath.Path, bool], None]
) -> None:
    """Trains cells on several workers.

    Args:
      programs: for each folder of a cell the program that it needs; cells with equal programs share one.
      jobs: number of workers.
      done: called after each cell with its folder and whether it finished, from any thread.
    """
    waiting = Queue(programs)

    def work(slot: int) -> None:
        with contextlib.closing(Worker(slot, jobs)) as worker:
            last = None
            while (taken := waiting.take(last)) is not None:
                folder, last = taken
                done(folder, worker.train(folder))

    jobs = min(jobs, len(programs))
    if jobs:
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(work, range(jobs)))


def serve(connection: Connection, slot: int, jobs: int) -> None:
    """Trains the cells whose folders arrive, until the other side closes the connection."""
    take_share(slot, jobs)
    trainer = cell.Trainer()
    with contextlib.suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        while True:
            folder = epath.Path(connection.recv())
            finished = False
            with logged(folder / "log.txt"):
                try:
                    cell.run_cell(folder, trainer)
                    finished = True
                except Exception:
                    log.exception("the cell failed")
            connection.send(finished)


def take_share(slot: int, jobs: int) -> None:
    """Binds this process to its share of the cores and of a GPU's memory, before JAX finds its devices."""
    os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / jobs:.3f}"
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        mine = cores[slot * len(cores) // jobs : (slot + 1) * len(cores) // jobs] or cores
        os.sched_setaffinity(0, mine)
        if len(mine) == 1:
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()


@contextlib.contextmanager
def logged(path: epath.Path) -> Iterator[None]:
    """Appends this process's log to a file."""
    handler = logging.FileHandler(os.fspath(path))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
