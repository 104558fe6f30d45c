"""Parses the command line, runs the command, turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from ...export.extras import EXPORT, needs
from ...runtime.errors import BackendWarning, FoveateError
from ..environment import versions

COMMANDS = (
    "compile",
    "export",
    "calibrate",
    "build",
    "verify",
    "bench",
    "stream",
    "inspect",
    "doctor",
    "cache",
)
EXIT_CODES = "exit codes: 0 ok, 1 a check failed, 2 usage, 3 environment"
INTERRUPTED = 130


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="foveate",
        description="Compile adaptive-compute vision models into engines that do only the work each image needs.",
        epilog=f"`foveate COMMAND --help` explains a command; {EXIT_CODES}.",
    )
    root.add_argument("--version", action="version", version=f"foveate {versions().get('foveate')}")
    commands = root.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f".{name}", __package__)
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.__doc__,
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        _add_common(command)
        command.set_defaults(run=module.run)
    return root


def _add_common(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("output")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress lines")
    group.add_argument("--traceback", action="store_true", help="show where an error came from")
    group.add_argument("--debug", action="store_true", help="show the logger `foveate` on standard error")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code; argparse itself exits with 2 on a wrong command line."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    args = parser().parse_args(argv)
    if args.debug:
        logging.basicConfig(stream=sys.stderr, format="%(name)s %(levelname)s %(message)s")
        logging.getLogger("foveate").setLevel(logging.DEBUG)
    try:
        with needs("export", f"foveate {args.command}", EXPORT), _notes():
            return args.run(args) or 0
    except KeyboardInterrupt:
        print("interrupted; what was there before is unchanged", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `foveate inspect … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except FoveateError as error:
        return _failed(error, error.exit_code, args.traceback)
    except OSError as error:
        if not error.filename:
            raise
        return _failed(f"{error.filename}: {error.strerror}", 3, args.traceback)


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """That another backend answers is a line, and once, however often the command opens the bundle."""
    with warnings.catch_warnings():
        warnings.simplefilter("once", BackendWarning)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, BackendWarning):
                print(f"note: {message}", file=sys.stderr)
            else:
                usual(message, category, *where, **more)

        warnings.showwarning = show
        yield


def _failed(error: object, code: int, traceback: bool) -> int:
    if traceback and isinstance(error, BaseException):
        raise error
    print(f"error: {error}", file=sys.stderr)
    return code
