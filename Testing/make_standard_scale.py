"""Write the landmarks of the standard scale, from the true rCBV of simulated patients.

    .venv/bin/python Testing/make_standard_scale.py [PATIENTS]

Patients are simulated, and neither trained on nor among those of `evaluate`. Heads whose tissues lie in random patches
are left out, as is everything beyond the 80th percentile: tumours and large vessels, which differ most.
"""

import json
import sys
from pathlib import Path

import numpy as np

import PerfusionCBVLib
from PerfusionCBVLib.simulate import draw_subject, simulate

FIRST_SEED = 5_000_000
PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80)
SMALL = {"frames": 15, "repetition_time_s": 2.0}  # the truth needs no series


def main():
    """Simulate, and write the file that the library reads."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    found, seed = [], FIRST_SEED
    while len(found) < wanted:
        parameters = draw_subject(np.random.default_rng(seed), scan=SMALL)
        seed += 1
        if parameters.head.invented:
            continue
        subject = simulate(parameters)
        rcbv = subject.truth["rcbv"][subject.brain]
        if np.isfinite(rcbv).any():
            found.append(np.percentile(rcbv[np.isfinite(rcbv)], PERCENTILES))
    content = {
        "what": "mean percentiles of true rCBV in the brain, relative to true white matter",
        "percentiles": PERCENTILES,
        "landmarks": [round(float(v), 4) for v in np.mean(found, axis=0)],
        "sd_between_patients": [round(float(v), 4) for v in np.std(found, axis=0, ddof=1)],
        "patients": wanted,
        "seeds": [FIRST_SEED, seed - 1],
        "made_by": f"python Testing/make_standard_scale.py {wanted}",
    }
    path = Path(PerfusionCBVLib.__file__).parent / "measures" / "standard_scale.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(path.read_text("utf-8"))


if __name__ == "__main__":
    main()
