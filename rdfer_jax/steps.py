"""The train step and the predict step: augmentation, forward pass, agreement, loss and metrics."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rdfer_jax import agreement, augment, erasing, losses, mixing, optim
from rdfer_jax import config as config_lib
from rdfer_jax import memory as memory_lib
from rdfer_jax.agreement import Partition, Verdict
from rdfer_jax.config import Config
from rdfer_jax.losses import limit
from rdfer_jax.memory import Memory
from rdfer_jax.metrics import StepMetrics, TrainMetrics
from rdfer_jax.models import Forward, Network, resampling
from rdfer_jax.state import TrainState, evaluated, update_average, update_teacher
from rdfer_jax.types import Batch, Outputs, Prediction

#: Numbers of the random streams that are derived from another one.
_MIX, _ERASE = 1000, 1001

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, StepMetrics]]
PredictStep = Callable[[TrainState, Batch], Prediction]
GradFn = Callable[..., tuple[Any, dict[str, Any]]]


def make_train_step(
    config: Config,
    network: Network,
    optimizer: optax.GradientTransformation,
    *,
    total_steps: int,
    steps_per_epoch: int,
) -> TrainStep:
    """Returns a pure function to jit: (state, batch) -> (new state, metrics).

    The augmentation and the sampled clips of a video depend only on the seed, the step and the video's
    index, not on its position in the batch or on the number of devices.
    """
    lengths = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
    grad_fn = make_grad_fn(config, network, **lengths)
    return make_update_step(config, grad_fn, _metrics, optimizer, **lengths)


def make_update_step(
    config: Config,
    grad_fn: GradFn,
    metrics: Callable[[Batch, dict[str, Any], jax.Array], StepMetrics],
    optimizer: optax.GradientTransformation,
    *,
    total_steps: int,
    steps_per_epoch: int,
) -> TrainStep:
    """Returns the step that updates a state by gradients: pure, (state, batch) -> (new state, metrics).

    Args:
      config: all settings.
      grad_fn: (state, batch, part=None) -> (gradients, aux), see `make_grad_fn`.
      metrics: (batch, aux, norm of the gradients) -> metrics of the step.
      optimizer: of the parameters.
      total_steps: of the run.
      steps_per_epoch: of an epoch.
    """
    if config.optim.accumulate > 1:
        grad_fn = accumulated(grad_fn, config.optim.accumulate)
    average_from = config_lib.steps(
        config.optim.average_from, steps_per_epoch=steps_per_epoch, total_steps=total_steps
    )

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, StepMetrics]:
        grads, aux = grad_fn(state, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=aux["batch_stats"],
            opt_state=opt_state,
            memory=aux["memory"],
        )
        teacher = update_teacher(state, config.agreement.teacher_decay)
        average = update_average(state, average_from)
        state = dataclasses.replace(state, teacher=teacher, average=average)
        if state.clip_memory is not None:
            clip_memory = memory_lib.update_clips(
                state.clip_memory, batch.index, jax.nn.softmax(aux["judged"]),
                config.agreement.memory_decay,
            )  # fmt: skip
            state = dataclasses.replace(state, clip_memory=clip_memory)
        return state, metrics(batch, aux, optax.tree.norm(grads))

    return train_step


def make_grad_fn(
    config: Config, network: Network, *, total_steps: int, steps_per_epoch: int
) -> GradFn:
    """Returns a pure function: (state, batch, part=None) -> (gradients of the batch's mean loss, aux).

    aux is a dict of the outputs, the loss [B], the logits by which the videos are judged [B, K, N], the
    verdict, the partition, and the new batch_stats and memory. `part` is the number of the batch within its
    step, if there are several.
    """
    robust_from = config_lib.steps(
        config.loss.robust_from, steps_per_epoch=steps_per_epoch, total_steps=total_steps
    )

    def grad_fn(
        state: TrainState, batch: Batch, part: jax.Array | None = None
    ) -> tuple[Any, dict[str, Any]]:
        rng = jax.random.fold_in(jax.random.key(state.seed), state.step)
        rng_augment, rng_clips, rng_dropout = jax.random.split(rng, 3)
        if part is not None:
            rng_dropout = jax.random.fold_in(rng_dropout, part)
        clips_BKT, frames, own = _drawn(config, network, batch, rng_clips, rng_augment)
        teacher_BKN = None
        if state.teacher is not None:
            forward = network.read_clips(state.teacher, frames, clips_BKT, False, clip_frames=own)
            teacher_BKN = forward.outputs.clip_logits
        mix_HW = None
        if config.augment.mixup or config.augment.cutmix:  # after the teacher has seen them
            rng_mix = jax.random.fold_in(rng_dropout, _MIX)
            height, width = frames.shape[2:4]
            mix_HW = mixing.weights(rng_mix, height, width, config.augment)
            frames = mixing.mixed(frames, mix_HW)
            own = None if own is None else mixing.mixed(own, mix_HW)

        def loss_fn(params: Any) -> tuple[jax.Array, dict[str, Any]]:
            params = optim.without_frozen_gradients(params, config.model)
            variables = state.variables | {"params": params}
            forward = network.read_clips(variables, frames, clips_BKT, True, rng_dropout, own)
            judged_BKN = forward.outputs.clip_logits if teacher_BKN is None else teacher_BKN
            memory = _remember(config, state, batch, judged_BKN)
            if memory is not None and forward.outputs.features is not None:
                memory = memory_lib.update_features(memory, batch.index, forward.outputs.features)
            verdict, partition = judge_videos(
                config, state.class_prior, memory, batch.index, batch.label, judged_BKN,
                state.step >= robust_from,
            )  # fmt: skip
            if network.read_key_clips is not None:
                key_class_B = _key_class(config, verdict, judged_BKN)
                forward = network.read_key_clips(variables, forward, key_class_B, True, rng_dropout)
                if config.key.train_towards == "choice":
                    outputs = dataclasses.replace(forward.outputs, key_class=key_class_B)
                    forward = forward._replace(outputs=outputs)
            progress = jnp.minimum(state.step / robust_from, 1.0) if robust_from else jnp.ones(())
            evidence = losses.Evidence(
                label=batch.label,
                verdict=verdict,
                partition=partition,
                progress=progress,
                memory=memory,
                index=batch.index,
                prior=state.class_prior,
                flipped=batch.flipped,
                votes=batch.votes,
            )
            loss_B = losses.per_video(forward.outputs, evidence, config.loss)
            if mix_HW is not None:
                theirs = mixing.of_partners(evidence)
                partner_B = losses.per_video(forward.outputs, theirs, config.loss)
                loss_B = mixing.mixed_loss(loss_B, partner_B, mix_HW)
            return jnp.mean(loss_B), {
                "outputs": forward.outputs,
                "loss": loss_B,
                "judged": judged_BKN.astype(jnp.float32),
                "verdict": verdict,
                "partition": partition,
                "batch_stats": forward.batch_stats,
                "memory": memory,
            }

        return jax.grad(loss_fn, has_aux=True)(state.params)

    return grad_fn


def _drawn(
    config: Config, network: Network, batch: Batch, rng_clips: jax.Array, rng_augment: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Draws clips and augments the frames; what a video gets depends on its index, not on its place.

    Returns:
      Positions of the clips' frames in the buffers, int [B, K, T]; the frames of the buffers, network.dtype
      [B, F, H, W, 3]; and those of each clip, [B, K, T, H, W, 3], None unless clips are augmented apart.
    """
    keys_B = video_keys(rng_augment, batch.index)
    clips_BKT = resampling.train_clips(
        video_keys(rng_clips, batch.index), config.clips, config.data.frames, config.data.snippet
    )
    frames, own = augment.train_frames(
        batch.frames, clips_BKT, keys_B, config.augment, network.dtype
    )
    if config.augment.erase:
        frames, own = _erased(frames, own, keys_B, config.augment.erase)
    return clips_BKT, frames, own


def _key_class(config: Config, verdict: Verdict, judged_BKN: jax.Array) -> jax.Array:
    """Returns the class whose key expression is searched in training, int [B]."""
    if config.key.consensus == "clips":
        return jnp.argmax(agreement.mean_probs(judged_BKN), axis=-1)
    return verdict.consensus


def accumulated(grad_fn: GradFn, parts: int) -> GradFn:
    """Returns what `make_grad_fn` does, for batches that are read in parts, one after the other.

    Gradients are the mean of the parts'. Memory and running statistics go from one part to the next. Part i
    has the videos i, i + parts, ..., so that each device has its share of every part.
    """

    def split(leaf: jax.Array) -> jax.Array:
        return jnp.swapaxes(leaf.reshape(-1, parts, *leaf.shape[1:]), 0, 1)

    def join(leaf: jax.Array) -> jax.Array:
        return jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:])

    def summed(state: TrainState, batch: Batch) -> tuple[Any, dict[str, Any]]:
        def one(carry: Any, numbered: tuple[jax.Array, Batch]) -> tuple[Any, dict[str, Any]]:
            (batch_stats, memory), total = carry
            number, part = numbered
            now = dataclasses.replace(state, batch_stats=batch_stats, memory=memory)
            grads, aux = grad_fn(now, part, number)
            kept = aux.pop("batch_stats"), aux.pop("memory")
            return (kept, jax.tree.map(jnp.add, total, grads)), aux

        start = (state.batch_stats, state.memory), jax.tree.map(jnp.zeros_like, state.params)
        numbered = jnp.arange(parts), jax.tree.map(split, batch)
        ((batch_stats, memory), total), aux = jax.lax.scan(one, start, numbered)
        grads = jax.tree.map(lambda leaf: leaf / parts, total)
        return grads, jax.tree.map(join, aux) | {"batch_stats": batch_stats, "memory": memory}

    return summed


