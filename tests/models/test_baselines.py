"""What M3DFEL and ResNet with LSTM have in common: what may depend on what, shapes, types, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from baselines import NETWORKS, B, K, N, forward, inputs, shapes, variables

pytestmark = [pytest.mark.parametrize("network", NETWORKS), pytest.mark.slow]


def test_one_pass_over_all_clips_equals_a_loop_over_them(network):
    frames, clips = inputs()
    whole = forward(network(), variables(network), frames, clips)
    for k in range(K):
        one = forward(network(), variables(network), frames, clips[:, [k]])
        np.testing.assert_allclose(one.clip_logits[:, 0], whole.clip_logits[:, k], 1e-4, 1e-5)
        np.testing.assert_array_equal(one.video_logits, one.clip_logits[:, 0])


def test_the_order_of_the_videos_only_reorders_their_logits(network):
    frames, clips = inputs()
    order = [2, 0, 1]
    one = forward(network(), variables(network), frames, clips)
    two = forward(network(), variables(network), frames[order], clips[order])
    for name in ("clip_logits", "video_logits"):
        expected = getattr(one, name)[np.array(order)]
        np.testing.assert_allclose(getattr(two, name), expected, rtol=1e-4, atol=1e-5)
    others = frames.copy()
    others[[0, 2]] = 0
    after = forward(network(), variables(network), others, clips)
    np.testing.assert_array_equal(after.clip_logits[1], one.clip_logits[1])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shapes_and_types(network, dtype):
    out = forward(network(dtype), variables(network), *inputs())
    found = {name: (x.shape, str(x.dtype)) for name, x in vars(out).items() if x is not None}
    width = variables(network)["params"]["head"]["kernel"].shape[0]
    assert found == {
        "video_logits": ((B, N), "float32"),
        "clip_logits": ((B, K, N), "float32"),
        "features": ((B, width), "float32"),
    }
    head = variables(network)["params"]["head"]
    np.testing.assert_allclose(
        out.features @ head["kernel"] + head["bias"], out.video_logits, rtol=1e-3, atol=1e-4
    )
    assert {s.dtype for s in jax.tree.leaves(shapes(network(dtype)))} == {jnp.dtype("float32")}


def test_bfloat16_computes_near_float32(network):
    exact = forward(network(), variables(network), *inputs()).clip_logits
    low = forward(network(jnp.bfloat16), variables(network), *inputs()).clip_logits
    assert 1e-5 < np.abs(low - exact).max() / np.abs(exact).max() < 0.1


def test_every_parameter_has_a_finite_gradient(network):
    def loss(params):
        rngs = {"dropout": jax.random.key(0)}
        out, _ = network().apply({"params": params}, *inputs(), True, rngs=rngs)
        return jnp.mean(out.video_logits**2)

    gradients = jax.jit(jax.grad(loss))(variables(network)["params"])
    for path, leaf in jax.tree.leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all() and np.any(leaf), name
