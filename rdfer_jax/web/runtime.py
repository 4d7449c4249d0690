"""ONNX Runtime Web, which runs networks in a browser: where its files are on this computer.

They come from the npm package onnxruntime-web (MIT) and are not part of this package: 33 MB, of which two
files are needed. See rdfer_jax.npm.
"""

from rdfer_jax import npm

SCRIPT, BINARY = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
PACKAGE = npm.Package(
    name="onnxruntime-web",
    version="1.30.0",
    holds="ONNX Runtime Web",
    folder="dist",
    files={
        SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
        BINARY: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    },
)


def read(path: str | None = None) -> dict[str, bytes]:
    """Returns the contents of the two files; arguments and errors as of npm.Package.read."""
    return PACKAGE.read("--onnxruntime" if path else "--web", path)