def make_predict_step(config: Config, network: Network) -> PredictStep:
    """Returns a pure, deterministic function to jit: (state, batch) -> prediction."""
    clips_KT = resampling.eval_clips(config.clips, config.data.frames, config.data.snippet)

    def predict_step(state: TrainState, batch: Batch) -> Prediction:
        clips_BKT = jnp.broadcast_to(clips_KT, (batch.label.shape[0], *clips_KT.shape))
        frames, own = augment.eval_frames(batch.frames, clips_BKT, config.augment, network.dtype)
        variables = evaluated(state, config.optim)
        crops = config.augment.eval_crops
        clips_NKT = jnp.repeat(clips_BKT, crops, axis=0)
        forward = network.read_clips(variables, frames, clips_NKT, False, clip_frames=own)
        forward = _mean_of_crops(forward, crops)
        verdict = agreement.judge(forward.outputs.clip_logits, batch.label, config.agreement)
        if config.agreement.score == "posterior":
            assert state.memory is not None
            verdict = agreement.score_by_posterior(verdict, batch.label, state.memory)
        if network.read_key_clips is not None:
            repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, crops, axis=0), forward.outputs)
            key_class_N = jnp.repeat(verdict.consensus, crops, axis=0)
            forward = network.read_key_clips(
                variables, forward._replace(outputs=repeated), key_class_N, False
            )
            forward = _mean_of_crops(forward, crops)
        instants, instant_logits = forward.outputs.instants, forward.outputs.instant_logits
        if instant_logits is None and config.clips.frames == 1:
            instants, instant_logits = clips_BKT[:, :, 0], forward.outputs.clip_logits
        return Prediction(
            index=batch.index,
            mask=batch.mask,
            logits=forward.outputs.video_logits,
            clip_logits=forward.outputs.clip_logits,
            agreement=verdict.agreement,
            consensus=verdict.consensus,
            noise_score=verdict.noise_score,
            key_instants=forward.outputs.key_instants,
            instants=instants,
            instant_logits=instant_logits,
        )

    return predict_step


