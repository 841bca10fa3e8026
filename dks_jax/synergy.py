"""The training objective: cross-entropy on every classifier plus weighted pairwise KL divergences.

The losses are pure functions of logits [classifier, batch, class] in depth order, the main classifier last.
A matrix `teaches[teacher, student]` defines which classifier teaches which, so deep supervision, DKS and its
ablations differ in this matrix and share all code.

Source: Sun, Yao, Zhou, Zhao, "Deeply-Supervised Knowledge Synergy", CVPR 2019, arXiv:1906.00675. `epsilon`
comes from the code released with that paper; `alpha` and `temperature` come from Li, Chen, "Dynamic
Hierarchical Mimicking", CVPR 2020, arXiv:2003.10739.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from dks_jax.runtime.errors import InputError


def all_pairs(num_classifiers: int) -> np.ndarray:
    """The teaching matrix of DKS, [teacher, student]: ones with a zero diagonal.

    Source: Sun et al., CVPR 2019, arXiv:1906.00675.

    Args:
      num_classifiers: number of classifiers, the main one included.
    """
    return 1.0 - np.eye(num_classifiers)


def no_pairs(num_classifiers: int) -> np.ndarray:
    """The teaching matrix of deep supervision alone, [teacher, student]: zeros.

    Source: Lee et al., "Deeply-Supervised Nets", AISTATS 2015, arXiv:1409.5185.

    Args:
      num_classifiers: number of classifiers, the main one included.
    """
    return np.zeros((num_classifiers, num_classifiers))


def top_down(num_classifiers: int) -> np.ndarray:
    """The teaching matrix, [teacher, student], in which deeper classifiers teach shallower ones.

    It has ones below the diagonal. Source: the ablations of Sun et al., CVPR 2019, arXiv:1906.00675.

    Args:
      num_classifiers: number of classifiers, the main one included.
    """
    return np.tril(all_pairs(num_classifiers))


def bottom_up(num_classifiers: int) -> np.ndarray:
    """The teaching matrix, [teacher, student], in which shallower classifiers teach deeper ones.

    It has ones above the diagonal. Source: the ablations of Sun et al., CVPR 2019, arXiv:1906.00675.

    Args:
      num_classifiers: number of classifiers, the main one included.
    """
    return np.triu(all_pairs(num_classifiers))


# The teaching matrices by their names in a config.
TEACHES = {"all_pairs": all_pairs, "no_pairs": no_pairs, "top_down": top_down, "bottom_up": bottom_up}


def teaching_matrix(
    teaches: str | Sequence[Sequence[float]], num_classifiers: int, num_teachers: int = 0
) -> np.ndarray:
    """The teaching matrix [teacher, student] that is given by a name in TEACHES or by its rows.

    Args:
      teaches: the name or the rows.
      num_classifiers: number of classifiers.
      num_teachers: number of frozen teachers, whose rows follow those of the classifiers. A name, or rows for
        the classifiers alone, have each of them teach every classifier with the weight 1.

    Raises:
      InputError: the name is unknown, or the rows are not non-negative weights for each classifier as a
        student.
    """
    frozen = np.ones((num_teachers, num_classifiers))
    if isinstance(teaches, str):
        if teaches not in TEACHES:
            accepted = ", ".join(TEACHES)
            raise InputError(f"`synergy.teaches` must be one of {accepted} or a matrix; got {teaches!r}.")
        return np.vstack([TEACHES[teaches](num_classifiers), frozen])
    try:
        matrix = np.asarray(teaches, np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape == (num_classifiers, num_classifiers):
        matrix = np.vstack([matrix, frozen])
    shape = num_classifiers + num_teachers, num_classifiers
    if matrix.shape != shape or not np.all(np.isfinite(matrix) & (matrix >= 0)):
        raise InputError(
            f"`synergy.teaches` must have a row for each of the {num_classifiers} classifiers as a teacher, "
            "with a weight of 0 or more for each of them as a student, in depth order, the main one last; "
            f"got {teaches}{f', with {num_teachers} frozen teachers' if num_teachers else ''}."
        )
    return matrix


def scale_upward(teaches: np.ndarray, share: ArrayLike) -> jax.Array:
    """The teaching matrix in which what shallower classifiers teach deeper ones counts by a share.

    Args:
      teaches: [teacher, student], of which the entries above the diagonal are multiplied.
      share: the factor, a scalar; with 1 nothing changes.
    """
    upward = np.triu(np.ones(teaches.shape), 1) > 0
    return jnp.where(upward, share * teaches, teaches)


def synergy_loss(
    logits: ArrayLike,
    teaches: ArrayLike,
    *,
    alpha: float = 1.0,
    temperature: float = 1.0,
    epsilon: float = 0.0,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """The synergy loss, alpha T^2 sum_ts teaches[t, s] KL(p_t || p_s), with the teacher p_t held constant.

    Each divergence is in nats and a mean over the batch. Source: Sun et al., CVPR 2019, arXiv:1906.00675;
    `epsilon` is from the code released with it, `alpha` and `temperature` from Li, Chen, "Dynamic
    Hierarchical Mimicking", CVPR 2020, arXiv:2003.10739.

    Args:
      logits: [classifier, batch, class], main classifier last.
      teaches: [teacher, student], the weight of each ordered pair; the diagonal has no effect.
      alpha: weight of the sum.
      temperature: T in p = softmax(logits / T).
      epsilon: smoothing that replaces p by (p + epsilon) / (1 + num_classes epsilon) in teacher and student.
        The released DKS code uses 1e-8; 0 gives the exact KL divergence.
      weights: [batch], weights of the examples in the mean over the batch; None for equal weights.

    Returns:
      A scalar in float32, or in float64 if the logits are float64.

    Raises:
      InputError: the shapes of the arguments do not fit together.
    """
    logits = _as_stack(logits)
    teaches = _as_matrix(teaches, logits.shape[0])
    return _synergy(_pairwise_kl(logits, None, temperature, epsilon, weights), teaches, alpha, temperature)


def objective(
    logits: ArrayLike,
    labels: ArrayLike,
    teaches: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    alpha: float = 1.0,
    temperature: float = 1.0,
    epsilon: float = 0.0,
    label_smoothing: float = 0.0,
    binary: bool = False,
    threshold: float = 0.0,
    classifier_weights: Sequence[float] = (),
    teachers: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The training loss, sum_i w_i CE(z_i, y) + synergy_loss(z, teaches), and its terms by name, in nats.

    Source: Sun et al., CVPR 2019, arXiv:1906.00675; see `synergy_loss`.

    Args:
      logits: [classifier, batch, class], main classifier last.
      labels: integers [batch], or target probabilities [batch, class], e.g. smoothed or mixed labels. With an
        integer that is no class, negative ones included, the cross-entropies and the total are NaN.
      teaches: see `synergy_loss`.
      names: one name per classifier, for the names of the terms; None for branch1, branch2, ..., main.
      alpha, temperature, epsilon, weights: see `synergy_loss`.
      label_smoothing: share s of each target that is spread evenly over all classes, 0 to 1: the target of
        the cross-entropies becomes (1 - s) y + s / num_classes (Szegedy et al., arXiv:1512.00567). The KL
        divergences have no part in it.
      binary: whether a binary cross-entropy with sigmoid(z), averaged over the classes, takes the place of
        the cross-entropy, as in "ResNet strikes back" (Wightman et al., arXiv:2110.00476). The KL
        divergences remain those between the softmax probabilities of the same logits.
      threshold: with `binary`, targets above it count as 1 and all others as 0, so that both classes of a
        mixed image are there; 0 leaves the targets as they are.
      classifier_weights: weight w_i of each classifier's cross-entropy; () for 1.
      teachers: logits of frozen teachers, [teacher, batch, class], which get no gradient; None for none.
        Their rows in `teaches` follow those of the classifiers. With one classifier this is plain
        distillation.

    Returns:
      (total, terms), all scalars. terms["cross_entropy/main"] is the cross-entropy of the main classifier,
      and terms["kl/main->branch1"] is KL(p_main || p_branch1) for the teacher main and the student branch1,
      before it is multiplied by `teaches`, `alpha` and T^2. There is a term for every ordered pair, whether
      or not `teaches` uses it.

    Raises:
      InputError: the shapes of the arguments do not fit together.
    """
    logits = _as_stack(logits)
    num_classifiers = logits.shape[0]
    frozen = None if teachers is None else _as_stack(teachers)
    teaches = _as_matrix(teaches, num_classifiers, 0 if frozen is None else len(frozen))
    names = classifier_names(num_classifiers) if names is None else tuple(names)
    if len(names) != num_classifiers:
        raise InputError(f"`names` must hold one name per classifier, {num_classifiers}; got {names}.")

    if binary:
        targets = _probabilities(labels, logits)
        targets = (1 - label_smoothing) * targets + label_smoothing / targets.shape[-1]
        if threshold:
            targets = jnp.where(jnp.isnan(targets), targets, targets > threshold)
        cross_entropies = _binary_cross_entropies(logits, targets, weights)
    else:
        cross_entropies = _cross_entropies(jax.nn.log_softmax(logits), labels, label_smoothing, weights)
    kl = _pairwise_kl(logits, frozen, temperature, epsilon, weights)
    weighted = cross_entropies
    if classifier_weights:
        if len(classifier_weights) != num_classifiers:
            raise InputError(
                f"`classifier_weights` must hold one number per classifier, {num_classifiers}; got "
                f"{tuple(classifier_weights)}."
            )
        weighted = jnp.asarray(classifier_weights, cross_entropies.dtype) * cross_entropies
    total = jnp.sum(weighted) + _synergy(kl, teaches, alpha, temperature)
    terms = {f"cross_entropy/{name}": cross_entropies[i] for i, name in enumerate(names)}
    for t, teacher in enumerate([*names, *(f"teacher{i + 1}" for i in range(len(kl) - len(names)))]):
        for s, student in enumerate(names):
            if t != s:
                terms[f"kl/{teacher}->{student}"] = kl[t, s]
    return total, terms


