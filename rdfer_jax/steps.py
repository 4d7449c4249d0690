"""The train step and the predict step: where augmentation, network, agreement, loss and metrics meet."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rdfer_jax import agreement, augment, losses
from rdfer_jax import config as config_lib
from rdfer_jax.agreement import Partition, Verdict
from rdfer_jax.config import Config
from rdfer_jax.metrics import TrainMetrics
from rdfer_jax.models import Network, consensus, resampling
from rdfer_jax.state import TrainState, update_teacher
from rdfer_jax.types import Batch, Outputs, Prediction

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, TrainMetrics]]
PredictStep = Callable[[TrainState, Batch], Prediction]


def make_train_step(
    config: Config,
    network: Network,
    optimizer: optax.GradientTransformation,
    *,
    total_steps: int,
    steps_per_epoch: int,
) -> TrainStep:
    """Returns (state, batch) -> (new state, metrics), pure, to be jitted.

    Augmentation and clips depend on the seed, the step and the video's index only: not on its place in
    the batch, nor on the devices.
    """
    grad_fn = make_grad_fn(
        config, network, total_steps=total_steps, steps_per_epoch=steps_per_epoch
    )

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, TrainMetrics]:
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
        state = dataclasses.replace(state, teacher=teacher)
        return state, _metrics(batch, aux, optax.global_norm(grads))

    return train_step


def make_grad_fn(
    config: Config, network: Network, *, total_steps: int, steps_per_epoch: int
) -> Callable[[TrainState, Batch], tuple[Any, dict[str, Any]]]:
    """Returns (state, batch) -> (gradients of the mean robust loss, what else came out).

    The second is a dict with outputs, loss [B], verdict, mask, and the new batch_stats and memory.
    """
    robust_from = config_lib.steps(
        config.loss.robust_from, steps_per_epoch=steps_per_epoch, total_steps=total_steps
    )
    settings = config.agreement

    def grad_fn(state: TrainState, batch: Batch) -> tuple[Any, dict[str, Any]]:
        rng = jax.random.fold_in(jax.random.key(state.seed), state.step)
        rng_augment, rng_clips, rng_dropout = jax.random.split(rng, 3)
        frames = augment.train_augment(
            batch.frames, _keys(rng_augment, batch.index), config.augment, network.dtype
        )
        clips_BKT = resampling.train_clips(
            _keys(rng_clips, batch.index), config.clips, config.data.frames
        )
        teacher_BKN = None
        if state.teacher is not None:
            outputs, _ = network.apply(state.teacher, frames, clips_BKT, consensus, False)
            teacher_BKN = outputs.clip_logits

        def judge(student_BKN: jax.Array) -> tuple[Verdict, Partition, jax.Array | None]:
            """Judges the batch by the teacher or student, now or with the memory of earlier epochs."""
            logits_BKN = student_BKN if teacher_BKN is None else teacher_BKN
            memory, probs_BN = state.memory, None
            if memory is not None:
                now_BN = jax.lax.stop_gradient(agreement.mean_probs(logits_BKN))
                memory = agreement.update_memory(memory, batch.index, now_BN, settings.memory_decay)
                probs_BN = agreement.remembered(memory[batch.index])
            verdict = agreement.judge(logits_BKN, batch.label, settings, probs_BN)
            verdict = agreement.stop(verdict, settings)
            mask = agreement.mask(verdict, batch.label, settings)
            off = agreement.all_clean(len(batch.label))
            robust = state.step >= robust_from
            mask = jax.tree.map(lambda found, clean: jnp.where(robust, found, clean), mask, off)
            return verdict, mask, memory

        def choose_key(clip_logits_BKN: jax.Array) -> jax.Array:
            verdict, mask, _ = judge(clip_logits_BKN)
            if not config.key.use_clean_label:
                return verdict.consensus
            return jnp.where(mask.clean, batch.label, verdict.consensus)

        def loss_fn(params: Any) -> tuple[jax.Array, dict[str, Any]]:
            variables = state.variables | {"params": params}
            outputs, batch_stats = network.apply(
                variables, frames, clips_BKT, choose_key, True, rng_dropout
            )
            verdict, mask, memory = judge(outputs.clip_logits)
            done = jnp.minimum(state.step / robust_from, 1.0) if robust_from else jnp.ones(())
            evidence = losses.Evidence(
                label=batch.label,
                verdict=verdict,
                mask=mask,
                progress=done,
                past=None if memory is None else memory[batch.index],
                flipped=batch.flipped,
            )
            loss_B = losses.per_video(outputs, evidence, config.loss)
            aux = {"outputs": outputs, "loss": loss_B, "verdict": verdict, "mask": mask}
            return jnp.mean(loss_B), aux | {"batch_stats": batch_stats, "memory": memory}

        return jax.grad(loss_fn, has_aux=True)(state.params)

    return grad_fn


def make_predict_step(config: Config, network: Network) -> PredictStep:
    """Returns (state, batch) -> prediction, pure, to be jitted. Nothing in it is drawn."""
    clips_KT = resampling.eval_clips(config.clips, config.data.frames)

    def predict_step(state: TrainState, batch: Batch) -> Prediction:
        frames = augment.eval_transform(batch.frames, config.augment, network.dtype)
        clips_BKT = jnp.broadcast_to(clips_KT, (len(batch.label), *clips_KT.shape))
        outputs, _ = network.apply(state.variables, frames, clips_BKT, consensus, False)
        verdict = agreement.judge(outputs.clip_logits, batch.label, config.agreement)
        return Prediction(
            index=batch.index,
            mask=batch.mask,
            logits=outputs.video_logits,
            clip_logits=outputs.clip_logits,
            agreement=verdict.agreement,
            consensus=verdict.consensus,
            noise_score=verdict.noise_score,
            key_instants=outputs.key_instants,
        )

    return predict_step


def _keys(rng: jax.Array, index_B: jax.Array) -> jax.Array:
    """A key for each video, from its index."""
    return jax.vmap(lambda index: jax.random.fold_in(rng, index))(index_B)


def _metrics(batch: Batch, aux: dict[str, Any], grad_norm: jax.Array) -> TrainMetrics:
    outputs: Outputs = aux["outputs"]
    return TrainMetrics.single_from_model_output(
        loss=aux["loss"],
        accuracy=jnp.argmax(outputs.video_logits, axis=-1) == batch.label,
        agreement=aux["verdict"].agreement,
        clean=aux["mask"].clean,
        noisy=aux["mask"].noisy,
        hard=aux["mask"].hard,
        grad_norm=grad_norm,
        mask=batch.mask,
    )
