"""BlazeFace as ONNX computes what OpenCV computes from its TFLite file."""

import cv2
import numpy as np
import pytest
from drawn_faces import drawn, in_scene

from rdfer_jax.faces import blazeface
from rdfer_jax.faces.blazeface import Square

onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `export`")
detector = pytest.importorskip("rdfer_jax.web.detector", reason="needs the extra `export`")
tflite = pytest.importorskip("rdfer_jax.web.tflite")


def test_the_converted_network_computes_the_same_as_opencv():
    session = onnxruntime.InferenceSession(
        detector.blazeface_onnx(), providers=["CPUExecutionProvider"]
    )
    scene, _ = in_scene(drawn(3))
    noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    squares = [Square(0, -40, 320), Square(40, 0, 200)]
    inputs = np.stack(
        [blazeface.network_input(image, square) for image in (scene, noise) for square in squares]
    )
    found = session.run(["regressors", "classificators"], {"input": inputs})
    net = cv2.dnn.readNetFromTFLite(str(blazeface.MODEL))
    for row, one in enumerate(inputs):
        net.setInput(one[None])
        expected = net.forward(("regressors", "classificators"))
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine[row], theirs[0], rtol=1e-5, atol=1e-4)
    assert found[1].max() > 1  # a face was seen: the comparison is about something


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"\x1c\0\0\0TFL9" + bytes(40), "not a TFLite file"), (b"", "not a TFLite file")],
)
def test_another_file_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        tflite.read(data)


def test_an_operator_that_is_not_read_is_named(monkeypatch):
    kept = {code: name for code, name in tflite.OPERATORS.items() if name != "pad"}
    monkeypatch.setattr(tflite, "OPERATORS", kept)
    with pytest.raises(ValueError, match="has the operator 34, which is not read"):
        tflite.read(blazeface.MODEL.read_bytes())
