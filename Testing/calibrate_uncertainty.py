"""How often the truth lies within the anchored network's intervals, for some choices of its card's `calibration`.

    .venv/bin/python Testing/calibrate_uncertainty.py [PATIENTS]

Patients are simulated, and neither trained on nor among those of `evaluate`. The choice stands in the card by hand.
"""

import sys
from unittest import mock

import numpy as np

from PerfusionCBVLib import Settings, compute_maps, pipeline
from PerfusionCBVLib.errors import InputRefusedError
from PerfusionCBVLib.simulate import draw_subject, simulate
from PerfusionCBVLib.simulate.anatomy import TISSUES
from PerfusionCBVLib.train.loop import VALIDATION_SEED

FIRST_SEED = VALIDATION_SEED + 1000
CHOICES = ((1.0, 0.0, 0.0), (1.0, 0.1, 0.0), (0.9, 0.14, 0.8), (0.9, 0.15, 1.2), (1.1, 0.16, 1.2))
QUANTILES = {50: 0.6745, 80: 1.2816, 95: 1.96}


def parts(seed):
    """Return own SD, map, leakage and truth of a patient's brain without vessels and of its enhancing tumour."""
    subject = simulate(draw_subject(np.random.default_rng(seed)))
    kept = {}

    def keep(deviation, rcbv, leakage, calibration):
        kept.update(own=deviation, scale=rcbv, leakage=leakage)
        return deviation

    with mock.patch.object(pipeline, "calibrated_deviation", keep):
        compute_maps(subject.series, Settings(method="anchored-unet"))
    tissue = subject.brain & ~subject.vessel & np.isfinite(kept["scale"]) & np.isfinite(subject.truth["rcbv"])
    enhancing = tissue & (subject.tissue == TISSUES.index("enhancing"))
    columns = [*kept.values(), subject.truth["rcbv"]]
    return [np.stack([volume[region] for volume in columns]) for region in (tissue, enhancing)]


def main():
    """Print coverage per cent: intervals in the brain, then in enhancing tumour, for each choice."""
    patients = []
    for seed in range(FIRST_SEED, FIRST_SEED + (int(sys.argv[1]) if len(sys.argv) > 1 else 35)):
        try:
            patients.append(parts(seed))
        except InputRefusedError as error:
            print(f"{seed}: {error}")
    print(f"{len(patients)} patients\n| own | scale | leakage | brain 50, 80, 95 % | enhancing 50, 80, 95 % |")
    print("|---|---|---|---|---|")
    for choice in CHOICES:
        cells = []
        for region in (0, 1):
            chosen = [patient[region] for patient in patients if patient[region].shape[1] >= 20]
            errors = [
                np.abs(p[1] - p[3]) / np.sqrt((np.array(choice)[:, None] ** 2 * p[:3] ** 2).sum(0)) for p in chosen
            ]
            shares = [100 * np.mean([np.mean(e < limit) for e in errors]) for limit in QUANTILES.values()]
            cells.append(", ".join(f"{share:.1f}" for share in shares))
        print("| " + " | ".join([*map(str, choice), *cells]) + " |")


if __name__ == "__main__":
    main()
