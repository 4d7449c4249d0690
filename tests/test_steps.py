"""The train step and the predict step, on one and on eight simulated devices."""

import dataclasses
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from rdfer_jax import augment, models, optim, sharding, steps
from rdfer_jax import memory as memory_lib
from rdfer_jax import state as state_lib
from rdfer_jax.labels import noise_matrix
from rdfer_jax.types import Batch, Outputs

pytestmark = pytest.mark.slow


B, N, ROWS = 16, 3, 40
#: The mask begins to act at step 5.
CONFIG = tiny.config(
    data={"batch_size": B},
    agreement={
        "threshold_kind": "fixed",
        "threshold": 0.96,
        "temperature": 1.0,
        "remember": 0.0,
        "noise_threshold": 0.51,
        "memory_decay": 0.5,
        "teacher_decay": 0.9,
    },
    loss={"robust_from": "5 steps", "max_contradicted": 1.0},
)
NETWORK = models.create(CONFIG, N, "cpu")
#: Not Adam, which turns a gradient that is zero but for rounding into a full step.
OPTIMIZER = optax.sgd(0.01, momentum=0.9)
LENGTHS = {"total_steps": 10, "steps_per_epoch": 5}
DEVICES = (1, 8)
#: What is remembered of the training videos; a quarter of them was never seen.
MEMORY = np.random.default_rng(1).dirichlet(np.ones(N), ROWS).astype(np.float32)
MEMORY[::4] = 0


def remember(probs):
    """A memory of these averages; its other parts are those of a start."""
    start = jax.device_get(memory_lib.create(ROWS, N))
    return dataclasses.replace(start, probs=np.float32(probs))


def noise_batch(size=B):
    rng = np.random.default_rng(0)
    return Batch(
        frames=rng.integers(0, 256, (size, CONFIG.data.frames, 16, 16, 3), np.uint8),
        label=rng.integers(0, N, size).astype(np.int32),
        index=rng.permutation(ROWS)[:size].astype(np.int32),
        mask=np.ones(size, bool),
    )


def make_batch():
    """Videos of noise; every other one has the label that the clips agree on, as far as they do."""
    _, consensus = spread()
    label = np.where(np.arange(B) % 2, consensus, (consensus + 1) % N)
    return dataclasses.replace(noise_batch(), label=label.astype(np.int32))


def scale_head(state, factor):
    """Makes the clips' predictions more or less certain, the teacher's too."""

    def change(tree):
        head = tree["params"]["head"]
        head = head | {"kernel": head["kernel"] * factor}
        return tree | {"params": tree["params"] | {"head": head}}

    student = change(state.variables)
    return dataclasses.replace(state, params=student["params"], teacher=change(state.teacher))


@functools.cache
def first_state():
    create = jax.jit(
        lambda: state_lib.create(CONFIG, NETWORK, OPTIMIZER, num_classes=N, num_train=ROWS)
    )
    return jax.device_get(create())


def make_state(step=5, head=None):
    """A state in training, from memory on; `head` is what the last layer is multiplied by."""
    state = dataclasses.replace(first_state(), step=np.int32(step), memory=remember(MEMORY))
    return scale_head(state, np.float32(spread()[0] if head is None else head))


@functools.cache
def spread():
    """A factor of the last layer with which some videos' clips agree and some do not; the consensus."""
    for head in 2.0 ** np.arange(8):
        (_, aux, _), _ = run(1, make_state(head=head), noise_batch())
        if 3 <= np.sum(aux["verdict"].agreement < CONFIG.agreement.threshold) <= B // 2:
            return head, aux["verdict"].consensus
    raise AssertionError("the clips of all videos agree, or none do")


@functools.cache
def jitted(devices):
    """(state, batch) -> (gradients, what else came out, new state, metrics), over a mesh."""
    mesh = sharding.make_mesh(jax.devices()[:devices])
    grad_fn, inside = steps.make_grad_fn(CONFIG, NETWORK, **LENGTHS), []

    def watched(state, batch):
        inside[:] = grad_fn(state, batch)
        return inside

    # The step's own gradients, not computed a second time: compiling takes nearly all of the time here.
    with mock.patch.object(steps, "make_grad_fn", lambda *_, **__: watched):
        train_step = steps.make_train_step(CONFIG, NETWORK, OPTIMIZER, **LENGTHS)

    def step(state, batch):
        new = train_step(state, batch)
        return (*inside, *new)

    whole = sharding.replicated(mesh)
    return jax.jit(step, in_shardings=(whole, sharding.split_batch(mesh)), out_shardings=whole)


