"""The networks' grid, architecture, cards and inference; test_weights.py tests what the embedded weights know."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from nibabel.affines import apply_affine
from scipy import ndimage

from dsc_phantom import ACQUISITION, gamma_variate, graded_head
from PerfusionCBVLib import DynamicSeries
from PerfusionCBVLib.errors import ModelError, UsageError
from PerfusionCBVLib.networks import cards, inference
from PerfusionCBVLib.networks.grid import (
    FRAME_INTERVAL_S,
    FRAMES,
    FRAMES_BEFORE_ARRIVAL,
    PIXEL_MM,
    PIXELS,
    network_grid,
    network_input,
)
from PerfusionCBVLib.networks.unet_gru import UNetGRU
from PerfusionCBVLib.preparation import find_mask_and_bolus, fit_leakage, prepare
from PerfusionCBVLib.progress import silent


@pytest.fixture(scope="module")
def head():
    return graded_head()


@pytest.fixture(scope="module")
def prepared(head):
    return prepare(head.series, *find_mask_and_bolus(head.series))


@pytest.fixture
def network():
    torch.manual_seed(1)
    return UNetGRU().eval()


@pytest.fixture
def stored(network, tmp_path):
    cards.save_network(network, "unet-gru", tmp_path, training={"steps": 0}, measured={})
    return tmp_path


def smooth(shape, affine):
    """A volume that is a linear function of place: interpolation keeps it exactly."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    place = apply_affine(affine, index)
    return (200 + place @ [1.0, -0.5, 0.25]).astype(np.float32), place


AFFINES = {
    "RAS, coarse": np.diag([2.5, 2.5, 5.0, 1]),
    "LPS, fine": np.array([[-1.1, 0, 0, 70], [0, -1.1, 0, 80], [0, 0, 3, -20], [0, 0, 0, 1.0]]),
    "axes swapped": np.array([[0, 2.0, 0, -60], [-2.0, 0, 0, 70], [0, 0, -4, 10], [0, 0, 0, 1.0]]),
}


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_to_the_grid_and_back_keeps_a_linear_image(affine):
    shape = tuple(int(n) for n in (np.array([120, 140, 20]) / np.abs(affine[:3, :3]).sum(axis=0) * [1, 1, 4]))
    volume, _ = smooth(shape, affine)
    mask = np.zeros(shape, bool)
    mask[2:-2, 2:-2, 1:-1] = True
    grid = network_grid(mask, affine)
    back = grid.to_voxels(grid.to_pixels(volume))
    inside = (slice(12, -12), slice(12, -12))  # beyond the mask the grid takes the image for 0, a jump that is felt
    np.testing.assert_allclose(back[inside], volume[inside], rtol=2e-3)


