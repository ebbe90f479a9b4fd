"""Settings in groups: merged by layers, by table or by name alone, and as flags."""

from __future__ import annotations

from typing import Annotated, ClassVar

import cyclopts
import pytest
from pydantic import Field

from backroads.cli.flags import with_flags
from backroads.runs.groups import Group, flags, merged


class Data(Group):
    """What to learn from."""

    data: str = "digits"
    """Name of the data set."""
    download: bool = True
    """Fetch it
    if it is not there."""


class Run(Group):
    """The run."""

    flags: ClassVar[dict[str, str]] = {"options": "run_options"}
    seed: Annotated[int, Field(ge=0)] = 0
    options: dict[str, str] = Field(default={})


class Config(Group):
    """All settings."""

    name: str = "a"
    data: Data = Data()
    run: Run = Run()


def test_later_layers_override_settings_in_tables_or_by_name() -> None:
    layers = ({"data": {"data": "mnist"}, "name": "b"}, {"data": "npz:x", "seed": 3}, {"run": {"options": {"b": "2"}}})
    assert merged(Config, {"run": {"options": {"a": "1"}}}, *layers) == {
        "run": {"options": {"b": "2"}, "seed": 3},  # a setting is replaced as a whole
        "data": {"data": "npz:x"},
        "name": "b",
    }
    assert merged(Config, {"sed": 1, "data": {"dta": 2}}) == {"sed": 1, "data": {"dta": 2}}  # for the schema to refuse
    assert list(flags(Config)) == ["name", "data", "download", "seed", "run_options"]
    assert merged(Config, {"run_options": {"c": "3"}}) == {"run": {"options": {"c": "3"}}}


def test_flags_have_no_prefix_and_say_which_were_given(capsys: pytest.CaptureFixture[str]) -> None:
    app = cyclopts.App(help_format="plaintext", result_action="return_value")

    @app.default
    @with_flags(Config)
    def command(*, settings: dict[str, object]) -> dict[str, object]:
        return settings

    assert app([]) == {}
    assert app(["--no-download", "--seed", "0", "--run-options.a", "1"]) == {
        "data": {"download": False},
        "run": {"seed": 0, "options": {"a": "1"}},
    }
    app.help_print([])
    said = capsys.readouterr().out
    assert "Fetch it if it is not there." in " ".join(said.replace("│", " ").split())
    assert said.index("What to learn from") < said.index("--download --no-download") < said.index("The run")
