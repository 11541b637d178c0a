"""A saved fit comes back equal to the bit in a fresh process; a damaged, foreign or newer one is refused."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import user_models
import xarray as xr

import latentvars as lv
from latentvars.errors import KindError, ModelError, ShapeError, StorageError
from latentvars.inference.fits.optima import Optima
from latentvars.loading import registry
from latentvars.rows import Rows
from latentvars.storage import Undescribed, class_name, decode, decode_rows, encode, encode_rows

NOISE = np.random.default_rng(4)
PLANE = NOISE.normal(size=(30, 2)) + 3.0 * (np.arange(30) % 2)[:, None]
READ = """
import hashlib, json, sys
import torch
torch.set_num_threads(1)
import latentvars as lv, user_models
from test_storage import digests
own = {"factors": user_models.FactorAnalysis(2, 1), "groups": user_models.Hierarchy(3)}
print(json.dumps({name: digests(lv.load(sys.argv[1] + "/" + name, own.get(name))) for name in sys.argv[2:]}))
"""


def mixture() -> lv.Fit:
    model = lv.models.GaussianMixture(2, priors={"weights": dist.Dirichlet(torch.tensor([2.5, 2.5]))})
    rows = Rows(pd.DataFrame(PLANE, columns=["height", "width"], index=[f"plant {k}" for k in range(30)]))
    return lv.fit(model, rows, lv.EM(passes=15), seed=3, progress=False)


def mean_field() -> lv.Fit:
    model = lv.models.GaussianMixture(2, covariance="diag")
    return lv.fit(model, Rows(PLANE, weights=1 + np.arange(30) % 3), lv.SVI(passes=20), progress=False)


def chain() -> lv.Fit:
    emission = lv.emissions.Product(lv.emissions.Gaussian(1, "diag"), lv.emissions.Poisson(1))
    x = np.column_stack([NOISE.normal(size=30), NOISE.poisson(4.0, size=30)])
    model = lv.models.HiddenMarkov(2, emission, initial="stationary")
    return lv.fit(model, Rows(x, lengths=[12, 8, 10]), lv.EM(passes=5), progress=False)


def network() -> lv.Fit:
    x = (NOISE.random((40, 6)) < 0.4).astype(float)
    model = lv.models.VAE.mlp(6, 2, (8,), activation="tanh")
    return lv.fit(model, x, lv.SVI(passes=5, batch_size=16), progress=False)


def factors() -> lv.Fit:
    return lv.fit(user_models.FactorAnalysis(2, 1), PLANE, lv.SVI(passes=5, guide=lv.FullRank()), progress=False)


def groups() -> lv.Fit:
    data = {"y": PLANE[:, 0], "group": np.arange(30) % 3}
    return lv.fit(user_models.Hierarchy(3), data, lv.SVI(passes=5, guide=lv.LowRank(2)), progress=False)


CASES: dict[str, Callable[[], lv.Fit]] = {f.__name__: f for f in (mixture, mean_field, chain, network, factors, groups)}
made = functools.cache(lambda name: CASES[name]())


def digests(fit: lv.Fit) -> dict[str, str]:
    """One digest for everything that a reader can ask of a fit."""
    values, log_q = fit.globals.draws(7, 5)
    latent = fit.latent()
    found = {
        **{f"point {name}": value for name, value in fit.point.items()},
        **{f"draws {name}": value for name, value in values.items()},
        **{f"mean {name}": latent.mean(name) for name in latent.sites},
        **{f"sample {name}": latent.sample(name, 2, seed=1) for name in latent.sites},
        "log q": torch.zeros(()) if log_q is None else log_q,
        "rows": fit.row_log_likelihood,
        "rows again": fit.score_rows(fit.rows.subset(slice(0, 30))),
        "history": torch.from_numpy(fit.history),
    }
    texts = {name: hashlib.sha256(value.detach().numpy().tobytes()).hexdigest() for name, value in found.items()}
    shapes = {name: f"{value.dtype} {list(value.shape)}" for name, value in found.items()}
    tree = fit.to_datatree(3, seed=2)
    arrays = {f"{group.path}/{name}": v.values for group in tree.subtree for name, v in group.data_vars.items()}
    trees = {name: hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest() for name, value in arrays.items()}
    facts = f"{fit.status} {fit.seed} {fit.log_likelihood!r} {fit.bic!r} {list(fit.rows.names)} {fit.schema} {fit}"
    return texts | {f"shape of {name}": text for name, text in shapes.items()} | trees | {"facts": facts}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every case saved in it, to be read only."""
    folder = tmp_path_factory.mktemp("shelf")
    for name in CASES:
        made(name).save(folder / name, datatree=name == "mixture")
    return folder


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A saved fit to be damaged."""
    return made("mixture").save(tmp_path / "fit", datatree=False)


def test_a_fresh_process_reads_the_same_bits(shelf: Path) -> None:
    here = Path(__file__).resolve().parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", READ, str(shelf), *CASES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout.splitlines()[-1])
    for name in CASES:
        assert read[name] == digests(made(name)), name


def test_settings_come_back(shelf: Path) -> None:
    for name in ("mixture", "mean_field", "chain", "network"):
        fit, read = made(name), lv.load(shelf / name)
        assert read.algorithm == fit.algorithm
        assert repr(read.model) == repr(fit.model) and type(read.model) is type(fit.model)
        assert read.rows.digest() == fit.rows.digest() and read.rows.features == fit.rows.features
        assert list(read.rows.names) == list(fit.rows.names)
        assert read.state is None and read.exact == fit.exact and read.seconds == fit.seconds
    prior = lv.load(shelf / "mixture").model.priors["weights"]
    assert torch.equal(prior.concentration, torch.tensor([2.5, 2.5]))


def test_the_folder_holds_json_safetensors_and_netcdf(shelf: Path) -> None:
    assert {file.name for file in (shelf / "mixture").iterdir()} == {"fit.json", "tensors.safetensors", "posterior.nc"}
    assert {file.name for file in (shelf / "chain").iterdir()} == {"fit.json", "tensors.safetensors"}
    with xr.open_datatree(shelf / "mixture" / "posterior.nc", engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), made("mixture").to_datatree())


def test_a_given_tree_is_stored(tmp_path: Path) -> None:
    tree = made("mixture").to_datatree(3)
    path = made("mixture").save(tmp_path / "fit", datatree=tree)
    with xr.open_datatree(path / "posterior.nc", engine="h5netcdf") as read:
        xr.testing.assert_identical(read.load(), tree)


def test_where_the_starts_ended_comes_back(tmp_path: Path) -> None:
    fit = lv.fit(lv.models.GaussianMixture(2), PLANE, lv.EM(passes=4, restarts=3), progress=False)
    fit.save(tmp_path / "fit", datatree=False)
    assert lv.load(tmp_path / "fit").optima == fit.optima is not None


def test_a_loaded_fit_can_be_resumed(shelf: Path) -> None:
    fit, read = made("mixture"), lv.load(shelf / "mixture")
    longer = [lv.fit(f.model, f.rows, lv.EM(passes=25), resume=f, progress=False) for f in (fit, read)]
    assert len(longer[0].history) > len(fit.history)
    np.testing.assert_array_equal(longer[0].history, longer[1].history)


def test_networks_keep_their_modes_and_frozen_weights(tmp_path: Path) -> None:
    fit = made("network")
    read = lv.load(fit.save(tmp_path / "one", datatree=False))
    assert not any(part.training for part in read.model.encoder.modules())
    assert read.free_parameters == fit.free_parameters
    read.model.decoder.layers[0].weight.requires_grad_(False)
    read.model.encoder.train()
    again = lv.load(read.save(tmp_path / "two", datatree=False))
    assert not again.model.decoder.layers[0].weight.requires_grad
    assert again.model.decoder.layers[2].weight.requires_grad
    assert all(part.training for part in again.model.encoder.modules())
    assert not any(part.training for part in again.model.decoder.modules())


def test_saving_and_loading_leave_the_generator_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    lv.load(made("mean_field").save(tmp_path / "fit"))
    assert torch.equal(before, torch.get_rng_state())


# What is the user's own has to be passed


def test_an_own_model_has_to_be_passed_and_is_copied(shelf: Path) -> None:
    with pytest.raises(StorageError, match=r"user_models\.FactorAnalysis") as error:
        lv.load(shelf / "factors")
    assert "model=FactorAnalysis(" in error.value.remedy
    own = user_models.FactorAnalysis(2, 1)
    before = own.encoder.line.weight.detach().clone()
    read = lv.load(shelf / "factors", own)
    assert torch.equal(own.encoder.line.weight, before)
    assert torch.equal(read.model.encoder.line.weight, made("factors").model.encoder.line.weight)
    assert not torch.equal(read.model.encoder.line.weight, before)


def test_another_model_is_refused(shelf: Path) -> None:
    with pytest.raises(ModelError, match="class Hierarchy"):
        lv.load(shelf / "factors", user_models.Hierarchy(3))
    with pytest.raises(ShapeError, match=r"encoder\.line\.weight"):
        lv.load(shelf / "factors", user_models.FactorAnalysis(2, 2))
    with pytest.raises(ModelError, match=r"'theta': \[4\]"):
        lv.load(shelf / "groups", user_models.Hierarchy(4))


class Guide(torch.nn.Module):
    """q(mu, tau, theta, sigma) of a hierarchy of three groups."""

    def __init__(self) -> None:
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(6, dtype=torch.float64))

    def forward(self) -> None:
        pyro.sample("mu", dist.Normal(self.loc[0], 1.0))
        pyro.sample("tau", dist.LogNormal(self.loc[1], 1.0))
        pyro.sample("theta", dist.Normal(self.loc[2:5], 1.0).to_event(1))
        pyro.sample("sigma", dist.LogNormal(self.loc[5], 1.0))


def test_an_own_guide_has_to_be_passed(tmp_path: Path) -> None:
    settings = lv.SVI(passes=5, guide=lv.Custom(Guide()))
    fit = lv.fit(user_models.Hierarchy(3), made("groups").rows, settings, progress=False)
    path = fit.save(tmp_path / "fit", datatree=False)
    with pytest.raises(StorageError, match="guide for the globals is your own") as error:
        lv.load(path, user_models.Hierarchy(3))
    assert "guide=lv.Custom(" in error.value.remedy
    fresh = Guide()
    read = lv.load(path, user_models.Hierarchy(3), guide=lv.Custom(fresh))
    assert not fresh.loc.any()
    assert torch.equal(read.globals.draws(3, 1)[0]["theta"], fit.globals.draws(3, 1)[0]["theta"])
    assert torch.equal(read.point["mu"], fit.point["mu"])
    with pytest.raises(ShapeError, match="guide whose parameters"):
        lv.load(path, user_models.Hierarchy(3), guide=lv.MeanField())


def test_own_functions_in_the_settings_are_left_out(tmp_path: Path) -> None:
    settings = lv.SVI(passes=5, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-3))
    fit = lv.fit(lv.models.GaussianMixture(2), PLANE, settings, progress=False)
    path = fit.save(tmp_path / "fit", datatree=False)
    read = lv.load(path)
    assert read.algorithm is None and str(read).startswith("Fit of GaussianMixture: stopped")
    assert torch.equal(read.globals.draws(3, 1)[0]["loc"], fit.globals.draws(3, 1)[0]["loc"])
    assert lv.load(path, algorithm=settings).algorithm is settings


def test_own_networks_in_a_vae_have_to_be_passed(tmp_path: Path) -> None:
    def model() -> lv.models.VAE:
        likelihood = lv.models.VAE.mlp(6, 2, (8,)).likelihood
        return lv.models.VAE(torch.nn.Linear(6, 4), torch.nn.Linear(2, 6), 2, likelihood)

    fit = lv.fit(model(), made("network").rows, lv.SVI(passes=2), progress=False)
    path = fit.save(tmp_path / "fit", datatree=False)
    with pytest.raises(StorageError, match=r"latentvars\.models\.VAE"):
        lv.load(path)
    assert torch.equal(lv.load(path, model()).latent().mean("z"), fit.latent().mean("z"))


def test_rows_can_be_left_out(tmp_path: Path) -> None:
    fit = made("chain")
    path = fit.save(tmp_path / "fit", data=False, datatree=False)
    document = json.loads((path / "fit.json").read_text())
    assert document["data"] is None
    with pytest.raises(StorageError, match="saved without its 3 rows"):
        lv.load(path)
    with pytest.raises(StorageError, match="digest differs"):
        lv.load(path, data=fit.rows.subset([0, 1]))
    assert digests(lv.load(path, data=fit.rows)) == digests(fit)


# What is wrong on the disk is said


def reseal(path: Path, **changes: object) -> None:
    """Change the document and make its seal right again, as a newer version would write it."""
    document = {**json.loads((path / "fit.json").read_text()), **changes}
    del document["sha256"]
    seal = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    (path / "fit.json").write_text(json.dumps({**document, "sha256": seal}))


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "an altered tensor": (lambda p: flip(p / "tensors.safetensors", -5), "tensors.safetensors was altered"),
    "truncated tensors": (lambda p: os.truncate(p / "tensors.safetensors", 100), "has 100 bytes of"),
    "missing tensors": (lambda p: (p / "tensors.safetensors").unlink(), "tensors.safetensors is missing"),
    "a truncated document": (lambda p: os.truncate(p / "fit.json", 200), "not complete JSON"),
    "an altered document": (
        lambda p: (p / "fit.json").write_text((p / "fit.json").read_text().replace('"seed": 3', '"seed": 4')),
        "fit.json was altered",
    ),
    "bytes that are no text": (lambda p: (p / "fit.json").write_bytes(b"\xff\xfe\x00"), "not complete JSON"),
    "another document": (lambda p: (p / "fit.json").write_text('{"version": 1}'), "not that of a fit"),
    "a list": (lambda p: (p / "fit.json").write_text("[1]"), "not that of a fit"),
    "a newer version": (lambda p: reseal(p, version=2), "format version 2, written by latentvars"),
    "no version": (lambda p: reseal(p, version=None), "format version None"),
    "no document": (lambda p: (p / "fit.json").unlink(), "has no fit.json"),
    "other rows": (lambda p: reseal(p, data_digest="0" * 64), "rows whose digest is another"),
    "a strange description": (lambda p: reseal(p, optima={"kind": "?"}), "the description"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_refused_with_a_remedy(saved: Path, kind: str) -> None:
    lv.load(saved)
    damage, message = DAMAGE[kind]
    damage(saved)
    with pytest.raises(StorageError, match=message) as error:
        lv.load(saved)
    assert error.value.needed and error.value.remedy and isinstance(error.value, OSError)


def test_nothing_and_a_file_are_refused(saved: Path) -> None:
    with pytest.raises(StorageError, match="no such folder"):
        lv.load(saved / "elsewhere")
    with pytest.raises(StorageError, match="pass the folder"):
        lv.load(saved / "fit.json")


@pytest.mark.parametrize(
    "name", ["posix.system", "os.system", "builtins.eval", "subprocess.Popen", "torch.load", "latentvars.load"]
)
def test_a_file_cannot_name_code_to_run(saved: Path, tmp_path: Path, name: str) -> None:
    """The description is taken from a registry; nothing is imported by its name."""
    trap = tmp_path / "sprung"
    call = {"kind": "partial", "of": name, "with": {"command": f"touch {trap}"}}
    model = {"class": name, "text": "", "settings": {"kind": "object", "class": name, "fields": {}}}
    for settings in (call, model["settings"], {"kind": "config", "class": name, "config": {}}):
        reseal(saved, model={**model, "settings": settings})
        with pytest.raises(StorageError, match="cannot be rebuilt"):
            lv.load(saved)
    assert not trap.exists()


# Written whole or not at all


def test_an_existing_path_is_kept_unless_asked(saved: Path) -> None:
    before = (saved / "fit.json").read_bytes()
    with pytest.raises(StorageError, match="exists"):
        made("chain").save(saved, datatree=False)
    assert (saved / "fit.json").read_bytes() == before
    made("chain").save(saved, datatree=False, overwrite=True)
    assert digests(lv.load(saved)) == digests(made("chain"))
    assert [file.name for file in saved.parent.iterdir()] == ["fit"]


def test_only_a_fit_is_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years of work")
    for target in (folder, folder / "chapter.txt"):
        with pytest.raises(StorageError, match="is no saved fit"):
            made("mixture").save(target, datatree=False, overwrite=True)
    assert (folder / "chapter.txt").read_text() == "years of work"


def test_a_damaged_fit_can_be_overwritten(saved: Path) -> None:
    os.truncate(saved / "fit.json", 100)
    made("mixture").save(saved, datatree=False, overwrite=True)
    assert lv.load(saved).seed == 3


def test_a_missing_parent_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="mkdir -p"):
        made("mixture").save(tmp_path / "no" / "where")


@pytest.mark.parametrize("failing", ["safetensors.torch.save_file", "os.fsync", "os.rename", "json.dumps"])
@pytest.mark.parametrize("reason", [OSError("no space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(
    saved: Path, monkeypatch: pytest.MonkeyPatch, failing: str, reason: BaseException
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise reason

    if failing == "os.fsync":  # one that is not supported is no failure
        reason = KeyboardInterrupt()
    before = (saved / "fit.json").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(failing, fail)
        for path, overwrite in ((saved, True), (saved.parent / "new", False)):
            with pytest.raises(type(reason)):
                made("chain").save(path, datatree=False, overwrite=overwrite)
    assert [file.name for file in saved.parent.iterdir()] == ["fit"]
    assert (saved / "fit.json").read_bytes() == before and lv.load(saved).seed == 3


def test_the_old_fit_returns_if_the_new_one_cannot_take_its_place(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = os.rename

    def second_fails(source: Path, target: Path) -> None:
        if Path(source).name.endswith(".partial"):
            raise OSError("taken away")
        rename(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", second_fails)
        with pytest.raises(OSError, match="taken away"):
            made("chain").save(saved, datatree=False, overwrite=True)
    assert [file.name for file in saved.parent.iterdir()] == ["fit"]
    assert digests(lv.load(saved)) == digests(made("mixture"))


# Descriptions


LAWS: list[dist.TorchDistribution] = [
    dist.Normal(0.1, 1.3),
    dist.Normal(torch.zeros(2, 3), 1.0).to_event(1),
    dist.LogNormal(0.0, 0.5).expand([3]).to_event(1),
    dist.Gamma(2.0, torch.tensor([3.0, 0.7], dtype=torch.float64)),
    dist.InverseGamma(2.0, 3.0),
    dist.HalfNormal(2.0),
    dist.HalfCauchy(0.3),
    dist.StudentT(3.0, 0.1, 2.0),
    dist.Beta(2.0, 0.3),
    dist.Uniform(-1.0, 0.7),
    dist.Dirichlet(torch.tensor([0.3, 0.3, 1.7])),
    dist.LKJCholesky(3, torch.tensor(1.7)),
    dist.MultivariateNormal(torch.zeros(2), torch.tensor([[2.0, 0.3], [0.3, 1.0]])),
    dist.MultivariateNormal(torch.zeros(2), precision_matrix=torch.tensor([[2.0, 0.3], [0.3, 1.0]])),
    dist.Categorical(torch.tensor([0.2, 0.3, 0.5])),
    dist.Bernoulli(logits=torch.tensor([0.3, -2.0])),
]


@pytest.mark.parametrize("law", LAWS, ids=[f"{type(law).__name__} {k}" for k, law in enumerate(LAWS)])
def test_priors_come_back_to_the_bit(law: dist.TorchDistribution) -> None:
    tensors: dict[str, torch.Tensor] = {}
    text = json.loads(json.dumps(encode(law, tensors, "prior")))
    made_again = decode(text, tensors, registry())
    torch.manual_seed(0)
    value = law.sample((5,))
    assert torch.equal(law.log_prob(value), made_again.log_prob(value))
    assert (law.batch_shape, law.event_shape) == (made_again.batch_shape, made_again.event_shape)


def test_settings_of_every_kind_come_back() -> None:
    settings = [
        lv.EM(stop=lv.AnyOf((lv.Tolerance(1e-7), lv.TimeLimit(float("inf"))))),
        lv.SVI(optimizer=functools.partial(torch.optim.RMSprop, lr=0.1 + 0.2), guide=lv.Delta(), stop=lv.Never()),
        (1, -0.0, 1e-320, "text", None, True, [2, (3,)], {"a": torch.float32}),
        np.float64(0.1),
    ]
    tensors: dict[str, torch.Tensor] = {}
    read = [decode(json.loads(json.dumps(encode(value, tensors, "s"))), tensors, registry()) for value in settings]
    assert read[0] == settings[0] and read[2:] == settings[2:]
    assert read[1].optimizer.func is torch.optim.RMSprop and read[1].optimizer.keywords == {"lr": 0.1 + 0.2}
    assert read[1].guide == lv.Delta() and np.signbit(read[2][1])


@pytest.mark.parametrize("value", [lambda: 0, object(), {1: 2}, dist.TransformedDistribution(dist.Normal(0, 1), [])])
def test_what_cannot_be_described_is_said(value: object) -> None:
    with pytest.raises(Undescribed, match="of your own"):
        encode({"inner": value}, {}, "settings")


def test_names_are_public() -> None:
    assert class_name(lv.models.GaussianMixture) == "latentvars.models.GaussianMixture"
    assert class_name(type(lv.emissions.Gaussian(2))) == "latentvars.models.emissions.FullGaussian"
    assert class_name(lv.SVI) == "latentvars.inference.SVI"
    assert class_name(lv.NUTS) == "latentvars.inference.NUTS"
    assert class_name(Optima) == "latentvars.inference.Optima"


@pytest.mark.parametrize(
    ("value", "room"),
    [
        (lv.NUTS(draws=7), "sampling"),
        (lv.Laplace(), "density"),
        (lv.Pathfinder(), "density"),
        (lv.Amortised(), "amortised"),
    ],
    ids=["NUTS", "Laplace", "Pathfinder", "Amortised"],
)
def test_names_of_inner_rooms_are_read(value: object, room: str) -> None:
    written = encode(value, {}, "settings")
    assert written["class"] == f"latentvars.inference.{type(value).__name__}"
    written["class"] = f"latentvars.inference.{room}.{type(value).__name__}"
    assert decode(written, {}, registry()) == value


@pytest.mark.parametrize(
    "names",
    [
        range(3),
        ["a", "b", "ü\ud800"],
        [1, "1", None],
        [0.1, float("inf"), -0.0],
        [("a", 1), ("b", 2.5), ("c", None)],
        [np.int64(3), np.str_("x"), True],
        pd.date_range("2020-01-01", periods=3, freq="ns"),
        [datetime.date(2020, 1, 2), datetime.datetime(2020, 1, 2, 3), np.datetime64("2020-01-03", "D")],
    ],
)
def test_names_of_rows_come_back(names: list) -> None:
    rows, tensors = Rows(np.array([1, 2, 3]), names=names), {}
    text = json.loads(json.dumps(encode_rows(rows, tensors)))
    read = decode_rows(text, tensors, rows.digest())
    assert list(read.names) == list(rows.names)
    assert read["x"].dtype == torch.int64


def test_missing_entries_come_back() -> None:
    rows, tensors = Rows({"a": [1.0, np.nan], "b": [[1, 2], [3, 4]]}), {}
    read = decode_rows(encode_rows(rows, tensors), tensors, rows.digest())
    assert torch.equal(read.observed["a"], rows.observed["a"]) and read.schema == rows.schema


def test_other_names_are_refused() -> None:
    with pytest.raises(KindError, match="row name"):
        encode_rows(Rows([1.0], names=[frozenset()]), {})
