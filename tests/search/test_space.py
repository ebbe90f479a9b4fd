"""What a trial may be: every value of every group makes a training that is accepted."""

from __future__ import annotations

import dataclasses
import itertools

import optuna
import pytest

from backroads.errors import ConfigError
from backroads.feedback.rules import Alignment, get_rule, list_rules
from backroads.runs.settings import check_resume, read_settings, recipes
from backroads.search.settings import GROWING, HARMLESS, SearchSettings, resolve
from backroads.search.space import DIMENSIONS, OPERATIONS, PRIMITIVES, SHORT, SUBSETS, range_of
from backroads.search.storage import hide_password, without_password
from backroads.train.build import rules_of

EVERYTHING = [*SHORT, *(name for name in DIMENSIONS if name not in OPERATIONS)]


def test_the_primitives_have_32_subsets_each_once() -> None:
    assert len(SUBSETS) == 32
    assert {frozenset(subset) for subset in SUBSETS.values()} == {
        frozenset(subset) for n in range(6) for subset in itertools.combinations(PRIMITIVES, n)
    }
    assert SUBSETS["none"] == ()
    assert SUBSETS["decay+self"] == ("decay", "self")


@pytest.mark.parametrize("rules", [["primitives"], list_rules()], ids=["primitives", "rules"])
def test_every_draw_of_every_group_is_a_rule_with_these_coefficients(rules: list[str]) -> None:
    config = resolve({"rules": rules, "vary": EVERYTHING})
    for group in config.groups.values():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(20):
            drawn = group.suggest(study.ask())
            training = config.training(**group.settings(drawn))
            rule = rules_of(training)
            assert training.data.split == "validation"
            assert {name: drawn[name] for name in ("learning_rate", "weight_decay")} == {
                "learning_rate": training.optimizer.learning_rate,
                "weight_decay": training.optimizer.weight_decay,
            }
            if group.subset is not None:
                assert isinstance(rule, Alignment)
                coefficients = {name.rstrip("_"): value for name, value in rule.coefficients.items()}
                assert coefficients == {name: drawn.get(name, 0.0) for name in PRIMITIVES}
                assert {name for name, c in coefficients.items() if c} == set(group.subset)


def test_a_method_is_a_group_with_its_options_and_the_rates_of_w() -> None:
    config = resolve(
        {"rules": ["backprop"], "methods": ["local_errors"], "method": {"options": {"limit": 64}}, "vary": EVERYTHING}
    )
    rule, method = config.groups.values()
    assert (rule.name, method.name) == ("backprop", "local_errors")
    assert set(method.space) == {"learning_rate", "weight_decay"}
    drawn = {"learning_rate": 0.02, "weight_decay": 1e-4}
    training = config.training(**method.settings(drawn, config.rule.options))
    assert (training.method.name, training.method.options) == ("local_errors", {"limit": 64})
    assert training.optimizer.learning_rate == 0.02
    assert config.training(**rule.settings(drawn)).method.name == "feedback"
    assert list(resolve({"methods": ["local_errors"]}).groups) == ["local_errors"]
    assert list(resolve({}).groups) == ["symmetric_alignment"]
    with pytest.raises(ConfigError, match="Did you mean 'local_errors'"):
        list(resolve({"methods": ["local_error"]}).groups)


