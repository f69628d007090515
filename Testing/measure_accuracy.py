"""Measures of simulated tumours at SNR 50 against their truth: errors, and how often standard errors cover them.

    .venv/bin/python Testing/measure_accuracy.py [PATIENTS]

Patients are simulated, and neither trained on nor among those of `evaluate`: once as drawn, and once without motion,
glitches, drift and fluctuation. Regions are the tumour's true parts of 1 ml or more, without large vessels, and balls
of 6 to 14 mm radius in normal tissue. Truth is measured by the same functions on the true map.
"""

import sys
from dataclasses import replace

import numpy as np

from PerfusionCBVLib import Settings, compute_maps
from PerfusionCBVLib.errors import InputRefusedError, QualityError
from PerfusionCBVLib.measures.measure import measure_region
from PerfusionCBVLib.measures.mirror import mirror_region
from PerfusionCBVLib.measures.regions import Region
from PerfusionCBVLib.series import ParameterMap
from PerfusionCBVLib.simulate import draw_subject, simulate
from PerfusionCBVLib.simulate.anatomy import TISSUES

FIRST_SEED = 990_000
SCAN = {
    "matrix": (80, 88, 14),
    "voxel_size_mm": (2.5, 2.5, 5.0),
    "frames": 60,
    "repetition_time_s": 1.5,
    "echo_time_s": 0.03,
    "field_strength_t": 3.0,
}
METHODS = ("bsw", "anchored-unet")
CLASSES = ("ftb_low", "ftb_middle", "ftb_high")
COVERED = ("rcbv_mean", "rcbv_median", "rcbv_p90", "rcbv_hot_spot", "ftb_low", "ftb_high", "rcbv_over_mirror")
TUMOUR = ("enhancing", "infiltration", "oedema")


def regions_of(subject, defined, rng):
    """Return the tumour's parts and four balls in normal tissue, by name."""
    part = {name: defined & (subject.tissue == TISSUES.index(name)) for name in TUMOUR}
    grid, size = np.indices(defined.shape), np.reshape(SCAN["voxel_size_mm"], (3, 1, 1, 1))
    normal = np.argwhere(defined & np.isin(subject.tissue, (2, 3)))
    for number in range(4):
        centre = normal[rng.integers(len(normal))].reshape(3, 1, 1, 1)
        distance_mm = np.sqrt((((grid - centre) * size) ** 2).sum(axis=0))
        part[f"ball {number}"] = defined & (distance_mm < rng.uniform(6, 14))
    voxel_ml = float(np.prod(SCAN["voxel_size_mm"])) / 1000
    return {name: Region(name, inside) for name, inside in part.items() if inside.sum() * voxel_ml >= 1}


def mirror_of(region, result):
    """Return a region's mirror image, None where there is none."""
    try:
        return mirror_region(
            region, rcbv=result.maps["rcbv"].values, mask=result.mask, affine=result.maps["rcbv"].affine
        )
    except QualityError:
        return None


def numbers(region, maps, provenance, mirror):
    """Return value and standard error of every measure of rCBV, by name."""
    rows = measure_region(region, maps, provenance, mirror=mirror).measurements
    return {row.name: (row.value, row.standard_error) for row in rows}