def run(devices, state, batch):
    grads, aux, new, metrics = jitted(devices)(state, batch)
    return jax.device_get((grads, aux, new)), metrics.compute()


@functools.cache
def outcome(devices):
    return run(devices, make_state(), make_batch())


def assert_close(one, two, tolerance, *, what=""):
    """Every leaf: differences against its largest value, but for rounding of zeros."""
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(one)]
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for path, a, b in zip(paths, jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        size = np.abs(a).max(initial=0)
        assert np.abs(a - b).max(initial=0) <= tolerance * size + 1e-9, f"{what}{path}: {a} != {b}"


def kinds(partition):
    return {name: int(np.sum(value)) for name, value in vars(partition).items()}


def test_the_batch_of_these_tests_holds_videos_of_all_three_kinds():
    (_, aux, _), _ = outcome(1)
    assert min(kinds(aux["partition"]).values()) >= 2, (kinds(aux["partition"]), aux["verdict"])


def test_a_step_on_eight_devices_is_that_on_one():
    (grads, aux, new), numbers = outcome(1)
    (grads8, aux8, new8), numbers8 = outcome(8)
    for kind in ("clean", "noisy", "hard"):
        np.testing.assert_array_equal(
            getattr(aux["partition"], kind), getattr(aux8["partition"], kind)
        )
    np.testing.assert_array_equal(aux["outputs"].key_instants, aux8["outputs"].key_instants)
    np.testing.assert_allclose(aux["loss"], aux8["loss"], rtol=1e-4)
    # Where a gradient is zero but for rounding, there is nothing to compare.
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads))
    pairs = [
        (a, b)
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(grads8), strict=True)
        if np.abs(a).max() > 1e-6 * largest
    ]
    assert len(pairs) >= 0.9 * len(jax.tree.leaves(grads))
    for a, b in pairs:
        assert_close(a, b, 1e-4, what="gradient")
    for name in ("batch_stats", "memory", "teacher"):
        assert_close(getattr(new, name), getattr(new8, name), 1e-4, what=name)
    assert_close(dict(numbers), dict(numbers8), 1e-4)


def test_a_step_moves_every_part_of_the_state():
    (grads, aux, new), numbers = outcome(1)
    state, batch = make_state(), make_batch()
    assert new.step == state.step + 1
    updates, _ = OPTIMIZER.update(grads, state.opt_state, state.params)
    assert_close(jax.tree.map(np.add, state.params, updates), new.params, 1e-5)
    assert_close(aux["batch_stats"], new.batch_stats, 1e-6)
    assert_close(aux["memory"], new.memory, 1e-6)
    keep = min(0.9, 7 / 16)  # (1 + t) / (10 + t) after six steps
    expected = jax.tree.map(lambda t, s: keep * t + (1 - keep) * s, state.teacher, new.variables)
    assert_close(expected, new.teacher, 1e-5)
    others = np.setdiff1d(np.arange(ROWS), batch.index)
    for before, after in zip(*map(jax.tree.leaves, (state.memory, new.memory)), strict=True):
        np.testing.assert_array_equal(after[others], before[others])
        assert np.all(after[batch.index] != before[batch.index])
    np.testing.assert_array_equal(new.memory.label[batch.index], batch.label)
    past, now = state.memory.probs[batch.index], new.memory.probs[batch.index]
    assert set(past.any(axis=1)) == {True, False}  # some were seen before, some not
    np.testing.assert_allclose(now.sum(-1), 0.5 * past.sum(-1) + 0.5, rtol=1e-5)
    believed = now / now.sum(-1, keepdims=True)
    np.testing.assert_allclose(aux["verdict"].probs, believed, rtol=1e-5)
    np.testing.assert_allclose(numbers["loss"], aux["loss"].mean(), rtol=1e-5)
    for name, count in kinds(aux["partition"]).items():
        np.testing.assert_allclose(numbers[name], count / B, rtol=1e-6)


def changed_step(**model):
    """Returns the network with other settings of the model, and the results of its train step."""
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, **model))
    network = models.create(config, N, "cpu")
    step = jax.jit(steps.make_train_step(config, network, OPTIMIZER, **LENGTHS))
    new, metrics = step(make_state(), make_batch())
    return network, jax.device_get(new), metrics.compute()


def test_rematerialization_changes_nothing_but_rounding():
    (_, _, new), numbers = outcome(1)
    _, remat, remat_numbers = changed_step(remat=True)
    for name in ("params", "batch_stats", "opt_state", "memory", "teacher"):
        assert_close(getattr(new, name), getattr(remat, name), 1e-4, what=name)
    assert_close(dict(numbers), dict(remat_numbers), 1e-4)


