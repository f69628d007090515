"""Training: samples agree with the truth they were drawn from, a killed run goes on, weights come out with a card."""

import contextlib
import csv
import itertools
import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from PerfusionCBVLib.errors import UsageError
from PerfusionCBVLib.evaluate import TEST_SEED
from PerfusionCBVLib.networks.cards import build_network, load_network, save_network
from PerfusionCBVLib.networks.features import FEATURES
from PerfusionCBVLib.train import loop, samples
from PerfusionCBVLib.train.history import draw_history, record
from PerfusionCBVLib.train.loop import VALIDATION_SEED, TrainingSettings, fit, train
from PerfusionCBVLib.train.ranks import Ranks
from PerfusionCBVLib.train.samples import (
    LARGEST_TARGET,
    FeatureVolume,
    GridSlices,
    SimulatedPatients,
    draw_kept,
    draw_prepared,
    feature_volume,
    grid_slices,
    kept_seeds,
    load_sample,
    save_sample,
)
from PerfusionCBVLib.train.tasks import TASKS

SEED = 65  # a small matrix


@pytest.fixture(scope="module")
def patient():
    drawn = draw_prepared(SEED)
    assert drawn is not None
    return drawn


@pytest.fixture(scope="module")
def slices(patient):
    return grid_slices(*patient)


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


def test_the_visible_truth_is_smoothed_as_the_images_but_vessels_are_not_smoothed_into_tissue():
    truth = np.full((40, 40, 3), np.nan, np.float32)
    truth[4:36, 4:36] = 1.0
    truth[20:36, 4:36] = 3.0
    vessel = np.zeros(truth.shape, bool)
    vessel[10, 4:36] = True
    truth[vessel] = 48.0
    subject = SimpleNamespace(
        truth={"rcbv": truth},
        vessel=vessel,
        parameters=SimpleNamespace(disturbance=SimpleNamespace(smoothing_voxels=2.0)),
    )
    seen = samples._visible_truth(subject)
    profile = seen[:, 20, 1]
    np.testing.assert_allclose(profile[[4, 9, 11, 14]], 1.0, rtol=1e-3)  # beside the vessel and at the brain's border
    assert profile[10] == 48
    assert not seen[:4].any()
    # A Gaussian of this full width at half maximum over the edge between 1 and 3: its distribution function.
    away = np.arange(16, 24) - 19.5
    expected = 1 + 2 * stats.norm.cdf(away * 2.3548 / 2.0)
    np.testing.assert_allclose(profile[16:24], expected, atol=0.05)
    subject.parameters.disturbance.smoothing_voxels = 0.0
    np.testing.assert_array_equal(samples._visible_truth(subject), np.nan_to_num(truth))


class TwoValues(torch.nn.Module):
    """Predicts one value for tissue and one for vessels, told apart by the input."""

    def __init__(self, tissue, vessel):
        super().__init__()
        self.values = torch.nn.Parameter(torch.tensor([tissue, vessel]))

    def forward(self, signal):
        return self.values[(signal.mean(dim=1, keepdim=True) > 2).long()]


def test_under_the_weighed_loss_the_mean_is_best_and_vessels_weigh_little():
    rng = np.random.default_rng(7)
    signal = np.ones((1, 45, 128, 128), np.float32)
    signal[..., 60:68] = 6.0
    vessel = signal[0, 0] > 2
    truth = rng.lognormal(0, 0.8, (1, 128, 128)).astype(np.float32)  # skewed: mean 1.38, median 1
    truth[:, vessel] *= 5
    batch = torch.from_numpy(signal), torch.from_numpy(truth)
    means = [float(truth[:, part].mean()) for part in (~vessel, vessel)]
    loss = TASKS["unet-gru"](1, None).loss

    network = TwoValues(*means)
    loss(network, batch).backward()
    assert network.values.grad.abs().max() < 1e-2  # at the borders, where weights are averaged, truth is not the mean
    median = TwoValues(float(np.median(truth[:, ~vessel])), means[1])
    loss(median, batch).backward()
    assert median.values.grad[0] < -0.2

    exact = torch.nn.Module()
    exact.forward = lambda _: batch[1][:, None]
    assert float(loss(exact, batch)) == pytest.approx(0.05)
    wrong = {}
    for name, part in (("tissue", ~vessel), ("vessel", vessel)):
        exact.forward = lambda _, part=part: (batch[1] + torch.from_numpy(part))[:, None]
        wrong[name] = (float(loss(exact, batch)) ** 2 - 0.05**2) / part.sum()
    # Well inside 1 / (1 + (6/3)²) of a pixel of tissue; beside its border a vessel counts more.
    assert wrong["vessel"] / wrong["tissue"] == pytest.approx(0.2 / 0.9, rel=0.2)


