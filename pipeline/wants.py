"""What must be computed for some tensors of a program."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from .analyze import Analysis, NodeInfo


class Wants:
    """Which nodes of a program some of its tensors depend on. `sources`: the data that a node reads, by its name."""

    def __init__(self, analysis: Analysis):
        program = analysis.program
        self._nodes, self._inputs = analysis.nodes, program.inputs
        self.sources = {n.name: program.sources(program.by_name[n.name]) for n in analysis.nodes}

    def of(
        self, tensors: Iterable[str], known: Collection[str] = ()
    ) -> tuple[list[NodeInfo], tuple[str, ...]]:
        """The nodes where some tensors are `known`, and which of these and of the program's inputs they read."""
        wanted, begin, kept = set(tensors) - set(known), set[str](), []
        for node in reversed(self._nodes):
            if wanted & set(node.outputs):
                kept.append(node)
                read = {s for s in self.sources[node.name] if s in known or s in self._inputs}
                begin |= read
                wanted.update(s for s in self.sources[node.name] if s not in read)
        return kept[::-1], tuple(sorted(begin))
