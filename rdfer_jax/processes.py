"""Worker processes that never outlive their parent."""

import multiprocessing
import os
import threading


def exit_with_parent() -> None:
    """Makes this process exit when its parent process ends, even if the parent is killed."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
