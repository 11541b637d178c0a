"""Pictures: what is drawn is what the fit says, and drawing leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse, Rectangle
from sklearn.decomposition import PCA

import latentvars as lv
from latentvars.errors import KindError, NameUnknownError, ShapeError
from latentvars.plots.canvas import PALETTE, colour, marker

FORMS = ("full", "tied", "diag", "spherical")
IRIS = lv.datasets.iris()
QUAKES = lv.datasets.earthquakes()


def mixture(form: str) -> lv.Fit:
    return lv.fit(lv.models.GaussianMixture(3, covariance=form), IRIS.frame, lv.EM(passes=30), progress=False)


@pytest.fixture(scope="module")
def chain() -> lv.Fit:
    """The state of the higher rate comes first, so that an order by rates shows."""
    move = [[0.87, 0.13], [0.07, 0.93]]
    point = {"initial": [0.4, 0.6], "transition": move, "rate": [[26.1], [15.5]]}
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in point.items()}
    return lv.from_point(lv.models.HiddenMarkov(2, lv.emissions.Poisson()), QUAKES.x, values)


def drawn(figure: Figure) -> Figure:
    figure.draw_without_rendering()
    return figure


@pytest.mark.parametrize("form", FORMS)
def test_ellipses_are_one_and_two_standard_deviations_of_the_marginal(form: str) -> None:
    fit = mixture(form)
    axis = lv.plots.components(fit, features=(1, "petal width / cm")).axes[0]
    sklearn = fit.model.to_sklearn(fit.point)  # type: ignore[attr-defined]
    edges = [patch for patch in axis.patches if isinstance(patch, Ellipse) and not patch.get_fill()]
    assert len(edges) == 6
    for position, edge in enumerate(edges):
        k, radius = position // 2, 1 + position % 2
        precision = np.array(sklearn.precisions_ if form == "tied" else sklearn.precisions_[k])
        full = precision if precision.ndim == 2 else np.diag(np.broadcast_to(precision, 4))
        covariance = np.linalg.inv(full)[np.ix_([1, 3], [1, 3])]
        points = edge.get_patch_transform().transform(np.array([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]]))
        away = points - sklearn.means_[k][[1, 3]]
        distance = np.sqrt(np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away))
        np.testing.assert_allclose(distance, radius, rtol=1e-8)


def test_rows_have_the_colour_of_their_most_probable_component() -> None:
    fit = mixture("full")
    axis = drawn(lv.plots.components(fit, names=["a", "b", "c"])).axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == IRIS.features[:2]
    legend = axis.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]
    mode = fit.latent().mode().numpy()
    for k, cloud in enumerate(axis.collections):
        np.testing.assert_array_equal(np.asarray(cloud.get_offsets()), IRIS.x[mode == k][:, :2])
        assert to_hex(cloud.get_facecolor()[0]) == PALETTE[k].lower()  # type: ignore[index]


def test_states_shows_path_means_and_probabilities(chain: lv.Fit) -> None:
    above, below = drawn(lv.plots.states(chain, QUAKES.names, labels=("year", "count"))).axes
    series, means = above.get_lines()
    np.testing.assert_array_equal(series.get_xydata(), np.stack([QUAKES.names, QUAKES.x], 1))
    path, rate = chain.latent().path()[0], chain.point["rate"].flatten()
    np.testing.assert_allclose(means.get_ydata(), rate[path])
    order = rate.argsort()
    smoothed = chain.latent().mean("z")[0]
    outline = np.asarray(below.collections[0].get_paths()[0].vertices)
    heights = [outline[outline[:, 0] == year, 1].max() for year in QUAKES.names]
    np.testing.assert_allclose(heights, smoothed[:, order[0]])
    assert (below.get_xlabel(), above.get_ylabel()) == ("year", "count")
    assert len(above.patches) == 1 + int((path[1:] != path[:-1]).sum())
    legend = above.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["state 1: mean 15.5", "state 0: mean 26.1"]
    first = int((order == path[0]).nonzero())
    assert to_hex(above.patches[0].get_facecolor()) == PALETTE[first].lower()


def test_states_of_a_sequence_among_others(chain: lv.Fit) -> None:
    rows = lv.Rows(QUAKES.x, lengths=[60, 40, 7])
    above = lv.plots.states(chain, data=rows, row=1, names=["low", "high"]).axes[0]
    np.testing.assert_array_equal(above.get_lines()[0].get_ydata(), QUAKES.x[60:100])


def test_neighbours_puts_every_image_in_its_place_and_frames_other_classes() -> None:
    images = np.arange(5 * 6, dtype=float).reshape(5, 6)
    axis = lv.plots.neighbours(images, [0, 3], [[1, 2], [4, 0]], labels=[0, 0, 1, 1, 1], shape=(2, 3)).axes[0]
    page = np.asarray(axis.get_images()[0].get_array())
    for line, row in enumerate([[0, 1, 2], [3, 4, 0]]):
        for image, left in zip(row, (0, 9, 14), strict=True):
            np.testing.assert_array_equal(page[4 * line : 4 * line + 2, left : left + 3], images[image].reshape(2, 3))
    frames = [patch.get_xy() for patch in axis.patches if isinstance(patch, Rectangle)]
    assert frames == [(13.5, -0.5), (13.5, 3.5)]


def test_scatter_of_a_wide_embedding_is_its_principal_components() -> None:
    axis = lv.plots.scatter(IRIS.x, IRIS.target, names=IRIS.classes).axes[0]
    found = np.concatenate([np.asarray(cloud.get_offsets()) for cloud in axis.collections])
    pca = PCA(2).fit(IRIS.x)
    np.testing.assert_allclose(np.abs(found), np.abs(pca.transform(IRIS.x)), atol=1e-10)
    assert axis.get_xlabel() == f"principal component 1 ({pca.explained_variance_ratio_[0]:.0%} of the variance)"


def test_scatter_of_two_columns_keeps_them_and_their_names() -> None:
    axis = lv.plots.scatter(IRIS.frame[["petal length / cm", "sepal width / cm"]]).axes[0]
    np.testing.assert_array_equal(np.asarray(axis.collections[0].get_offsets()), IRIS.x[:, [2, 1]])
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("petal length / cm", "sepal width / cm")


def test_no_two_of_twenty_groups_look_alike() -> None:
    assert len({(colour(k), marker(k)) for k in range(20)}) == 20


def test_all_draw_into_a_given_axis(chain: lv.Fit) -> None:
    figure = Figure(figsize=(12, 10), layout="constrained")
    axes = figure.subplots(2, 2).flatten()
    assert lv.plots.components(mixture("diag"), axis=axes[0]) is figure
    assert lv.plots.states(chain, axis=axes[1]) is figure
    assert lv.plots.scatter(IRIS.x, axis=axes[2]) is figure
    assert lv.plots.neighbours(IRIS.x, [0], [[1]], shape=(2, 2), axis=axes[3]) is figure
    assert all(axis.has_data() for axis in drawn(figure).axes)


def test_what_cannot_be_drawn_is_refused(chain: lv.Fit) -> None:
    fit = mixture("full")
    with pytest.raises(KindError, match="loc"):
        lv.plots.components(chain)
    with pytest.raises(NameUnknownError, match="petal depth"):
        lv.plots.components(fit, features=(0, "petal depth"))
    with pytest.raises(ShapeError, match="2 names"):
        lv.plots.components(fit, names=["a", "b"])
    with pytest.raises(KindError, match="HiddenMarkov"):
        lv.plots.states(fit)
    with pytest.raises(ShapeError, match="times"):
        lv.plots.states(chain, range(3))
    with pytest.raises(NameUnknownError, match="row 1"):
        lv.plots.states(chain, row=1)
    with pytest.raises(ShapeError, match="found"):
        lv.plots.neighbours(IRIS.x, [0, 1], [[1]], shape=(2, 2))
    with pytest.raises(ShapeError, match="images"):
        lv.plots.neighbours(IRIS.x[:, :3], [0], [[1]])
    with pytest.raises(ShapeError, match="labels"):
        lv.plots.scatter(IRIS.x, [0, 1])
    with pytest.raises(ShapeError, match="one coordinate"):
        lv.plots.scatter(IRIS.x[:, :1])


def test_matplotlib_is_imported_with_the_first_picture_and_pyplot_never() -> None:
    code = (
        "import sys, latentvars as lv; assert 'matplotlib' not in sys.modules; "
        "lv.plots.scatter([[0.0, 1.0], [1.0, 0.0]]).canvas.draw(); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_pictures_leave_torch_alone(chain: lv.Fit) -> None:
    before = torch.get_rng_state()
    lv.plots.states(chain)
    assert torch.equal(before, torch.get_rng_state())
