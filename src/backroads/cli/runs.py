"""``backroads eval``, ``export`` and ``report``: what can be done with the folder of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from backroads.cli.shared import Trust, writing

Which = Annotated[
    Literal["best", "last"],
    Parameter(help="Which checkpoint to take: the one with the best evaluation, or the last one."),
]


def evaluate(
    run: Annotated[Path, Parameter(help="Folder of the run.")],
    /,
    *,
    checkpoint: Which = "best",
    split: Annotated[
        Literal["test", "validation"] | None,
        Parameter(help="What to evaluate on; by default what the run evaluated on."),
    ] = None,
    trust: Trust = False,
) -> None:
    """Evaluate a run's model: loss, top-1 and top-5 over every image once."""
    import torch

    from backroads.cli.shared import print_passed_over
    from backroads.runs.runtime import Runtime
    from backroads.train.build import method_of
    from backroads.train.load import load_config, load_model
    from backroads.train.settings import resolve
    from backroads.train.step import evaluate as measure

    config = load_config(run, trust=trust)
    if split is not None:
        config = resolve(config.model_dump(), {"split": split})
    model, dataset, found = load_model(run, config, checkpoint)
    print_passed_over(found.passed_over)
    method = method_of(config)
    cpu = Runtime(torch.device("cpu"))
    measured = measure(lambda x: method.predict(model, x), dataset.evaluate, config, cpu)
    print(
        f"step {found.manifest.step}, {len(dataset.evaluate)} images of {config.data.name} ({config.data.split}): "
        f"loss {measured['eval_loss']:.4f}, top-1 {100 * measured['eval_accuracy']:.2f} %, "
        f"top-5 {100 * measured['eval_top5']:.2f} %"
    )


def export(
    run: Annotated[Path, Parameter(help="Folder of the run.")],
    /,
    *,
    out: Annotated[Path | None, Parameter(help="New folder to write into; by default RUN/export.")] = None,
    checkpoint: Which = "best",
    program: Annotated[bool, Parameter(help="Write a torch.export program, model.pt2, as well.")] = True,
    trust: Trust = False,
) -> None:
    """Write a run's model as plain torch weights (safetensors) and as a torch.export program."""
    from backroads.cli.shared import print_passed_over
    from backroads.runs.files import folder_within
    from backroads.train.export import export as write

    folder = out if out is not None else folder_within(run, "export")
    with writing(folder):
        about = write(run, folder, checkpoint, program=program, trust=trust)
    print_passed_over(about["passed_over"])
    print(f"{about['model']} of step {about['step']} (bit-identical outputs): {folder}")


def report(run: Annotated[Path, Parameter(help="Folder of the run, finished or not.")], /) -> None:
    """Write RUN/report.html from what the run has written so far."""
    from backroads.report import write_report

    with writing(run):
        written = write_report(run)
    print(written)
