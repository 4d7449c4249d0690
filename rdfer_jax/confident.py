"""Confident learning in graph: the noise matrix P(given | true), and what it says about a label.

The same estimate as rdfer_jax.labels.noise_matrix, which documents it, as pure functions to be jitted:
from the remembered predictions of the training videos and their given labels. No true label is used.

M is the number of training videos here, N that of the classes.
"""

import jax
import jax.numpy as jnp

#: Videos with a right label that are added to each class, so that few videos do not make a matrix far
#: from that of right labels.
PRIOR = 10.0
#: By rounding, the mean of equal numbers may exceed them.
_ROUNDING = 1e-6


def joint_counts(labels_MN: jax.Array, probs_MN: jax.Array) -> jax.Array:
    """Returns the number of videos by given (row) and true class (column), float32 [N, N].

    Northcutt, Jiang and Chuang (2021), "Confident learning", section 3.1, see labels.noise_matrix. Its sum
    is the number of videos that have a label.

    Args:
      labels_MN: float32 [M, N], one-hot rows, or rows of zeros for videos that do not count. Rows that
        are distributions give the counts that are expected if the labels are drawn from them.
      probs_MN: float32 [M, N], the predicted distribution of each video.
    """
    exact = jax.lax.Precision.HIGHEST
    num_classes = probs_MN.shape[-1]
    given_N = jnp.sum(labels_MN, axis=0)
    sum_N = jnp.sum(labels_MN * probs_MN, axis=0)
    threshold_N = jnp.where(given_N > 0, sum_N / jnp.maximum(given_N, 1e-30), jnp.inf)
    above_MN = probs_MN >= threshold_N - _ROUNDING
    true_M = jnp.argmax(jnp.where(above_MN, probs_MN, -1.0), axis=-1)
    true_MN = jax.nn.one_hot(true_M, num_classes) * jnp.any(above_MN, axis=-1, keepdims=True)
    count_NN = jnp.einsum("mg,mt->gt", labels_MN, true_MN, precision=exact)
    count_NN += jnp.diag((jnp.sum(count_NN, axis=1) == 0).astype(jnp.float32))
    return count_NN / jnp.sum(count_NN, axis=1, keepdims=True) * given_N[:, None]


def noise_matrix(label_M: jax.Array, probs_MN: jax.Array, prior: float = PRIOR) -> jax.Array:
    """Returns P(given = column | true = row), float32 [N, N]; its rows sum to 1.

    Args:
      label_M: int32 [M], the given labels; -1 for videos that do not count.
      probs_MN: as in `joint_counts`.
      prior: videos with a right label that are added to each class.
    """
    num_classes = probs_MN.shape[-1]
    count_NN = joint_counts(jax.nn.one_hot(label_M, num_classes), probs_MN).T
    # A class of no video keeps the row of right labels.
    right_N = jnp.where(jnp.sum(count_NN, axis=1) + prior > 0, prior, 1.0)
    count_NN += jnp.diag(right_N)
    return count_NN / jnp.sum(count_NN, axis=1, keepdims=True)


def wrong_share(label_M: jax.Array, probs_MN: jax.Array) -> jax.Array:
    """Returns the share of wrong labels by confident learning, float32 in [0, 1].

    It counts mistakes of the network as wrong labels, too. Arguments as in `noise_matrix`.
    """
    count_NN = joint_counts(jax.nn.one_hot(label_M, probs_MN.shape[-1]), probs_MN)
    return _share(jnp.sum(count_NN) - jnp.trace(count_NN), jnp.sum(count_NN))


def wrong_share_of_sure(label_M: jax.Array, probs_MN: jax.Array) -> jax.Array:
    """Returns the share of other labels among the videos with the surest predictions, float32 in [0, 1].

    For each predicted class, the half with the highest probability of it. A network hardly errs there, so
    the share is near zero where labels are right. It is that of all videos if labels are wrong as often in
    easy videos as in hard ones, and too low if they are wrong in hard ones above all. Ours, after the
    anchor points of Liu and Tao (2016), "Classification with noisy labels by importance reweighting".
    Arguments as in `noise_matrix`.
    """
    num_classes = probs_MN.shape[-1]
    predicted_M, peak_M = jnp.argmax(probs_MN, axis=-1), jnp.max(probs_MN, axis=-1)
    member_MN = jax.nn.one_hot(predicted_M, num_classes, dtype=bool) & (label_M >= 0)[:, None]
    median_N = jnp.nanmedian(jnp.where(member_MN, peak_M[:, None], jnp.nan), axis=0)
    sure_M = jnp.any(member_MN & (peak_M[:, None] >= median_N), axis=-1)
    return _share(jnp.sum(sure_M & (predicted_M != label_M)), jnp.sum(sure_M))


def _share(part: jax.Array, whole: jax.Array) -> jax.Array:
    return jnp.clip(part / jnp.maximum(whole, 1), 0, 1).astype(jnp.float32)


def posterior(probs_BN: jax.Array, label_B: jax.Array, noise_NN: jax.Array) -> jax.Array:
    """Returns the distribution of the true class given prediction and label, float32 [B, N].

    Bayes' rule with the prediction as the prior: P(c | m, y) = m_c T_cy / sum_j m_j T_jy.
    """
    joint_BN = probs_BN * noise_NN.T[label_B]
    total_B1 = jnp.sum(joint_BN, axis=-1, keepdims=True)
    label_BN = jax.nn.one_hot(label_B, probs_BN.shape[-1])
    return jnp.where(total_B1 > 0, joint_BN / jnp.maximum(total_B1, 1e-30), label_BN)