def classifier_names(num_classifiers: int) -> tuple[str, ...]:
    """The names of classifiers in depth order: branch1, branch2, ..., main."""
    return (*(f"branch{i + 1}" for i in range(num_classifiers - 1)), "main")


def _as_stack(logits: ArrayLike) -> jax.Array:
    logits = jnp.asarray(logits)
    if logits.ndim != 3:
        raise InputError(
            f"`logits` must have the shape [classifier, batch, class]; got {logits.shape}: stack the "
            "classifiers on a first axis, the main one last."
        )
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _as_matrix(teaches: ArrayLike, num_classifiers: int, num_teachers: int = 0) -> jax.Array:
    teaches, shape = jnp.asarray(teaches), (num_classifiers + num_teachers, num_classifiers)
    if teaches.shape != shape:
        raise InputError(
            "`teaches` must have the shape [teacher, student] with a row and a column per classifier, and a "
            f"row per frozen teacher, {shape}; got {teaches.shape}."
        )
    return teaches


def _synergy(kl: jax.Array, teaches: jax.Array, alpha: float, temperature: float) -> jax.Array:
    return alpha * temperature**2 * jnp.sum(teaches.astype(kl.dtype) * kl)


def _example_weights(weights: ArrayLike | None, log_p: jax.Array) -> jax.Array:
    """The weights of the examples, [batch], normalised to a sum of one."""
    batch = log_p.shape[1]
    if weights is None:
        return jnp.full(batch, 1.0 / batch, log_p.dtype)
    weights = jnp.asarray(weights, log_p.dtype)
    if weights.shape != (batch,):
        raise InputError(f"`weights` must have the shape [batch], {(batch,)}; got {weights.shape}.")
    return weights / jnp.sum(weights)


