"""Every image of a bundle's data through every exit: what its gate learns from."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..pipeline.dataset import Sample
from ..pipeline.metrics import padded, value_of
from ..runtime.errors import InputError
from ..runtime.manifest import ExitChain
from .answers import Answers, Choices
from .exit_data import ExitData


def forced(chain: ExitChain, choices: Choices) -> list[Choices]:
    """These choices, but all images take each exit in turn, whatever the gate's weights."""
    from ..export.early_exit_model import forcing

    others = {name: value for name, value in choices.items() if not name.startswith(f"{chain.gate}.")}
    return [{**others, f"{chain.gate}.offset": forcing(chain.exits, exit)} for exit in chain.exits]


def collect(
    chain: ExitChain, choices: Choices, samples: Iterable[Sample], answers: Answers
) -> tuple[ExitData, np.ndarray, np.ndarray]:
    """Each image through every exit: what a gate learns from, of the images on which the metric says something; counts
    [N, exits, K, 2] of all of them; and which those were, bool [N]. Raises InputError where there are none."""
    rows = [answers.of(sample.image, sample.label, forced(chain, choices)) for sample in samples]
    counts = padded([answer.counts for row in rows for answer in row])
    counts = counts.reshape(len(rows), len(chain.exits), *counts.shape[1:])
    quality = value_of(counts)  # [N, exits]
    judged = np.asarray(~np.isnan(quality).all(axis=1))
    if not judged.any():
        raise InputError(
            "data",
            got=f"{len(rows)} images on which {answers.metric} is not defined",
            expected="images with something to find",
            fix="Give others, or another --metric.",
        )
    features = np.stack([row[-1].features for row in rows])
    return ExitData(features[judged], quality[judged], chain.exits), counts, judged
