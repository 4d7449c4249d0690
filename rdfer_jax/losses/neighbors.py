"""Sample selection and relabeling by neighbors in feature space.

Feng, Tzimiropoulos and Patras (2022), "SSR: An efficient and robust framework for learning with unknown
label noise", equations 1 to 4, without its mixup and its second loss. The clips of a video take the place
of its augmentations: its features are the mean over its clips, and its prediction is the memory.
"""

import jax
import jax.numpy as jnp

from rdfer_jax import config
from rdfer_jax.losses.criteria import mean_over, supervised
from rdfer_jax.losses.evidence import Evidence, required
from rdfer_jax.memory import Memory, remembered
from rdfer_jax.types import Outputs


def relabeled(memory: Memory, least: float) -> jax.Array:
    """Returns the labels of all training videos, int32 [M]: argmax p where max p > least, else as given."""
    probs_MN = remembered(memory)
    sure_M = jnp.max(probs_MN, axis=-1) > least
    return jnp.where(sure_M, jnp.argmax(probs_MN, axis=-1), memory.label).astype(jnp.int32)


def neighbor_votes(
    features_MD: jax.Array, label_M: jax.Array, index_B: jax.Array, number: int, num_classes: int
) -> jax.Array:
    """Returns the vote of each video's nearest neighbors, float32 [B, N], 1 for the strongest class.

    A neighbor votes for its label with its cosine similarity, divided by the share of its class in the
    training videos. A video is no neighbor of itself.

    Args:
      features_MD: float32 [M, D], of all training videos, rows of length 1; zero before the first visit.
      label_M: int32 [M], their labels; -1 before the first visit.
      index_B: int32 [B], the rows of these videos.
      number: k, neighbors that vote; at most M.
      num_classes: N.
    """
    known_M = label_M >= 0
    similar_BM = jnp.einsum("bd,md->bm", features_MD[index_B], features_MD)
    is_other_BM = known_M & (jnp.arange(len(label_M)) != index_B[:, None])
    similar_BM = jnp.where(is_other_BM, similar_BM, -jnp.inf)
    weight_BK, nearest_BK = jax.lax.top_k(similar_BM, min(number, len(label_M)))
    label_MN = jax.nn.one_hot(label_M, num_classes)
    share_N = jnp.sum(label_MN, axis=0) / jnp.maximum(jnp.sum(known_M), 1)
    votes_BN = jnp.einsum("bk,bkn->bn", jnp.maximum(weight_BK, 0), label_MN[nearest_BK])
    votes_BN = votes_BN / jnp.maximum(share_N, 1e-6)
    return votes_BN / jnp.maximum(jnp.max(votes_BN, axis=-1, keepdims=True), 1e-30)


def ssr(outputs: Outputs, evidence: Evidence, settings: config.Loss) -> jax.Array:
    """Cross-entropy of the clean videos with their new labels; of all with the given before robust_from.

    A video is clean if its neighbors' vote for its label is at least settings.ssr_clean of their strongest.
    """
    memory = required(evidence.memory, settings, "config.agreement.memory_decay above 0")
    assert memory.features is not None and evidence.index is not None
    num_classes = outputs.video_logits.shape[-1]
    label_M = relabeled(memory, settings.ssr_relabel)
    votes_BN = neighbor_votes(
        memory.features, label_M, evidence.index, settings.ssr_neighbors, num_classes
    )
    label_B = label_M[evidence.index]
    vote_B = jnp.take_along_axis(votes_BN, label_B[:, None], axis=-1)[:, 0]
    acts = evidence.progress >= 1
    clean_B = (vote_B >= settings.ssr_clean) | ~acts
    label_B = jnp.where(acts, label_B, evidence.label)
    return mean_over(supervised(outputs, label_B, settings), clean_B)
