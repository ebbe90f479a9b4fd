"""RFWR and LWPR as regressors: scikit-learn's checks, facts of the algorithms, bad input, files."""

from __future__ import annotations

import json
import pickle
import runpy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from backroads.contrib.streams import LWPRRegressor, RFWRRegressor
from backroads.contrib.streams.base import FieldRegressor
from backroads.contrib.streams.fields import Array
from backroads.errors import ConfigError, StateError

BOTH = pytest.mark.parametrize("kind", [RFWRRegressor, LWPRRegressor])


@parametrize_with_checks([RFWRRegressor(), LWPRRegressor(), RFWRRegressor(ridge=1e-3, meta=True)])
def test_the_interface_is_that_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


def stream(N: int, n: int = 2, noise: float = 0.1, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (N, n))
    return X, np.sin(4 * X[:, 0]) + 0.5 * X[:, -1] ** 2 + noise * rng.normal(size=N)


def state(model: FieldRegressor[Any]) -> dict[str, Any]:
    return {f"{k}.{name}": a.copy() for k, f in enumerate(model.fields_) for name, a in f.arrays().items()}


def assert_same(one: FieldRegressor[Any], other: FieldRegressor[Any]) -> None:
    """All numbers, bit for bit."""
    first, second = state(one), state(other)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


# --- facts ---


@BOTH
@pytest.mark.parametrize("settings", [{}, {"diag_only": True}, {"meta": True}, {"kernel": "bisquare"}], ids=str)
def test_no_field_depends_on_another(kind: type[FieldRegressor[Any]], settings: dict[str, Any]) -> None:
    """Some fields are deleted: the others learn the same numbers, bit for bit."""
    X, y = stream(900, n=3)
    whole = kind(init_D=4.0, init_lambda=0.99, **settings).fit(X[:300], y[:300])
    part = pickle.loads(pickle.dumps(whole))
    kept = np.arange(len(whole.fields_[0])) % 3 > 0
    part.fields_[0] = part.fields_[0].take(kept)
    for model in (whole, part):
        model.set_params(w_gen=1e-300, w_prune=2.0)  # none is added or removed
        if settings.get("kernel") == "bisquare":
            model.set_params(max_rf=1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            model.partial_fit(X[300:], y[300:])
    assert 3 < kept.sum() < len(kept) == len(whole.fields_[0])
    for name, array in part.fields_[0].arrays().items():
        np.testing.assert_array_equal(array, whole.fields_[0].arrays()[name][kept], err_msg=name)
    moved = np.abs(part.fields_[0].D - 4 * np.eye(3)).max((1, 2))
    assert (moved > 0).sum() > 3  # the metric was learned, too


def test_rotated_inputs_change_no_prediction_where_the_metric_is_fixed_and_round() -> None:
    X, y = stream(400, n=3)
    Q, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))
    settings: dict[str, Any] = {"init_D": 9.0, "init_P": 1e4}
    one, other = (RFWRRegressor(update_D=False, **settings).fit(Z[:350], y[:350]) for Z in (X, X @ Q))
    np.testing.assert_allclose(one.predict(X[350:]), other.predict(X[350:] @ Q), rtol=0, atol=1e-9)
    one, other = (RFWRRegressor(**settings).fit(Z[:350], y[:350]) for Z in (X, X @ Q))
    assert np.abs(one.predict(X[350:]) - other.predict(X[350:] @ Q)).max() > 1e-6  # triangles do not rotate


