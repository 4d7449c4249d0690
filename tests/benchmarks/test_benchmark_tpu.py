import importlib.util
import json

import jax
import jax.numpy as jnp
import pytest

from benchmarks import fit, hlo, tpu
from configs.synthetic import get_config
from rdfer_jax import config as config_lib
from rdfer_jax import sharding
from rdfer_jax.training.setup import ModelSetup

pytestmark = pytest.mark.slow


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)

# The next texts are cut from what libtpu 0.0.42 made of small functions for v5e:2x4.

ALL_REDUCE = """
HloModule jit_f, is_scheduled=true

%add.clone (x.3: f32[], y.3: f32[]) -> f32[] {
  %y.3 = f32[]{:T(128)} parameter(1)
  %x.3 = f32[]{:T(128)} parameter(0)
  ROOT %add.1 = f32[]{:T(128)} add(%x.3, %y.3)
}

ENTRY %main.1_spmd (param: f32[256,512], param.1: f32[512,128]) -> (f32[256,512], f32[]) {
  %fusion = f32[256,512]{1,0:T(8,128)S(1)} fusion(%param), kind=kOutput, calls=%fused_computation
  %fusion.3 = f32[512,128]{1,0:T(8,128)S(1)} fusion(%param.1), kind=kOutput, calls=%fused.1
  %get-tuple-element.3 = f32[]{:T(128)} get-tuple-element(%fusion.9), index=0
  %all-reduce.3 = (f32[256,512]{1,0:T(8,128)S(1)}, f32[512,128]{1,0:T(8,128)S(1)}, /*index=2*/f32[]{:T(128)}) all-reduce(%fusion, %fusion.3, /*index=2*/%get-tuple-element.3), channel_id=1, replica_groups=mesh['axis_0'=4,'axis_1'=1] {'axis_0'}, use_global_device_ids=true, to_apply=%add.clone, metadata={op_name="jit(f)/transpose(jvp())/dot_general" stack_frame_id=5}
  %get-tuple-element.2 = f32[]{:T(128)} get-tuple-element(%all-reduce.3), index=2
  ROOT %tuple = (f32[256,512]{1,0:T(8,128)}, f32[]{:T(128)}) tuple(%copy, %get-tuple-element.2)
}
"""  # noqa: E501

PERMUTE = """
ENTRY %main.2_spmd (param.1: bf16[1024,2048]) -> bf16[1024,1024] {
  %param.1 = bf16[1024,2048]{1,0:T(8,128)(2,1)} parameter(0), sharding={devices=[8,1]<=[8]}
  %collective-permute-start = (bf16[1024,2048]{1,0:T(8,128)(2,1)}, bf16[1024,2048]{1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%param.1), channel_id=1, source_target_pairs={{0,1},{1,0}}
  %collective-permute-done = bf16[1024,2048]{1,0:T(8,128)(2,1)S(1)} collective-permute-done(%collective-permute-start)
  %bitcast.8 = bf16[8,128,2048]{2,1,0:T(8,128)(2,1)S(1)} bitcast(%collective-permute-done)
  ROOT %all_to_all.13 = bf16[8,128,2048]{2,1,0:T(8,128)(2,1)S(1)} all-to-all(%bitcast.8), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
}
"""  # noqa: E501

# One all-gather in three fusions: its start, its progress beside a matrix product, its end.
ASYNC_FUSIONS = """
%fused_computation.37 (param_0.63: bf16[256,2048]) -> (bf16[256,2048], bf16[2048,2048], s32[2]) {
  %param_0.63 = bf16[256,2048]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.25 = bf16[2048,2048]{1,0:T(8,128)(2,1)} all-gather(%param_0.63), channel_id=3, replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={0}, use_global_device_ids=true, frontend_attributes={chain_id="0"}
  ROOT %custom-call.1 = (bf16[256,2048]{1,0:T(8,128)(2,1)S(1)}, bf16[2048,2048]{1,0:T(8,128)(2,1)S(1)}, s32[2]{0:S(4)}) custom-call(%all-gather.25), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.51 (param_0.66: bf16[256,2048], param_2.41: s32[2]) -> (f32[1024,2048], bf16[2048,2048], /*index=5*/u32[]) {
  %param_0.66 = bf16[256,2048]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.27 = bf16[2048,2048]{1,0:T(8,128)(2,1)S(1)} all-gather(%param_0.66), channel_id=3, replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={0}, use_global_device_ids=true, frontend_attributes={chain_id="0"}
  ROOT %tuple.6 = (f32[1024,2048]{1,0:T(8,128)S(1)}, bf16[2048,2048]{1,0:T(8,128)(2,1)S(1)}) tuple(%convolution.23, %all-gather.27)
}

%fused_computation.39 (param_0.67: bf16[256,2048]) -> bf16[2048,2048] {
  %param_0.67 = bf16[256,2048]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-gather.29 = bf16[2048,2048]{1,0:T(8,128)(2,1)} all-gather(%param_0.67), channel_id=3, replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={0}, use_global_device_ids=true, frontend_attributes={chain_id="0"}
  ROOT %custom-call.3 = bf16[2048,2048]{1,0:T(8,128)(2,1)S(1)} custom-call(%param_0.67, %all-gather.29), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main.2_spmd (param: f32[256,2048]) -> f32[] {
  %all-gather.42 = bf16[2048,2048]{1,0:T(8,128)(2,1)S(1)} all-gather(%convert.4), channel_id=2, replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, dimensions={0}, use_global_device_ids=true, frontend_attributes={async_collective_name="all-gather-start"}
  %async-collective-start = (bf16[256,2048]{1,0}, bf16[2048,2048]{1,0}, s32[2]{0:S(4)}) fusion(%convert.3), kind=kCustom, calls=%fused_computation.37
}
"""  # noqa: E501