def test_a_step_in_bfloat16_keeps_the_state_in_float32():
    state, (_, numbers) = make_state(), outcome(1)
    network, new, low_numbers = changed_step(dtype="bfloat16")
    assert network.dtype == jnp.bfloat16
    before, after = (jax.tree.map(lambda x: np.asarray(x).dtype, tree) for tree in (state, new))
    assert before == after and {leaf.name for leaf in jax.tree.leaves(after.params)} == {"float32"}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(new))
    moved = jax.tree.map(lambda a, b: np.any(a != b), state.params, new.params)
    assert all(jax.tree.leaves(moved))
    assert float(low_numbers["loss"]) == pytest.approx(float(numbers["loss"]), rel=0.1)
    assert low_numbers["loss"] != numbers["loss"]


def test_the_order_of_the_batch_does_not_matter():
    order = np.random.default_rng(3).permutation(B)
    batch = jax.tree.map(lambda x: x[order], make_batch())
    (grads, aux, new), _ = run(1, make_state(), batch)
    (grads0, aux0, new0), _ = outcome(1)
    np.testing.assert_allclose(aux["loss"], aux0["loss"][order], rtol=1e-4)
    np.testing.assert_allclose(aux["loss"].mean(), aux0["loss"].mean(), rtol=1e-5)
    np.testing.assert_array_equal(aux["partition"].noisy, aux0["partition"].noisy[order])
    assert_close(new.memory, new0.memory, 1e-5)
    assert_close(grads["head"], grads0["head"], 1e-4)


def test_runs_that_differ_in_their_seed_share_the_compiled_step_and_draw_other_numbers():
    state, batch = make_state(), make_batch()
    (_, aux, _), _ = outcome(1)
    (_, again, new), _ = run(1, dataclasses.replace(state, seed=np.uint32(0)), batch)
    (_, other, other_new), _ = run(1, dataclasses.replace(state, seed=np.uint32(1)), batch)
    np.testing.assert_array_equal(again["loss"], aux["loss"])
    # The parameters are the same: what differs are the frames and the clips.
    assert np.all(other["loss"] != aux["loss"])
    assert new.seed == 0 and other_new.seed == 1
    assert jitted(1)._cache_size() == 1


def test_the_first_parameters_follow_the_seed():
    def create(given, configured):
        config = dataclasses.replace(tiny.config(), seed=configured)
        state = state_lib.create(
            config, stub(config), OPTIMIZER, num_classes=N, num_train=ROWS, seed=given
        )
        assert state.seed == (configured if given is None else given)
        assert state.seed.dtype == np.uint32
        return state.params["logits"]

    params = create(None, 3)
    np.testing.assert_array_equal(create(np.uint32(3), 0), params)
    for other in (create(None, 4), create(np.uint32(2**32 - 1), 3)):
        assert np.all(other != params)


def test_every_step_draws_anew():
    (_, other, _), _ = run(1, make_state(6), make_batch())
    (_, aux, _), _ = outcome(1)
    assert np.all(other["loss"] != aux["loss"])


@pytest.mark.parametrize("step", [0, 4])
def test_all_is_clean_until_the_mask_begins_to_act(step):
    (_, aux, _), _ = run(1, make_state(step), make_batch())
    assert kinds(aux["partition"]) == {"clean": B, "noisy": 0, "hard": 0}
    assert np.any(aux["verdict"].agreement < 0.999)  # it is measured all the same


@pytest.mark.parametrize("kind", ["noisy", "hard"])
def test_nothing_breaks_where_all_videos_are_of_one_kind(kind):
    # A head of zeros: the clips agree, on nothing. The memory decides.
    state, batch = make_state(head=0.0), noise_batch()
    batch = dataclasses.replace(batch, label=np.full(B, 1, np.int32))
    believed = np.eye(N, dtype=np.float32)[[2]] if kind == "noisy" else np.zeros((1, N), np.float32)
    state = dataclasses.replace(state, memory=remember(np.repeat(believed, ROWS, axis=0)))
    (grads, aux, new), numbers = run(1, state, batch)
    assert kinds(aux["partition"])[kind] == B
    for tree in (grads, aux["loss"], new, dict(numbers)):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def test_neither_memory_nor_teacher_where_the_settings_want_none():
    config = tiny.config(agreement={"memory_decay": 0.0, "teacher_decay": 0.0})
    state = jax.eval_shape(
        lambda: state_lib.create(config, NETWORK, OPTIMIZER, num_classes=N, num_train=ROWS)
    )
    assert state.memory is None and state.teacher is None