def judge_videos(
    config: Config,
    class_prior_N: jax.Array | None,
    memory: Memory | None,
    index_B: jax.Array,
    label_B: jax.Array,
    logits_BKN: jax.Array,
    robust: jax.Array | bool = True,
) -> tuple[Verdict, Partition]:
    """Judges videos by their clips' predictions, averaged over the epochs if there is a memory.

    Args:
      config: all settings.
      class_prior_N: state.class_prior, float32 [N].
      memory: of all training videos, after the visit of these.
      index_B: int [B], rows of the videos in the memory.
      label_B: int [B], the given labels.
      logits_BKN: float [B, K, N], of the clips.
      robust: whether the partition acts, if the memory knows enough, bool; else all videos are clean.
    """
    settings = config.agreement
    if memory is None:
        verdict = agreement.judge(logits_BKN, label_B, settings)
        known, visited = verdict.agreement, jnp.ones(len(label_B), bool)
    else:
        past = memory_lib.rows(memory, index_B)
        verdict = agreement.judge(logits_BKN, label_B, settings, past)
        if settings.score == "posterior":
            verdict = agreement.score_by_posterior(verdict, label_B, memory)
        if settings.prior_correction:
            verdict = agreement.correct_for_prior(
                verdict, label_B, memory, settings.prior_correction
            )
        known = memory_lib.remembered_agreement(memory, settings.remember)
        visited = memory.visits > 0
    if config.loss.hard_scale == "rank":
        rank_B = agreement.rank(verdict.agreement, known, visited)
        verdict = dataclasses.replace(verdict, rank=rank_B)
    verdict = agreement.stop(verdict, settings)
    partition = agreement.partition(verdict, label_B, settings, memory)
    robust = robust & limit.knows_enough(memory, config.loss)
    all_clean = agreement.all_clean(len(label_B))
    partition = jax.tree.map(lambda p, c: jnp.where(robust, p, c), partition, all_clean)
    if settings.protect_below:
        assert class_prior_N is not None
        verdict, partition = agreement.protect(verdict, partition, label_B, class_prior_N, settings)
    return verdict, limit.limited(partition, limit.allowed(memory, index_B, config.loss))


