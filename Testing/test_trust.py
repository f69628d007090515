"""When a network should not be believed: its distance from its training and its disagreement with the classical map."""

from dataclasses import replace

import numpy as np
import pytest

from dsc_phantom import graded_head
from PerfusionCBVLib import Settings, compute_maps
from PerfusionCBVLib.networks.domain import DESCRIPTION, describe, distance, training_domain
from PerfusionCBVLib.networks.trust import agreement, calibrated_deviation, check_networks, familiarity
from PerfusionCBVLib.preparation import find_mask_and_bolus, fit_leakage, prepare
from PerfusionCBVLib.report import report_html
from PerfusionCBVLib.settings import NETWORK_METHODS
from reference_objects import PLANS, reference_object

NAMES = list(DESCRIPTION)


def described(series):
    prepared = prepare(series, *find_mask_and_bolus(series))
    return dict(zip(NAMES, describe(prepared, fit_leakage(prepared)), strict=True))


@pytest.fixture(scope="module")
def domain():
    """Correlated normal descriptions with known mean and covariance."""
    g = np.random.default_rng(0)
    mixing = g.standard_normal((len(NAMES), len(NAMES)))
    drawn = g.standard_normal((4000, len(NAMES))) @ mixing + 3
    return training_domain(drawn), mixing


def test_distance_is_that_of_mahalanobis(domain):
    card, mixing = domain
    covariance = mixing.T @ mixing
    g = np.random.default_rng(1)
    limit = np.sqrt(np.percentile(g.chisquare(len(NAMES), 100_000), 97.5))
    for _ in range(5):
        row = g.standard_normal(len(NAMES)) @ mixing + 3
        away = row - 3
        expected = np.sqrt(away @ np.linalg.inv(covariance) @ away) / limit
        assert distance(row, card)[0] == pytest.approx(expected, rel=0.1)


def test_few_of_the_familiar_are_called_unfamiliar(domain):
    card, mixing = domain
    rows = np.random.default_rng(2).standard_normal((2000, len(NAMES))) @ mixing + 3
    assert 0.01 < np.mean([distance(row, card)[0] > 1 for row in rows]) < 0.06


def test_an_unknown_number_is_left_out(domain):
    card, mixing = domain
    rows = np.random.default_rng(3).standard_normal((500, len(NAMES))) @ mixing + 3
    without = rows.copy()
    without[:, 3] = np.nan
    away = [np.mean([distance(row, card)[0] for row in which]) for which in (rows, without)]
    assert away[1] == pytest.approx(away[0], rel=0.05)


def test_what_lies_beyond_all_training_is_named_farthest_first(domain):
    card, _ = domain
    row = np.array(card["mean"])
    sd = np.sqrt(np.diag(card["covariance"]))
    row[5] = card["highest"][5] + 2 * sd[5]
    row[2] = card["lowest"][2] - 4 * sd[2]
    facts, finding = familiarity(row, {"name": "some-network", "training": {"domain": card}})
    assert facts["outside"] == [NAMES[2], NAMES[5]]
    assert finding is not None
    assert finding.code == "network-unfamiliar"
    for name in facts["outside"]:
        assert DESCRIPTION[name].split(",")[0] in finding.message


def test_a_familiar_series_raises_nothing(domain):
    card, _ = domain
    facts, finding = familiarity(np.array(card["mean"]), {"name": "some-network", "training": {"domain": card}})
    assert finding is None
    assert facts["distance"] == pytest.approx(0, abs=1e-6)


def test_a_description_says_what_was_measured():
    head = graded_head(frames=60, interval_s=1.2, noise=2.0)
    found = described(head.series)
    assert np.exp(found["frame_interval"]) == pytest.approx(1.2)
    assert np.exp(found["frames"]) == pytest.approx(60)
    assert np.exp(found["echo_time"]) == pytest.approx(0.03)
    assert np.exp(found["flip_angle"]) == pytest.approx(60)
    assert np.exp(found["pixel"]) == pytest.approx(3.4)
    assert np.exp(found["thickness"]) == pytest.approx(6.0)
    assert np.exp(found["width"]) == pytest.approx(9, rel=0.1)
    assert np.isfinite(list(found.values())).all()


