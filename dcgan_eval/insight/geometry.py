"""Figures of a representation without a classifier: how many directions it uses, how its points lie, how alike two are.

Where labels are known, also how well clusters and neighbours agree with them.

Everything is measured on a sample of rows, through Gram matrices or distances of it, in float64. Intervals: the grouped
jackknife (ten groups of rows left out in turn), because a bootstrap repeats rows, and repeated rows are what rank,
nearest neighbours and distances are most sensitive to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import DcganEvalError
from ..seeding import derive

GROUPS = 10
LEAST_ROWS = 50
_FIRST_RANK = 11  # of the spectrum's fit: the first ten directions follow the data set, not the law
_KEPT = 0.9  # share of the ratios of distances that the TwoNN fit looks at, as in its source
_SHARPNESS = 2.0  # t of the uniformity's Gaussian potential, its source's
_CLUSTERINGS = 10  # from different starts, for their spread
_STARTS = 3  # of each, the best of which is kept


@dataclass(frozen=True)
class Figure:
    """One number with its uncertainty.

    Attributes
    ----------
    value : float
        On all rows of the sample.
    ci95 : tuple of float
        Grouped jackknife, Student's t; of clusterings 1.96 standard deviations over their starts.
    """

    value: float
    ci95: tuple[float, float]


Measure = Callable[..., float]  # of one matrix (N, D), or of two with the same rows


def with_interval(measure: Measure, *matrices: np.ndarray) -> Figure:
    """Measure rows, and again without each of ten groups of them.

    Parameters
    ----------
    measure : callable
        Maps the matrices to a number.
    matrices : ndarray
        (N, D) each, the same rows in random order.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, section 11.5.
    """
    from scipy import stats

    value, num_rows = measure(*matrices), len(matrices[0])
    group = np.arange(num_rows) % GROUPS
    without = np.array([measure(*(X[group != g] for X in matrices)) for g in range(GROUPS)])
    # the jackknife's variance with a group left out at a time: (g - 1) / g times the sum of squares
    error = np.sqrt((GROUPS - 1) / GROUPS * np.square(without - without.mean()).sum())
    half = float(stats.t.ppf(0.975, GROUPS - 1) * error)
    return Figure(value, (value - half, value + half))


def spectrum(X: np.ndarray, *, centred: bool = True) -> np.ndarray:
    """Return the eigenvalues of X^T X / N (of the covariance, if centred), largest first, (min(N, D),)."""
    X = X.astype(np.float64)
    if centred:
        X = X - X.mean(0)
    small = X @ X.T if len(X) <= X.shape[1] else X.T @ X  # both have the same eigenvalues besides zeros
    return np.linalg.eigvalsh(small)[::-1].clip(min=0) / len(X)


def rank_me(X: np.ndarray) -> float:
    """Return the effective rank, exp of the entropy of the singular values' shares: 1 to min(N, D).

    Source: Garrido et al., arXiv:2210.02885, equation 1. Deviations: no epsilon; shares of zero count nothing.
    """
    shares = np.sqrt(spectrum(X, centred=False))  # singular values: roots of the eigenvalues
    shares = shares[shares > 0] / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def alpha_req(X: np.ndarray) -> float:
    """Return alpha where the covariance's eigenvalues fall like rank^-alpha, by least squares of the logarithms.

    Source: Agrawal et al., NeurIPS 2022 (alpha-ReQ); Stringer et al., Nature 2019. Deviations: ranks 11 to a quarter of
    min(N, D), beyond which a sample's spectrum bends away from the law.
    """
    from scipy import stats

    values = spectrum(X)
    last = max(_FIRST_RANK + 10, min(X.shape) // 4)
    rank = np.arange(1, len(values) + 1)
    chosen = (rank >= _FIRST_RANK) & (rank <= last) & (values > values[0] * 1e-12)
    if chosen.sum() < 2:
        return float("nan")
    return float(-stats.linregress(np.log(rank[chosen]), np.log(values[chosen])).slope)


def two_nn(X: np.ndarray) -> float:
    """Return the intrinsic dimension by the ratio of the distances to the second and to the nearest row.

    Source: Facco et al., Scientific Reports 7, 12140 (2017): -log(1 - F(mu)) = d log mu, a line through the origin over
    the smallest nine tenths. Deviations: repeated rows, which have no ratio, are left out.
    """
    squares = _squares(np.unique(X, axis=0).astype(np.float64))
    np.fill_diagonal(squares, np.inf)
    nearest = np.partition(squares, 1, axis=1)[:, :2]
    log_mu = np.sort(np.log(nearest[:, 1] / nearest[:, 0])) / 2  # of distances: half that of their squares
    count = len(log_mu)
    used = slice(0, int(_KEPT * count))
    y = -np.log1p(-np.arange(1, count + 1) / (count + 1))  # F is i / (n + 1) at the i-th smallest
    return float((log_mu[used] @ y[used]) / (log_mu[used] @ log_mu[used]))


def uniformity(X: np.ndarray) -> float:
    """Return log of the mean of exp(-2 |x - y|^2) over pairs of rows of length 1.

    0 where all rows have one direction; the lower, the more evenly they cover the sphere.

    Source: Wang & Isola, arXiv:2005.10242, equation 5.
    """
    squares = _squares(_unit(X))[np.triu_indices(len(X), 1)]
    return float(np.log(np.mean(np.exp(-_SHARPNESS * squares))))


def alignment(X: np.ndarray, Y: np.ndarray) -> float:
    """Return the mean squared distance of the two rows of each image, both of length 1: 0 where both agree.

    Source: Wang & Isola, arXiv:2005.10242, equation 4 (alpha = 2); X and Y are two views of the same images.
    """
    return float(np.square(_unit(X) - _unit(Y)).sum(1).mean())


def linear_cka(X: np.ndarray, Y: np.ndarray) -> float:
    """Return the linear centred kernel alignment of two representations of the same images, debiased: 1 if alike.

    Source: Kornblith et al., arXiv:1905.00414; the unbiased estimator of HSIC is that of Song et al., JMLR 13 (2012),
    equation 5, without which wide features of few images look alike whatever they are.
    """
    K, L = (_kernel(Z) for Z in (X, Y))
    return float(_hsic(K, L) / np.sqrt(_hsic(K, K) * _hsic(L, L)))


def rsa(X: np.ndarray, Y: np.ndarray) -> float:
    """Return Spearman's correlation of the two representations' dissimilarities, 1 - Pearson's r of each pair of rows.

    Source: Kriegeskorte, Mur & Bandettini, Frontiers in Systems Neuroscience 2, 4 (2008).
    """
    from scipy import stats

    pairs = np.triu_indices(len(X), 1)
    centred = [_unit(Z - Z.mean(1, keepdims=True, dtype=np.float64)) for Z in (X, Y)]
    return float(stats.spearmanr(*(1 - (Z @ Z.T)[pairs] for Z in centred)).statistic)


def retrieval_map(X: np.ndarray, y: np.ndarray) -> float:
    """Return the mean average precision of rows that rank all others by cosine, those of their label being right.

    Rows of equal cosine share the precision behind the last of them, as in scikit-learn's ``average_precision_score``.
    Rows whose label no other has ask nothing; NaN where that is all of them.

    Parameters
    ----------
    X : ndarray
        (N, D).
    y : ndarray of int
        (N,).
    """
    unit = _unit(X)
    cosine = np.round(unit @ unit.T, 12)  # equal rows have equal cosines whatever the order of sums
    np.fill_diagonal(cosine, -np.inf)
    order = np.argsort(-cosine, axis=1)[:, :-1]  # the row itself comes last
    ranked = np.take_along_axis(cosine, order, axis=1)
    right = y[order] == y[:, None]
    precision = right.cumsum(1) / np.arange(1, len(y))
    ends = np.where(np.diff(ranked, append=-np.inf) != 0, np.arange(len(y) - 1), len(y))
    last = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]  # of the rows of equal cosine
    found = (np.take_along_axis(precision, last, axis=1) * right).sum(1)
    asked = right.any(1)
    return float(np.mean(found[asked] / right[asked].sum(1))) if asked.any() else float("nan")


def cluster_agreement(X: np.ndarray, y: np.ndarray, seed: int = 0) -> dict[str, Figure]:
    """Cluster rows by K-means, K the number of labels, and compare the clusters with the labels.

    Parameters
    ----------
    X : ndarray
        (N, D).
    y : ndarray of int
        (N,).
    seed : int
        Root seed of the starts.

    Returns
    -------
    dict
        ``cluster_nmi``, normalised mutual information (by the arithmetic mean of the entropies), and ``cluster_ari``,
        the adjusted Rand index: means over ten clusterings, each the best of three starts.

    Source: scikit-learn's ``KMeans``, ``normalized_mutual_info_score`` and ``adjusted_rand_score``.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    X = X.astype(np.float64)
    if X.shape[1] > len(X):  # N points lie in N - 1 directions: the same distances with fewer numbers
        values, vectors = np.linalg.eigh((X - X.mean(0)) @ (X - X.mean(0)).T)
        X = vectors * np.sqrt(values.clip(min=0))
    clusterings = [
        KMeans(len(np.unique(y)), n_init=_STARTS, random_state=derive(seed, "clusters", start=i) % 2**32).fit_predict(X)
        for i in range(_CLUSTERINGS)
    ]
    found = {}
    for name, agree in (("cluster_nmi", normalized_mutual_info_score), ("cluster_ari", adjusted_rand_score)):
        scores = np.array([agree(y, clusters) for clusters in clusterings])
        mean, half = float(scores.mean()), float(1.96 * scores.std(ddof=1))
        found[name] = Figure(mean, (mean - half, mean + half))
    return found


