"""Flow maps: a head with known volume, flow, transit time and delay through the whole pipeline, files included."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from flow_phantom import BLOOD_TO_TISSUE, TISSUES, artery_at, flow_head, tissue_at
from PerfusionCBVLib import Settings, compute_maps, write_result
from PerfusionCBVLib.arterial import ArterialCurve, arterial_input, read_arterial_curve
from PerfusionCBVLib.cli import main
from PerfusionCBVLib.errors import QualityError, UsageError
from PerfusionCBVLib.flow import flow_maps, residue_times, scale_finding
from PerfusionCBVLib.leakage import leaking_voxels
from PerfusionCBVLib.preparation import find_mask_and_bolus, fit_leakage, prepare
from PerfusionCBVLib.settings import DECONVOLUTIONS

FLOW = {"cbv", "cbf", "mtt", "tmax", "ttp", "delay"}
FLOW_FILES = {f"{name}.nii.gz" for name in FLOW} | {"aif.csv", "aif_mask.nii.gz"}


@pytest.fixture(scope="module")
def head():
    return flow_head()


@pytest.fixture(scope="module")
def automatic(head):
    return compute_maps(head.series, Settings(method="bsw"), mask=head.brain, aif="auto")


@pytest.fixture(scope="module")
def prepared(head):
    return prepare(head.series, *find_mask_and_bolus(head.series, head.brain))


def mean_of(result, name, region):
    return float(np.nanmean(result.maps[name].values[region]))


def truth(times_s):
    return ArterialCurve(times_s, artery_at(times_s), "truth")


@pytest.mark.parametrize("tissue", TISSUES)
def test_maps_are_the_heads_volume_flow_and_times(head, automatic, tissue):
    cbv, mtt_s, delay_s = TISSUES[tissue]
    region = head.regions[tissue]
    assert mean_of(automatic, "cbv", region) == pytest.approx(cbv, rel=0.06)
    # The jump of an exponential residue is rounded off, the more the noisier: a property of oSVD, in the README.
    assert 0.65 < mean_of(automatic, "cbf", region) / (60 * cbv / mtt_s) < 1.05
    assert mean_of(automatic, "delay", region) == pytest.approx(delay_s, abs=0.5)
    assert delay_s < mean_of(automatic, "tmax", region) < delay_s + 0.5 * mtt_s


def test_flow_is_the_textbooks_residue_maximum_in_ml_per_100_g_per_min(prepared):
    times_s, steady = prepared.series.times_s, prepared.timing.first_steady
    maps, _ = flow_maps(prepared, fit_leakage(prepared), arterial_input(prepared, truth(times_s)), "csvd")
    artery = artery_at(times_s)[steady:]
    size = 2 * artery.size
    padded = np.append(artery, np.zeros(artery.size))
    u, values, vt = np.linalg.svd([[padded[(i - j) % size] for j in range(size)] for i in range(size)])
    kept = values >= 0.1 * values[0]
    for row in np.flatnonzero(~leaking_voxels(fit_leakage(prepared)))[::500]:
        curve = np.append(prepared.delta_r2s_per_s[row, steady:], np.zeros(artery.size))
        highest = np.max(vt[kept].T @ ((u[:, kept].T @ curve) / values[kept]))
        # Frames are 1 s apart: the top of the parabola lies a little above the highest sample.
        assert 0.999 < maps.cbf[row] / (60 * 100 * (0.55 / 0.75) / 1.04 * highest) < 1.07


def test_where_leakage_stands_out_its_share_is_taken_out_of_volume_and_flow(head):
    """A lesion whose tail is sunk by T1 leakage keeps the volume it has without."""
    lesion = np.zeros(head.brain.shape, bool)
    lesion[10:16, 20:28, 2:6] = True
    lesion &= head.regions["white"]
    times_s = head.series.times_s
    leaked = 0.02 * np.concatenate([[0], np.cumsum(np.diff(times_s) * tissue_at(times_s, *TISSUES["grey"])[1:])])
    signal = head.series.signal.copy()
    signal[lesion] *= np.exp(0.03 * leaked)
    prepared = prepare(replace(head.series, signal=signal), *find_mask_and_bolus(head.series, head.brain))
    leakage = fit_leakage(prepared)
    inside = lesion[prepared.usable]
    assert leaking_voxels(leakage)[inside].mean() > 0.9
    maps, facts = flow_maps(prepared, leakage, arterial_input(prepared, truth(times_s)), "osvd")
    assert facts["corrected_voxels"] >= inside.sum() * 0.9
    # The reference curve is earlier than white matter, for which the correction takes too much off.
    assert maps.cbv[inside].mean() == pytest.approx(2.0, rel=0.2)
    uncorrected = flow_maps(
        prepared, replace(leakage, k2=np.zeros_like(leakage.k2)), arterial_input(prepared, truth(times_s)), "osvd"
    )[0]
    assert uncorrected.cbv[inside].mean() < 1.2


def test_units_and_constants_are_stated(automatic):
    units = {name: automatic.maps[name].unit for name in FLOW}
    assert units.pop("cbv") == "ml/(100.g)"
    assert units.pop("cbf") == "ml/(100.g)/min"
    assert set(units.values()) == {"s"}
    facts = automatic.provenance["flow"]
    assert facts["k_H"] == pytest.approx(0.7333, abs=1e-4)
    assert facts["density_g_per_ml"] == 1.04
    assert facts["deconvolution"] == "osvd" == automatic.provenance["settings"]["deconvolution"]
    assert automatic.provenance["arterial_input"]["source"] == "automatic"


def test_transit_time_is_volume_over_flow(automatic):
    cbv, cbf, mtt = (automatic.maps[name].values for name in ("cbv", "cbf", "mtt"))
    defined = np.isfinite(mtt)
    np.testing.assert_allclose(mtt[defined], 60 * cbv[defined] / cbf[defined], rtol=1e-5)
    np.testing.assert_array_equal(defined, (cbv > 0) & (cbf > 0))


def test_volume_and_flow_go_against_the_artery_and_times_do_not(prepared):
    leakage = fit_leakage(prepared)
    times_s = prepared.series.times_s
    doubled = ArterialCurve(times_s, 2 * artery_at(times_s), "doubled")
    one, two = (flow_maps(prepared, leakage, arterial_input(prepared, a), "csvd")[0] for a in (truth(times_s), doubled))
    for name in ("cbv", "cbf"):
        np.testing.assert_allclose(getattr(two, name), getattr(one, name) / 2, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(two.mtt, one.mtt, rtol=1e-2)
    np.testing.assert_allclose(np.median(two.tmax), np.median(one.tmax), atol=1e-3)


def test_every_method_finds_more_flow_in_grey_matter(head, prepared):
    leakage = fit_leakage(prepared)
    arterial = arterial_input(prepared, truth(prepared.series.times_s))
    flows = {}
    for method in DECONVOLUTIONS:
        maps, _ = flow_maps(prepared, leakage, arterial, method)
        grey, white = (maps.cbf[head.regions[name][prepared.usable]].mean() for name in ("grey", "white"))
        assert grey / white == pytest.approx((4.4 / 5.0) / (2.0 / 6.0), rel=0.2)
        flows[method] = grey
    assert len({round(float(flow), 3) for flow in flows.values()}) == len(DECONVOLUTIONS)


def test_frames_that_are_not_uniform_are_resampled_and_said_so(head):
    kept = np.delete(np.arange(70), [5, 41, 55])
    series = replace(head.series, signal=head.series.signal[..., kept], times_s=head.series.times_s[kept])
    prepared = prepare(series, *find_mask_and_bolus(series, head.brain))
    maps, facts = flow_maps(prepared, fit_leakage(prepared), arterial_input(prepared, truth(series.times_s)), "csvd")
    whole = prepare(head.series, *find_mask_and_bolus(head.series, head.brain))
    same, plain = flow_maps(whole, fit_leakage(whole), arterial_input(whole, truth(head.series.times_s)), "csvd")
    assert "vary from 1 to 2 s" in facts["resampled"]
    assert plain["resampled"].startswith("no")
    region = head.regions["grey"]
    here, there = maps.cbf[region[prepared.usable]], same.cbf[region[whole.usable]]
    assert here.mean() == pytest.approx(there.mean(), rel=0.03)


def test_a_curve_that_ends_before_the_series_shortens_what_is_deconvolved(head, prepared):
    times_s = np.arange(0.0, 50.0)
    maps, facts = flow_maps(
        prepared, fit_leakage(prepared), arterial_input(prepared, ArterialCurve(times_s, artery_at(times_s), "short")),
        "csvd",
    )  # fmt: skip
    assert facts["frames_deconvolved"][1] == 50
    assert maps.cbv[head.regions["white"][prepared.usable]].mean() == pytest.approx(2.0, rel=0.06)


def test_times_of_a_residue_are_read_between_samples_and_before_zero():
    at = np.arange(80) * 1.5
    for centre_s in (3.0, 10.2, -2.6):
        around = (at - centre_s + 60) % 120 - 60  # periodic, as circulant deconvolution leaves it
        highest, tmax, half = residue_times(np.exp(-0.5 * (around / 3.0) ** 2)[None], 1.5, causal=False)
        assert highest[0] == pytest.approx(1.0, abs=0.01)
        assert tmax[0] == pytest.approx(centre_s, abs=0.05)
        assert half[0] == pytest.approx(centre_s - 3.0 * np.sqrt(2 * np.log(2)), abs=0.1)
    highest, tmax, half = residue_times(np.exp(-at / 4.0)[None], 1.5, causal=True)
    assert (highest[0], tmax[0], half[0]) == (1.0, 0.0, 0.0)


def test_phantom_tissue_holds_its_volume_by_conservation_of_the_agent():
    """∫C_t/∫C_a = ρ/k_H·CBV: what the phantom's convolution must obey whatever the residue."""
    times_s = np.arange(0.0, 200.0, 0.5)
    ratio = np.trapezoid(tissue_at(times_s, 3.0, 5.0, 2.0), times_s) / np.trapezoid(artery_at(times_s), times_s)
    assert ratio == pytest.approx(BLOOD_TO_TISSUE * 3.0, rel=1e-3)