def test_a_description_grows_with_noise_and_leakage():
    quiet, noisy = (described(graded_head(noise=noise).series) for noise in (2.0, 16.0))
    assert noisy["noise"] - quiet["noise"] == pytest.approx(np.log(8), rel=0.2)
    tight, leaking = (described(graded_head(leakage_per_s=k).series) for k in (0.0, 0.05))
    assert leaking["misfit_high"] >= tight["misfit_high"] - 0.05
    assert leaking["leaking"] > tight["leaking"]


def test_calibrated_deviation_adds_what_the_network_can_t_know():
    own, rcbv, leakage = np.full((2, 2, 2), 0.3), np.full((2, 2, 2), 2.0), np.full((2, 2, 2), -0.5)
    found = calibrated_deviation(own, rcbv, leakage, {"own": 1.0, "scale": 0.2, "leakage": 0.0})
    np.testing.assert_allclose(found, 0.5)  # 0.3 and 0.4 at right angles
    found = calibrated_deviation(own, rcbv, leakage, {"own": 0.0, "scale": 0.0, "leakage": 0.8})
    np.testing.assert_allclose(found, 0.4)


def test_disagreement_counts_only_beyond_noise():
    g = np.random.default_rng(4)
    truth = g.uniform(0.5, 3, (20, 20, 10))
    noise = np.full(truth.shape, 0.2)
    classical = truth + 0.2 * g.standard_normal(truth.shape)
    facts, finding = agreement(truth, classical, noise)
    assert finding is None
    assert facts["rms_unexplained"] < 0.05
    assert facts["rms_difference"] == pytest.approx(0.2 / np.sqrt(np.mean(classical**2)), rel=0.1)
    facts, finding = agreement(0.6 * truth, classical, noise)
    assert finding is not None
    assert finding.code == "network-disagrees"
    assert facts["rms_unexplained"] == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan.name in ("usual", "clean")], ids=lambda p: p.name)
def test_another_simulator_s_usual_protocols_are_familiar(plan):
    assert check_networks(reference_object(plan).series) == []


UNHEARD_OF = {
    "echo time of 120 ms": {"echo_time_s": 0.12},
    "flip angle of 3°": {"flip_angle_deg": 3.0},
}


@pytest.mark.parametrize("change", UNHEARD_OF.values(), ids=UNHEARD_OF)
def test_an_unheard_of_protocol_is_named(change):
    series = graded_head(noise=3.0).series
    findings = check_networks(replace(series, acquisition=replace(series.acquisition, **change)))
    assert {finding.code for finding in findings} == {"network-unfamiliar"}
    assert len(findings) == len(NETWORK_METHODS)
    word = next(iter(change)).split("_")[0]
    assert all(word in finding.message.split("Beyond")[1] for finding in findings)


def test_frames_too_rare_for_the_bolus_are_flagged():
    """Frames of 4 s: only three or four fall into the pass."""
    head = graded_head(noise=1.0, frames=40, interval_s=4.0)
    findings = check_networks(head.series)
    assert {finding.code for finding in findings} == {"network-unfamiliar"}


def test_what_check_says_stands_in_the_map_s_findings_too():
    series = graded_head(noise=3.0).series
    series = replace(series, acquisition=replace(series.acquisition, echo_time_s=0.12))
    result = compute_maps(series, Settings(method="anchored-unet"))
    assert "network-unfamiliar" in [finding.code for finding in result.findings]
    assert result.provenance["familiarity"]["outside"][0] in ("echo_time", "drop")
    assert "unlike those" in report_html(result).split("<h2>")[0]  # in the first lines
    plain = compute_maps(series, Settings(method="bsw"))
    assert "network-unfamiliar" not in [finding.code for finding in plain.findings]
