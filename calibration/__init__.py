"""calibration: data -> choices. Now: the thresholds of energy masks, and how active they leave the images."""

from .choices import Activity, Choices, read_choices
from .thresholds import calibrate

__all__ = ["Activity", "Choices", "calibrate", "read_choices"]
