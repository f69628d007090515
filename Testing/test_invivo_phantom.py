"""Curves measured in patients, painted on a phantom: networks and the classical map have to tell the same story."""

import csv
from collections import defaultdict

import numpy as np
import pytest

from PerfusionCBVLib import DynamicSeries, Settings, compute_maps
from PerfusionCBVLib.series import Acquisition
from PerfusionCBVLib.settings import NETWORK_METHODS

pytestmark = pytest.mark.shared

# The collection's usual protocol; the published curves do not state it.
ACQUISITION = Acquisition(
    echo_time_s=0.045, repetition_time_s=2.0, flip_angle_deg=90.0, field_strength_t=3.0, manufacturer="painted"
)
GLITCHES = {"UPENN-GBM-00054": (17, 41, 42)}
SHAPE = (64, 72, 6)


@pytest.fixture(scope="module")
def patients(shared_data):
    """Patient to {region: (45,) signal}, without the region that lies mostly outside tissue."""
    curves = defaultdict(lambda: defaultdict(list))
    with (shared_data / "invivo_curves" / "curves.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            patient, region = row["curve"].split(" ", 1)
            curves[patient][region].append(float(row["signal"]))
    return {
        patient: {name: np.array(signal) for name, signal in regions.items() if np.mean(signal) > 100}
        for patient, regions in curves.items()
    }


def painted(regions, *, seed=0):
    """Return a head whose cortex is cut into one sector a region, with a core of half their mean ΔR2*, and labels."""
    g = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    radius = np.sqrt((x / 0.75) ** 2 + (y / 0.85) ** 2 + (z / 1.6) ** 2)
    sector = np.floor((np.arctan2(y, x) + np.pi) / (2 * np.pi) * len(regions)).astype(int).clip(0, len(regions) - 1)
    label = np.where(radius < 1, np.where(radius < 0.7, 0, sector + 1), -1)
    drops = [np.log(s[2:15].mean() / s) for s in regions.values()]
    curves = [450 * np.exp(-0.5 * np.mean(drops, axis=0)), *regions.values()]
    signal = np.zeros((*SHAPE, 45))
    for k, curve in enumerate(curves):
        signal[label == k] = curve
    signal += 5 * g.standard_normal(signal.shape)
    affine = np.diag([3.0, 3.0, 6.0, 1.0])
    series = DynamicSeries(np.abs(signal).astype(np.float32), affine, np.arange(45) * 2.0, ACQUISITION)
    return series, label


def means(series, label, method):
    rcbv = compute_maps(series, Settings(method=method), mask=label >= 0, reference=label == 0).maps["rcbv"].values
    return np.array([np.nanmean(rcbv[label == k]) for k in range(1, label.max() + 1)])


@pytest.mark.parametrize("method", NETWORK_METHODS)
def test_network_and_classical_map_rank_the_regions_alike(patients, method):
    """Regions whose classical means differ by 10 % or more keep their order."""
    compared = 0
    for regions in patients.values():
        series, label = painted(regions)
        classical, network = (means(series, label, name) for name in ("bsw", method))
        for one in range(len(classical)):
            for other in range(len(classical)):
                if classical[one] > 1.1 * classical[other]:
                    assert network[one] > network[other]
                    compared += 1
    assert compared >= 3


def mended(patient, regions):
    """The same curves with the frames that jumped interpolated from their neighbours."""
    good = np.setdiff1d(np.arange(45), GLITCHES[patient])
    return {name: np.interp(np.arange(45), good, signal[good]) for name, signal in regions.items()}


@pytest.mark.parametrize("method", ["anchored-unet", "bsw"])
def test_real_glitches_do_not_move_the_map(patients, method):
    for patient in GLITCHES:
        both = (painted(curves) for curves in (patients[patient], mended(patient, patients[patient])))
        with_glitches, without = (means(*head, method) for head in both)
        assert with_glitches == pytest.approx(without, rel=0.05)


@pytest.mark.parametrize("method", ["anchored-unet", "bsw"])
def test_even_glitches_of_one_region_only_move_it_little(patients, method):
    """Regions of both patients in one head, so that nothing cancels against the reference: 5 to 6 % in the region."""
    steady = {f"{p} {name}": signal for p, own in patients.items() if p not in GLITCHES for name, signal in own.items()}
    heads = []
    for change in (lambda patient, regions: regions, mended):
        heads.append(painted({**steady, **{name: s for p in GLITCHES for name, s in change(p, patients[p]).items()}}))
    with_glitches, without = (means(*head, method) for head in heads)
    assert with_glitches == pytest.approx(without, rel=0.065)
