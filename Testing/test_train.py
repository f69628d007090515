"""Training: samples agree with the truth they were drawn from, a killed run goes on, weights come out with a card."""

import csv
import itertools
import json

import numpy as np
import pytest
import torch

from PerfusionCBVLib.errors import UsageError
from PerfusionCBVLib.evaluate import TEST_SEED
from PerfusionCBVLib.networks.cards import load_network
from PerfusionCBVLib.train import loop, samples
from PerfusionCBVLib.train.loop import VALIDATION_SEED, TrainingSettings, train
from PerfusionCBVLib.train.samples import (
    LARGEST_TARGET,
    FeatureVolume,
    GridSlices,
    SimulatedPatients,
    draw_features,
    draw_grid_slices,
)
from PerfusionCBVLib.train.tasks import TASKS

SEED = 65  # a small matrix


@pytest.fixture(scope="module")
def slices():
    drawn = draw_grid_slices(SEED)
    assert drawn is not None
    return drawn


def test_samples_hold_input_and_truth_on_the_same_pixels(slices):
    assert slices.signal.shape == (len(slices.rcbv), 45, 128, 128)
    area = slices.signal[:, 8:35].astype(np.float32).sum(axis=1)
    inside = (slices.rcbv > 0.1) & (slices.rcbv < 3)  # in large vessels the signal drowns
    # Area under the first pass is blood volume: mirrored or shifted truth would not follow it.
    straight = np.corrcoef(area[inside], slices.rcbv[inside])[0, 1]
    mirrored = slices.rcbv[:, ::-1]
    both = inside & (mirrored > 0.1)
    assert straight > 0.6
    assert straight > np.corrcoef(area[both], mirrored[both])[0, 1] + 0.1


def test_truth_is_relative_to_white_matter(slices):
    assert 0.5 < np.median(slices.rcbv[slices.rcbv > 0.1].astype(np.float32)) < 3
    assert slices.rcbv.max() <= LARGEST_TARGET


def test_a_seed_is_a_patient(slices):
    again = next(iter(SimulatedPatients(SEED, draw_grid_slices)))
    np.testing.assert_array_equal(again.signal, slices.signal)


def test_patients_already_drawn_come_first_and_once():
    stream = iter(SimulatedPatients(100, lambda seed: seed if seed != 101 else None, [103, 100]))
    assert list(itertools.islice(stream, 5)) == [103, 100, 102, 104, 105]


def test_patients_for_training_validation_and_testing_never_meet():
    seeds = TrainingSettings().seed * 1_000_000
    assert seeds + 10_000_000 < VALIDATION_SEED
    assert VALIDATION_SEED + 1000 < TEST_SEED


@pytest.fixture(scope="module")
def voxels():
    drawn = draw_features(SEED)
    assert drawn is not None
    return drawn


def test_features_hold_the_truth_on_the_same_voxels(voxels):
    tissue = ~voxels.vessel & (voxels.truth > 0.1)
    corrected, truth = voxels.features[tissue, 0].astype(float), voxels.scale * voxels.truth[tissue].astype(float)
    assert np.corrcoef(corrected, truth)[0, 1] > 0.6
    assert np.median(corrected / truth) == pytest.approx(1.0, abs=0.15)


def test_kept_features_come_back(voxels, tmp_path):
    voxels.save(tmp_path / "44.npz")
    again = FeatureVolume.load(tmp_path / "44.npz")
    for name in ("features", "truth", "usable", "vessel", "tissue", "voxel_size_mm"):
        np.testing.assert_array_equal(getattr(again, name), getattr(voxels, name))
    assert again.scale == voxels.scale
    assert [path.name for path in tmp_path.iterdir()] == ["44.npz"]


def test_kept_patients_are_not_drawn_again(voxels, tmp_path, monkeypatch):
    voxels.save(tmp_path / "44.npz")
    draw = TASKS["anchored-unet"](10, tmp_path).draw
    monkeypatch.setattr(samples, "draw_features", lambda seed: voxels if seed == 45 else None)
    np.testing.assert_array_equal(draw(44).truth, voxels.truth)
    assert draw(46) is None
    draw(45)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["44.npz", "45.npz"]
    with pytest.raises(UsageError, match="anchored-unet only"):
        TASKS["unet-gru"](10, tmp_path)


def test_patches_keep_input_and_truth_together(voxels):
    task = TASKS["anchored-unet"](50)
    task.add(voxels)
    features, target, weight = task.batch(np.random.default_rng(0), 6)
    assert features.shape == (6, 12, 96, 96)
    tissue = weight == 1
    assert torch.equal(weight > 0, features[:, 10] > 0)
    assert np.corrcoef(features[:, 0][tissue], target[tissue])[0, 1] > 0.6


@pytest.fixture(params=["unet-gru", "anchored-unet"])
def name(request):
    return request.param


@pytest.fixture
def quick(monkeypatch, slices, voxels, name):
    """Simulation replaced by one patient already drawn: the loop itself is under test."""
    few = GridSlices(slices.signal[:4], slices.rcbv[:4]) if name == "unet-gru" else voxels
    task = TASKS[name]

    def build(capacity, patients):
        made = task(capacity, patients)
        made.draw = lambda seed: few
        return made

    monkeypatch.setitem(loop.TASKS, name, build)
    monkeypatch.setattr(SimulatedPatients, "__iter__", lambda self: itertools.repeat(few))
    return TrainingSettings(
        minutes=0.2, batch=2, buffer_slices=8, fill_slices=4, validation_patients=1, workers=0,
        checkpoint_minutes=0.03, mixed_precision=False,
    )  # fmt: skip


def test_a_simulator_that_dies_stops_the_training(tmp_path, quick, name, monkeypatch):
    def die(self):
        yield from itertools.repeat(next(self_samples), 3)
        raise RuntimeError("worker exited")

    self_samples = iter(SimulatedPatients(0, lambda seed: None))
    monkeypatch.setattr(SimulatedPatients, "__iter__", die)
    with pytest.raises(RuntimeError, match="worker exited"):
        train(name, tmp_path, quick, lambda message: None)


def history(folder):
    with (folder / "history.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_a_stopped_run_goes_on_and_ends_with_weights_and_card(tmp_path, quick, name, monkeypatch):
    threads = torch.get_num_threads()

    class KilledError(Exception):
        pass

    original = loop._save_checkpoint

    def save_then_die(*arguments):
        original(*arguments)
        raise KilledError

    monkeypatch.setattr(loop, "_save_checkpoint", save_then_die)
    with pytest.raises(KilledError):
        train(name, tmp_path, quick, lambda message: None)
    monkeypatch.setattr(loop, "_save_checkpoint", original)
    before = history(tmp_path)[-1]
    said = []
    card_path = train(name, tmp_path, quick, said.append)
    torch.set_num_threads(threads)

    assert any(message.startswith(f"resuming at step {before['step']:.0f}") for message in said)
    rows = history(tmp_path)
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert rows[-1]["step"] > before["step"]
    assert np.nanmin([row["loss"] for row in rows[1:]]) < rows[0]["loss"]
    card = json.loads(card_path.read_text("utf-8"))
    assert card["training"]["steps"] == rows[-1]["step"]
    assert card["training"]["minutes"] == pytest.approx(rows[-1]["minutes"], abs=0.1)
    network, _ = load_network(name, tmp_path)
    assert sum(p.numel() for p in network.parameters()) == card["parameters"]
    assert not list(tmp_path.glob("*.new"))