def test_sharp_edges_survive_the_grid():
    """Labels on 2.2 mm voxels; linear interpolation there and back has an error of 12 %."""
    affine = np.diag([2.2, 2.2, 5.0, 1])
    g = np.random.default_rng(0)
    blocks = g.choice([0.1, 1.0, 2.2], size=(24, 28, 3))
    volume = np.kron(blocks, np.ones((3, 3, 1))).astype(np.float32)
    usable = ndimage.binary_erosion(np.ones(volume.shape[:2], bool), iterations=6)[..., None].repeat(3, axis=2)
    grid = network_grid(usable, affine)
    share = grid.to_pixels(usable.astype(np.float32))
    seen = grid.to_pixels(volume * usable) / np.maximum(share, 0.5) * (share > 0.05)
    back = grid.rcbv_to_voxels(seen, share)
    error = np.sqrt(np.mean((back - volume)[usable] ** 2) / np.mean(volume[usable] ** 2))
    assert error < 0.07


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_pixels_run_to_the_right_and_to_the_front(affine):
    shape = (50, 56, 8)
    _, place = smooth(shape, affine)
    grid = network_grid(np.ones(shape, bool), affine)
    right = grid.to_pixels(place[..., 0].astype(np.float32))
    front = grid.to_pixels(place[..., 1].astype(np.float32))
    middle = slice(PIXELS // 2 - 15, PIXELS // 2 + 15)
    for steps_mm in (np.diff(right[0, middle, PIXELS // 2]), np.diff(front[0, PIXELS // 2, middle])):
        assert steps_mm.mean() == pytest.approx(PIXEL_MM, rel=0.005)
        assert steps_mm == pytest.approx(PIXEL_MM, rel=0.08)  # finer voxels fall unevenly into the pixels


def test_a_head_larger_than_the_grid_gets_coarser_pixels_not_cut_ones():
    affine = np.diag([2.0, 2.0, 5.0, 1])
    mask = np.ones((100, 140, 3), bool)  # 280 mm
    share = network_grid(mask, affine).to_pixels(mask.astype(np.float32))
    volume = np.zeros(mask.shape, np.float32)
    volume[:, 0], volume[:, -1] = 1.0, 1.0  # the first and last row are still on the grid
    assert network_grid(mask, affine).to_pixels(volume).max() > 0.3
    assert share.max() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(("interval_s", "frames"), [(0.8, 130), (1.5, 60), (2.4, 40)])
def test_any_sampling_becomes_the_same_input(head, prepared, interval_s, frames):
    """A white-matter voxel's input is its known curve over the reference's peak, at seconds from arrival."""
    times_s = np.arange(frames) * interval_s
    curve = 6 * gamma_variate(times_s, 20, 9, 3)
    still = head.series.signal[..., :5].mean(axis=-1)
    signal = still[..., None] * np.exp(-0.03 * head.volume[..., None] * curve)
    series = DynamicSeries(signal.astype(np.float32), head.series.affine, times_s, ACQUISITION)
    mask, timing = find_mask_and_bolus(series)
    case = prepare(series, mask, timing)
    slices, share = network_input(case, network_grid(mask, series.affine))

    assert slices.shape[1:] == (FRAMES, PIXELS, PIXELS)
    assert not slices[share.repeat(FRAMES, 0).reshape(slices.shape) < 0.02].any()
    wanted_s = timing.arrival_s + (np.arange(FRAMES) - FRAMES_BEFORE_ARRIVAL) * FRAME_INTERVAL_S
    volume = network_grid(mask, series.affine).to_pixels(head.volume.astype(np.float32))
    pure = (share > 0.999) & (np.abs(volume - 1.0) < 1e-3)
    found = np.array([frame[pure].mean() for frame in slices.swapaxes(0, 1)])
    scale = case.reference_per_s[timing.first_pass].max()
    expected = 6 * gamma_variate(wanted_s, 20, 9, 3) / scale
    assert np.abs(found - expected).max() < 0.08 * expected.max()
    assert np.sum(found) == pytest.approx(np.sum(expected), rel=0.02)


PAPER = ["unet-gru", "unet", "convlstm2d", "conv3d"]


@pytest.mark.parametrize("name", PAPER)
def test_output_is_a_non_negative_map_whatever_the_batch(name):
    torch.manual_seed(2)
    network = cards.build_network(name).eval()
    batch = torch.randn(2, 45, 128, 128)
    with torch.inference_mode():
        together = network(batch)
        alone = torch.cat([network(one[None]) for one in batch])
    assert together.shape == (2, 1, 128, 128)
    assert float(together.min()) >= 0
    assert float(together.std()) > 0
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PAPER)
def test_gradients_reach_every_parameter(name):
    torch.manual_seed(3)
    network = cards.build_network(name, {"attention": True} if name == "unet-gru" else None).train()
    network(torch.randn(2, 45, 128, 128)).square().mean().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_unet_gru_is_the_papers_but_for_one_skip_connection():
    sizes = [
        sum(p.numel() for p in cards.build_network("unet-gru", config).parameters())
        for config in ({"full_features": 0}, None)
    ]
    # 45 frames to 16 features in 3 × 3, their normalisation, and 16 more inputs of the last block's first convolution.
    assert sizes[1] - sizes[0] == 9 * 45 * 16 + 2 * 16 + 9 * 16 * 16


@pytest.mark.parametrize("name", PAPER)
def test_the_order_of_frames_matters(name):
    torch.manual_seed(5)
    network = cards.build_network(name).eval()
    curve = torch.linspace(-1, 1, 45).sin()[:, None, None] * torch.rand(45, 128, 128)
    with torch.inference_mode():
        forward, backward = network(curve[None]), network(curve.flip(0)[None])
    assert float((forward - backward).abs().max()) > 1e-4


def test_the_bottleneck_sees_the_whole_slice(network):
    """The GRU reads positions in order: a change in the first corner reaches the last corner of the map."""
    torch.manual_seed(4)
    base = torch.randn(1, 45, 128, 128, requires_grad=True)
    network(base)[0, 0, -8:, -8:].sum().backward()
    assert float(base.grad[0, :, :8, :8].abs().max()) > 0


def test_saved_weights_come_back_in_half_precision(network, stored):
    again, card = cards.load_network("unet-gru", stored)
    assert card["parameters"] == sum(p.numel() for p in network.parameters())
    for name, value in network.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name].float(), value.float(), rtol=1e-3, atol=1e-6)


def test_one_changed_byte_is_refused(stored):
    path = stored / "unet-gru.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="altered or damaged"):
        cards.load_network("unet-gru", stored)


def test_weights_of_another_architecture_are_refused(stored):
    card = json.loads((stored / "unet-gru.json").read_text("utf-8"))
    card["config"]["first_features"] = 16
    (stored / "unet-gru.json").write_text(json.dumps(card), "utf-8")
    with pytest.raises(ModelError, match="do not fit"):
        cards.load_network("unet-gru", stored)


@pytest.mark.parametrize("missing", ["unet-gru.json", "unet-gru.safetensors"])
def test_missing_files_are_named(stored, missing):
    (stored / missing).unlink()
    with pytest.raises(ModelError, match="unet-gru"):
        cards.load_network("unet-gru", stored)


def test_a_broken_card_is_refused(stored):
    (stored / "unet-gru.json").write_text("{", "utf-8")
    with pytest.raises(ModelError, match="not valid JSON"):
        cards.load_network("unet-gru", stored)


class _PeakOfCurve(torch.nn.Module):
    """Stands for a network: what comes back must lie where it belongs."""

    def forward(self, x):
        return x.amax(dim=1, keepdim=True)


@pytest.mark.parametrize("slices_at_once", [1, 3, 100])
def test_inference_puts_every_value_in_its_voxel(monkeypatch, head, prepared, slices_at_once):
    monkeypatch.setattr(inference, "load_network", lambda name: (_PeakOfCurve(), {"name": name}))
    monkeypatch.setattr(inference, "SLICES_AT_ONCE", slices_at_once)
    found = inference.network_rcbv(prepared, fit_leakage(prepared), "unet-gru", device="cpu", progress=silent)
    values = found.rcbv
    assert found.device == "cpu"
    np.testing.assert_array_equal(np.isfinite(values), prepared.usable)
    lesion, white = (np.nanmedian(values[region]) for region in (head.lesion, head.white))
    assert lesion / white == pytest.approx(3.0, rel=0.1)


def test_a_device_that_is_not_there_is_refused():
    missing = next(n for n in ("mps", "cuda") if not {"mps": torch.backends.mps, "cuda": torch.cuda}[n].is_available())
    with pytest.raises(UsageError, match="--device auto"):
        inference.choose_device(missing)
    assert str(inference.choose_device("cpu")) == "cpu"


def test_input_does_not_depend_on_dose_or_scanner_units(prepared):
    grid = network_grid(prepared.mask, prepared.series.affine)
    stronger = replace(
        prepared, delta_r2s_per_s=1.7 * prepared.delta_r2s_per_s, reference_per_s=1.7 * prepared.reference_per_s
    )
    np.testing.assert_allclose(network_input(stronger, grid)[0], network_input(prepared, grid)[0], atol=1e-5)