def test_what_makes_no_difference_does_not_vary() -> None:
    config = resolve({"rules": ["primitives", *list_rules()], "vary": EVERYTHING})
    spaces = {name: set(group.space) for name, group in config.groups.items()}
    forward = {"learning_rate", "weight_decay"}
    assert spaces["none"] == forward
    assert spaces["decay+self"] == forward | {"decay", "self", "backward_rate", "backward_optimizer"}
    assert {"amp", "reduction", "center_input", "every", "noise"} <= spaces["amp"]
    for name in ("white_noise_mirror", "error_correcting_mirror", "exact_probing"):
        assert spaces[name] == forward | {"backward_rate", "backward_optimizer"}
    assert spaces["backprop"] == spaces["kolen_pollack"] == spaces["feedback_alignment"] == forward


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trails": 3}, "Did you mean 'trials'"),
        ({"momentun": 0.5}, "Did you mean 'momentum'"),
        ({"split": "test"}, r"data\.split: .* a search sets this itself"),
        ({"rule": "backprop"}, r"rule\.name: .* a search sets this itself"),
        ({"vary": ["coeficients"]}, "Did you mean 'coefficients'"),
        ({"ranges": {"learning_rat": [0.1, 1.0]}}, "Did you mean 'learning_rate'"),
        ({"ranges": {"learning_rate": [1.0, 0.1]}}, "0 < low <= high"),
        ({"ranges": {"noise": [0.1, 1.0]}}, "noise does not vary; add it to vary"),
        ({"heartbeat": 10, "grace": 15}, "at least two heartbeats"),
        ({"name": "a/b"}, "letters, digits"),
        ({"pruner": "best"}, "pruner"),
        ({"rules": ["backprop", "backprop"]}, "each name once"),
    ],
)
def test_mistakes_are_named_with_what_was_meant(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(given)


def test_ranges_can_be_narrowed() -> None:
    config = resolve({"ranges": {"decay": [0.1, 0.2], "reduction": ["unit_power"]}})
    assert config.space.varying()["decay"] == range_of("decay", [0.1, 0.2])
    assert config.space.varying()["reduction"].choices == ("unit_power",)
    config.check()


@pytest.mark.parametrize(
    ("name", "choice"), [("reduction", "bogus"), ("center_input", "yes"), ("backward_optimizer", "sdg"), ("every", -1)]
)
def test_choices_that_no_trial_could_take_are_refused(name: str, choice: object) -> None:
    config = resolve({"rules": ["information_alignment"], "vary": ["coefficients", name], "ranges": {name: [choice]}})
    with pytest.raises(ConfigError, match=rf"ranges\.{name}: {choice!r}: "):
        config.check()


def test_what_of_the_rules_own_operations_does_not_vary_stays() -> None:
    """A weight mirror is one of centred activities, unless a search says otherwise."""
    settings = resolve({"rules": ["weight_mirror"]}).groups["weight_mirror"].settings
    own = get_rule("weight_mirror").operations
    assert own.batch_center_backward_input
    varied = settings({"amp": 0.3, "center_input": True})["rule_options"]
    assert get_rule("weight_mirror", **varied).operations == dataclasses.replace(own, center_input=True)
    fixed = settings({"center_input": False}, {"operations": {"batch_center_backward_input": False}})["rule_options"]
    assert get_rule("weight_mirror", **fixed).operations == dataclasses.replace(own, batch_center_backward_input=False)


def test_a_study_may_grow_and_change_its_workers_and_nothing_else() -> None:
    def check(old: SearchSettings, new: SearchSettings) -> None:
        check_resume(old.model_dump(), new.model_dump(), harmless=HARMLESS, growing=GROWING)

    old = resolve({"trials": 10})
    check(old, resolve({"trials": 20, "workers": 3, "storage": "postgresql://me@here/db"}))
    with pytest.raises(ConfigError, match=r"(?s)run.epochs: .*run.seed: .*search.trials: "):
        check(old, resolve({"trials": 5, "epochs": 2, "seed": 1}))
    with pytest.raises(ConfigError, match=r"study.retries: "):  # would make tried trials lost ones, afterwards
        check(old, resolve({"trials": 10, "retries": 1}))


@pytest.mark.parametrize(
    ("url", "plain", "password"),
    [
        ("postgresql://me:se%40cret@host:5432/db", "postgresql://me@host:5432/db", "se@cret"),
        ("postgresql://me@host/db?sslmode=require&password=x", "postgresql://me@host/db?sslmode=require", "x"),
        ("postgresql://me@host/db", "postgresql://me@host/db", None),
        ("sqlite:////tmp/a:b@c.db", "sqlite:////tmp/a:b@c.db", None),
        ("journal:study.log", "journal:study.log", None),
    ],
)
def test_passwords_leave_the_url(url: str, plain: str, password: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    assert without_password(url) == (plain, password)
    assert hide_password(url) == plain
    import os

    assert os.environ.get("PGPASSWORD") == password


@pytest.mark.parametrize("name", recipes("search"))
def test_every_recipe_gives_each_subset_at_least_20_trials(name: str) -> None:
    config = resolve(read_settings(name, "search"))
    assert config.groups.keys() == SUBSETS.keys()
    assert min(map(config.planned, SUBSETS)) >= 20
