"""How far maps are from a known truth: error, agreement and tumour bias for every method on the same data."""

from PerfusionCBVLib.evaluate.objects import ENHANCING_IN_OBJECT, evaluate_object
from PerfusionCBVLib.evaluate.plots import why_no_plots
from PerfusionCBVLib.evaluate.sampling import evaluate_sampling, sampling_markdown
from PerfusionCBVLib.evaluate.scores import concordance, nrmse, score, slice_scores
from PerfusionCBVLib.evaluate.simulated import TEST_SEED, evaluate_simulated
from PerfusionCBVLib.evaluate.summary import bootstrap_interval, finite_mean
from PerfusionCBVLib.evaluate.tables import markdown_table, report_markdown

__all__ = [
    "ENHANCING_IN_OBJECT",
    "TEST_SEED",
    "bootstrap_interval",
    "concordance",
    "evaluate_object",
    "evaluate_sampling",
    "evaluate_simulated",
    "finite_mean",
    "markdown_table",
    "nrmse",
    "report_markdown",
    "sampling_markdown",
    "score",
    "slice_scores",
    "why_no_plots",
]