REDUCE_SCATTER = """
%all-reduce-scatter.1 (input.1: f32[2048,2048]) -> f32[256,2048] {
  %input.1 = f32[2048,2048]{1,0:T(8,128)S(1)} parameter(0)
  %all-reduce.10 = f32[2048,2048]{1,0:T(8,128)} all-reduce(%input.1), channel_id=12, replica_groups={{0,1,2,3,4,5,6,7}}, use_global_device_ids=true, to_apply=%add.3.clone, frontend_attributes={from-cross-replica-sharding="true"}
  ROOT %dynamic-slice.13 = f32[256,2048]{1,0:T(8,128)S(1)} dynamic-slice(%all-reduce.10, %multiply.7, %constant.51), dynamic_slice_sizes={256,2048}
}

ENTRY %main.2_spmd (param: f32[256,2048]) -> f32[256,2048] {
  %fusion.12 = f32[2048,2048]{1,0:T(8,128)S(1)} fusion(%param), kind=kOutput, calls=%fused_computation.13
  %fusion.1 = f32[256,2048]{1,0:T(8,128)S(1)} fusion(%fusion.12), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %reduce-scatter.4 = bf16[16,8]{1,0} reduce-scatter(%operand), channel_id=4, dimensions={0}
  %operand = bf16[128,8]{1,0} parameter(1)
}
"""  # noqa: E501

# As XLA writes them for other devices: operand and result of each are tuples.
VARIADIC_START = """
ENTRY %main (a: f32[4,8], b: bf16[4,8]) -> (f32[16,8], bf16[16,8]) {
  %a = f32[4,8]{1,0} parameter(0)
  %b = bf16[4,8]{1,0} parameter(1)
  %all-gather-start = ((f32[4,8]{1,0}, bf16[4,8]{1,0}), (f32[16,8]{1,0}, bf16[16,8]{1,0})) all-gather-start(%a, %b), channel_id=1, dimensions={0}
  ROOT %all-gather-done = (f32[16,8]{1,0}, bf16[16,8]{1,0}) all-gather-done(%all-gather-start)
}
"""  # noqa: E501


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        (ALL_REDUCE, {"all-reduce": {"count": 1, "bytes": 4 * (256 * 512 + 512 * 128 + 1)}}),
        (
            PERMUTE,
            {
                "all-to-all": {"count": 1, "bytes": 2 * 1024 * 2048},
                "collective-permute": {"count": 1, "bytes": 2 * 1024 * 2048},
            },
        ),
        (ASYNC_FUSIONS, {"all-gather": {"count": 2, "bytes": 2 * 2 * 2048 * 2048}}),
        (VARIADIC_START, {"all-gather": {"count": 1, "bytes": (4 + 2) * 16 * 8}}),
    ],
)
def test_collectives(text, expected):
    assert hlo.collectives(text) == expected


def test_a_fused_all_reduce_of_which_a_slice_is_kept_is_a_reduce_scatter():
    found = hlo.collectives(REDUCE_SCATTER)
    assert list(found) == ["reduce-scatter"]
    assert found["reduce-scatter"]["count"] == 2


@pytest.mark.parametrize(
    ("type_", "size"),
    [
        ("f32[]", 4),
        ("pred[3]{0:T(128)(4,1)}", 3),
        ("bf16[8,128,2048]{2,1,0:T(8,128)(2,1)S(1)}", 2 * 8 * 128 * 2048),
        ("(f32[2,3]{1,0:T(8,128)}, /*index=1*/s32[2]{0:S(4)}, token[])", 24 + 8),
        ("s4[5]{0}", 3),
        ("f8e4m3fn[10]", 10),
        ("c64[2]", 16),
        ("f32[0,7]", 0),
        ("()", 0),
    ],
)
def test_type_bytes(type_, size):
    assert hlo.type_bytes(type_) == size


