"""The whole network: one pass for all clips, and what may depend on what.

Most tests use a trunk that is a single layer, so that they compile in no time.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from rdfer_jax import agreement, augment, models
from rdfer_jax import config as config_lib
from rdfer_jax.models import resampling
from rdfer_jax.models.rdfer import RDFER

pytestmark = pytest.mark.slow
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)


B, K, T, F, M, N, W = 3, 4, 6, 10, 2, 5, 16
MODEL = config_lib.Model(
    width=W, short_layers=1, long_layers=1, long_heads=2, instants=4, dropout=0.5
)
KEY = config_lib.KeyClips(number=M, frames=3, min_gap=0.2)


class ToyTrunk(nn.Module):
    """The mean color of each frame, or of each few frames, through one layer."""

    frames_per_feature: int = 1

    @nn.compact
    def __call__(self, frames_NFHWC, train):
        x = frames_NFHWC.mean(axis=(2, 3))
        x = x.reshape(len(x), -1, 3 * self.frames_per_feature)
        return nn.tanh(nn.Dense(8)(x))


def rdfer(model=MODEL, key=KEY, frames_per_feature=1, dtype=jnp.float32, snippet=1, **more):
    return RDFER(N, ToyTrunk(frames_per_feature), model, key, dtype, snippet, **more)


def inputs(clip_frames=T, seed=0):
    rng = np.random.default_rng(seed)
    frames = rng.standard_normal((B, F, 4, 4, 3)).astype(np.float32) * 3
    clips = np.sort(rng.integers(0, F, (B, K, clip_frames)), axis=-1)
    clips[:, 0] = np.linspace(0, F - 1, clip_frames).astype(int)
    return frames, clips.astype(np.int32)


@functools.cache
def variables(frames_per_feature=1, model=MODEL):
    """Random ones: a forgotten bias or scale must show."""
    key = dataclasses.replace(KEY, frames=4, enabled=model.streams == "both")
    module = rdfer(model, key, frames_per_feature)
    frames, clips = inputs(8)
    shapes = jax.eval_shape(lambda rng: module.init(rng, frames, clips, False), jax.random.key(0))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: rng.standard_normal(s.shape).astype(np.float32) * 0.5, shapes)


def whole_forward(module, variables, frames, clips, key_class=None, train=False, rng=None):
    """Both passes; the key expression is that of a class, or of the clips' consensus."""
    rngs = None if rng is None else {"dropout": rng}
    outputs, context = module.apply(variables, frames, clips, train, rngs=rngs)
    if key_class is None:
        key_class = jnp.argmax(agreement.mean_probs(outputs.clip_logits), axis=-1)
    else:
        key_class = jnp.full(len(frames), key_class)
    again = {"rngs": rngs, "method": "read_key_clips"}
    return module.apply(variables, outputs, context, key_class, train, **again)


forward = jax.jit(whole_forward, static_argnames=("module", "key_class", "train"))


def test_shapes_and_types():
    frames, clips = inputs()
    out = forward(rdfer(dtype=jnp.bfloat16), variables(), frames, clips)
    expected = {
        "video_logits": ((B, N), "float32"),
        "clip_logits": ((B, K, N), "float32"),
        "long_logits": ((B, N), "float32"),
        "instant_logits": ((B, F, N), "float32"),
        "instants": ((B, F), "int32"),
        "key_instants": ((B, M), "int32"),
        "key_logits": ((B, N), "float32"),
        "features": ((B, 2 * W), "float32"),
    }
    found = {name: (x.shape, str(x.dtype)) for name, x in vars(out).items() if x is not None}
    assert found == expected


def test_one_pass_over_all_clips_equals_a_loop_over_them():
    frames, clips = inputs()
    whole = forward(rdfer(), variables(), frames, clips)
    longs = []
    for k in range(K):
        one = forward(rdfer(), variables(), frames, clips[:, [k]])
        np.testing.assert_allclose(
            one.clip_logits[:, 0], whole.clip_logits[:, k], rtol=1e-4, atol=1e-5
        )
        longs.append(one.long_logits)
    np.testing.assert_allclose(whole.long_logits, np.mean(longs, axis=0), rtol=1e-4, atol=1e-5)