def _cross_entropies(
    log_p: jax.Array, labels: ArrayLike, label_smoothing: float, weights: ArrayLike | None
) -> jax.Array:
    """The cross-entropy of each classifier, -sum_c y_c log p_c averaged over the batch, [classifier]."""
    labels = jnp.asarray(labels)
    if _are_classes(labels, log_p):
        log_p_label = jnp.take_along_axis(log_p, labels[None, :, None], axis=-1)[..., 0]
        # Indexing would count a negative label from the last class.
        log_p_label = jnp.where(_is_class(labels, log_p.shape[-1]), log_p_label, jnp.nan)
    else:
        log_p_label = jnp.sum(log_p * labels.astype(log_p.dtype), axis=-1)
    if label_smoothing:
        log_p_label = (1 - label_smoothing) * log_p_label + label_smoothing * jnp.mean(log_p, axis=-1)
    return -jnp.sum(log_p_label * _example_weights(weights, log_p), axis=-1)


def _are_classes(labels: jax.Array, logits: jax.Array) -> bool:
    """Whether labels are integers [batch]; False for probabilities [batch, class], InputError for others."""
    _, batch, num_classes = logits.shape
    if labels.shape == (batch,) and jnp.issubdtype(labels.dtype, jnp.integer):
        return True
    if labels.shape == (batch, num_classes):
        return False
    raise InputError(
        f"`labels` must be integers of shape [batch], {(batch,)}, or probabilities of shape "
        f"[batch, class], {(batch, num_classes)}; got {labels.dtype} of shape {labels.shape}."
    )