def check_rows(X: np.ndarray, name: str) -> None:
    """Raise unless rows can be described.

    Raises
    ------
    DcganEvalError
        Too few, not finite, or all alike.
    """
    if len(X) < LEAST_ROWS:
        raise DcganEvalError(
            f"There are too few rows in {name} to describe", got=str(len(X)), expected=f"at least {LEAST_ROWS}"
        )
    if not np.isfinite(X).all():
        raise DcganEvalError(f"Features in {name} are not finite", remedy="look at the encoder that made them")
    if not (X - X[0]).any():
        raise DcganEvalError(f"All rows in {name} are the same", got=str(X[0][:4]), remedy="look at the encoder")


def _squares(X: np.ndarray) -> np.ndarray:
    """Return the squared distances of all pairs of rows, (N, N), by one product: |x|^2 + |y|^2 - 2 x.y."""
    X = X - X.mean(0)  # or rows far from the origin would lose their distances to rounding
    gram = X @ X.T
    norms = gram.diagonal()
    return (norms[:, None] + norms - 2 * gram).clip(min=0)


def _unit(X: np.ndarray) -> np.ndarray:
    """Scale rows to length 1; rows of zeros stay."""
    X = X.astype(np.float64)
    return X / np.linalg.norm(X, axis=1, keepdims=True).clip(min=1e-300)


def _kernel(X: np.ndarray) -> np.ndarray:
    """Return the products of rows without those with themselves."""
    X = X.astype(np.float64)
    K: np.ndarray = (X - X.mean(0)) @ (X - X.mean(0)).T
    np.fill_diagonal(K, 0)
    return K


def _hsic(K: np.ndarray, L: np.ndarray) -> float:
    """Return the unbiased HSIC of two kernels whose diagonals are zero, up to its factor 1 / (n (n - 3))."""
    n = len(K)
    return float(
        np.sum(K * L) + K.sum() * L.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (K.sum(0) @ L.sum(0))
    )  # tr(K L) is the sum of products, K and L being symmetric
