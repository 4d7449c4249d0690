"""The page that runs a network, written and served for tests."""

import contextlib
import threading

from rdfer_jax.web import runtime, server, site

CLASSES = ("happy", "sad", "neutral")


def reading(**changes):
    """How a made-up network reads videos."""
    values = {
        "network": "made up", "classes": CLASSES, "frames": 16, "snippet": 1, "size": 48,
        "instants_weight": 1.0, "fps": 10.0, "window": 3.0, "stride": 1.0, "smooth": 0.5,
        "mirror": False, "temperature": 1.0, "min_confidence": 0.0,
        "cut": {"detector": "blazeface", "min_face": 0.1, "margin": 0.1, "align": True},
    }  # fmt: skip
    return site.Reading(**values | changes)


def write(folder, monkeypatch, **changes):
    """Writes a page with stand-ins for ONNX Runtime and for the network."""
    engine = {runtime.SCRIPT: b"export const env = {};", runtime.BINARY: b"\0asm" * 1000}
    monkeypatch.setattr(runtime, "read", lambda path: engine)
    return site.write(folder, b"network" * 1000, reading(**changes))


@contextlib.contextmanager
def served(folder):
    """Yields the address of a page."""
    with server.serve(folder, 0) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield server.address(running)
        running.shutdown()
        thread.join()
