"""``dcgan-eval describe``: figures of a store without a classifier, alone or beside another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ..errors import DcganEvalError, check_installed
from ..files import check_target, sha256_of
from ..insight import geometry
from .console import progress_view
from .encoder import layer_option
from .findings import Pictures, checked, out_option, report_finding, seed_option
from .options import Number, example, json_option

if TYPE_CHECKING:
    from ..features.store import FeatureStore

_ALONE = {
    "rank_me": geometry.rank_me,
    "alpha_req": geometry.alpha_req,
    "two_nn": geometry.two_nn,
    "uniformity": geometry.uniformity,
}
_BOTH = {"linear_cka": geometry.linear_cka, "rsa": geometry.rsa}
_OTHER = "_other"
_NO_LABELS = "the store has no labels, so the points of the map have one colour"
_SPREAD = "cluster nmi and ari: mean and 1.96 standard deviations of ten clusterings from different starts"


def _tsne(X: np.ndarray, seed: int) -> np.ndarray:
    """Return a t-SNE of the rows, (N, 2)."""
    from sklearn.manifold import TSNE

    points: np.ndarray = TSNE(random_state=seed).fit_transform(X)
    return points


def _umap(X: np.ndarray, seed: int) -> np.ndarray:
    """Return a UMAP of the rows, (N, 2)."""
    from umap import UMAP

    points: np.ndarray = UMAP(random_state=seed).fit_transform(X)
    return points


_MAPS = {"t-SNE": _tsne, "UMAP": _umap}


@click.command(epilog=example("dcgan-eval describe train.h5 other.h5 --out describe.png"))
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("other", required=False, type=click.Path(path_type=Path))
@layer_option
@click.option(
    "--rows",
    "num_rows",
    type=Number(int, geometry.LEAST_ROWS, 20_000),
    default=2_000,
    show_default=True,
    help="Sample.",
)
@click.option(
    "--map", "map_path", type=click.Path(path_type=Path, dir_okay=False), help="Draw a map of the rows too, PNG."
)
@click.option(
    "--map-by",
    type=click.Choice(list(_MAPS), case_sensitive=False),
    default="t-SNE",
    show_default=True,
    help="How --map places the rows; UMAP needs the package umap-learn.",
)
@out_option("describe.png")
@seed_option
@json_option
def describe(
    store: Path,
    other: Path | None,
    layers: tuple[str, ...],
    num_rows: int,
    map_path: Path | None,
    map_by: str,
    path: Path,
    seed: int,
    as_json: bool,
) -> None:
    """Describe features without a classifier: rank, decay of the spectrum, intrinsic dimension, uniformity.

    STORE is a file that `features --out` wrote. With labels in it (`features` writes those of the data), also how well
    neighbours and clusters agree with them: mean average precision of retrieval by cosine, NMI and ARI of K-means.
    Beside OTHER, features of the same images by another encoder, linear
    CKA and RSA say how alike the two are, and features of two views of the images also have an alignment.
    """
    from ..features.store import FeatureStore
    from ..insight.finding import Finding

    finding_path = checked(path)
    if map_path is not None:
        check_target(map_path, "--map", suffixes=(".png",))
        if map_by == "UMAP":
            check_installed("umap", "--map-by UMAP", extra="umap", distribution="umap-learn")
    stores = [FeatureStore(file) for file in (store, other) if file is not None]
    if layers:
        stores[0] = stores[0].only([name for layer in layers for name in layer.split(",")])
    matrices, labels = _sampled(stores, num_rows, seed)
    measured = _measured(matrices, [store.name, *([other.name] if other else [])], labels, seed)
    pictures = _spectra(matrices, path) | _map(matrices[0], labels, map_path, map_by, seed)
    settings = {"rows": len(matrices[0]), "layers": list(stores[0].layers), "width": matrices[0].shape[1]}
    settings["encoders"] = [s.identity.encoder for s in stores]
    hashes = {name: sha256_of(file) for name, file in (("store", store), ("other", other)) if file is not None}
    notes = [_NO_LABELS] if map_path is not None and labels is None else []
    notes += [_SPREAD] if "cluster_nmi" in measured else []
    finding = Finding("describe", "rank_me", measured, settings, seed, hashes, notes=notes)
    report_finding(finding, finding_path, pictures, _sentence(measured), as_json)


def _sampled(stores: list[FeatureStore], num_rows: int, seed: int) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Return the same random rows of every store, found by the hashes of their images, and their labels if known."""
    from ..seeding import rng

    keys = [store.keys for store in stores]  # hashes ascend
    shared = np.unique(keys[0].sha256) if len(keys) == 1 else np.intersect1d(keys[0].sha256, keys[1].sha256)
    if len(shared) < geometry.LEAST_ROWS and len(keys) == 2:
        raise DcganEvalError(
            "The two stores are not of the same images",
            got=f"{len(shared)} images in common, of {len(keys[0].sha256):,} and {len(keys[1].sha256):,}",
            expected=f"at least {geometry.LEAST_ROWS}",
            remedy="make both with `dcgan-eval features` from the same data",
        )
    chosen = rng(seed, "described rows").permutation(shared)[:num_rows]
    rows = [np.searchsorted(k.sha256, chosen) for k in keys]
    labels = None if keys[0].labels is None else keys[0].labels[rows[0]]
    return [store[r] for store, r in zip(stores, rows, strict=True)], labels