def test_a_video_does_not_depend_on_the_others_in_its_batch():
    frames, clips = inputs()
    whole = forward(rdfer(), variables(), frames, clips)
    others = frames.copy()
    others[[0, 2]] = 0
    after = forward(rdfer(), variables(), others, clips)
    alone = forward(rdfer(), variables(), frames[[1]], clips[[1]])
    for name, expected in vars(whole).items():
        if expected is None:
            continue
        np.testing.assert_array_equal(getattr(after, name)[1], expected[1])
        np.testing.assert_allclose(getattr(alone, name)[0], expected[1], rtol=1e-4, atol=1e-5)


def test_the_order_of_the_clips_behind_the_first_only_reorders_their_logits():
    frames, clips = inputs()
    order = [0, 3, 1, 2]
    one = forward(rdfer(), variables(), frames, clips)
    two = forward(rdfer(), variables(), frames, clips[:, order])
    np.testing.assert_array_equal(two.clip_logits, one.clip_logits[:, order])
    for name in ("video_logits", "long_logits", "key_logits", "instant_logits"):
        np.testing.assert_allclose(getattr(two, name), getattr(one, name), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(two.key_instants, one.key_instants)


class Parts:
    """The parts of a network, each as a function of NumPy arrays."""

    def __init__(self, module, variables):
        def part(name):
            function = jax.jit(lambda *inputs: getattr(module.bind(variables), name)(*inputs))
            return lambda *inputs: jax.tree.map(np.asarray, function(*inputs))

        self.trunk = lambda frames: part("trunk")(frames, False)
        names = ("long", "short", "head", "instants")
        self.long, self.short, self.head, self.instants = map(part, names)


def slow_forward(module, variables, frames, clips, key_class):
    """The network's parts put together by indexing, video by video."""
    model, key, snippet = module.model, module.key, module.snippet
    bound = Parts(module, variables)
    places = resampling.spread(model.instants, clips.shape[2] // snippet) * snippet + snippet // 2
    videos = []
    for video in range(len(frames)):
        features = bound.trunk(frames[[video]])[0]

        def classify(short, long):
            return bound.head(np.concatenate([short, long]))

        clip_logits, longs, read, first = [], [], [], None
        for clip in clips[video]:
            long_logits, long, gate = bound.long(features[clip[places]])
            short = bound.short(features[clip], gate if model.gate else None)
            clip_logits.append(classify(short, long))
            read.append(np.concatenate([short, long]))
            longs.append(long_logits)
            first = first or (long, gate)
        instants = np.arange(snippet // 2, F, snippet)
        instant_logits = np.stack([bound.instants(features[frame]) for frame in instants])
        probs = np.exp(instant_logits) / np.exp(instant_logits).sum(-1, keepdims=True)
        best = resampling.key_instants(
            probs[None, :, key_class[video]], instants[None], key.number, key.min_gap * F
        )[0]
        shorts = []
        for center in np.asarray(best):
            before = key.frames // snippet // 2 * snippet
            start = min(max(center - center % snippet - before, 0), len(features) - key.frames)
            window = features[start : start + key.frames]
            shorts.append(bound.short(window, first[1] if model.gate else None))
        key_logits = classify(np.mean(shorts, axis=0), first[0])
        mean = np.mean(clip_logits, axis=0)
        videos.append(
            {
                "video_logits": (mean + key_logits) / 2 if key.enabled else mean,
                "clip_logits": clip_logits,
                "long_logits": np.mean(longs, axis=0),
                "instant_logits": instant_logits,
                "instants": instants,
                "key_instants": best,
                "key_logits": key_logits if key.enabled else mean,
                "features": np.mean(read, axis=0),
            }
        )
    return {name: np.stack([np.asarray(v[name]) for v in videos]) for name in videos[0]}


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("enabled", [True, False])
def test_the_network_is_its_parts_put_together(gate, enabled):
    module = rdfer(dataclasses.replace(MODEL, gate=gate), dataclasses.replace(KEY, enabled=enabled))
    frames, clips = (x[:2] for x in inputs())
    out = forward(module, variables(), frames, clips, key_class=3)
    expected = slow_forward(module, variables(), frames, clips, [3, 3])
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(out, name), value, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("frames", [2, 6])
def test_with_snippets_the_long_term_stream_and_the_instants_read_the_middle_of_each(frames):
    module = rdfer(key=dataclasses.replace(KEY, frames=frames), snippet=2)
    video, places = inputs()[0][:2], np.random.default_rng(2).integers(0, F // 2, (2, K, T // 2))
    clips = resampling.whole(places.astype(np.int32), 2)
    out = forward(module, variables(), video, clips, key_class=3)
    expected = slow_forward(module, variables(), video, clips, [3, 3])
    assert out.instants.tolist() == [[1, 3, 5, 7, 9]] * 2
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(out, name), value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_with_snippets_the_short_term_stream_ignores_their_order_but_not_that_of_their_frames():
    model = dataclasses.replace(MODEL, streams="short")
    module = rdfer(model, dataclasses.replace(KEY, enabled=False), snippet=2)
    frames = inputs()[0]
    clips = np.int32([[0, 1, 4, 5, 8, 9], [8, 9, 0, 1, 4, 5], [1, 0, 5, 4, 9, 8]])
    clips = np.broadcast_to(clips, (B, 3, T))
    apply = jax.jit(lambda variables: module.apply(variables, frames, clips, False)[0].clip_logits)
    one, shuffled, backward = np.moveaxis(apply(variables(1, model)), 1, 0)
    np.testing.assert_allclose(shuffled, one, rtol=1e-4, atol=1e-5)
    assert np.abs(backward - one).max() > 0.01


@pytest.mark.parametrize("frames_per_feature", [1, 2])
def test_clips_that_are_single_snippets_are_read_at_one_rate(frames_per_feature):
    key = dataclasses.replace(KEY, enabled=False)
    frames, clips = inputs()[0], np.int32([[[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 8, 9]]] * B)
    params = variables(frames_per_feature)
    plain = rdfer(key=key, frames_per_feature=frames_per_feature)
    expected = forward(plain, params, frames, clips, key_class=3)
    # The trunk of this test reads each frame, or pair of frames, by itself.
    found = forward(plain.clone(snippet=2, two_rates=False), params, frames, clips, key_class=3)
    jax.tree.map(close, found, expected)
    assert found.instant_logits.shape[1] == (F if frames_per_feature == 1 else 3)
    slow = forward(plain.clone(snippet=2), params, frames, clips, key_class=3)
    if frames_per_feature == 1:
        assert slow.instant_logits.shape[1] == F // 2


def test_the_chosen_class_decides_where_the_video_is_sampled_again():
    frames, clips = inputs()
    one = forward(rdfer(), variables(), frames, clips, key_class=3)
    two = forward(rdfer(), variables(), frames, clips, key_class=1)
    np.testing.assert_array_equal(one.clip_logits, two.clip_logits)
    assert np.any(one.key_instants != two.key_instants)
    assert np.any(one.key_logits != two.key_logits)
    best = np.argmax(jax.nn.softmax(one.instant_logits)[..., 3], axis=-1)
    np.testing.assert_array_equal(
        one.key_instants[:, 0], np.take_along_axis(one.instants, best[:, None], 1)[:, 0]
    )


@pytest.mark.parametrize("frames_per_feature", [1, 4])
@pytest.mark.parametrize("stream", ["short", "long"])
def test_a_single_stream_reads_the_clips_and_nothing_else(stream, frames_per_feature):
    model = dataclasses.replace(MODEL, streams=stream)
    module = rdfer(model, dataclasses.replace(KEY, enabled=False), frames_per_feature)
    found = variables(frames_per_feature, model)
    params = found["params"]
    assert set(params) == {"trunk", stream, "head"}
    assert params["head"]["kernel"].shape == (W, N)
    assert variables()["params"]["head"]["kernel"].shape == (2 * W, N)
    frames, clips = inputs(8)
    out, context = jax.jit(module.apply, static_argnums=3)(found, frames, clips, False)
    assert context is None and not module.has_key
    assert {name for name, x in vars(out).items() if x is not None} == {
        "video_logits",
        "clip_logits",
        "features",
    }
    bound = Parts(module, found)
    places = resampling.spread(model.instants, 8 // frames_per_feature)
    for video, k in ((0, 0), (1, 2), (2, 3)):
        clip = clips[video, k]
        if frames_per_feature == 1:
            features = bound.trunk(frames[[video]])[0][clip]
        else:
            features = bound.trunk(frames[[video]][:, clip])[0]
        read = bound.short(features, None) if stream == "short" else bound.long(features[places])[1]
        expected = bound.head(read)
        np.testing.assert_allclose(out.clip_logits[video, k], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        out.video_logits, np.mean(out.clip_logits, axis=1), rtol=1e-5, atol=1e-6
    )


@functools.partial(jax.jit, static_argnames=("module", "name"))
def gradient(module, frames, clips, name):
    def total(params):
        out = whole_forward(module, {"params": params}, frames, clips)
        return jnp.sum(getattr(out, name)[..., 0])

    return jax.grad(total)(variables()["params"])


def test_no_gradient_flows_through_the_choice_of_key_instants():
    frames, clips = inputs()
    found = gradient(rdfer(), frames, clips, "video_logits")
    # The video sees the instants' classifier only through the choice.
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(found["instants"]))
    assert np.any(found["short"]["look"]["kernel"]) and np.any(found["trunk"]["Dense_0"]["kernel"])
    found = gradient(rdfer(), frames, clips, "instant_logits")
    assert np.any(found["instants"]["look"]["kernel"])


@pytest.mark.parametrize("gate", [True, False])
def test_the_gate_can_be_switched_off(gate):
    frames, clips = inputs()
    module = rdfer(dataclasses.replace(MODEL, gate=gate))
    found = gradient(module, frames, clips, "clip_logits")
    assert bool(np.any(found["long"]["gate"]["kernel"])) == gate


def test_dropout_acts_in_training_only():
    frames, clips = inputs()

    def logits(train, seed):
        rng = jax.random.key(seed)
        return forward(rdfer(), variables(), frames, clips, train=train, rng=rng).clip_logits

    np.testing.assert_array_equal(logits(False, 0), logits(False, 1))
    assert np.any(logits(True, 0) != logits(True, 1))


def test_sampled_clips_and_key_clips_have_their_own_dropout():
    frames, clips = (x[:1] for x in inputs())

    @functools.partial(jax.jit, static_argnums=1)
    def dropped(params, name):
        def total(params):
            rng = jax.random.key(0)
            out = whole_forward(rdfer(), {"params": params}, frames, clips[:, :1], 3, True, rng)
            return jnp.sum(getattr(out, name))

        # The gradient of a weight is the feature that it is multiplied by: zero where it is dropped.
        return jax.grad(total)(params)["head"]["kernel"][:, 0] == 0

    clip_mask, key_mask = (dropped(variables()["params"], n) for n in ("clip_logits", "key_logits"))
    assert 0 < clip_mask.sum() < 2 * W and 0 < key_mask.sum() < 2 * W
    assert np.any(clip_mask != key_mask)


def test_a_trunk_that_reads_several_frames_at_a_time_reads_each_clips_own():
    module = rdfer(frames_per_feature=4, key=dataclasses.replace(KEY, frames=4))
    found = variables(4)
    frames, clips = inputs(8)
    out = forward(module, found, frames, clips)
    # Two features a clip, each as of the third of its four frames.
    np.testing.assert_array_equal(out.instants, clips[:, 0, [2, 6]])
    assert out.instant_logits.shape == (B, 2, N)
    bound = Parts(module, found)
    for video, k in ((0, 0), (1, 2), (2, 3)):
        pixels = frames[video][clips[video, k]]
        features = bound.trunk(pixels[None])[0]
        _, long, gate = bound.long(features)
        if k == 0:
            np.testing.assert_allclose(
                out.instant_logits[video], bound.instants(features), rtol=1e-3, atol=1e-4
            )
        short = bound.short(features, gate)
        expected = bound.head(np.concatenate([short, long]))
        np.testing.assert_allclose(out.clip_logits[video, k], expected, rtol=1e-3, atol=1e-4)


def create_tiny(**sections):
    config = tiny.config(**sections)
    network = models.create(config, N, "cpu")
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        if path[-1].key == "kernel":
            return noise / np.sqrt(np.prod(leaf.shape[:-1], dtype=np.float32))
        return 0.1 * np.abs(noise) + (path[-1].key in ("scale", "var"))

    found = jax.tree.map_with_path(fill, shapes)
    frames = rng.standard_normal((2, config.data.frames, 16, 16, 3)).astype(np.float32)
    clips = resampling.eval_clips(config.clips, config.data.frames)
    clips = np.broadcast_to(clips, (2, *clips.shape))
    return network, found, frames, clips


@functools.partial(jax.jit, static_argnums=(0, 4))
def run_network(network, variables, frames, clips, train):
    """Both passes, the key expression being that of class 0."""
    result = network.read_clips(variables, frames, clips, train)
    key_class = jnp.zeros(len(frames), jnp.int32)
    outputs, batch_stats, context = network.read_key_clips(variables, result, key_class, train)
    assert context is None
    return outputs, batch_stats


def test_the_3d_trunk_works():
    network, found, frames, clips = create_tiny(
        data={"frames": 8}, model={"trunk": "r3d_18"}, clips={"number": 2}, key={"frames": 4}
    )
    out, batch_stats = run_network(network, found, frames, clips, train=False)
    assert out.video_logits.shape == (2, N) and out.clip_logits.shape == (2, 2, N)
    assert out.instants.shape == (2, 1)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))
    jax.tree.map(np.testing.assert_array_equal, batch_stats, found["batch_stats"])


def test_clips_with_frames_of_their_own_are_read_by_themselves():
    network, found, frames, clips = create_tiny(model={"shift": False})
    read = jax.jit(lambda own: network.read_clips(found, frames, clips, False, clip_frames=own))
    whole = network.read_clips(found, frames, clips, False)
    same = np.asarray(augment.pick_frames(frames, clips))
    # A trunk that does not shift sees the same in the clips as in the buffer.
    jax.tree.map(close, read(same).outputs, whole.outputs)
    other = same.copy()
    other[:, 1] += 1
    found_by_clip, context = read(other).outputs, read(other).context
    changed = np.any(found_by_clip.clip_logits != read(same).outputs.clip_logits, axis=(0, 2))
    assert changed.tolist() == [False, True, False]
    # The key expression is that of the frames of the video.
    close(found_by_clip.instant_logits, whole.outputs.instant_logits)
    close(context.buffer, whole.context.buffer)


def test_a_single_stream_reads_the_frames_of_its_clips_alone():
    network, found, frames, clips = create_tiny(model={"streams": "short"}, key={"enabled": False})
    own = np.asarray(augment.pick_frames(frames, clips))
    read = jax.jit(lambda frames: network.read_clips(found, frames, clips, True, None, own).outputs)
    np.testing.assert_array_equal(read(frames).clip_logits, read(0 * frames).clip_logits)


@pytest.mark.parametrize(("snippet", "shift"), [(1, True), (1, False), (2, True), (2, False)])
def test_frames_mix_within_snippets_alone(snippet, shift):
    """A clip does not change with frames outside of it, unless the trunk shifts over the whole buffer."""
    network, found, frames, _ = create_tiny(
        data={"snippet": snippet},
        model={"shift": shift, "streams": "long"},
        key={"enabled": False},
        clips={"number": 1, "frames": 2},
    )
    clips = np.broadcast_to(np.int32([[[2, 3]]]), (2, 1, 2))
    read = jax.jit(lambda frames: network.read_clips(found, frames, clips, False).outputs)
    before = read(frames).clip_logits
    changes = {}
    for frame in range(6):
        other = frames.copy()
        other[:, frame] += 1
        changes[frame] = bool(np.any(read(other).clip_logits != before))
    # With snippets, the long-term stream reads the second frame of the snippet.
    reads = {2, 3} if snippet == 1 else {3}
    sees = reads if not shift else {2, 3} if snippet == 2 else set(range(6))
    assert {frame for frame, changed in changes.items() if changed} == sees


def test_a_3d_trunk_reads_snippets_of_four_frames():
    network, found, frames, clips = create_tiny(
        data={"frames": 12, "snippet": 4},
        model={"trunk": "r3d_18"},
        clips={"number": 2, "frames": 8},
        key={"frames": 4},
    )
    out, _ = run_network(network, found, frames, resampling.whole(clips[..., ::4] // 4, 4), False)
    assert out.clip_logits.shape == (2, 2, N) and out.instants.shape == (2, 2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))


def test_training_updates_the_batch_statistics_and_evaluation_does_not():
    network, found, frames, clips = create_tiny()

    def run(train):
        return run_network(network, found, frames, clips, train)[1]

    jax.tree.map(np.testing.assert_array_equal, run(False), found["batch_stats"])
    assert all(
        np.any(one != two)
        for one, two in zip(
            jax.tree.leaves(run(True)), jax.tree.leaves(found["batch_stats"]), strict=True
        )
    )


class StatisticsTrunk(nn.Module):
    """Counts its calls and keeps the mean pixel of the last one; features are constant."""

    frames_per_feature: int = 4

    @nn.compact
    def __call__(self, frames_NFHWC, train):
        calls = self.variable("batch_stats", "calls", jnp.zeros, ())
        mean = self.variable("batch_stats", "mean", jnp.zeros, ())
        if train:
            calls.value, mean.value = calls.value + 1, frames_NFHWC.mean()
        return jnp.ones((len(frames_NFHWC), frames_NFHWC.shape[1] // 4, 8))


def test_key_clips_update_the_statistics_that_the_sampled_clips_left(monkeypatch):
    monkeypatch.setattr(models.trunks, "create", lambda *_, **__: StatisticsTrunk())
    config = tiny.config(data={"frames": 8}, clips={"number": 2}, key={"frames": 4, "number": 1})
    network = models.create(config, N, "cpu")
    found = network.init(jax.random.key(0))
    frames = jnp.arange(8.0)[None, :, None, None, None] * jnp.ones((1, 8, 16, 16, 3))
    clips = np.int32([[[0, 1, 2, 3], [4, 5, 6, 7]]])
    result = network.read_clips(found, frames, clips, True)
    stats = result.batch_stats["trunk"]
    assert (stats["calls"], stats["mean"]) == (1, 3.5)
    outputs, batch_stats, _ = network.read_key_clips(found, result, np.int32([0]), True)
    # The only instant is that of the first clip's middle frame, 2; its key clip is 0 to 3.
    assert outputs.key_instants.tolist() == [[2]]
    assert (batch_stats["trunk"]["calls"], batch_stats["trunk"]["mean"]) == (2, 1.5)


def test_the_type_of_the_computation_suits_the_platform():
    config = tiny.config()
    assert models.compute_dtype(config, "cpu") == jnp.float32
    assert (
        models.compute_dtype(config, "gpu") == models.compute_dtype(config, "tpu") == jnp.bfloat16
    )
    config = tiny.config(model={"dtype": "bfloat16"})
    assert models.create(config, N, "cpu").dtype == jnp.bfloat16
