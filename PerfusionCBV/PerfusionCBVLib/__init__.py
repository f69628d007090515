"""Relative cerebral blood volume from DSC-MRI: reading, checking, classical and network maps, simulated truth."""

__version__ = "0.1.0"
