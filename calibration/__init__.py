"""calibration: data -> choices: the thresholds of energy masks and the gates of early exits, by a budget or each by
itself, the policies of streams, and which layers run in low precision."""

from .budget import Budget
from .choices import Activity, Choices, read_choices
from .exit_data import ExitData, collect_exits
from .gate import Gate, train_gates
from .operating import Operating, operating_point, trade_off
from .precision import PrecisionBudget, Precisions, calibrate_precision
from .search import calibrate_budget
from .thresholds import calibrate

__all__ = [
    "Activity",
    "Budget",
    "Choices",
    "ExitData",
    "Gate",
    "Operating",
    "PrecisionBudget",
    "Precisions",
    "calibrate",
    "calibrate_budget",
    "calibrate_precision",
    "collect_exits",
    "operating_point",
    "read_choices",
    "trade_off",
    "train_gates",
]
