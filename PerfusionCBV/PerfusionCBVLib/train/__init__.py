"""Training networks on simulated patients."""
