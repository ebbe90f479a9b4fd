"""``backroads eval``, ``export`` and ``report``: what can be done with the folder of a run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from backroads.cli.shared import Root, Trust, writing
from backroads.errors import ConfigError

Which = Annotated[
    Literal["best", "last"],
    Parameter(help="Which checkpoint to take: the last one, or the best one on the validation part."),
]


def evaluate(
    run: Annotated[Path, Parameter(help="Folder of the run.")],
    /,
    *,
    checkpoint: Which = "last",
    split: Annotated[
        Literal["test", "validation"] | None,
        Parameter(help="What to evaluate on; by default the test split, unless the run did not read it."),
    ] = None,
    root: Root = None,
    trust: Trust = False,
) -> None:
    """Evaluate a run's model: loss, top-1 and top-5 over every image once."""
    import torch

    from backroads.cli.shared import print_passed_over
    from backroads.runs.runtime import Runtime
    from backroads.train.build import hardware_of, method_of
    from backroads.train.load import load_config, load_model
    from backroads.train.settings import resolve
    from backroads.train.step import evaluate as measure
    from backroads.train.step import of_six_views

    config = load_config(run, root, trust=trust)
    split = split or ("validation" if config.data.split == "validation" else "test")
    if split == "validation" and config.data.split == "test":
        raise ConfigError("split: expected 'test', as this run trained on the whole training split, got 'validation'")
    if split == "test" and config.data.split == "validation":
        config = resolve(config.model_dump(), {"split": "both"})
    model, dataset, found = load_model(run, config, checkpoint)
    print_passed_over(found.passed_over)
    method = method_of(config)
    cpu = Runtime(torch.device("cpu"))
    predict = partial(method.predict, model)
    predict = partial(of_six_views, predict) if config.run.six_views else predict
    source = dataset.test if split == "test" else dataset.validation
    assert source is not None
    # As training evaluated: through the devices, whose noise follows from the seed and the step.
    with hardware_of(config, model, compared=False).read(found.manifest.step):
        measured = measure(predict, source, config, cpu)
    print(
        f"step {found.manifest.step}, {len(source)} images of {config.data.name} ({split}): "
        f"loss {measured['loss']:.4f}, top-1 {100 * measured['accuracy']:.2f} %, top-5 {100 * measured['top5']:.2f} %"
    )


def export(
    run: Annotated[Path, Parameter(help="Folder of the run.")],
    /,
    *,
    out: Annotated[Path | None, Parameter(help="New folder to write into; by default RUN/export.")] = None,
    checkpoint: Which = "last",
    program: Annotated[bool, Parameter(help="Write a torch.export program, model.pt2, as well.")] = True,
    root: Root = None,
    trust: Trust = False,
) -> None:
    """Write a run's model as plain torch weights (safetensors) and as a torch.export program."""
    from backroads.cli.shared import print_passed_over
    from backroads.runs.files import folder_within
    from backroads.train.export import export as write

    folder = out if out is not None else folder_within(run, "export")
    with writing(folder):
        about = write(run, folder, checkpoint, program=program, root=root, trust=trust)
    print_passed_over(about["passed_over"])
    print(f"{about['model']} of step {about['step']} (bit-identical outputs): {folder}")


def report(run: Annotated[Path, Parameter(help="Folder of the run, finished or not.")], /) -> None:
    """Write RUN/report.html from what the run has written so far."""
    from backroads.report import write_report

    with writing(run):
        written = write_report(run)
    print(written)
