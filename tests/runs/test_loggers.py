"""Loggers get the numbers of the run's own log, go on with the same run, and never end one."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backroads.errors import ConfigError, MissingDependencyError
from backroads.runs.loggers import IDS, LOGGERS
from backroads.runs.progress import Progress
from backroads.train.comparison import resolve_comparison
from backroads.train.settings import resolve
from backroads.train.trainer import compare, train

SETTINGS = {
    "data": {"name": "digits", "limit": 60},
    "model": {"name": "mlp", "options": {"hidden": [4]}},
    "rule": {"name": "symmetric_alignment"},
    "run": {"batch_size": 20, "threads": 1, "log_every": 1, "epochs": 1},
}


def run(path: Path, log: list[str], *, epochs: int = 1, **how: Any) -> None:
    train(resolve(SETTINGS, {"log": log, "epochs": epochs}), path, lambda progress: None, **how)


def losses(path: Path) -> list[tuple[int, float]]:
    """Step and loss by the run's own log."""
    lines = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["event"] == "step"]


class Service:
    """Stands for both services: keeps what runs were sent, by the run's id."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.down = False

    def open(self, run_id: str | None, **about: Any) -> str:
        if self.down:
            raise ConnectionError("no network\nand many more lines")
        run_id = run_id or f"id-{len(self.runs)}"
        self.opened.append(run_id)
        self.runs.setdefault(run_id, {"numbers": [], **about})
        return run_id

    def send(self, run_id: str, step: int, numbers: dict[str, float]) -> None:
        if self.down:
            raise ConnectionError("no network")
        self.runs[run_id]["numbers"] += [(name, step, value) for name, value in numbers.items()]

    def losses(self, run_id: str) -> list[tuple[int, float]]:
        return [(step, value) for name, step, value in self.runs[run_id]["numbers"] if name == "step/loss"]


def fake_wandb(service: Service) -> dict[str, types.ModuleType]:
    class Run:
        def __init__(self, run_id: str) -> None:
            self.id = run_id

        def define_metric(self, name: str, step_metric: str) -> None:
            self.axis = step_metric

        def log(self, numbers: dict[str, float]) -> None:
            numbers = dict(numbers)
            service.send(self.id, int(numbers.pop(self.axis)), numbers)

        def finish(self) -> None:
            service.closed.append(self.id)

    def init(*, id: str | None, resume: str, dir: str, reinit: str, config: dict[str, Any], **about: Any) -> Run:
        assert (resume, reinit) == ("allow", "create_new")
        assert Path(dir).is_dir()
        return Run(service.open(id, settings=config, name=about["name"]))

    module = types.ModuleType("wandb")
    module.init = init  # type: ignore[attr-defined]
    return {"wandb": module}


def fake_mlflow(service: Service) -> dict[str, types.ModuleType]:
    def record(*names: str) -> Callable[..., types.SimpleNamespace]:
        return lambda *values: types.SimpleNamespace(**dict(zip(names, values, strict=True)))

    class Client:
        def get_experiment_by_name(self, name: str) -> None:
            return None

        def create_experiment(self, name: str) -> str:
            return f"experiment {name}"

        def create_run(self, experiment: str, run_name: str) -> Any:
            assert experiment == "experiment backroads"
            run_id = service.open(None, name=run_name, settings={"run": {}})
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id))

        def update_run(self, run_id: str, status: str) -> None:
            assert status == "RUNNING"
            service.open(run_id)

        def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
            assert len(metrics) <= 1000
            assert len(params) <= 100
            for param in params:
                table, _, name = param.key.partition("/")
                service.runs[run_id]["settings"].setdefault(table, {})[name] = param.value
            for metric in metrics:
                assert not metric.key.endswith("/")  # which the server refuses
                service.send(run_id, metric.step, {metric.key: metric.value})

        def set_terminated(self, run_id: str) -> None:
            service.closed.append(run_id)

    module, entities = types.ModuleType("mlflow"), types.ModuleType("mlflow.entities")
    module.MlflowClient = Client  # type: ignore[attr-defined]
    entities.Metric = record("key", "value", "timestamp", "step")  # type: ignore[attr-defined]
    entities.Param = record("key", "value")  # type: ignore[attr-defined]
    return {"mlflow": module, "mlflow.entities": entities}


FAKES = {"wandb": fake_wandb, "mlflow": fake_mlflow}


@pytest.fixture(params=list(FAKES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def service(name: str, monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    for module, fake in FAKES[name](service).items():
        monkeypatch.setitem(sys.modules, module, fake)
    return service


def test_a_logger_gets_the_numbers_of_the_log_and_the_settings(tmp_path: Path, name: str, service: Service) -> None:
    run(tmp_path / "mine", [name])
    assert service.losses("id-0") == losses(tmp_path / "mine")
    sent = service.runs["id-0"]
    assert sent["name"] == "mine"
    assert str(sent["settings"]["run"]["batch_size"]) == "20"
    names = {number[0] for number in sent["numbers"]}
    assert {"evaluation/eval_accuracy", "readings/values/update_angle/whole network"} <= names
    assert service.closed == ["id-0"]


def test_a_resumed_run_goes_on_with_the_same_run_of_the_logger(tmp_path: Path, name: str, service: Service) -> None:
    run(tmp_path, [name])
    run(tmp_path, [name], epochs=2, resume=True)
    assert service.opened == ["id-0", "id-0"]
    assert service.losses("id-0") == losses(tmp_path)
    assert json.loads((tmp_path / IDS).read_text()) == {name: {"symmetric_alignment-0": "id-0"}}
    run(tmp_path, [name], restart=True)
    assert service.opened == ["id-0", "id-0", "id-1"]


def test_each_arm_of_a_comparison_is_a_run(tmp_path: Path, name: str, service: Service) -> None:
    given = {**SETTINGS, "rules": ["kolen_pollack"], "methods": [], "seeds": [0], "log": [name]}
    del given["rule"]
    compare(resolve_comparison(given), tmp_path / "both", lambda progress: None)
    assert sorted(sent["name"] for sent in service.runs.values()) == ["both backprop-0", "both kolen_pollack-0"]
    one, other = (service.losses(run_id) for run_id in service.runs)
    assert len(one) == len(other) > 0
    assert one != other


@pytest.mark.parametrize("when", ["start", "middle"])
def test_a_logger_that_fails_is_warned_of_once_and_the_run_goes_on(
    tmp_path: Path, name: str, service: Service, when: str
) -> None:
    def fall(progress: Progress) -> None:
        service.down = when == "start" or progress.done > 1

    config = resolve(SETTINGS, {"log": [name]})
    with pytest.warns(UserWarning, match=rf"^{name} failed \(ConnectionError: no network\); the run goes") as said:
        train(config, tmp_path / "a", fall)
    assert len(said) == 1
    run(tmp_path / "b", [])
    assert (tmp_path / "a" / "events.jsonl").read_bytes() == (tmp_path / "b" / "events.jsonl").read_bytes()
    assert (tmp_path / "a" / "results.json").exists()


def test_ids_that_are_none_are_not_sent(tmp_path: Path, name: str, service: Service) -> None:
    run(tmp_path, [name])
    contents = ("[1]", "{", json.dumps({name: {"symmetric_alignment-0": "../../x"}}))
    for epochs, content in enumerate(contents, 2):
        (tmp_path / IDS).write_text(content)
        with pytest.warns(UserWarning, match="expected the ids of runs by logger and arm; remove it"):
            run(tmp_path, [name], epochs=epochs, resume=True)
        assert (tmp_path / IDS).read_text() == content
        assert service.opened == ["id-0"]


def test_a_logger_that_is_not_installed_is_said_before_anything(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=rf'--log {name}.*pip install "backroads\[{name}\]"'):
        run(tmp_path / "run", [name])
    assert not (tmp_path / "run").exists()


def test_an_unknown_logger_is_refused() -> None:
    with pytest.raises(ConfigError, match="wandb"):
        resolve({"log": ["wandbb"]})


def test_every_logger_has_a_setting() -> None:
    assert resolve({"log": list(LOGGERS)}).run.log == ["tensorboard", "wandb", "mlflow"]
    assert resolve({}).run.log == []
