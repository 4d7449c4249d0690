"""The server: this computer only, the types and headers that browsers need, nothing but the folder."""

import http.client
import socket
from urllib.parse import urlsplit

import pages_of_networks
import pytest

pytest.importorskip("onnx", reason="needs the extra `export`")
from rdfer_jax.web import server, site


@pytest.fixture
def page(tmp_path):
    """The folder of a page."""
    pages_of_networks.write(tmp_path / "page")
    (tmp_path / "secret.txt").write_text("secret")
    return tmp_path / "page"


def ask(address, path, method="GET"):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_files_have_the_types_and_headers_that_browsers_need(page):
    types = {
        "/": "text/html; charset=utf-8", "/app.js": "text/javascript", "/style.css": "text/css",
        "/ort.wasm.bundle.min.mjs": "text/javascript", "/settings.json": "application/json",
        "/ort.wasm.gz": "application/gzip",
    }  # fmt: skip
    (page / "extra.wasm").write_bytes(b"\0asm")
    with pages_of_networks.served(page) as address:
        for path, kind in (types | {"/extra.wasm": "application/wasm"}).items():
            answer, body = ask(address, path)
            assert (answer.status, answer.headers["Content-Type"]) == (200, kind), path
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            assert answer.headers["Content-Security-Policy"].startswith(site.POLICY)
            assert answer.headers["Content-Encoding"] is None
            assert body == (page / (path.strip("/") or "index.html")).read_bytes()


@pytest.mark.parametrize("path", ["/../secret.txt", "/%2e%2e/secret.txt", "/folder/", "/none"])
def test_nothing_else_is_served(page, path):
    (page / "folder").mkdir()
    with pages_of_networks.served(page) as address:
        answer, body = ask(address, path)
        assert answer.status == 404 and b"secret" not in body
        assert ask(address, "/app.js", "POST")[0].status == 501


def test_only_this_computer_is_served(page):
    with server.serve(page, 0) as running:
        assert running.socket.getsockname()[0] == "127.0.0.1"


def test_a_folder_without_a_page_and_a_taken_port_are_told(page, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no page; write one with rdfer export --web"):
        server.serve(tmp_path, 0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"--port={port}: cannot be used"):
            server.serve(page, port)