def stub(config):
    """A network whose clips all predict its parameters, with the chosen class as key instant."""
    clips = config.clips.number

    def read_clips(variables, frames, clips_BKT, train, rng=None, clip_frames=None):
        batch = len(frames)
        logits = jnp.broadcast_to(variables["params"]["logits"], (batch, clips, N))
        mean = logits.mean(axis=1)
        outputs = Outputs(
            video_logits=mean,
            clip_logits=logits,
            long_logits=mean,
            instant_logits=mean[:, None],
            instants=jnp.zeros((batch, 1), jnp.int32),
            features=mean,
        )
        return models.Forward(outputs, {})

    def read_key_clips(variables, forward, key_class, train, rng=None):
        outputs = dataclasses.replace(
            forward.outputs,
            key_instants=key_class[:, None].astype(jnp.int32),
            key_logits=forward.outputs.video_logits,
        )
        return models.Forward(outputs, {})

    def init(rng):
        return {"params": {"logits": jax.random.normal(rng, (N,))}}

    return models.Network(init, read_clips, read_key_clips, jnp.dtype("float32"))


@functools.cache
def stub_grad_fn(config):
    """Compiled once for all tests with the same settings."""
    return jax.jit(steps.make_grad_fn(config, stub(config), **LENGTHS))


def judged(student, label, teacher=None, *, step=0, memory=None, flipped=None, **sections):
    """What a step makes of clips that all predict `student`, of videos with these labels."""
    config = tiny.config(**sections)
    network = stub(config)
    optimizer = optim.create(config.optim, lambda step: 0.01)
    state = state_lib.create(config, network, optimizer, num_classes=N, num_train=ROWS)
    state = dataclasses.replace(
        state, params={"logits": jnp.float32(student)}, step=jnp.int32(step)
    )
    if memory is not None:
        memory = memory if isinstance(memory, memory_lib.Memory) else remember(memory)
        state = dataclasses.replace(state, memory=memory)
    if teacher is not None:
        believed = {"params": {"logits": jnp.float32(teacher)}, "batch_stats": {}}
        state = dataclasses.replace(state, teacher=believed)
    batch = dataclasses.replace(
        noise_batch(size=len(label)),
        label=np.int32(label),
        flipped=None if flipped is None else np.array(flipped),
    )
    return stub_grad_fn(config)(state, batch)


#: Only the loss of the whole video.
PLAIN = {"label_smoothing": 0.0, "clips": 0.0, "long": 0.0, "instants": 0.0}


def softmax(logits):
    exp = np.exp(np.float64(logits))
    return exp / exp.sum(axis=-1, keepdims=True)


NOW = {"robust_from": "0 steps", "max_contradicted": 1.0}


@pytest.mark.parametrize(("consensus", "expected"), [("memory", [2, 1]), ("clips", [1, 1])])
def test_the_key_expression_is_the_consensus_of_the_memory_or_of_the_present_clips(
    consensus, expected
):
    memory = np.zeros((ROWS, N))
    memory[noise_batch(size=2).index[0]] = [0, 0, 0.9]  # believed for long, and not seen now
    sections = {"key": {"consensus": consensus}, "agreement": {"memory_decay": 0.9}}
    _, aux = judged([0, 3, 0], [1, 2], memory=memory, **sections)
    assert aux["outputs"].key_instants[:, 0].tolist() == expected


