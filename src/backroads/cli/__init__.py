"""The command line. Imports no torch: ``--help`` and mistakes are answered at once."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import traceback
from pathlib import Path

import cyclopts

from backroads import __version__
from backroads.errors import BackroadsError, DataError, RunError, is_out_of_memory
from backroads.extras import extra_named

app = cyclopts.App(
    name="backroads",
    help="Train neural networks without weight symmetry. Where a command fails, --debug shows where.",
    version=__version__,
    suppress_keyboard_interrupt=False,  # main says what is left
    help_format="plaintext",  # the other formats take a tenth of a second to import
    # A list is several words; cyclopts fails an assertion where one of them is a list as JSON, so none is read as such.
    default_parameter=cyclopts.Parameter(
        consume_multiple=True, negative_iterable=(), negative_none=(), json_list=False
    ),
)
# Imported when they are called: a command's help waits for nobody else's settings.
for _name, _place, _help in (
    (
        "compare",
        "compare:compare",
        "Train the same network under several feedback rules and other methods, and compare them.",
    ),
    (
        "train",
        "train:train",
        "Train a model by a feedback rule or another method, on one machine or, with torchrun, on many.",
    ),
    ("search", "search:app", "Search coefficients, operations and rates of rules, with many short trainings."),
    ("worker", "worker:worker", "Join a search, from any machine that reaches its storage."),
    ("transfer", "transfer:transfer", "Train the best of a search, unchanged, on other architectures."),
    ("meta", "meta:meta", "Learn to learn with feedback and local plasticity."),
    ("reproduce", "reproduce:app", "Run the claims of two papers, and say of each whether it was confirmed."),
    ("eval", "runs:evaluate", "Evaluate a run's model: loss, top-1 and top-5 over every image once."),
    ("export", "runs:export", "Write a run's model as plain torch weights and as a torch.export program."),
    ("report", "runs:report", "Write RUN/report.html from what the run has written so far."),
    ("inspect", "inspect:inspect", "Print what a rule does to a model, and what each rule costs."),
    ("theory", "theory:theory", "Fixed points, stability and a phase diagram of any sum of the primitives."),
    ("doctor", "doctor:doctor", "Versions, devices, and which optional parts work."),
):
    app.command(f"backroads.cli.{_place}", name=_name, help=_help)


def main(words: list[str] | None = None) -> None:
    """Entry point of the ``backroads`` command; ``words`` are those after its name, None for this process's.

    Exit status: 0 done, 1 a run that failed, 2 bad input, 128 + signal interrupted. Whatever goes wrong is said in a
    line; ``--debug``, with any command, shows where as well.
    """
    words = sys.argv[1:] if words is None else words
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may be in any bytes
    try:
        _run(words)
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            print(_without_urls(traceback.format_exc(), words), file=sys.stderr, end="")
        status, message = _explained(error)
        if message:
            print(f"backroads: {_without_urls(message, words)}", file=sys.stderr)
        sys.exit(status)
    finally:
        _give_up_output()


def _run(words: list[str]) -> None:
    if len(words) == 2 and words[1] in ("--help", "-h") and words[0] in app:
        app.help_print(words[:1])  # cyclopts would first parse the words as a call, a fifth of the time
        return
    try:
        with extra_named():
            app(words, exit_on_error=False, print_error=False)
    finally:
        if sys.stdout is not None:
            sys.stdout.flush()  # a pipe that was closed, a full disk


def _explained(error: BaseException) -> tuple[int, str]:
    """Exit status and message of what ended a command."""
    if isinstance(error, RunError | DataError):
        return 1, str(error)
    if isinstance(error, BackroadsError | cyclopts.CycloptsError):
        return 2, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT, "interrupted; what was written so far is in the run folder"
    if isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE, ""  # as of a command that nobody listens to any more
    told = (str(error).strip().splitlines() or [""])[0]
    if is_out_of_memory(error):
        return 1, (
            f"error: not enough memory{told and f' ({told})'}; make the batch (--batch-size), the images "
            "(--image-size) or the model smaller, or split each batch (--accumulate)"
        )
    what = ": ".join(filter(None, [type(error).__name__, told]))
    if isinstance(error, OSError) and error.strerror:
        what = ": ".join(map(str, filter(None, [error.strerror, error.filename])))
    return 1, f"error: {what}; run again with --debug to see where"


def _give_up_output() -> None:
    """Drop what is left of the output where none can be written: the interpreter would try again at its end."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _without_urls(text: str, words: list[str]) -> str:
    """A message without the URLs among the words of the command, one of which may have a password."""
    for word in words:
        if found := re.search(r"(?s)([\w+.-]+)://.+", word):
            for url in (found[0], repr(found[0])[1:-1], str(Path(found[0]))):
                text = text.replace(url, f"{found[1]}://…")
    return text