@pytest.mark.slow
@BOTH
def test_of_a_line_the_field_keeps_its_size_and_of_a_wave_it_shrinks(kind: type[FieldRegressor[Any]]) -> None:
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (4000, 1))
    noise = 0.1 * rng.normal(size=4000)
    line = kind(penalty=1e-7).fit(X, 2 * X[:, 0] + noise).fields_[0]
    weight = line.sum_w.reshape(len(line), -1)[:, 0]
    error = line.sum_e_cv2.reshape(len(line), -1)[:, -1]
    inner = np.abs(line.c[:, 0]) < 0.8
    np.testing.assert_allclose((error / weight)[inner], 0.01, rtol=0.12)  # the variance of the noise
    np.testing.assert_allclose(line.D[inner].ravel(), 25, rtol=0.1)
    wave = kind(penalty=1e-7).fit(X, np.sin(12 * X[:, 0]) + noise).fields_[0]
    assert wave.D[wave.trustworthy].min() > 40


@BOTH
def test_both_learn_a_curved_surface_to_the_noise(kind: type[FieldRegressor[Any]]) -> None:
    X, y = stream(3000, noise=0.05)
    new, true = stream(500, noise=0.0, seed=1)
    model = kind(init_D=25.0).fit(X, y)
    assert np.mean((model.predict(new) - true) ** 2) < 0.02 * true.var()
    assert model.activation(new).min() > 0.05


