"""Simulated DSC-MRI patients with known blood volume: the ground truth for tests and for training."""

from PerfusionCBVLib.simulate.parameters import SubjectParameters, draw_subject
from PerfusionCBVLib.simulate.subject import SimulatedSubject, simulate

__all__ = ["SimulatedSubject", "SubjectParameters", "draw_subject", "simulate"]