def study(parameters, found, rng):
    """Add the errors of one patient to what was found."""
    subject = simulate(parameters)
    affine = subject.series.affine
    truth = {"rcbv": ParameterMap("rcbv", subject.truth["rcbv"], affine, "{ratio}", "truth")}
    for method in METHODS:
        result = compute_maps(subject.series, Settings(method=method))
        rcbv = result.maps["rcbv"].values
        defined = subject.brain & ~subject.vessel & np.isfinite(rcbv) & np.isfinite(subject.truth["rcbv"])
        level = float(np.nanmean(rcbv[subject.nawm]))  # what the true white matter as reference would divide by
        true_scale = {"rcbv": replace(result.maps["rcbv"], values=rcbv / level)}
        for name, region in regions_of(subject, defined, rng).items():
            mirror = mirror_of(region, result)
            wanted, got, rescaled = (
                numbers(region, maps, result.provenance, mirror) for maps in (truth, result.maps, true_scale)
            )
            if name == "enhancing":
                for key, values in ((method, got), (f"{method}, true reference", rescaled)):
                    errors = [values[c][0] - wanted[c][0] for c in CLASSES]
                    found.setdefault(key, []).append([*errors, values["rcbv_mean"][0] / wanted["rcbv_mean"][0] - 1])
            kind = "tumour" if name in TUMOUR else "normal tissue"
            for measure in COVERED:
                value, error = got.get(measure, (None, None))
                if error is not None and error > 0:
                    z = (value - wanted[measure][0]) / error
                    found.setdefault(("cover", kind, measure), []).append(abs(z))
        if method == "anchored-unet":
            shared = result.provenance["uncertainty"]
            sd, k2 = (result.maps[key].values for key in ("uncertainty", "k2"))
            rest = sd**2 - (shared["scale"] * rcbv) ** 2 - (shared["leakage_s"] * k2) ** 2
            z = (rcbv - subject.truth["rcbv"]) / np.sqrt(np.maximum(rest, 1e-6))
            for where, tissues in (("normal tissue", (2, 3)), ("tumour", (5,))):
                correlation(z, defined & np.isin(subject.tissue, tissues), where, found)


def correlation(z, inside, where, found):
    """Add the correlation of an error, over its own standard deviation, by steps along rows and across slices."""
    if inside.sum() < 200:
        return
    z = np.where(inside, z, np.nan)
    z -= np.nanmean(z)
    for axis, steps in ((0, (1, 2, 3, 4)), (2, (1, 2))):
        along = np.moveaxis(z, axis, 0)
        for step in steps:
            products = along[step:] * along[:-step]
            if np.isfinite(products).any():
                apart_mm = step * SCAN["voxel_size_mm"][axis]
                found.setdefault(("along", where, axis, apart_mm), []).append(np.nanmean(products) / np.nanmean(z**2))


def main():
    """Print tables."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    for still in (False, True):
        found, patients, seed, rng = {}, 0, FIRST_SEED, np.random.default_rng(1)
        while patients < wanted:
            drawn = draw_subject(np.random.default_rng(seed), scan=SCAN)
            seed += 1
            if not drawn.tumours or drawn.head.invented:
                continue
            quiet = {"motion": (), "glitches": (), "drift_per_min": 0.0, "fluctuation": 0.0} if still else {}
            try:
                study(replace(drawn, disturbance=replace(drawn.disturbance, snr=50.0, **quiet)), found, rng)
            except InputRefusedError as error:
                print(f"seed {seed - 1}: {error}", file=sys.stderr)
                continue
            patients += 1
        print(f"\n{patients} patients at SNR 50, {'without motion, glitches and drift' if still else 'as drawn'}\n")
        print("| map | tumours | mean rCBV, median error | mean error of low, middle, high, points "
              "| largest error of a class, points: median, 90th percentile | all classes within 3 points |"
              "\n|---|---|---|---|---|---|")  # fmt: skip
        for key, rows in found.items():
            if isinstance(key, str):
                errors = np.array(rows)
                worst = np.abs(errors[:, :3]).max(axis=1)
                print(f"| {key} | {len(rows)} | {np.median(np.abs(errors[:, 3])):.1%} | "
                      + ", ".join(f"{e:+.1f}" for e in errors[:, :3].mean(axis=0)) + f" | {np.median(worst):.1f}, "
                      f"{np.percentile(worst, 90):.1f} | {np.sum(worst <= 3)} |")  # fmt: skip
        print("\n| measure | region | n | within 1 SE, % | within 1.96 SE, % |\n|---|---|---|---|---|")
        for key, values in found.items():
            if key[0] == "cover":
                z = np.array(values)
                print(f"| {key[2]} | {key[1]} | {z.size} | {np.mean(z < 1):.0%} | {np.mean(z < 1.96):.0%} |")
        print("\nCorrelation of the network's own error with distance:")
        for key, values in found.items():
            if key[0] == "along":
                way = "along rows" if key[2] == 0 else "across slices"
                print(f"{key[1]}, {way}, {key[3]:g} mm: {np.mean(values):.2f}")
        print(flush=True)


if __name__ == "__main__":
    main()
