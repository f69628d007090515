"""What the embedded networks know: measured on heads and patients that no training saw."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from dsc_phantom import graded_head
from PerfusionCBVLib import Settings, compute_maps
from PerfusionCBVLib.evaluate import TEST_SEED, score
from PerfusionCBVLib.networks.cards import ARCHITECTURES, WEIGHTS_FOLDER, known_networks, load_network, read_card
from PerfusionCBVLib.settings import NETWORK_METHODS
from PerfusionCBVLib.simulate import draw_subject, simulate
from PerfusionCBVLib.simulate.anatomy import TISSUES

EMBEDDED = sorted(NETWORK_METHODS)
PAPER = [name for name in NETWORK_METHODS if name != "anchored-unet"]


def test_every_network_method_has_weights_and_a_card():
    assert known_networks() == EMBEDDED


@pytest.mark.parametrize("name", EMBEDDED)
def test_card_and_weights_belong_together(name):
    card = read_card(name)
    content = (WEIGHTS_FOLDER / f"{name}.safetensors").read_bytes()
    assert card["sha256"] == hashlib.sha256(content).hexdigest()
    assert len(content) < 25e6
    network, _ = load_network(name)
    assert not network.training
    assert card["parameters"] == sum(p.numel() for p in network.parameters())
    assert card["input"] == ARCHITECTURES[name].input
    assert card["training"]["steps"] > 300
    assert card["training"]["patients"] > 100
    assert "research use only" in card["intended_use"]
    json.dumps(card, allow_nan=False)


@pytest.fixture(scope="module", params=[28, 29], ids=["noisy", "quiet"])
def patient(request):
    return simulate(draw_subject(np.random.default_rng(TEST_SEED + 500_000 + request.param)))


def scores(subject, method):
    rcbv = compute_maps(subject.series, Settings(method=method)).maps["rcbv"].values
    enhancing = subject.tissue == TISSUES.index("enhancing")
    return score(rcbv, subject.truth["rcbv"], subject.brain & ~subject.vessel, enhancing)


def test_the_default_beats_the_classical_maps_on_unseen_patients(patient):
    network, bsw, integral = (scores(patient, method) for method in (Settings().method, "bsw", "integral"))
    for classical in (bsw, integral):
        assert network["nrmse"] < 0.95 * classical["nrmse"]
        assert network["ccc"] > classical["ccc"]
    assert network["mapped_fraction"] > 0.95


@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_networks_know_an_unseen_patient(name, patient):
    """Whether they beat the classical maps is measured on many patients, see the README."""
    row = scores(patient, name)
    assert row["nrmse"] < 0.25
    assert row["ccc"] > 0.7
    assert row["mapped_fraction"] > 0.95


@pytest.fixture(scope="module")
def noisy_leaking_head():
    """Made from formulas that the simulator does not share: no anatomy, no textures, no scanner."""
    return graded_head((72, 80, 8), leakage_per_s=0.06, noise=25.0, seed=3)


def test_the_default_beats_the_classical_maps_on_a_head_unlike_the_simulators(noisy_leaking_head):
    head = noisy_leaking_head
    errors = {}
    for method in ("integral", "bsw", "anchored-unet"):
        rcbv = compute_maps(head.series, Settings(method=method), reference=head.white).maps["rcbv"].values
        known = np.isfinite(rcbv) & (head.volume > 0.5)
        errors[method] = np.sqrt(np.mean((rcbv - head.volume)[known] ** 2))
    assert errors["anchored-unet"] < min(errors["integral"], errors["bsw"])


@pytest.mark.parametrize("name", EMBEDDED)
def test_a_network_s_map_comes_with_the_classical_one_and_their_agreement(name, noisy_leaking_head):
    head = noisy_leaking_head
    result = compute_maps(head.series, Settings(method=name))
    classical = compute_maps(head.series, Settings(method="bsw"))
    np.testing.assert_allclose(
        result.maps["rcbv_classical"].values, classical.maps["rcbv"].values, rtol=1e-5, atol=1e-6
    )
    assert result.provenance["network"]["weights_sha256"] == read_card(name)["sha256"]
    assert -1 <= result.provenance["agreement"]["correlation"] <= 1
    again = compute_maps(head.series, Settings(method=name))
    np.testing.assert_array_equal(again.maps["rcbv"].values, result.maps["rcbv"].values)


def tissue_means(series, head):
    rcbv = compute_maps(series, Settings(method="anchored-unet"), reference=head.white).maps["rcbv"].values
    return np.array([np.nanmean(rcbv[region]) for region in (head.volume == 2, head.lesion)])


def test_frame_interval_and_count_do_not_move_the_anchored_map():
    means = []
    for interval_s, frames in ((1.0, 120), (1.5, 60), (2.0, 45), (2.5, 40)):
        head = graded_head(frames=frames, interval_s=interval_s, noise=6.0)
        means.append(tissue_means(head.series, head))
    assert (np.ptp(means, axis=0) / np.mean(means, axis=0)).max() < 0.03


@pytest.mark.parametrize("frame", [5, 40], ids=["in the baseline", "in the tail"])
def test_a_glitch_does_not_move_the_anchored_map(frame):
    head = graded_head(noise=6.0)
    clean = tissue_means(head.series, head)
    signal = head.series.signal.copy()
    signal[..., frame] *= 0.93
    glitched = tissue_means(replace(head.series, signal=signal), head)
    assert glitched == pytest.approx(clean, rel=0.05)
