"""The command line: `foveate COMMAND`. One file a command; each is a thin layer over one function of the pipeline."""

from .main import main

__all__ = ["main"]