def test_impossible_white_matter_is_said_aloud(automatic):
    cbv, region = automatic.maps["cbv"].values, automatic.reference
    good, bad = scale_finding(cbv, region), scale_finding(5 * cbv, region)
    assert (good.severity, bad.severity) == ("info", "warning")
    assert bad.value == pytest.approx(5 * good.value, rel=1e-3)
    assert "ratio" in bad.advice
    assert "flow-scale" in {finding.code for finding in automatic.findings}


def test_without_an_arterial_input_there_is_nothing_of_it(head):
    result = compute_maps(head.series, Settings(method="bsw"), mask=head.brain)
    assert not FLOW & set(result.maps)
    assert result.arterial is None
    assert not {"flow", "arterial_input"} & set(result.provenance)
    assert not {code for code in (f.code for f in result.findings) if code.startswith(("aif", "flow"))}


def test_a_networks_volume_comes_on_the_deconvolved_scale(head):
    pytest.importorskip("torch")
    result = compute_maps(head.series, Settings(), mask=head.brain, aif=head.regions["artery"])
    region = result.reference
    assert mean_of(result, "cbv_network", region) == pytest.approx(mean_of(result, "cbv", region), rel=1e-4)
    ratio = result.maps["cbv_network"].values / result.maps["rcbv"].values
    np.testing.assert_allclose(ratio[np.isfinite(ratio)], mean_of(result, "cbv", region), rtol=1e-4)
    assert "reference region" in result.maps["cbv_network"].description


