"""Training on UPENN-GBM: prepared as the paper says, no patient in two sets, refusals, resuming, scores."""

import csv
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import mean_squared_error, normalized_root_mse, peak_signal_noise_ratio, structural_similarity

from dsc_phantom import graded_head
from PerfusionCBVLib import Settings
from PerfusionCBVLib.captk import captk_ap_rcbv
from PerfusionCBVLib.cli import main
from PerfusionCBVLib.errors import PerfusionError, UnreadableInputError, UsageError
from PerfusionCBVLib.networks.cards import build_network, known_networks, load_network
from PerfusionCBVLib.train import fine_tune, loop, upenn_gbm
from PerfusionCBVLib.train.fine_tune import (
    MEASURES,
    ShuffledCases,
    UpennTask,
    score_table,
    slice_measures,
    train_upenn_gbm,
)
from PerfusionCBVLib.train.loop import TrainingSettings
from PerfusionCBVLib.train.upenn_gbm import Case, Split, find_cases, prepare_split, read_case, split_patients

ATLAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SLICES = [25, 40, 55, 70, 85, 100, 115, 130]
NAMES = [f"UPENN-GBM-{number:05d}_11" for number in range(1, 9)] + ["UPENN-GBM-00001_21"]


def save(path, values, affine=ATLAS):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def paths(folder, name):
    """As two downloads: the series in one tree, the map in another."""
    return (
        folder / "series" / "images_DSC" / name / f"{name}_DSC.nii.gz",
        folder / "maps" / "images_DSC" / name / f"{name}_DSC_ap-rCBV.nii.gz",
    )


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Eight patients, one of them with two visits; heads from formulas in the slices that count, nothing between."""
    folder = tmp_path_factory.mktemp("UPENN-GBM")
    for number, name in enumerate(NAMES):
        head = graded_head((56, 64, 8), frames=45, seed=number).series.signal[::3, ::3] * (0.6 + 0.1 * number)
        signal = np.zeros((*head.shape[:2], 133, 45), np.int16)
        signal[:, :, SLICES] = np.rint(head)
        label = np.zeros(signal.shape[:3], np.float32)
        label[:, :, SLICES] = captk_ap_rcbv(signal[:, :, SLICES])
        for path, values in zip(paths(folder, name), (signal, label), strict=True):
            save(path, values)
    return folder


def nowhere(message):
    pass


def test_slices_pixels_and_frames_are_the_paper_s(tmp_path):
    g = np.random.default_rng(0)
    signal = g.integers(0, 3000, (150, 20, 134, 45)).astype(np.int16)
    label = g.uniform(0, 255, signal.shape[:3]).astype(np.float32)
    case = Case("a", save(tmp_path / "s.nii", signal), save(tmp_path / "m.nii", label))
    cut, values = read_case(case)
    assert cut.shape == (8, 45, 128, 128)
    assert cut.dtype == np.int16
    for place, z in enumerate(SLICES):
        for frame in (0, 7, 44):  # Pillow's nearest neighbour is another implementation; it takes pixel centres too
            plane = Image.fromarray(signal[:, :, z, frame].astype(np.int32))
            expected = np.asarray(plane.resize((128, 128), Image.Resampling.NEAREST))
            np.testing.assert_array_equal(cut[place, frame], expected)
        plane = Image.fromarray(label[:, :, z])
        np.testing.assert_array_equal(values[place], np.asarray(plane.resize((128, 128), Image.Resampling.NEAREST)))
    # By hand: centre of pixel 3 of 128 lies in voxel floor(3.5 · 150/128) = 4, that of pixel 100 of 128 in
    # floor(100.5 · 20/128) = 15.
    assert cut[2, 9, 3, 100] == signal[4, 15, 55, 9]


def test_intensities_that_int16_can_t_hold_are_kept(tmp_path):
    signal = np.full((4, 4, 131, 45), 40000.0, np.float32)
    signal[0] = 0.25
    case = Case("a", save(tmp_path / "s.nii", signal), save(tmp_path / "m.nii", signal[..., 0]))
    cut, _ = read_case(case)
    assert set(np.unique(cut)) == {np.float32(0.25), np.float32(40000.0)}


@pytest.mark.parametrize("patients", [3, 8, 50, 630])
def test_every_patient_is_in_one_set_and_the_shares_are_68_12_20(patients):
    names = [f"UPENN-GBM-{number:05d}" for number in range(patients)]
    tested = set()
    for seed in range(40):
        split = split_patients(names, seed)
        members = [name for part in split.values() for name in part]
        assert sorted(members) == names, "all of them, none twice"
        sizes = [len(split[part]) for part in ("training", "validation", "test")]
        assert min(sizes) >= 1
        away = np.abs(sizes - np.array([0.68, 0.12, 0.20]) * patients)
        assert patients == 3 or (away <= [1, 0.5, 0.5]).all(), "rounded"
        tested.add(tuple(split["test"]))
        assert split_patients(reversed(names), seed) == split
    assert len(tested) > 1, "another seed, another split"


def test_visits_of_a_patient_stay_together_and_the_maximum_is_the_training_set_s(cohort, tmp_path):
    prepared = tmp_path / "out"
    apart, maxima = 0, {}
    for name in NAMES:
        signal, label = (np.asarray(nib.load(path).dataobj)[:, :, SLICES].max() for path in paths(cohort, name))
        maxima[name] = signal, label
    for seed in range(12):
        (prepared / "split.json").unlink(missing_ok=True)
        split = prepare_split(cohort, prepared, seed, nowhere)
        sets = {name: part for part, names in split.cases.items() for name in names}
        assert sorted(sets) == sorted(NAMES)
        assert sets["UPENN-GBM-00001_11"] == sets["UPENN-GBM-00001_21"]
        training = [maxima[name] for name, part in sets.items() if part == "training"]
        # 22 × 19 voxels on 128 × 128 pixels: no voxel is lost.
        expected = tuple(max(column) for column in zip(*training, strict=True))
        assert (split.signal_maximum, split.label_maximum) == pytest.approx(expected, rel=1e-6)
        apart += expected[0] < max(signal for signal, _ in maxima.values())
        slices = split.load(split.files(prepared, "training")[0])
        assert 0.2 < slices.signal.max() <= 1
        assert Split.read(prepared) == split
    assert apart > 0, "the brightest patient was outside the training set at least once"


def test_what_is_incomplete_or_wrong_is_left_out_with_its_reason(cohort, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(cohort, data)
    (series, label), affine = (nib.load(path).dataobj[:] for path in paths(data, NAMES[0])), ATLAS
    broken = {
        "UPENN-GBM-00011_11": (series[..., :40], label, affine, "40 frames; a series of 45"),
        "UPENN-GBM-00012_11": (series, label[:, :-1], affine, "19 x 21 x 133 voxels"),
        "UPENN-GBM-00013_11": (series[:, :, :20], label[:, :, :20], affine, "20 slices; slices 25 to 130"),
        "UPENN-GBM-00014_11": (series[..., 0], label, affine, "3 dimensions"),
        "UPENN-GBM-00015_11": (series * 0, label, affine, "nothing above 0"),
        "UPENN-GBM-00016_11": (series, label * np.nan, affine, "no number"),
        "UPENN-GBM-00017_11": (series, label, ATLAS[[0, 2, 1, 3]], "axial"),
    }
    for name, (signal, values, affine, _) in broken.items():
        for path, array in zip(paths(data, name), (signal, values), strict=True):
            save(path, array, affine)
    cut_short, no_image = paths(data, "UPENN-GBM-00018_11"), paths(data, "UPENN-GBM-00019_11")
    for source, one, other in zip(paths(data, NAMES[0]), cut_short, no_image, strict=True):
        for path in (one, other):
            path.parent.mkdir(parents=True)
            shutil.copy(source, path)
    cut_short[0].write_bytes(cut_short[0].read_bytes()[:2000])
    no_image[1].write_text("no image", "utf-8")
    for alone, index in (("UPENN-GBM-00021_11", 0), ("UPENN-GBM-00022_11", 1)):
        path = paths(data, alone)[index]
        path.parent.mkdir(parents=True)
        path.touch()
    again = data / "copy" / paths(data, NAMES[7])[1].name
    again.parent.mkdir()
    shutil.copy(paths(data, NAMES[7])[1], again)
    said = []
    split = prepare_split(data, tmp_path / "out", 1, said.append)
    used = {name for names in split.cases.values() for name in names}
    assert used == set(NAMES) - {NAMES[7]}
    for name, (*_, words) in broken.items():
        assert any(name in message and words in message for message in said), (name, said)
    for name in ("UPENN-GBM-00018_11", "UPENN-GBM-00019_11"):
        assert any(message.startswith(f"left out {name}") and "damaged" in message for message in said)
    assert any("00021_11" in message and "no map" in message for message in said)
    assert any("00022_11" in message and "no series" in message for message in said)
    assert any(NAMES[7] in message and "twice" in message for message in said)
    assert all("\n" not in message for message in said)


def refused(capsys, code, *arguments, words):
    assert main([str(a) for a in ("train", "--minutes", "0", *arguments)]) == code
    error = capsys.readouterr().err
    assert error.startswith("perfusion-cbv: ")
    assert error.count("\n") == 1, "one line"
    assert all(word in error for word in words), error


def test_a_folder_without_usable_cases_is_refused(capsys, cohort, tmp_path):
    out = ("--output", tmp_path / "out")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(capsys, 3, *out, "--dataset", "upenn-gbm", tmp_path / "no", words=["no folder", "_DSC_ap-rCBV.nii.gz"])
    refused(capsys, 3, *out, "--dataset", "upenn-gbm", empty, words=["0 UPENN-GBM series and 0 ap-rCBV maps"])
    refused(capsys, 3, *out, "--dataset", "upenn-gbm", cohort / "maps", words=["0 UPENN-GBM series and 9 ap-rCBV maps"])
    for name in NAMES[:2]:
        for source, path in zip(paths(cohort, name), paths(empty, name), strict=True):
            path.parent.mkdir(parents=True)
            shutil.copy(source, path)
    refused(capsys, 3, *out, "--dataset", "upenn-gbm", empty, words=["2 usable patients", "at least 3"])
    for path in empty.rglob("*_DSC.nii.gz"):
        path.write_bytes(b"")
    refused(capsys, 3, *out, "--dataset", "upenn-gbm", empty, words=["None of the 2 cases"])
    assert not (tmp_path / "out" / "split.json").exists()


def test_contradicting_options_are_wrong_usage(capsys, cohort, tmp_path):
    out, data = ("--output", tmp_path / "out"), ("--dataset", "upenn-gbm", cohort)
    refused(capsys, 2, *out, "--dataset", "brats", cohort, words=["brats", "upenn-gbm"])
    refused(capsys, 2, *out, *data, "--network", "anchored-unet", words=["anchored-unet", "conv3d"])
    refused(capsys, 2, *out, *data, "--patients", tmp_path, words=["--patients"])
    refused(capsys, 2, *out, "--from-scratch", words=["--from-scratch"])


def test_stopping_a_training_says_how_to_go_on(capsys, cohort, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fine_tune, "fit", interrupted)
    arguments = ("--output", tmp_path, "--dataset", "upenn-gbm", cohort)
    refused(capsys, 4, *arguments, words=["stopped", "the same command goes on", str(tmp_path)])


def test_linked_folders_are_searched(cohort, tmp_path):
    for tree in ("series", "maps"):
        (tmp_path / tree).symlink_to(cohort / tree)
    assert sorted(case.name for case in find_cases(tmp_path, nowhere)) == sorted(NAMES)


@pytest.fixture(scope="module")
def finished(cohort, tmp_path_factory):
    """A run that was killed at its first checkpoint, and then went on through the command line."""
    folder = tmp_path_factory.mktemp("run")
    original, threads = loop._save_checkpoint, torch.get_num_threads()

    class KilledError(Exception):
        pass

    def save_then_die(*arguments):
        original(*arguments)
        raise KilledError

    settings = TrainingSettings(minutes=60, batch=4, checkpoint_minutes=0)
    said = []
    small = {"first_features": 16, "features": (16, 16)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UpennTask, "build", lambda task: build_network("unet-gru", small))
        patch.setattr(loop, "_save_checkpoint", save_then_die)
        with pytest.raises(KilledError):
            train_upenn_gbm("unet-gru", cohort, folder, settings, nowhere)
        patch.setattr(loop, "_save_checkpoint", original)
        spent_s = torch.load(folder / "checkpoint.pt", weights_only=True)["state"]["elapsed_s"]
        patch.setattr(upenn_gbm, "read_case", None)  # nothing has to be read again
        patch.setattr("PerfusionCBVLib.cli._say", said.append)
        arguments = ["train", "--dataset", "upenn-gbm", cohort, "--network", "unet-gru", "--output", folder]
        assert main([*map(str, arguments), "--minutes", str(spent_s / 60 + 0.02)]) == 0
    torch.set_num_threads(threads)
    return folder, said


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_killed_run_goes_on_and_names_what_it_wrote(finished):
    folder, said = finished
    assert any(message.startswith("resuming at step 1,") for message in said)
    rows = table(folder / "history.csv")
    assert [int(row["step"]) for row in rows] == sorted({int(row["step"]) for row in rows})
    assert int(rows[0]["step"]) == 1 < int(rows[-1]["step"])
    assert (folder / "history.png").read_bytes().startswith(b"\x89PNG")
    for name in ("unet-gru-upenn-gbm.json", "split.json", "test_scores.csv", "test_scores.md"):
        assert (folder / name).exists()
        assert any(str(folder / name) in message for message in said)
    assert not [path.name for path in folder.rglob("*") if path.name.startswith(".") or path.suffix == ".new"]


def test_the_card_can_t_be_taken_for_the_embedded_network_s(finished):
    folder, _ = finished
    _, card = load_network("unet-gru-upenn-gbm", folder)
    split = json.loads((folder / "split.json").read_text("utf-8"))
    assert card["name"] == "unet-gru-upenn-gbm"
    assert card["input"]["quantity"] == "raw intensity over the training set's maximum"
    assert card["input"]["maximum"] == split["signal_maximum"]
    assert card["output"]["maximum"] == split["label_maximum"]
    assert not (folder / "unet-gru.json").exists()
    assert not (folder / "unet-gru.safetensors").exists()
    with pytest.raises(PerfusionError):
        Settings(method=card["name"])
    training = card["training"]
    steps = int(table(folder / "history.csv")[-1]["step"])
    assert training["steps"] == steps
    assert training["slices_seen"] == 4 + 16 * (steps - 1)
    assert training["patients"] == len(split["patients"]["training"]) == 5
    assert training["start"].startswith("embedded weights")
    assert training["slices_per_second"] > 0
    assert "cpu" in training["hardware"] or "cuda" in training["hardware"]
    assert set(card["measured"]["validation"]) == set(card["measured"]["test"])
    json.dumps(card, allow_nan=False)


def test_test_scores_are_those_of_the_weights_on_the_test_patients(finished, cohort):
    folder, _ = finished
    network, card = load_network("unet-gru-upenn-gbm", folder)
    split = json.loads((folder / "split.json").read_text("utf-8"))
    rows = table(folder / "test_scores.csv")
    tested = [name for name in NAMES if name[:-3] in split["patients"]["test"]]
    assert [(row["case"], int(row["slice"])) for row in rows] == [(n, z) for n in sorted(tested) for z in SLICES]
    x, y = ((np.arange(128) + 0.5) * n // 128 for n in (19, 22))
    whole = np.ix_(x.astype(int), y.astype(int))
    for row in rows[::5]:
        signal, label = (
            np.asarray(nib.load(p).dataobj)[:, :, int(row["slice"])][whole] for p in paths(cohort, row["case"])
        )
        given = np.moveaxis(signal, -1, 0)[None].astype(np.float32) / np.float32(card["input"]["maximum"])
        with torch.inference_mode():
            predicted = network(torch.from_numpy(given))[0, 0].double().numpy()
        truth = label / card["output"]["maximum"]
        assert float(row["nrmse"]) == pytest.approx(normalized_root_mse(truth, predicted), rel=1e-3)
        assert float(row["nrmse_range"]) == pytest.approx(np.sqrt(mean_squared_error(truth, predicted)), rel=1e-3)
        assert float(row["psnr_db"]) == pytest.approx(peak_signal_noise_ratio(truth, predicted, data_range=1), rel=1e-3)
        assert float(row["ssim"]) == pytest.approx(structural_similarity(truth, predicted, data_range=1), rel=1e-3)
        assert float(row["mae"]) == pytest.approx(np.abs((2 * truth - 1) - (2 * predicted - 1)).mean(), rel=1e-3)
    for measure, value in card["measured"]["test"].items():
        assert value == pytest.approx(np.mean([float(row[measure]) for row in rows]), rel=1e-6)
    text = (folder / "test_scores.md").read_text("utf-8")
    assert f"{card['measured']['test']['ssim']:.4g}" in text
    assert "2 patients" in text


def test_another_seed_or_network_or_fewer_patients_in_the_same_folder_are_refused(capsys, finished, cohort, tmp_path):
    out, data = ("--output", finished[0]), ("--dataset", "upenn-gbm", cohort)
    refused(capsys, 2, *out, *data, "--seed", 2, words=["seed 1", "asked for is 2", "--output"])
    refused(capsys, 2, *out, *data, "--network", "conv3d", words=["unet-gru-upenn-gbm", "conv3d-upenn-gbm", "--output"])
    shutil.copytree(cohort, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "maps" / "images_DSC" / NAMES[3])
    refused(capsys, 3, *out, "--dataset", "upenn-gbm", tmp_path / "data", words=["1 patients", NAMES[3][:-3]])
    (tmp_path / "split.json").write_text("{", "utf-8")
    refused(capsys, 3, "--output", tmp_path, *data, words=["split.json", "can't be read"])


def test_patients_that_come_later_do_not_move_the_split(finished, cohort, tmp_path):
    shutil.copytree(cohort, tmp_path / "data")
    for source, path in zip(paths(cohort, NAMES[2]), paths(tmp_path / "data", "UPENN-GBM-00099_11"), strict=True):
        path.parent.mkdir(parents=True)
        shutil.copy(source, path)
    shutil.copy(finished[0] / "split.json", tmp_path)
    said = []
    split = prepare_split(tmp_path / "data", tmp_path, 1, said.append)
    assert split == Split.read(finished[0])
    assert any("1 patients that came after" in message for message in said)


def test_fine_tuning_lowers_the_loss_within_a_few_steps(finished):
    folder, _ = finished
    split = Split.read(folder)
    torch.manual_seed(0)
    task = UpennTask("unet-gru", 16, split, from_scratch=False)
    stream = iter(ShuffledCases(split, split.files(folder, "training"), [1]))
    for _ in range(2):
        task.add(next(stream))
    network = task.build().train()
    optimiser = torch.optim.AdamW(network.parameters(), task.learning_rate)
    settings = TrainingSettings(mixed_precision=False)
    batch = task.batch(np.random.default_rng(1), 3)
    losses = [loop._step(task, network, optimiser, batch, settings, task.learning_rate) for _ in range(5)]
    assert losses[-1] < 0.8 * losses[0]


def test_fine_tuning_starts_from_the_embedded_weights_where_there_are_some(finished):
    split = Split.read(finished[0])
    for name in ("unet-gru", "conv3d"):
        assert UpennTask(name, 1, split, from_scratch=False).embedded == (name in known_networks())
    start = UpennTask("unet-gru", 1, split, from_scratch=False).build()
    embedded = load_network("unet-gru")[0]
    assert all(map(torch.equal, start.parameters(), embedded.parameters()))
    assert all((value == 1).all() for key, value in start.named_buffers() if key.endswith("running_var"))
    other = UpennTask("unet-gru", 1, split, from_scratch=True).build()
    assert not torch.equal(other.head.weight, embedded.head.weight)


def test_batches_hold_normalised_slices_with_their_labels_mirrored_or_not(finished):
    split = Split.read(finished[0])
    slices = split.load(split.files(finished[0], "training")[0])
    task = UpennTask("unet-gru", 8, split, from_scratch=True)
    task.add(slices)
    signal, label = (part.numpy() for part in task.batch(np.random.default_rng(0), 8))
    seen = set()
    for got, wanted in zip(signal, label, strict=True):
        for place in range(8):
            for mirrored, step in ((False, 1), (True, -1)):
                if np.allclose(got, slices.signal[place][:, ::step], atol=1e-3):
                    np.testing.assert_allclose(wanted, slices.label[place][::step], atol=1e-3)
                    seen.add((place, mirrored))
    assert {place for place, _ in seen} == set(range(8))
    assert {mirrored for _, mirrored in seen} == {False, True}


def test_every_case_comes_once_a_pass_in_changing_order(finished):
    split = Split.read(finished[0])
    files = split.files(finished[0], "training")
    stream = iter(ShuffledCases(split, files, [3]))
    maxima = [float(next(stream).label.sum()) for _ in range(3 * len(files))]
    passes = [maxima[k : k + len(files)] for k in range(0, len(maxima), len(files))]
    assert len(set(passes[0])) == len(files)
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(passes[2])
    assert not (passes[0] == passes[1] == passes[2])


def test_measures_of_one_slice_by_hand():
    truth = np.zeros((128, 128))
    truth[:64] = 0.6
    scores = slice_measures(truth + 0.1, truth)
    assert scores["nrmse_range"] == pytest.approx(0.1)
    assert scores["nrmse"] == pytest.approx(0.1 / np.sqrt(0.18))
    assert scores["psnr_db"] == pytest.approx(20.0)
    assert scores["mae"] == pytest.approx(0.2)
    assert 0.2 < scores["ssim"] < 1
    perfect = slice_measures(np.zeros((128, 128)), np.zeros((128, 128)))
    assert np.isnan(perfect["nrmse"])
    assert (perfect["psnr_db"], perfect["ssim"]) == (float("inf"), 1.0)


def test_pooled_scores_weigh_pixels_and_means_weigh_slices():
    rows = [
        {"case": "UPENN-GBM-00001_11", "slice": 25, "reference_rms": 0.3, "nrmse": 1 / 3, "nrmse_range": 0.1,
         "psnr_db": 20.0, "ssim": 0.9, "mae": 0.1},
        {"case": "UPENN-GBM-00002_11", "slice": 25, "reference_rms": 0.4, "nrmse": 0.5, "nrmse_range": 0.2,
         "psnr_db": 13.98, "ssim": 0.7, "mae": 0.3},
    ]  # fmt: skip
    by_measure = dict(zip(MEASURES, score_table(rows), strict=True))
    pooled = {key: float(row["all pixels"]) for key, row in by_measure.items()}
    mean = {key: float(row["mean over slices"]) for key, row in by_measure.items()}
    # Squares of the errors 0.01 and 0.04, of the references 0.09 and 0.16.
    assert pooled["nrmse_range"] == pytest.approx(np.sqrt(0.025), rel=1e-3)
    assert mean["nrmse_range"] == pytest.approx(0.15)
    assert pooled["nrmse"] == pytest.approx(np.sqrt(0.025 / 0.125), rel=1e-3)
    assert mean["nrmse"] == pytest.approx(0.4167, rel=1e-3)
    assert by_measure["nrmse_range"]["95 % interval over patients"] == "0.1 to 0.2"


def test_no_pairs_at_all_is_an_input_error(tmp_path):
    with pytest.raises(UnreadableInputError):
        find_cases(tmp_path, nowhere)
    with pytest.raises(UsageError):
        train_upenn_gbm("anchored-unet", tmp_path, tmp_path, TrainingSettings(), nowhere)
