"""calibration: data -> choices. Now: the thresholds of energy masks, and how active they leave the images."""

from .thresholds import calibrate
from .choices import Activity, Choices, read_choices

__all__ = ["Activity", "Choices", "calibrate", "read_choices"]