def test_truth_is_relative_to_white_matter(slices):
    assert 0.5 < np.median(slices.rcbv[slices.rcbv > 0.1].astype(np.float32)) < 3
    assert slices.rcbv.max() <= LARGEST_TARGET


def test_a_seed_is_a_patient(patient):
    again, prepared, _ = next(iter(SimulatedPatients(SEED, draw_prepared)))
    # Up to rounding, which depends on the number of threads.
    np.testing.assert_allclose(again.series.signal, patient[0].series.signal, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(prepared.mask, patient[1].mask)


def seeds_of(monkeypatch, patients, count, *, worker=0, workers=1):
    """The first seeds that one of so many simulating processes draws."""
    monkeypatch.setattr(samples, "get_worker_info", lambda: SimpleNamespace(id=worker, num_workers=workers))
    return list(itertools.islice(patients, count))


def test_patients_already_drawn_come_first_and_once(monkeypatch):
    stream = SimulatedPatients(100, lambda seed: seed if seed != 101 else None, [103, 100])
    assert seeds_of(monkeypatch, stream, 5) == [103, 100, 102, 104, 105]


def test_processes_that_train_together_draw_every_patient_once(monkeypatch):
    seeds = []
    for rank, worker in itertools.product(range(3), range(2)):
        stream = SimulatedPatients(100, lambda seed: seed, [105, 7, 9], share=(rank, 3))
        seeds += seeds_of(monkeypatch, stream, 4, worker=worker, workers=2)
    assert sorted(seeds) == sorted([105, 7, 9, *range(100, 105), *range(106, 122)])


def test_patients_for_training_validation_and_testing_never_meet():
    seeds = TrainingSettings().seed * 1_000_000
    assert seeds + 10_000_000 < VALIDATION_SEED
    assert VALIDATION_SEED + 1000 < TEST_SEED


@pytest.fixture(scope="module")
def voxels(patient):
    drawn = feature_volume(*patient)
    assert drawn is not None
    return drawn


def test_features_hold_the_truth_on_the_same_voxels(voxels):
    tissue = ~voxels.vessel & (voxels.truth > 0.1)
    corrected, truth = voxels.features[tissue, 0].astype(float), voxels.scale * voxels.truth[tissue].astype(float)
    assert np.corrcoef(corrected, truth)[0, 1] > 0.6
    assert np.median(corrected / truth) == pytest.approx(1.0, abs=0.15)


def test_kept_features_come_back(voxels, tmp_path):
    save_sample(voxels, tmp_path / "44-features.npz")
    again = load_sample(FeatureVolume, tmp_path / "44-features.npz")
    for name, value in vars(voxels).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    assert [path.name for path in tmp_path.iterdir()] == ["44-features.npz"]


def test_kept_patients_are_not_drawn_again_and_serve_both_kinds_of_network(
    patient, slices, voxels, tmp_path, monkeypatch
):
    asked = []

    def draw(seed):
        asked.append(seed)
        return patient if seed == 44 else None

    monkeypatch.setattr(samples, "draw_prepared", draw)
    np.testing.assert_array_equal(TASKS["anchored-unet"](10, tmp_path).draw(44).truth, voxels.truth)
    np.testing.assert_array_equal(TASKS["unet-gru"](10, tmp_path).draw(44).rcbv, slices.rcbv)
    assert draw_kept(tmp_path, GridSlices, 46) is None
    assert asked == [44, 46]
    assert kept_seeds(tmp_path) == [44]


def test_patches_keep_input_and_truth_together(voxels):
    task = TASKS["anchored-unet"](50)
    task.add(voxels)
    features, target, weight = task.batch(np.random.default_rng(0), 6)
    assert features.shape == (6, 17, 96, 96)
    tissue = weight == 1
    assert torch.equal(weight > 0, features[:, 15] > 0)
    assert np.corrcoef(features[:, 0][tissue], target[tissue])[0, 1] > 0.6


def test_voxels_that_leak_count_up_to_five_times_and_the_mean_stays_best():
    """Gradients of the anchored network's loss at each voxel: no leakage, half of the full weight's, full, more."""
    rng = np.random.default_rng(8)
    share = np.repeat(np.float32([0, 0.15, 0.3, 0.9]), 24 * 96).reshape(96, 96)
    features = torch.zeros(1, 17, 96, 96)
    features[:, FEATURES.index("averaged")] = 1.0
    features[:, FEATURES.index("leaked")] = torch.from_numpy(-share * 1.2)
    truth = torch.from_numpy(rng.exponential(0.5, (1, 96, 96)).astype(np.float32) + 1)  # mean 1.5, median 1.35
    loss = TASKS["anchored-unet"](1, None).loss

    def gradient(volume):
        """Of the loss by the predicted volume, a sum for each leakage."""
        values = (torch.zeros_like(truth) + volume).requires_grad_()
        deviation = torch.full_like(truth, 2.0)  # all errors well within three of them
        loss(lambda _: (values[:, None], deviation[:, None]), (features, truth, torch.ones_like(truth))).backward()
        return values.grad.view(4, -1).sum(dim=1).numpy()

    off = gradient(truth + 0.1)
    np.testing.assert_allclose(off / off[0], [1, 3, 5, 5], rtol=1e-4)
    means = truth.view(4, -1).mean(dim=1).repeat_interleave(24 * 96).view(1, 96, 96)
    assert np.abs(gradient(means)).max() < 1e-4 * np.abs(gradient(means - 0.15)).max()


def test_empty_slices_around_the_brain_play_no_part(voxels):
    task, padded = TASKS["anchored-unet"](50), TASKS["anchored-unet"](50)
    task.add(voxels)
    padded.add(replace(voxels, usable=np.pad(voxels.usable, ((0, 0), (0, 0), (2, 1)))))
    assert padded.slices == task.slices > 5
    for one, other in zip(*(t.batch(np.random.default_rng(0), 6) for t in (task, padded)), strict=True):
        assert torch.equal(one, other)


SMALL = {"first_features": 16, "features": (16, 16)}
"""Of the U-Nets with a GRU; a checkpoint of the full size takes 150 MB."""


@pytest.fixture(params=["unet-gru", "anchored-unet"])
def name(request):
    return request.param


@pytest.fixture
def quick(monkeypatch, slices, voxels, name):
    """Simulation replaced by one patient already drawn: the loop itself is under test."""
    few = replace(slices, signal=slices.signal[:4], rcbv=slices.rcbv[:4]) if name == "unet-gru" else voxels
    task = TASKS[name]

    def build(capacity, patients):
        made = task(capacity, patients)
        made.draw = lambda seed: few
        made.build = lambda: build_network(name, SMALL if name == "unet-gru" else {})
        return made

    # A clock that counts how often it is looked at: a busy machine makes as many steps.
    ticks = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: 0.5 * next(ticks)))
    monkeypatch.setitem(loop.TASKS, name, build)
    monkeypatch.setattr(SimulatedPatients, "__iter__", lambda self: itertools.repeat(few))
    return TrainingSettings(
        minutes=0.15, batch=2, buffer_slices=8, fill_slices=4, validation_patients=1, workers=0,
        checkpoint_minutes=0.05, mixed_precision=False,
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
    assert card["training"]["slices_seen"] == settings_of(card)["batch"] * rows[-1]["step"]
    assert card["training"]["slices_per_second"] > 0
    assert card["training"]["patients_per_minute"] > 0
    assert card["training"]["world_size"] == 1
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")


def settings_of(card):
    return card["training"]["settings"]


@pytest.mark.parametrize("architecture", TASKS)
def test_every_architecture_is_moved_trained_and_saved(architecture, tmp_path):
    class Shrinking:
        """Weights towards 0: what a network makes of images is tested elsewhere, and takes long."""

        learning_rate, loss_text, slices = 1e-3, "", 1
        memory_format = TASKS[architecture](1, None).memory_format

        def build(self):
            return build_network(architecture, SMALL if architecture.startswith("unet") else {})

        def add(self, sample):
            pass

        def batch(self, rng, size):
            return (torch.zeros(1, 45, 4, 4),)

        def loss(self, network, batch):
            return sum(parameter.square().mean() for parameter in network.parameters())

        def validate(self, network, samples):
            return {"size": float(self.loss(network, ()).detach())}

    task = Shrinking()
    settings = TrainingSettings(minutes=1e-6, fill_slices=1, workers=0)
    alone = Ranks(0, 1, torch.device("cpu"))
    torch.manual_seed(settings.seed)
    before = task.validate(task.build(), [])
    trained = fit(
        architecture, task, lambda done: SimulatedPatients(0, int), [], tmp_path, settings, lambda message: None, alone
    )
    assert trained.training["steps"] == 1
    save_network(trained.network, architecture, tmp_path, training=trained.training, measured={})
    again, card = load_network(architecture, tmp_path)
    assert task.validate(again, [])["size"] == pytest.approx(trained.scores["size"], rel=1e-3)
    assert trained.scores["size"] < before["size"]
    assert card["architecture"] == architecture


def test_the_checkpoint_of_another_network_is_refused(tmp_path, quick, name):
    other = next(known for known in TASKS if known != name)
    torch.save({"state": {"name": other}}, tmp_path / "checkpoint.pt")
    with pytest.raises(UsageError, match=f"of {other}, not of {name}. Choose another"):
        train(name, tmp_path, quick, lambda message: None)


def test_the_history_is_drawn_with_a_panel_a_measure(tmp_path):
    picture = tmp_path / "history.png"
    heights = []
    for measures in (1, 4):
        table = tmp_path / f"{measures}.csv"
        for step in (1.0, 2.0):
            row = {"step": step, "minutes": step, "patients": 3 * step, "loss": 1 / step}
            record(table, {**row, **{f"m{k}": step * k for k in range(measures)}})
        assert draw_history(table, picture)
        with Image.open(picture) as image:
            heights.append(image.height)
    assert heights[1] / heights[0] == pytest.approx(5 / 2, rel=0.01)


def test_without_matplotlib_training_ends_with_one_sentence(tmp_path, quick, name, monkeypatch):
    if name != "unet-gru":
        pytest.skip("the same for every network")
    for module in ("matplotlib.backends.backend_agg", "matplotlib.figure", "matplotlib"):
        monkeypatch.setitem(sys.modules, module, None)  # an import of it fails
    said = []
    card = train(name, tmp_path, replace(quick, minutes=1e-4, checkpoint_minutes=0), said.append)
    assert card.exists()
    (sentence,) = [message for message in said if "matplotlib is not installed" in message]
    assert "pip install 'perfusion-cbv[train]'" in sentence
    assert not (tmp_path / "history.png").exists()


TOGETHER = """
import itertools, json, os, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import torch
from PerfusionCBVLib.networks.cards import build_network
from PerfusionCBVLib.train import loop, tasks

rank, folder = os.environ["RANK"], Path(sys.argv[1])
ticks = itertools.count()
loop.time = SimpleNamespace(monotonic=lambda: next(ticks) * 0.01)  # so that a busy machine makes as many steps

class Small(tasks.GridTask):
    def build(self):
        networks.append(build_network("unet-gru", {"first_features": 16, "features": (16, 16)}))
        return networks[0]

    def add(self, sample):
        self._signal[:], self._rcbv[:], self.slices = *sample, len(self._rcbv)

    def loss(self, network, batch):
        loss = super().loss(network, batch)
        losses.append(float(loss.detach()))
        return loss

    def validate(self, network, samples):
        return {"validated_by": float(rank)}

def draw(seed):
    if seed < loop.VALIDATION_SEED:
        seeds.append(seed)
    g = np.random.default_rng(seed)
    return g.random((4, 45, 128, 128), np.float32), g.random((4, 128, 128), np.float32)

def build(capacity, kept):
    task = Small(capacity)
    task.draw = draw
    return task

loop.TASKS["unet-gru"] = build
for run in (1, 2):
    os.environ["MASTER_PORT"] = sys.argv[1 + run]
    seeds, networks, losses, said = [], [], [], []
    settings = loop.TrainingSettings(
        minutes=0.1 * run / 60, batch=2, buffer_slices=4, fill_slices=4, validation_patients=1, workers=0,
        checkpoint_minutes=0.04 / 60, mixed_precision=False,
    )
    loop.train("unet-gru", folder, settings, said.append)
    weights = torch.cat([p.detach().flatten() for p in networks[0].parameters()])
    state = {"seeds": seeds, "weights": weights.tolist(), "losses": losses, "said": said}
    (folder / f"run{run}-rank{rank}.json").write_text(json.dumps(state))
"""


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [str(one.getsockname()[1]) for one in sockets]


def test_two_processes_draw_different_patients_and_keep_identical_weights_also_after_a_restart(tmp_path):
    # What torchrun does: start processes that know their rank.
    ports = free_ports(2)
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, str(tmp_path), *ports],
            env={**os.environ, **together, "RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    first, second = (
        [json.loads((tmp_path / f"run{run}-rank{rank}.json").read_text("utf-8")) for rank in (0, 1)] for run in (1, 2)
    )
    for one, other in (first, second):
        assert one["weights"] == other["weights"]
        assert one["seeds"]
        assert other["seeds"]
        assert not set(one["seeds"]) & set(other["seeds"])
        assert len(one["losses"]) == len(other["losses"]) > 1
        assert one["losses"] != other["losses"]
        assert one["said"]
        assert other["said"] == []
    assert first[0]["weights"] != second[0]["weights"]
    assert any(message.startswith("resuming at step") for message in second[0]["said"])
    rows = history(tmp_path)
    assert len(rows) > 2
    assert rows[-1]["step"] == len(first[0]["losses"]) + len(second[0]["losses"])
    assert {row["validated_by"] for row in rows} == {0.0}
    card = json.loads((tmp_path / "unet-gru.json").read_text("utf-8"))
    assert card["training"]["world_size"] == 2
    assert card["training"]["slices_seen"] == 2 * 2 * rows[-1]["step"]