def _remember(
    config: Config, state: TrainState, batch: Batch, logits_BKN: jax.Array
) -> Memory | None:
    """Returns the memory after the visit of the batch."""
    if state.memory is None:
        return None
    settings = config.agreement
    now = jax.lax.stop_gradient(agreement.judge(logits_BKN, batch.label, settings))
    return memory_lib.update(
        state.memory,
        batch.index,
        batch.label,
        now.probs,
        now.agreement,
        decay=settings.memory_decay,
        agreement_decay=settings.remember,
        threshold_decay=settings.running_decay,
    )


def _mean_of_crops(forward: Forward, crops: int) -> Forward:
    """Returns a result in which the outputs of the spatial views of each video are averaged."""
    if crops == 1:
        return forward

    def mean(leaf: jax.Array) -> jax.Array:
        views = leaf.reshape(-1, crops, *leaf.shape[1:])
        # Positions are the same in all views.
        return jnp.mean(views, axis=1) if jnp.issubdtype(leaf.dtype, jnp.floating) else views[:, 0]

    return forward._replace(outputs=jax.tree.map(mean, forward.outputs))


def _erased(
    frames: jax.Array, own: jax.Array | None, keys_B: jax.Array, probability: float
) -> tuple[jax.Array, jax.Array | None]:
    """Erases a box of each video and, if its clips have frames of their own, of each clip."""
    keys_B = jax.vmap(lambda key: jax.random.fold_in(key, _ERASE))(keys_B)
    if own is not None:
        batch, clips = own.shape[:2]
        keys_BK = jax.vmap(lambda key: jax.random.split(key, clips))(keys_B)
        flat = erasing.erase(own.reshape(-1, *own.shape[2:]), keys_BK.reshape(-1), probability)
        own = flat.reshape(batch, clips, *flat.shape[1:])
    return erasing.erase(frames, keys_B, probability), own


def video_keys(rng: jax.Array, index_B: jax.Array) -> jax.Array:
    """Returns a PRNG key for each video, derived from its index [B]."""
    return jax.vmap(lambda index: jax.random.fold_in(rng, index))(index_B)


def _metrics(batch: Batch, aux: dict[str, Any], grad_norm: jax.Array) -> TrainMetrics:
    outputs: Outputs = aux["outputs"]
    partition: Partition = aux["partition"]
    return TrainMetrics.of_step(
        loss=aux["loss"],
        accuracy=jnp.argmax(outputs.video_logits, axis=-1) == batch.label,
        agreement=aux["verdict"].agreement,
        clean=partition.clean,
        noisy=partition.noisy,
        hard=partition.hard,
        grad_norm=grad_norm,
        mask=batch.mask,
    )
