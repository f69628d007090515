"""Simulated DSC-MRI patients with known blood volume: the ground truth for tests and for training."""

from PerfusionCBVLib.simulate.files import write_subject
from PerfusionCBVLib.simulate.parameters import SubjectParameters, demo_parameters, draw_subject
from PerfusionCBVLib.simulate.subject import SimulatedSubject, simulate

__all__ = ["SimulatedSubject", "SubjectParameters", "demo_parameters", "draw_subject", "simulate", "write_subject"]