@pytest.mark.slow
@BOTH
def test_the_cross_function_is_learned_as_by_the_public_code(
    kind: type[FieldRegressor[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """20,000 samples: nMSE 0.020, 0.023, 0.021 with 58, 56, 54 fields were measured with that of LWPR."""
    benchmarks = Path(__file__).parents[3] / "benchmarks"
    monkeypatch.syspath_prepend(benchmarks)  # they import one another
    script = runpy.run_path(str(benchmarks / "cross_function.py"))
    X, y = script["samples"]("stream", 20_000, 0)
    model = kind(init_D=50.0, init_alpha=250.0, w_gen=0.2, diag_only=kind is LWPRRegressor).fit(X, y)
    points = script["grid"]()
    true = script["cross"](points)
    assert true.var() == pytest.approx(0.14209, abs=5e-6)
    assert 0.015 < np.mean((model.predict(points) - true) ** 2) / true.var() < 0.03
    assert 50 <= len(model.fields_[0]) <= 62


def test_each_output_of_lwpr_has_fields_as_if_it_were_alone() -> None:
    X, y = stream(300)
    Y = np.stack([y, np.cos(3 * X[:, 1])], axis=1)
    both = LWPRRegressor().fit(X, Y)
    value, std = both.predict(X, return_std=True)
    for k in range(2):
        alone = LWPRRegressor().fit(X, Y[:, k])
        for name, array in alone.fields_[0].arrays().items():
            np.testing.assert_array_equal(array, both.fields_[k].arrays()[name], err_msg=name)
        np.testing.assert_allclose(alone.predict(X), value[:, k], rtol=1e-12)
        np.testing.assert_allclose(alone.predict(X, return_std=True)[1], std[:, k], rtol=1e-9)


def test_outputs_of_rfwr_share_fields_and_a_copied_output_changes_nothing() -> None:
    """The metric follows the mean over outputs, so two equal ones are as one."""
    X, y = stream(300)
    one, two = (RFWRRegressor(init_P=1e4).fit(X, Y) for Y in (y, np.stack([y, y], axis=1)))
    # Up to the 1e-10 that is added to E_cv, in whatever units the targets are.
    np.testing.assert_allclose(two.predict(X), np.stack([one.predict(X)] * 2, axis=1), rtol=1e-5)
    np.testing.assert_allclose(two.fields_[0].D, one.fields_[0].D, rtol=1e-5)
    assert np.abs(one.fields_[0].D - 25 * np.eye(2)).max() > 0.1


def test_a_direction_is_added_only_where_it_helps() -> None:
    """A target along one direction needs no third one; one that PLS finds in three steps gets it."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 4)) * np.array([1.0, 0.5, 0.25, 0.1])
    settings: dict[str, Any] = {"init_D": 0.05, "update_D": False, "init_lambda": 0.995}
    noise = 1e-3 * rng.normal(size=3000)
    simple = LWPRRegressor(**settings).fit(X, X[:, 0] + 100 * noise)
    assert (simple.fields_[0].directions == 2).all()
    y = X.sum(1)
    model = LWPRRegressor(**settings).fit(X, y + noise)
    assert model.fields_[0].directions.max() > 2
    assert np.mean((model.predict(X[-500:]) - y[-500:]) ** 2) < 0.01 * y.var()


@BOTH
@pytest.mark.parametrize("kernel", ["gaussian", "bisquare"])
def test_the_jacobian_is_that_of_the_prediction(kind: type[FieldRegressor[Any]], kernel: str) -> None:
    X, y = stream(500)
    Y = np.stack([y, X[:, 0] * X[:, 1]], axis=1)
    model = kind(kernel=kernel, init_D=12.0, norm_in=[2.0, 0.5], norm_out=[3.0, 0.7], cutoff=0.0).fit(X, Y)
    points = np.random.default_rng(3).uniform(-0.7, 0.7, (20, 2))
    d = 1e-6
    expected = np.stack([(model.predict(points + e) - model.predict(points - e)) / (2 * d) for e in d * np.eye(2)], -1)
    np.testing.assert_allclose(model.jacobian(points), expected, rtol=1e-5, atol=1e-5)


@BOTH
def test_norms_are_units(kind: type[FieldRegressor[Any]]) -> None:
    """Powers of 2, by which nothing is rounded."""
    X, y = stream(300)
    plain, scaled = kind().fit(X, y), kind(norm_in=[4.0, 0.5], norm_out=8.0).fit(X * [4.0, 0.5], 8 * y)
    assert_same(plain, scaled)
    np.testing.assert_array_equal(8 * plain.predict(X), scaled.predict(X * [4.0, 0.5]))
    if kind is LWPRRegressor:
        stds = plain.predict(X, return_std=True)[1], scaled.predict(X * [4.0, 0.5], return_std=True)[1]
        np.testing.assert_allclose(8 * stds[0], stds[1])


def test_the_confidence_of_one_wide_field_is_that_of_a_regression() -> None:
    """The error of a prediction, sigma sqrt(1 + s^2 / sum s^2), where the weights are 1."""
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (4000, 1))
    model = LWPRRegressor(init_D=1e-6, update_D=False).fit(X, 2 * X[:, 0] + 0.2 * rng.normal(size=4000))
    points = np.array([[0.0], [1.0], [20.0]])
    _, std = model.predict(points, return_std=True)
    remembered = 1 / (1 - 0.999)  # samples, by forgetting
    np.testing.assert_allclose(std, 0.2 * np.sqrt(1 + points[:, 0] ** 2 / (remembered / 3)), rtol=0.1)
    assert std[2] > 1.2 * std[0]


def test_of_two_fields_that_overlap_the_narrower_is_removed() -> None:
    X, y = stream(50, n=1)
    for kind in (RFWRRegressor, LWPRRegressor):
        model = kind(init_D=1.0, w_gen=0.2, w_prune=0.9, update_D=False).fit(X[:10], y[:10])
        fields = model.fields_[0]
        twin = fields.take([0])
        twin.D[:] = 1.2
        model.fields_[0] = fields.join(twin)
        number = len(model.fields_[0])
        model.partial_fit(fields.c[:1], y[:1])
        assert len(model.fields_[0]) == number - 1
        assert model.n_pruned_ == [1]
        assert (model.fields_[0].D == 1.0).all()


@BOTH
def test_the_order_of_passes_comes_from_the_seed(kind: type[FieldRegressor[Any]]) -> None:
    X, y = stream(60)
    settings: dict[str, Any] = {"passes": 3, "shuffle": True}
    one = kind(**settings, random_state=1).fit(X, y)
    assert_same(one, kind(**settings, random_state=1).fit(X, y))
    assert not np.array_equal(one.predict(X), kind(**settings, random_state=2).fit(X, y).predict(X))
    in_order = kind(passes=2).fit(X, y)
    assert_same(in_order, kind().partial_fit(X, y).partial_fit(X, y))
    assert_same(kind().fit(X, y), in_order.set_params(passes=1).fit(X, y))  # fit forgets


# --- bad input ---


@BOTH
def test_where_no_field_is_active_nothing_is_said_and_it_is_told(kind: type[FieldRegressor[Any]]) -> None:
    X, y = stream(200)
    model = kind().fit(X, y + 5)
    far = np.array([[50.0, 50.0], [0.0, 0.0]])
    np.testing.assert_array_equal(model.predict(far)[0], 0.0)
    np.testing.assert_array_equal(model.activation(far)[0], 0.0)
    np.testing.assert_array_equal(model.jacobian(far)[0], 0.0)
    assert model.activation(far)[1] > 0
    if kind is LWPRRegressor:
        assert model.predict(far, return_std=True)[1][0] == np.inf


@BOTH
def test_a_field_that_has_seen_few_samples_says_nothing(kind: type[FieldRegressor[Any]]) -> None:
    """Two for each input, at least."""
    X, y = stream(30)
    model = kind(init_D=1.0).partial_fit(X[:4], y[:4])
    np.testing.assert_array_equal(model.predict(X), 0.0)
    assert np.abs(model.partial_fit(X, y).predict(X)).min() > 0


@BOTH
@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("X", 3, 1), np.nan, r"X: expected finite numbers, got NaN at X\[3, 1\]"),
        (("X", 2, 0), -np.inf, r"X: .*got -inf at X\[2, 0\]"),
        (("y", 4), np.nan, r"y: .*got NaN at y\[4\]"),
    ],
)
def test_a_number_that_is_not_finite_is_named_and_nothing_has_changed(
    kind: type[FieldRegressor[Any]], where: tuple[Any, ...], value: float, message: str
) -> None:
    X, y = stream(80)
    model = kind().fit(X, y)
    before = state(model)
    data = {"X": X[:6].copy(), "y": y[:6].copy()}
    data[where[0]][where[1:]] = value
    for call in (model.partial_fit, model.fit):
        with pytest.raises(ValueError, match=message):
            call(data["X"], data["y"])
    with pytest.raises(ValueError, match=r"X has 1 features, but .* is expecting 2"):
        model.partial_fit(X[:, :1], y)
    with pytest.raises(ValueError, match="y: expected 1 columns, as before, got 2"):
        model.partial_fit(X, np.stack([y, y], axis=1))
    with pytest.raises(ConfigError):
        model.set_params(penalty=-1.0).fit(X[:, :1], y)
    assert model.n_features_in_ == 2
    for name, array in state(model).items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


@BOTH
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"w_gen": 0.5, "w_prune": 0.5}, "w_prune: expected more than w_gen = 0.5"),
        ({"init_D": [[1.0, 2.0], [2.0, 1.0]]}, "not positive definite"),
        ({"init_D": [[1.0, 0.5], [0.0, 1.0]]}, "symmetric"),
        ({"init_D": -1.0}, "not positive definite"),
        ({"init_D": [1.0, 1.0, 1.0]}, "init_D: expected a positive number, 2 of them"),
        ({"norm_in": [1.0, 0.0]}, "norm_in: expected a number above 0 or 2 of them"),
        ({"norm_out": -2.0}, "norm_out"),
        ({"init_alpha": -1.0}, "init_alpha: expected a number from 0"),
        ({"init_lambda": 1.5}, "init_lambda: expected a number from 0 to 1"),
        ({"penalty": np.nan}, "penalty"),
        ({"meta_rate": np.inf}, "meta_rate: expected a finite number"),
        ({"max_rf": 0}, "max_rf: expected a whole number"),
        ({"passes": 1.5}, "passes: expected a whole number"),
        ({"kernel": "box"}, "kernel: expected 'gaussian' or 'bisquare', got 'box'"),
    ],
    ids=str,
)
def test_a_setting_that_makes_no_sense_is_told_before_anything_is_learned(
    kind: type[FieldRegressor[Any]], settings: dict[str, Any], message: str
) -> None:
    X, y = stream(20)
    with pytest.raises(ConfigError, match=message):
        kind(**settings).fit(X, y)
    fresh = kind(**settings)
    with pytest.raises(ValueError, match=message):
        fresh.partial_fit(X, y)
    assert not hasattr(fresh, "fields_")


@BOTH
def test_a_full_model_warns_once_and_goes_on(kind: type[FieldRegressor[Any]]) -> None:
    X, y = stream(200)
    model = kind(max_rf=3)
    with pytest.warns(RuntimeWarning, match="max_rf = 3 receptive fields are there") as told:
        model.fit(X, y)
    assert len(told) == 1
    assert len(model.fields_[0]) == 3
    model.partial_fit(X, y)  # silent: a warning is an error in these tests
    assert (model.fields_[0].n_data.reshape(3, -1)[:, 0] > 10).all()


# --- files ---


@BOTH
def test_learning_goes_on_exactly_from_a_file(kind: type[FieldRegressor[Any]], tmp_path: Path) -> None:
    X, y = stream(500, n=4)
    settings: dict[str, Any] = {"init_D": np.eye(4) * 3.0, "init_lambda": 0.99, "norm_in": [1.0, 2.0, 1.0, 1.0]}
    through = kind(**settings).partial_fit(X, y)
    kind(**settings).partial_fit(X[:250], y[:250]).save(tmp_path / "model.npz")
    resumed = kind.load(tmp_path / "model.npz")
    assert resumed.partial_fit(X[250:], y[250:]) is resumed
    assert_same(through, resumed)
    np.testing.assert_array_equal(through.predict(X), resumed.predict(X))
    np.testing.assert_array_equal(resumed.get_params()["init_D"], settings["init_D"])


class Trap:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_executed_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    X, y = stream(100)
    path = tmp_path / "model.npz"
    RFWRRegressor().fit(X, y).save(path)
    with pytest.raises(StateError, match="it is of RFWRRegressor"):
        LWPRRegressor.load(path)
    with np.load(path) as file:
        stored = dict(file)

    def written(**changes: Any) -> Path:
        other = tmp_path / "other.npz"
        np.savez(other, **{name: a for name, a in (stored | changes).items() if a is not None})
        return other

    trap = np.array([Trap(tmp_path / "sprung")], dtype=object)
    for changes in (
        {"0.c": trap},
        {"about": trap},
        {"0.c": None},
        {"0.c": stored["0.c"][:-1]},
        {"0.D": stored["0.D"].astype(np.float32)},
        {"0.M": stored["0.M"] * np.nan},
        {"more": np.zeros(1)},
        {"about": np.array(str(stored["about"]).replace('"kernel"', '"colonel"'))},
        {"about": np.array(json.dumps([1, 2]))},
    ):
        with pytest.raises(StateError, match=r"expected a file written by RFWRRegressor\.save"):
            RFWRRegressor.load(written(**changes))
    assert not (tmp_path / "sprung").exists()
    for content in (path.read_bytes()[:-40], b"", b"PK\x03\x04"):
        (tmp_path / "cut.npz").write_bytes(content)
        with pytest.raises(StateError, match="nothing was loaded"):
            RFWRRegressor.load(tmp_path / "cut.npz")
    with pytest.raises(FileNotFoundError):
        RFWRRegressor.load(tmp_path / "none.npz")


def test_settings_that_are_no_plain_values_are_told_and_the_old_file_stays(tmp_path: Path) -> None:
    X, y = stream(30)
    path = tmp_path / "model.npz"
    model = RFWRRegressor().fit(X, y)
    model.save(path)
    content = path.read_bytes()
    model.set_params(random_state=np.random.RandomState(0))
    with pytest.raises(ConfigError, match="plain"):
        model.save(path)
    assert path.read_bytes() == content
