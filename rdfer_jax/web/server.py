"""Serves the page on this computer only."""

import functools
import http.server
import logging
import pathlib
from http import HTTPStatus

log = logging.getLogger(__name__)

#: What the page may do: run its own scripts and WebAssembly, and fetch its own files.
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src data:; "
    "media-src blob:; connect-src 'self'; worker-src 'self' blob:; base-uri 'none'; form-action 'none'"
)
#: A file that every page has.
SETTINGS = "settings.json"
HOST = "127.0.0.1"
#: Browsers refuse modules and streamed WebAssembly of other types.
TYPES = {
    ".css": "text/css",
    ".gz": "application/gzip",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".json": "application/json",
    ".mjs": "text/javascript",
    ".onnx": "application/octet-stream",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
}
HEADERS = {
    # Isolation, without which a browser gives a page one thread only.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Handler(http.server.SimpleHTTPRequestHandler):
    """Answers with the files of a folder, and the headers above."""

    extensions_map = TYPES
    server_version, sys_version = "rdfer_jax", ""

    def end_headers(self) -> None:
        """Adds the headers to every answer."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def list_directory(self, path: object) -> None:
        """Refuses to list a folder."""
        self.send_error(HTTPStatus.NOT_FOUND)

    def log_message(self, format: str, *args: object) -> None:
        """Keeps requests off the terminal."""
        log.debug(format, *args)


def serve(folder: pathlib.Path, port: int) -> http.server.ThreadingHTTPServer:
    """Returns a server of a page's folder, which listens on this computer; call its serve_forever.

    Args:
      folder: as site.write leaves it.
      port: 0 for any that is free.

    Raises:
      FileNotFoundError: the folder holds no page.
      OSError: the port is taken.
    """
    if not (folder / SETTINGS).is_file():
        raise FileNotFoundError(
            f"{folder}: holds no page; write one with rdfer export --web={folder}"
        )
    handler = functools.partial(Handler, directory=str(folder))
    try:
        return http.server.ThreadingHTTPServer((HOST, port), handler)
    except OSError as error:
        raise OSError(f"--port={port}: cannot be used ({error.strerror}); choose another") from None


def address(server: http.server.ThreadingHTTPServer) -> str:
    """Returns the address to open; browsers give the camera to pages on localhost."""
    return f"http://localhost:{server.server_address[1]}/"