def test_an_artery_without_a_pass_stops_before_any_map(head):
    with pytest.raises(QualityError, match="arterial"):
        compute_maps(head.series, Settings(method="bsw"), mask=head.brain, aif=truth_upside_down(head.series.times_s))


def truth_upside_down(times_s):
    return ArterialCurve(times_s, -artery_at(times_s), "upside down")


def test_an_unknown_deconvolution_is_wrong_usage():
    with pytest.raises(UsageError, match="osvd"):
        Settings(deconvolution="magic")


def test_written_files_report_and_curve_bring_the_same_maps_back(head, automatic, tmp_path):
    names = {path.name for path in write_result(automatic, tmp_path)}
    assert names >= FLOW_FILES
    page = (tmp_path / "report.html").read_text("utf-8")
    assert all(finding.message.split(";")[0] in page.replace("&#x27;", "'") for finding in automatic.arterial.checks)
    assert page.count("<svg") == 2
    assert "ml/100 g/min" not in page or "ml/(100.g)" not in page.split("Settings and provenance")[0]
    curve = read_arterial_curve(tmp_path / "aif.csv")
    again = compute_maps(head.series, Settings(method="bsw"), mask=head.brain, aif=curve)
    for name in FLOW:
        np.testing.assert_allclose(again.maps[name].values, automatic.maps[name].values, rtol=1e-4, atol=1e-4)


def test_the_command_line_takes_a_mask_and_refuses_a_strange_curve(head, tmp_path, capsys):
    image = nib.Nifti1Image(head.series.signal, head.series.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = 1.0
    nib.save(image, tmp_path / "dsc.nii.gz")
    (tmp_path / "dsc.json").write_text(json.dumps({"EchoTime": 0.03, "RepetitionTime": 1.0}), "utf-8")
    for name, region in (("artery", head.regions["artery"]), ("brain", head.brain)):
        nib.save(nib.Nifti1Image(region.astype(np.uint8), head.series.affine), tmp_path / f"{name}.nii.gz")
    command = ["map", str(tmp_path / "dsc.nii.gz"), "--output", str(tmp_path / "out"), "--method", "bsw"]
    command += ["--mask", str(tmp_path / "brain.nii.gz"), "--aif"]
    assert main([*command, str(tmp_path / "artery.nii.gz"), "--deconvolution", "csvd", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["flow"]["deconvolution"], summary["arterial_input"]["source"]) == ("csvd", "mask")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= FLOW_FILES

    (tmp_path / "aif.csv").write_text("".join(f"{1000 * i}, {i}\n" for i in range(70)), "utf-8")
    assert main([*command, str(tmp_path / "aif.csv")]) == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "milliseconds" in error
    assert main([*command, "auto", "--aif-relaxivity", "60"]) == 2
