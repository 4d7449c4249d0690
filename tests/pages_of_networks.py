"""The page that runs a network, written and served for tests."""

import contextlib
import threading

from rdfer_jax.web import runtime, server, site

CLASSES = ("happy", "sad", "neutral")


def card(**changes):
    """How a made-up network reads videos, as of predict.exported."""
    values = {
        "model": {"run": "made up", "checkpoint": "last", "step": 7}, "classes": list(CLASSES),
        "frames": 16, "snippet": 1, "snippet_stride": 1, "side": 48, "instants_share": 1.0,
        "fps": 10.0, "window": 3.0, "stride": 1.0, "smooth": 0.5, "mirror": False, "temperature": 1.0,
        "min_confidence": 0.0,
        "faces": {"detector": "blazeface", "min_face": 0.1, "margin": 0.1, "align": True},
    }  # fmt: skip
    return values | changes


def write(folder, **changes):
    """Writes a page with stand-ins for ONNX Runtime and for the network."""
    engine = {runtime.SCRIPT: b"export const env = {};", runtime.BINARY: b"\0asm" * 1000}
    return site.write(folder, b"network" * 1000, card(**changes), engine)


@contextlib.contextmanager
def served(folder):
    """Yields the address of a page."""
    with server.serve(folder, 0) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield server.address(running)
        running.shutdown()
        thread.join()
