"""The anchored network's features and bounds: what it can't do, whatever its weights are."""

import numpy as np
import pytest
import torch

from dsc_phantom import ACQUISITION, gamma_variate, graded_head
from PerfusionCBVLib import DynamicSeries, Settings, compute_maps
from PerfusionCBVLib.evaluate import nrmse
from PerfusionCBVLib.leakage import correct_unidirectional
from PerfusionCBVLib.networks.anchored_unet import LARGEST_LOG_FACTOR, LARGEST_SHIFT, AnchoredUNet
from PerfusionCBVLib.networks.features import FEATURES, as_slices, from_slices, network_slices, voxel_features
from PerfusionCBVLib.preparation import find_mask_and_bolus, prepare
from reference_objects import PLANS, reference_object

MASK = len(FEATURES)
"""The channel after the features."""


def prepared_and_fit(series):
    prepared = prepare(series, *find_mask_and_bolus(series))
    timing = prepared.timing
    fit = correct_unidirectional(
        prepared.delta_r2s_per_s, prepared.reference_per_s, series.times_s,
        fit=timing.after_arrival, window=timing.first_pass, baseline=timing.baseline,
    )  # fmt: skip
    return prepared, fit


@pytest.fixture(scope="module")
def case():
    return prepared_and_fit(graded_head(leakage_per_s=0.03).series)


@pytest.fixture(scope="module")
def slices(case):
    prepared, fit = case
    return network_slices(voxel_features(prepared, fit), prepared.usable, np.array(prepared.series.voxel_size_mm))


def random_network(seed):
    """A network with large random weights: the worst that training could end in."""
    torch.manual_seed(seed)
    network = AnchoredUNet().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return network


def feature(values, name):
    return values[:, FEATURES.index(name)]


def test_untrained_it_is_the_mean_of_the_two_classical_maps(slices):
    with torch.inference_mode():
        volume, _ = AnchoredUNet().eval()(torch.from_numpy(slices))
    inside = slices[:, MASK] > 0
    classical = [slices[:, FEATURES.index(name)][inside] for name in ("corrected", "averaged")]
    assert np.corrcoef(volume[:, 0].numpy()[inside], np.mean(classical, axis=0))[0, 1] > 0.99


@pytest.mark.parametrize("seed", range(4))
def test_whatever_its_weights_the_map_stays_near_the_classical_one(slices, seed):
    """Bounded by the extremes of the 5 × 5 neighbours, with 0 to 1.5 × of either leakage corrected."""
    with torch.inference_mode():
        volume, deviation = (x[:, 0].numpy() for x in random_network(seed)(torch.from_numpy(slices)))
    inside = slices[:, MASK] > 0
    corrected, uncorrected, averaged, leaked = (
        slices[:, FEATURES.index(name)] for name in ("corrected", "uncorrected", "averaged", "leaked")
    )
    leak = corrected - uncorrected
    ends = np.stack([uncorrected, uncorrected + 1.5 * leak, averaged + leaked, averaged - 0.5 * leaked])
    low, high = ends.min(axis=0), ends.max(axis=0)
    padded = [np.pad(np.where(inside, x, fill), ((0, 0), (2, 2), (2, 2)), constant_values=fill)
              for x, fill in ((low, np.inf), (high, -np.inf))]  # fmt: skip
    around = np.lib.stride_tricks.sliding_window_view
    low, high = around(padded[0], (5, 5), (1, 2)).min((-2, -1)), around(padded[1], (5, 5), (1, 2)).max((-2, -1))
    factor = np.exp(LARGEST_LOG_FACTOR)
    largest = np.where(high > 0, high * factor, high / factor) + LARGEST_SHIFT
    smallest = np.where(low > 0, low / factor, low * factor) - LARGEST_SHIFT
    assert (volume[inside] <= largest[inside] + 1e-3).all()
    assert (volume[inside] >= smallest[inside] - 1e-3).all()
    assert (deviation[inside] > 0).all()
    assert not volume[~inside].any()


@pytest.mark.parametrize("seed", range(4))
def test_whatever_its_weights_a_quiet_voxel_that_does_not_leak_keeps_its_value(seed):
    """Noise of 0.1 % leaves at most 5 % and twice the noise open, also at the sharp edges of white matter."""
    head = graded_head(noise=0.3)
    prepared, fit = prepared_and_fit(head.series)
    features = voxel_features(prepared, fit)
    images = network_slices(features, prepared.usable, np.array(head.series.voxel_size_mm))
    with torch.inference_mode():
        volume = from_slices(random_network(seed)(torch.from_numpy(images))[0][:, 0].numpy(), prepared.usable)
    tissue = ((head.volume == 1) | (head.volume == 2))[prepared.usable]
    classical = np.sort([feature(features, name)[tissue] for name in ("corrected", "averaged")], axis=0)
    assert np.percentile(classical[1] / classical[0], 99) < 1.05
    moved = volume[tissue] / volume[tissue].clip(*classical)
    noise = np.exp(feature(features, "noise")[tissue]) / classical[0]
    assert np.median(noise) < 0.02
    assert np.percentile(np.abs(np.log(moved)), 99) < 0.05 + 8 * np.percentile(noise, 99)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.name)