def _measured(matrices: list[np.ndarray], names: list[str], labels: np.ndarray | None, seed: int) -> dict[str, Any]:
    """Return every figure with its interval; against labels where there are two or more."""
    for X, name in zip(matrices, names, strict=True):
        geometry.check_rows(X, name)
    wanted: dict[str, tuple[geometry.Measure, list[np.ndarray]]] = {n: (m, matrices[:1]) for n, m in _ALONE.items()}
    if len(matrices) == 2:
        wanted |= {n + _OTHER: (m, matrices[1:]) for n, m in _ALONE.items()}
        wanted |= {n: (m, matrices) for n, m in _BOTH.items()}
        if matrices[0].shape == matrices[1].shape:
            wanted["alignment"] = (geometry.alignment, matrices)
    found = dict[str, Any]()
    labelled = matrices if labels is not None and len(np.unique(labels)) > 1 else []
    if labels is not None:
        wanted |= {f"retrieval_map{_OTHER * i}": (geometry.retrieval_map, [X, labels]) for i, X in enumerate(labelled)}
    with progress_view() as progress:
        for i, (name, (measure, parts)) in enumerate(wanted.items()):
            progress(name.replace("_", " "), i, len(wanted))
            figure = geometry.with_interval(measure, *parts)
            found |= {name: figure.value, f"{name}_ci95": list(figure.ci95)}
        for i, X in enumerate(labelled):
            progress("clusters", i, len(labelled))
            for name, figure in geometry.cluster_agreement(X, np.asarray(labels), seed).items():
                found |= {name + _OTHER * i: figure.value, f"{name}{_OTHER * i}_ci95": list(figure.ci95)}
        progress("figures", len(wanted), len(wanted))
    return found


def _spectra(matrices: list[np.ndarray], path: Path) -> Pictures:
    """Draw the spectra."""
    from ..report.figures import spectrum_figure

    names = ["store", "other"][: len(matrices)]
    spectrum_figure({name: geometry.spectrum(X) for name, X in zip(names, matrices, strict=True)}, path)
    return {path: ("Eigenvalues of the covariance over their rank, both axes logarithmic", "Spectra")}


def _map(X: np.ndarray, labels: np.ndarray | None, path: Path | None, by: str, seed: int) -> Pictures:
    """Draw a map of the rows, if it is asked for."""
    from ..report.figures import map_figure
    from ..seeding import derive

    if path is None:
        return {}
    map_figure(_MAPS[by](X, derive(seed, "map") % 2**32), labels, path)
    return {path: ("A map of the rows in which near ones are near", f"{by} of the sampled rows")}


def _sentence(measured: dict[str, Any]) -> str:
    """Say what was found, a figure a line."""
    lines = []
    for name in [name for name in measured if not name.endswith("_ci95")]:
        low, high = measured[f"{name}_ci95"]
        lines.append(f"{name.replace('_', ' '):>18}  {measured[name]:9.3f}   {low:.3f} to {high:.3f}")
    return "\n".join(lines)
