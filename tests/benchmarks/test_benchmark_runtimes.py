"""The comparison of runtimes, as far as it can be checked without measuring."""

import pytest

from benchmarks import runtimes
from rdfer_jax.predict import trained

pytestmark = pytest.mark.slow


def test_both_runtimes_are_timed_in_turn(monkeypatch):
    calls = []

    def seconds(work):
        calls.append(work())
        return float(len(calls))

    monkeypatch.setattr(runtimes, "seconds", seconds)
    with_jax, with_onnx = runtimes.measure(trained.from_package("faces"), 1, 2)
    assert (with_jax, with_onnx) == ([3.0, 5.0], [4.0, 6.0])
    for one, two in zip(calls[::2], calls[1::2], strict=True):
        assert abs(one["logits"] - two["logits"]).max() < 1e-5
