"""Compiling for GPUs that this machine does not have. Most tests need the CUDA plugin."""

import importlib.util
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import gpu

pytestmark = pytest.mark.slow


needs_compiler = pytest.mark.skipif(
    not any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13)),
    reason="needs pip install 'rdfer-jax[cuda12]'",
)

HLO = """
  %cudnn-conv.1 = (bf16[8,56,56,64]{3,2,1,0}, u8[0]{0}) custom-call(%a, %b), window={size=7x7}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={}
  %cudnn-conv.2 = (bf16[8,56,56,64]{3,2,1,0}, u8[0]{0}) custom-call(%a, %c), window={size=3x3}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={}
  %cudnn-conv.3 = (f32[64,3,3,3,64]{4,3,2,1,0}, u8[0]{0}) custom-call(%a, %c), window={size=3x3x3}, dim_labels=bf012_oi012->bf012, custom_call_target="__cudnn$convBackwardFilter", metadata={}
  %gemm = (bf16[8,64]{1,0}, s8[0]{0}) custom-call(%a, %c), custom_call_target="__cublas$gemm"
"""  # noqa: E501


def test_convolutions_are_counted_by_what_they_are():
    assert gpu.convolutions(HLO) == {
        "forward, 2-D bf16 b01f": 2,
        "backward filter, 3-D f32 bf012": 1,
    }


@pytest.mark.parametrize("gpus", ["h200", "h200:0", "h200:x", "b17:1", ""])
def test_what_is_no_gpu_is_refused(gpus):
    with pytest.raises(gpu.GPUError, match=r"expected a100, h100, h200, a colon and a number"):
        gpu.devices(gpus)


@pytest.mark.skipif(
    any(importlib.util.find_spec(f"jax_cuda{n}_plugin") for n in (12, 13)), reason="it is installed"
)
def test_the_missing_compiler_is_named():
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--config=configs/dfew.py"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "pip install 'rdfer-jax[cuda12]'" in done.stderr
    assert "Traceback" not in done.stderr


@needs_compiler
def test_a_step_is_compiled_for_two_of_them():
    def make(mesh):
        split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["data"], []))
        kernel = jax.ShapeDtypeStruct((3, 3, 64, 64), jnp.bfloat16, sharding=whole)
        images = jax.ShapeDtypeStruct((16, 56, 56, 64), jnp.bfloat16, sharding=split)

        def loss(kernel, images):
            layout = ("NHWC", "HWIO", "NHWC")
            found = jax.lax.conv_general_dilated(
                images, kernel, (1, 1), "SAME", dimension_numbers=layout
            )
            return jnp.square(found).sum(dtype=jnp.float32)

        return jax.jit(jax.grad(loss), out_shardings=whole), (kernel, images)

    report = gpu.run(make, "h100:2", 16)
    assert report["fits"] and report["memory"]["arguments"] == 2 * (9 * 64 * 64 + 8 * 56 * 56 * 64)
    assert sum(report["convolutions"].values()) >= 1
    assert report["collectives"]["all-reduce"]["bytes"] >= 2 * 9 * 64 * 64
    assert "fits, without cuDNN workspace" in gpu.table(report)
