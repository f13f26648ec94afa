"""The Nox sessions, one module per concern; they import nox and the standard library only."""

import sys

# Any Python may run Nox or a git hook, so this file uses only syntax that an old one can parse.
if sys.version_info < (3, 11):  # noqa: UP036 - not the project's interpreter
    sys.stderr.write(
        "tasks: the sessions and hooks need Python 3.11 or newer, but this is %s; for Nox run "  # noqa: UP031
        "uvx --python 3.12 nox, for a git hook put a newer python3 first on PATH\n"
        % sys.version.split()[0]
    )
    sys.exit(2)