def _is_class(labels: jax.Array, num_classes: int) -> jax.Array:
    # The bound has the type of the labels.
    last = min(num_classes - 1, jnp.iinfo(labels.dtype).max)
    return (labels >= 0) & (labels <= last)


def one_hot(labels: jax.Array, num_classes: int, dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Integer labels [batch] as probabilities [batch, class]; NaN for labels that are no class."""
    encoded = jax.nn.one_hot(labels, num_classes, dtype=dtype)
    return jnp.where(_is_class(labels, num_classes)[:, None], encoded, jnp.nan)


def _probabilities(labels: ArrayLike, logits: jax.Array) -> jax.Array:
    """The targets [batch, class], which may be given as labels."""
    labels = jnp.asarray(labels)
    if _are_classes(labels, logits):
        return one_hot(labels, logits.shape[-1], logits.dtype)
    return labels.astype(logits.dtype)


def _binary_cross_entropies(logits: jax.Array, targets: jax.Array, weights: ArrayLike | None) -> jax.Array:
    """-mean_c [y_c log sigmoid(z_c) + (1 - y_c) log sigmoid(-z_c)], averaged over the batch, [classifier]."""
    terms = targets * jax.nn.log_sigmoid(logits) + (1 - targets) * jax.nn.log_sigmoid(-logits)
    return -jnp.sum(jnp.mean(terms, axis=-1) * _example_weights(weights, logits), axis=-1)


def _pairwise_kl(
    logits: jax.Array,
    frozen: jax.Array | None,
    temperature: float,
    epsilon: float,
    weights: ArrayLike | None,
) -> jax.Array:
    """KL(stop_gradient(p_t) || p_s) averaged over the batch, [teacher, student]; frozen teachers come last.

    One log-softmax and one small matrix product serve all pairs, because
    KL_ts = sum_c p_t log p_t - sum_c p_t log p_s, and the first sum is the diagonal of the second.
    """
    stack = logits if frozen is None else jnp.concatenate([logits, frozen.astype(logits.dtype)])
    log_p = jax.nn.log_softmax(stack / temperature)
    p = jnp.exp(log_p)
    if epsilon:
        p = (p + epsilon) / (1.0 + stack.shape[-1] * epsilon)
        log_p = jnp.log(p)
    p_teacher = jax.lax.stop_gradient(p) * _example_weights(weights, log_p)[:, None]
    cross = _products(p_teacher, log_p)
    return jax.lax.stop_gradient(jnp.diagonal(cross))[:, None] - cross[:, : len(logits)]


def _products(a: jax.Array, b: jax.Array) -> jax.Array:
    """The sums of a_i b_j over batch and classes, [i, j]."""
    count = a.shape[0]
    # Training on a CPU is compiled without YNNPACK; XLA then takes several times as long for a product of
    # two or three rows as for one of four.
    padding = [(0, 4 - count if count in (2, 3) else 0), (0, 0), (0, 0)]
    a, b = jnp.pad(a, padding), jnp.pad(b, padding)
    # The default precision of float32 products is bfloat16 on TPUs and TF32 on GPUs.
    return jnp.einsum("ibc,jbc->ij", a, b, precision=jax.lax.Precision.HIGHEST)[:count, :count]