@pytest.mark.parametrize(("towards", "counts"), [("target", [1, 1]), ("choice", [1, 0])])
def test_key_instants_are_trained_towards_the_target_or_only_what_they_were_chosen_for(
    towards, counts
):
    loss = PLAIN | {"method": "cross_entropy", "instants": 1.0}
    student, label = [3, 0, 0], [0, 2]  # the only instant is at 0, as is a key instant of class 0
    _, aux = judged(student, label, loss=loss, key={"train_towards": towards})
    plain = -np.log(softmax(student)[label])
    np.testing.assert_allclose(aux["loss"], plain * (1 + np.array(counts)), rtol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_hard_videos_are_ranked_among_the_visited_videos_or_the_batch(decay):
    # All clips predict the same: the agreement of each video is that of all others that were visited.
    sections = {"loss": {"hard_scale": "rank"}, "agreement": {"memory_decay": decay}}
    _, aux = judged([0, 3, 0], [1, 2], **sections)
    np.testing.assert_allclose(aux["verdict"].rank, 0.5)


def test_the_teacher_judges_where_there_is_one():
    sections = {"loss": NOW, "agreement": {"teacher_decay": 0.9}}
    _, aux = judged([0, 9, 0], [1, 2], teacher=[0, 0, 9], **sections)
    assert aux["verdict"].consensus.tolist() == [2, 2]
    assert aux["partition"].noisy.tolist() == [True, False]
    assert aux["partition"].clean.tolist() == [False, True]
    # The loss is that of the student all the same.
    assert aux["loss"][1] > 5
    assert aux["outputs"].key_instants[:, 0].tolist() == [2, 2]


def test_a_step_remembers_each_clip_by_itself_where_asked():
    config = tiny.config(agreement={"memory_decay": 0.5, "remember_clips": True})
    network = stub(config)
    clips = config.clips.number
    state = state_lib.create(config, network, OPTIMIZER, num_classes=N, num_train=ROWS)
    logits = np.random.default_rng(0).normal(size=(clips, N)).astype(np.float32)
    optimizer = optax.set_to_zero()
    state = dataclasses.replace(state, params={"logits": logits}, opt_state=optimizer.init(logits))
    step = jax.jit(steps.make_train_step(config, network, optimizer, **LENGTHS))
    batch = noise_batch()
    state, _ = step(state, batch)
    expected = np.zeros((ROWS, clips, N))
    expected[batch.index] = 0.5 * softmax(logits)
    np.testing.assert_allclose(state.clip_memory, expected, atol=1e-6)
    np.testing.assert_allclose(state.clip_memory.mean(axis=1), state.memory.probs, atol=1e-6)


def test_a_noisy_video_does_not_pull_towards_its_label():
    pull = {}
    for now in (True, False):
        loss = {"noisy_target": 1.0, "label_smoothing": 0.0} | (NOW if now else {})
        grads, aux = judged([0, 3, 0], [2, 2], loss=loss)
        assert bool(aux["partition"].noisy.all()) == now
        pull[now] = float(jnp.abs(grads["logits"]).max())
    assert pull[True] < 1e-6 < 0.5 < pull[False]


@pytest.mark.parametrize(("most", "kind"), [(0.9, "clean"), (1.0, "noisy")])
def test_no_label_is_overruled_while_the_memory_contradicts_too_many(most, kind):
    loss = NOW | {"max_contradicted": most}
    memory = dataclasses.replace(
        remember(np.tile(np.float32([0, 0.9, 0.1]), (ROWS, 1))), label=jnp.full(ROWS, 2)
    )
    _, aux = judged([0, 3, 0], [2, 2], memory=memory, loss=loss)
    assert kinds(aux["partition"]) == {"clean": 0, "noisy": 0, "hard": 0} | {kind: 2}


@pytest.mark.parametrize("limit_share", ["none", "confident_learning", "sure_half"])
def test_a_noisy_video_beyond_the_share_of_wrong_labels_counts_as_hard(limit_share):
    """All predict class 1, but less surely in the two videos of another label: no label seems wrong."""
    rows = noise_batch(size=2).index
    probs, label = np.tile(np.float32([0.0, 0.995, 0.005]), (ROWS, 1)), np.ones(ROWS, np.int32)
    probs[rows], label[rows] = [0.1, 0.8, 0.1], 2
    memory = dataclasses.replace(remember(probs), label=jnp.array(label))
    loss = NOW | {"limit_share": limit_share}
    _, aux = judged([0, 3, 0], [2, 2], memory=memory, loss=loss)
    kind = "noisy" if limit_share == "none" else "hard"
    assert kinds(aux["partition"]) == {"clean": 0, "noisy": 0, "hard": 0} | {kind: 2}


def test_ssr_remembers_the_features_and_learns_by_them():
    """Both videos have the same features, so that each is the other's only neighbor."""
    loss = NOW | {"method": "ssr", "label_smoothing": 0.0}
    memory = memory_lib.create(ROWS, N, num_features=N)
    _, aux = judged([0, 3, 0], [1, 1], memory=memory, loss=loss)
    rows = noise_batch(size=2).index
    np.testing.assert_allclose(aux["memory"].features[rows], [[0, 1, 0]] * 2, atol=1e-6)
    assert not np.any(np.delete(aux["memory"].features, rows, axis=0))
    plain = judged([0, 3, 0], [1, 1], loss=loss | {"method": "cross_entropy"})[1]["loss"]
    np.testing.assert_allclose(aux["loss"], plain, rtol=1e-6)
    # The prediction is sure enough to relabel only below 0.91.
    for least, label in ((0.8, 1), (0.95, 2)):
        loss["ssr_relabel"] = least
        _, aux = judged([0, 3, 0], [2, 2], memory=memory, loss=loss)
        plain = judged([0, 3, 0], [label] * 2, loss=loss | {"method": "cross_entropy"})[1]["loss"]
        np.testing.assert_allclose(aux["loss"], plain, rtol=1e-6)


def test_the_features_are_as_wide_as_the_network_says():
    config = tiny.config(loss={"method": "ssr"})
    state = jax.eval_shape(
        lambda: state_lib.create(config, NETWORK, OPTIMIZER, num_classes=N, num_train=ROWS)
    )
    assert state.memory.features.shape == (ROWS, 2 * config.model.width)


def test_the_oracle_is_told_which_labels_are_wrong():
    loss = {"method": "oracle"}
    student, label, flipped = [0, 3, 1], [1, 0, 2, 1, 2], [False, True, False, True, True]
    grads, aux = judged(student, label, flipped=flipped, loss=loss)
    true_grads, true_aux = judged(student, [1, 2], flipped=[False, False], loss=loss)
    plain_grads, _ = judged(student, [1, 2], loss={"method": "cross_entropy"})
    np.testing.assert_array_equal(aux["loss"] == 0, flipped)
    np.testing.assert_allclose(aux["loss"].mean(), true_aux["loss"].mean(), rtol=1e-6)
    for other in (true_grads, plain_grads):
        np.testing.assert_allclose(grads["logits"], other["logits"], rtol=1e-5, atol=1e-7)
    all_grads, _ = judged(student, label, loss={"method": "cross_entropy"})
    assert np.abs(all_grads["logits"] - grads["logits"]).max() > 0.01
    with pytest.raises(ValueError, match="'oracle' needs"):
        judged(student, label, loss=loss)


def test_early_learning_regularisation_holds_on_to_the_memory():
    student, label = np.array([0.0, 3.0, 1.0]), [1, 0]
    rows = noise_batch(size=2).index
    memory = MEMORY.copy()
    memory[rows] = [[0.2, 0.5, 0.3], [0.0, 0.0, 0.0]]  # the second was never seen
    loss = PLAIN | {"method": "elr", "elr_weight": 2.0}
    grads, aux = judged(student, label, memory=memory, loss=loss, agreement={"memory_decay": 0.7})
    probs = softmax(student)
    losses, slopes = [], []
    for row, y in zip(rows, label, strict=True):
        past = 0.7 * memory[row] + 0.3 * probs  # also on a first visit, from zero
        np.testing.assert_allclose(aux["memory"].probs[row], past, rtol=1e-5)
        losses.append(-np.log(probs[y]) + 2 * np.log(1 - probs @ past))
        # The gradient that the paper gives in its lemma 2; none flows into the past.
        slope = probs - np.eye(N)[y] + 2 * probs * (probs @ past - past) / (1 - probs @ past)
        slopes.append(slope)
    np.testing.assert_allclose(aux["loss"], losses, rtol=1e-4)
    np.testing.assert_allclose(grads["logits"], np.mean(slopes, axis=0), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("robust_from", "step", "kept"),
    [
        ("4 steps", 0, 6),
        ("4 steps", 2, 4),
        ("4 steps", 3, 3),
        ("4 steps", 4, 3),
        ("4 steps", 9, 3),
        ("0 steps", 0, 3),
    ],
)
def test_small_loss_has_come_down_to_its_share_by_robust_from(robust_from, step, kept):
    loss = {"method": "small_loss", "forget_rate": 0.5, "robust_from": robust_from}
    # With progress 3/4 this is 5/8 of six videos: 3.75, of which 3 are whole.
    label = [2, 1, 0, 1, 2, 0]
    _, aux = judged([0, 3, 1], label, step=step, loss=loss)
    assert np.count_nonzero(aux["loss"]) == kept
    order = np.argsort([{1: 0, 2: 1, 0: 2}[y] for y in label], kind="stable")
    np.testing.assert_array_equal(np.flatnonzero(aux["loss"]), np.sort(order[:kept]))


@pytest.mark.parametrize(("step", "acts"), [(3, False), (4, True), (9, True)])
def test_scn_gives_new_labels_from_robust_from_on(step, acts):
    loss = PLAIN | {"method": "scn", "robust_from": "4 steps"}
    _, aux = judged([0, 3, 1], [0, 1], step=step, loss=loss)
    expected = -np.log(softmax([0, 3, 1])[[1 if acts else 0, 1]])
    np.testing.assert_allclose(aux["loss"], expected, rtol=1e-5)


@functools.cache
def predict(devices):
    mesh = sharding.make_mesh(jax.devices()[:devices])
    whole = sharding.replicated(mesh)
    step = jax.jit(
        steps.make_predict_step(CONFIG, NETWORK),
        in_shardings=(whole, sharding.split_batch(mesh)),
        out_shardings=whole,
    )
    return lambda batch: jax.device_get(step(make_state(), batch))


def test_predictions_on_eight_devices_are_those_on_one():
    one, eight = predict(1)(make_batch()), predict(8)(make_batch())
    for name in ("logits", "clip_logits", "agreement", "noise_score"):
        np.testing.assert_allclose(getattr(one, name), getattr(eight, name), rtol=0, atol=1e-5)
    for name in ("index", "mask", "consensus", "key_instants"):
        np.testing.assert_array_equal(getattr(one, name), getattr(eight, name))


@pytest.mark.parametrize("devices", DEVICES)
def test_a_padded_example_changes_nothing_for_the_others(devices):
    batch = make_batch()
    before = predict(devices)(batch)
    mask = np.arange(B) < B - 3
    frames = batch.frames.copy()
    frames[~mask] = 255
    padded = dataclasses.replace(
        batch, frames=frames, mask=mask, label=np.where(mask, batch.label, 0).astype(np.int32)
    )
    after = predict(devices)(padded)
    np.testing.assert_array_equal(after.mask, mask)
    for name in ("index", "logits", "clip_logits", "agreement", "consensus", "key_instants"):
        np.testing.assert_array_equal(getattr(after, name)[mask], getattr(before, name)[mask])
    assert np.any(after.logits[~mask] != before.logits[~mask])


def test_predictions_know_nothing_of_the_label_but_the_noise_score():
    batch = make_batch()
    one = predict(1)(batch)
    two = predict(1)(dataclasses.replace(batch, label=(batch.label + 1) % N))
    for name, value in vars(one).items():
        if name != "noise_score":
            np.testing.assert_array_equal(getattr(two, name), value)
    probs = softmax(one.clip_logits).mean(axis=1)
    for video, label in enumerate(batch.label):
        other = np.delete(probs[video], label).max()
        expected = other / (other + probs[video, label])
        np.testing.assert_allclose(one.noise_score[video], expected, atol=1e-5)


@pytest.mark.parametrize("per", ["video", "clip"])
def test_the_clips_of_a_video_have_one_augmentation_or_one_each(per):
    config = tiny.config(augment={"per": per}, key={"enabled": False})

    def read_clips(variables, frames, clips_BKT, train, rng=None, clip_frames=None):
        """Predicts how bright each clip is."""
        if clip_frames is None:
            clip_frames = augment.pick_frames(frames, clips_BKT)
        logits_BKN = clip_frames.mean(axis=(2, 3, 4)) + variables["params"]["logits"]
        return models.Forward(Outputs(logits_BKN.mean(axis=1), logits_BKN), {})

    network = models.Network(stub(config).init, read_clips, None, jnp.dtype("float32"))
    state = state_lib.create(config, network, OPTIMIZER, num_classes=N, num_train=ROWS)
    batch = noise_batch(size=4)
    batch = dataclasses.replace(batch, frames=np.full_like(batch.frames, 120))
    _, aux = jax.jit(steps.make_grad_fn(config, network, **LENGTHS))(state, batch)
    predicted = jax.jit(steps.make_predict_step(config, network))(state, batch)
    spread_B = np.ptp(aux["outputs"].clip_logits, axis=1).max(axis=-1)
    assert np.all(spread_B > 0.01) if per == "clip" else np.all(spread_B < 1e-5)
    assert np.ptp(predicted.clip_logits, axis=1).max() < 1e-5


def test_the_noise_score_is_the_configured_one():
    config = tiny.config(agreement={"score": "support"})
    state = state_lib.create(config, stub(config), OPTIMIZER, num_classes=N, num_train=ROWS)
    state = dataclasses.replace(state, params={"logits": jnp.float32([0, 3, 1])})
    batch = noise_batch(size=4)
    found = jax.jit(steps.make_predict_step(config, stub(config)))(state, batch)
    np.testing.assert_allclose(found.noise_score, 1 - softmax([0, 3, 1])[batch.label], rtol=1e-5)


@pytest.mark.parametrize("evaluate", ["last", "average", "teacher"])
def test_the_weights_that_are_evaluated_are_those_of_the_settings(evaluate):
    config = tiny.config(
        optim={"evaluate": evaluate, "average_from": "3 steps"}, agreement={"teacher_decay": 0.5}
    )
    network, params, expected = stub(config), [], None
    state = state_lib.create(config, network, OPTIMIZER, num_classes=N, num_train=ROWS)
    train_step = jax.jit(steps.make_train_step(config, network, OPTIMIZER, **LENGTHS))
    predict_step = jax.jit(steps.make_predict_step(config, network))
    teacher = state.params["logits"]
    for step in range(1, 7):
        state, _ = train_step(state, noise_batch())
        params.append(state.params["logits"])
        keep = min(0.5, (1 + step) / (10 + step))
        teacher = keep * teacher + (1 - keep) * params[-1]
        mean = np.mean(params[3:] or params[-1:], axis=0)
        expected = {"last": params[-1], "average": mean, "teacher": teacher}[evaluate]
        found = predict_step(state, noise_batch()).logits[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert np.abs(mean - params[-1]).min() > 1e-4 and np.abs(mean - teacher).min() > 1e-4


def test_the_posterior_is_scored_with_the_noise_that_the_memory_shows():
    """In training by what is remembered of the video, in prediction by its clips."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, N, ROWS)
    label = np.where(true == 1, rng.integers(1, 3, ROWS), true).astype(np.int32)
    probs = (0.7 * np.eye(N)[true] + 0.3 / N).astype(np.float32)
    batch, student = noise_batch(size=4), np.array([0.0, 3.0, 1.0])
    label[batch.index] = batch.label
    memory = dataclasses.replace(remember(probs), label=jnp.array(label))
    _, aux = judged(student, batch.label, memory=memory, agreement={"score": "posterior"})

    def expected(memory, probs_of_batch):
        believed = np.asarray(memory.probs) / np.sum(memory.probs, axis=1, keepdims=True)
        counts = noise_matrix.noise_matrix(memory.label, believed).joint.T * ROWS + 10 * np.eye(N)
        noise = counts / counts.sum(axis=1, keepdims=True)
        joint = [p * noise[:, y] for p, y in zip(probs_of_batch, batch.label, strict=True)]
        return [1 - j[y] / j.sum() for j, y in zip(joint, batch.label, strict=True)]

    np.testing.assert_allclose(
        aux["verdict"].noise_score, expected(aux["memory"], aux["verdict"].probs), atol=1e-5
    )
    config = tiny.config(agreement={"score": "posterior"})
    state = state_lib.create(config, stub(config), OPTIMIZER, num_classes=N, num_train=ROWS)
    state = dataclasses.replace(state, params={"logits": jnp.float32(student)}, memory=memory)
    found = jax.jit(steps.make_predict_step(config, stub(config)))(state, batch).noise_score
    np.testing.assert_allclose(found, expected(memory, [softmax(student)] * 4), atol=1e-5)


@pytest.mark.parametrize(
    "sections",
    [
        {"loss": {"method": "forward"}},
        {"loss": {"method": "ssr", "ssr_neighbors": 3, "ssr_clean": 0.5}},
        {
            "loss": {"method": "self_calibrated", "limit_share": "confident_learning"},
            "agreement": {"threshold_kind": "running"},
        },
        {"loss": {"limit_share": "sure_half"}, "agreement": {"score": "posterior"}},
    ],
    ids=["forward", "ssr", "self_calibrated", "limit"],
)
def test_what_reads_the_whole_memory_is_the_same_on_eight_devices(sections):
    sections = sections | {"loss": NOW | sections["loss"]}
    config = tiny.config(**sections)
    state = state_lib.create(config, stub(config), OPTIMIZER, num_classes=N, num_train=ROWS)
    rng = np.random.default_rng(2)
    memory = dataclasses.replace(
        state.memory,
        probs=jnp.float32(0.8 * rng.dirichlet(np.ones(N), ROWS)),
        label=jnp.int32(rng.integers(0, N, ROWS)),
        visits=jnp.full(ROWS, 3, jnp.int32),
    )
    if memory.features is not None:
        features = rng.standard_normal((ROWS, N)).astype(np.float32)
        memory = memory_lib.update_features(memory, jnp.arange(ROWS), features)
    state = dataclasses.replace(state, memory=memory)
    found = []
    for devices in DEVICES:
        mesh = sharding.make_mesh(jax.devices()[:devices])
        whole = sharding.replicated(mesh)
        grad_fn = jax.jit(
            steps.make_grad_fn(config, stub(config), **LENGTHS),
            in_shardings=(whole, sharding.split_batch(mesh)),
            out_shardings=whole,
        )
        grads, aux = jax.device_get(grad_fn(state, noise_batch()))
        found.append(
            {"grads": grads, **{name: aux[name] for name in ("loss", "memory", "verdict")}}
        )
    assert len(set(found[0]["loss"].round(4))) > 2
    assert_close(*found, 1e-5)