def test_loops_are_counted():
    loop = (
        "  %while.10 = (s32[]{:T(128)}, f32[128,512]{1,0}) while(%tuple.22), condition=%c, body=%b"
    )
    assert hlo.count_loops(f"ENTRY %main () -> s32[] {{\n{loop}\n}}") == 1
    assert hlo.count_loops(ALL_REDUCE) == 0


def test_says_how_to_install_the_compiler(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(tpu.TPUError, match=r"pip install 'rdfer-jax\[tpu\]'"):
        tpu.topology_devices("v5e:2x2")


def _small_step(mesh):
    """A step of gradient descent on two matrices, data parallel."""

    def step(weights, images):
        def loss(weights):
            return jnp.mean((jnp.tanh(images @ weights[0]) @ weights[1]) ** 2)

        value, gradient = jax.value_and_grad(loss)(weights)
        return weights - 0.1 * gradient, value

    whole, split = sharding.replicated(mesh), sharding.split_batch(mesh)
    jitted = jax.jit(step, out_shardings=(whole, whole), donate_argnums=0)
    weights = jax.ShapeDtypeStruct((2, 256, 256), jnp.float32, sharding=whole)
    images = jax.ShapeDtypeStruct((512, 256), jnp.float32, sharding=split)
    return jitted, (weights, images)


@needs_libtpu
def test_compiles_a_small_step_for_v5e():
    report = tpu.run(_small_step, "v5e:2x2", num_videos=512)
    assert report["num_chips"] == 4
    assert report["device_kind"] == "TPU v5 lite"
    weights, images = 4 * 2 * 256 * 256, 4 * 512 * 256 // 4
    memory = report["memory"]
    assert memory["arguments"] == weights + images
    assert memory["reused"] == weights
    assert weights <= memory["outputs"] < weights + 4096
    assert memory["total"] == (
        memory["arguments"] + memory["outputs"] - weights + memory["temporaries"] + memory["code"]
    )
    assert report["fits"]
    # The gradients of all chips' shares are added up, and so are their losses.
    assert report["collectives"]["all-reduce"]["bytes"] == weights + 4
    assert report["loops"] == 0
    # Forward, and back to both weights and to the hidden layer: 5 products of a chip's 128 rows.
    assert report["flops"] == pytest.approx(5 * 2 * 128 * 256 * 256, rel=0.2)
    assert report["roofline_seconds"] == max(report["compute_seconds"], report["memory_seconds"])
    assert report["videos_per_second"] == 512 / report["roofline_seconds"]
    text = tpu.table(report)
    assert "v5e:2x2, 4 chips" in text
    assert "all-reduce" in text
    json.dumps(report, allow_nan=False)


@needs_libtpu
def test_one_v4_chip_is_one_device():
    assert len(tpu.topology_devices("v4:2x2x2")) == 8
    assert len(tpu.topology_devices("v5e:1x1")) == 1


@needs_libtpu
@pytest.mark.parametrize("topology", ["v9:2x2", "v5e", "v5e:3x5", "v5e:2by4", ""])
def test_names_the_topology_that_is_unknown(topology):
    with pytest.raises(tpu.TPUError, match=f"topology '{topology}'.*\n.*v5e:2x4"):
        tpu.topology_devices(topology)


@needs_libtpu
def test_says_that_a_step_does_not_fit():
    def huge(mesh):
        shape = jax.ShapeDtypeStruct((3, 2**31), jnp.float32, sharding=sharding.replicated(mesh))
        return jax.jit(lambda x: jnp.sort(x, axis=0)), (shape,)

    with pytest.raises(fit.CompilerError, match="does not fit in a chip's memory"):
        tpu.run(huge, "v5e:2x2", num_videos=1)


@needs_libtpu
def test_the_train_step_compiles_for_v5e():
    config = get_config()
    config.data.update(frames=8, image_size=32, batch_size=8)
    config.augment.size = 32
    config.clips.frames = 4
    config.model.update(width=32, instants=4)
    settings = config_lib.resolve(config)
    report = tpu.run(
        lambda mesh: ModelSetup(settings, mesh, num_classes=7, num_train=100).abstract_step(),
        "v5e:2x2",
        num_videos=8,
    )
    assert report["fits"]
    # The state is donated, so nearly all outputs lie where the arguments were.
    assert report["memory"]["reused"] > 0.99 * report["memory"]["outputs"]
    # Data parallel: gradients, statistics and metrics are added up, and nothing else moves.
    assert "all-reduce" in report["collectives"]
    assert not {"all-to-all", "collective-permute"} & set(report["collectives"])
