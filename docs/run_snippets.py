"""Run the code of README and documentation: every ``python`` and ``pycon`` block, each page in one session.

::

    python docs/run_snippets.py                 # README.md, CONTRIBUTING.md and all pages
    python docs/run_snippets.py docs/start.md   # one

A ``pycon`` block must print what it shows (``...`` stands for anything). Exit status 1 if anything fails.
"""

from __future__ import annotations

import doctest
import os
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_page(page: Path) -> bool:
    """Whether all blocks of the page ran."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start()) + 2
        try:
            if match[1] == "python":
                code = compile("\n" * (line - 1) + match[2], str(page), "exec", dont_inherit=True)
                exec(code, namespace)
            else:
                test = doctest.DocTestParser().get_doctest(match[2], namespace, page.name, str(page), line)
                runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
                runner.run(test, clear_globs=False)
                namespace.update(test.globs)
                if runner.failures:
                    return False
        except BaseException as error:
            if isinstance(error, SystemExit) and not error.code:
                continue  # a command that ended well
            traceback.print_exc()
            return False
    return True


def main() -> int:
    pages = [Path(name).resolve() for name in sys.argv[1:]] or [
        *sorted(ROOT.glob("*.md")),
        *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts),
    ]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    failed = 0
    for page in pages:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            start = time.perf_counter()
            passed = run_page(page)
            os.chdir(DOCS)
        failed += not passed
        name = page.relative_to(ROOT)
        sys.stdout.write(f"{'ok    ' if passed else 'FAILED'} {name} {time.perf_counter() - start:.1f} s\n")
        sys.stdout.flush()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
