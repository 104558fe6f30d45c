"""calibration: data -> choices. Now: the thresholds of energy masks, the policies of streams, the gates of early exits,
and which layers run in low precision."""

from .choices import Activity, Choices, read_choices
from .exit_data import ExitData, collect_exits
from .gate import Gate, train_gates
from .operating import Operating, operating_point, trade_off
from .precision import PrecisionBudget, Precisions, calibrate_precision
from .thresholds import calibrate

__all__ = [
    "Activity",
    "Choices",
    "ExitData",
    "Gate",
    "Operating",
    "PrecisionBudget",
    "Precisions",
    "calibrate",
    "calibrate_precision",
    "collect_exits",
    "operating_point",
    "read_choices",
    "trade_off",
    "train_gates",
]
