"""Percentage signal recovery against a curve whose recovery is known in closed form."""

import numpy as np
import pytest

from dsc_phantom import gamma_variate
from PerfusionCBVLib.errors import TimingError
from PerfusionCBVLib.recovery import percentage_signal_recovery
from PerfusionCBVLib.timing import find_bolus

TIMES_S = np.arange(60) * 1.5


def curve(recovery_percent, drop=0.4, level=600.0):
    """Return a signal that falls by `drop` and comes back by a given share of it, once the bolus is gone."""
    bolus = gamma_variate(TIMES_S, 20, 9, 3)
    bolus /= bolus.max()  # at the frames, so that the lowest frame is `drop` below the baseline
    left = 1 - recovery_percent / 100
    gone = 1 / (1 + np.exp(-(TIMES_S - 40) / 2))
    return level * (1 - drop * (bolus + left * gone * (1 - bolus)))


def timing():
    return find_bolus(curve(95.0), TIMES_S)


@pytest.mark.parametrize("recovery", [50.0, 80.0, 100.0, 120.0])
@pytest.mark.parametrize("drop", [0.2, 0.5])
def test_recovery_is_the_curves_own(recovery, drop):
    found = percentage_signal_recovery(curve(recovery, drop), timing())
    assert found == pytest.approx(recovery, abs=0.5)


def test_recovery_knows_no_level_and_works_voxel_by_voxel():
    curves = np.stack([curve(r, level=s) for r, s in ((70, 10.0), (110, 3000.0))])
    np.testing.assert_allclose(percentage_signal_recovery(curves[None], timing())[0], [70, 110], atol=0.5)


def test_noise_pulls_single_voxels_towards_full_recovery_and_a_mean_curve_not():
    noise = np.random.default_rng(0).normal(scale=12.0, size=(4000, TIMES_S.size))  # SNR 50
    curves = curve(70.0, 0.3) + noise
    voxels = percentage_signal_recovery(curves, timing())
    assert 70.5 < np.nanmean(voxels) < 74.0
    assert percentage_signal_recovery(curves.mean(axis=0), timing()) == pytest.approx(70.0, abs=0.5)


def test_where_nothing_tells_the_drop_from_noise_there_is_no_value():
    flat = 600 + np.random.default_rng(1).normal(scale=12.0, size=(2000, TIMES_S.size))
    assert np.isnan(percentage_signal_recovery(flat, timing())).mean() > 0.99
    broken = np.stack([curve(80.0), curve(80.0), curve(80.0)])
    broken[0, 30], broken[1, 12] = 0.0, np.nan
    np.testing.assert_array_equal(np.isnan(percentage_signal_recovery(broken, timing())), [True, True, False])


def test_series_that_ends_with_the_first_pass_is_refused():
    when = timing()
    with pytest.raises(TimingError, match="3"):
        percentage_signal_recovery(curve(80.0)[: when.end + 2], when)