def test_it_beats_the_classical_map_on_objects_of_another_simulator(plan):
    """The embedded weights; automatic mask and reference region, brain without vessels."""
    made = reference_object(plan)
    result = compute_maps(made.series, Settings(method="anchored-unet"))
    region = made.tissue & result.mask
    network, classical = (nrmse(result.maps[n].values[region], made.rcbv[region]) for n in ("rcbv", "rcbv_classical"))
    assert network < 1.05 * classical


def test_slices_do_not_see_each_other(slices):
    network = random_network(9)
    with torch.inference_mode():
        together, _ = network(torch.from_numpy(slices))
        alone = torch.cat([network(torch.from_numpy(s[None]))[0] for s in slices])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_gradients_reach_every_parameter(slices):
    network = random_network(2).train()
    volume, deviation = network(torch.from_numpy(slices[3:5]))
    (volume.square().mean() + deviation.mean()).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_voxels_return_to_their_places():
    g = np.random.default_rng(0)
    usable = g.random((13, 10, 5)) > 0.4
    values = g.random((int(usable.sum()), 3)).astype(np.float32)
    images = as_slices(values, usable)
    assert images.shape == (5, 3, 16 + 16, 12 + 16)  # multiples of 4, and 8 pixels of margin on either side
    for channel in range(3):
        np.testing.assert_array_equal(from_slices(images[:, channel], usable), values[:, channel])
    x, y, z = np.argwhere(usable)[17]
    np.testing.assert_array_equal(images[z, :, x + 8, y + 8], values[17])
    assert np.abs(images).sum() == pytest.approx(np.abs(values).sum(), rel=1e-5)  # and nothing anywhere else


def test_images_do_not_depend_on_the_field_of_view():
    g = np.random.default_rng(1)
    usable = g.random((13, 10, 5)) > 0.4
    values = g.random((int(usable.sum()), 2)).astype(np.float32)
    wider = np.pad(usable, ((3, 6), (1, 0), (2, 1)))
    np.testing.assert_array_equal(as_slices(values, wider), as_slices(values, usable))


@pytest.mark.parametrize(("interval_s", "frames"), [(0.8, 130), (1.5, 60), (2.5, 40)])
def test_features_do_not_depend_on_sampling_dose_or_echo_time(interval_s, frames):
    """A voxel with twice the blood, and one 1 s late: known features, whatever frames show them."""
    head = graded_head(noise=0)
    times_s = np.arange(frames) * interval_s
    late = np.zeros(head.white.shape, bool)
    late[:10] = True
    curves = [10 * gamma_variate(times_s - shift, 20, 9, 3) for shift in (0.0, 1.0)]
    drop = np.where(late[..., None], curves[1], curves[0]) * head.volume[..., None]
    still = head.series.signal[..., :5].mean(axis=-1)
    noise = np.random.default_rng(1).standard_normal((*still.shape, frames)) * 0.5
    signal = np.abs(still[..., None] * np.exp(-0.02 * drop) + noise).astype(np.float32)
    acquisition = ACQUISITION.__class__(**{**ACQUISITION.__dict__, "echo_time_s": 0.02})
    series = DynamicSeries(signal, head.series.affine, times_s, acquisition)
    prepared, fit = prepared_and_fit(series)
    features = voxel_features(prepared, fit)
    regions = [(r & ~late)[prepared.usable] for r in (head.white, head.lesion)]
    white, lesion = (np.median(features[r], axis=0) for r in regions)
    volume = FEATURES.index("corrected")
    assert lesion[volume] / white[volume] == pytest.approx(3.0, rel=0.03)
    assert lesion[FEATURES.index("k1")] / white[FEATURES.index("k1")] == pytest.approx(3.0, rel=0.03)
    delayed = feature(features, "delay")[(head.volume == 2)[prepared.usable] & late[prepared.usable]]
    prompt = feature(features, "delay")[(head.volume == 2)[prepared.usable] & ~late[prepared.usable]]
    k1 = np.median(feature(features, "k1")[(head.volume == 2)[prepared.usable]])
    assert np.median(delayed) - np.median(prompt) == pytest.approx(k1 * 1.0 / prepared.timing.width_s, rel=0.3)
