"""Means per tissue stay as they are from release to release; on purpose they are renewed by a command."""

import copy
import json

import pytest

from golden_summary import GOLDEN, TOLERANCE, changes, summary


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_no_method_changed_its_means_unnoticed(golden):
    found = changes(golden, summary())
    if found:
        pytest.fail(found, pytrace=False)


def test_a_change_is_named_with_method_tissue_and_both_values(golden):
    now = copy.deepcopy(golden)
    now["mean_rcbv"]["bsw"]["grey"] += 2 * TOLERANCE
    table = changes(golden, now)
    (row,) = [line for line in table.splitlines() if line.startswith("bsw")]
    assert row.split()[1:3] == ["grey", f"{golden['mean_rcbv']['bsw']['grey']:.5f}"]
    assert row.split()[-1] == "+0.00400"
    assert "--renew" in table


def test_rounding_is_no_change_but_a_lost_tissue_a_new_hash_and_nan_are(golden):
    now = copy.deepcopy(golden)
    now["mean_rcbv"]["bsw"]["grey"] += 0.5 * TOLERANCE
    assert changes(golden, now) == ""
    now["mean_rcbv"]["bsw"]["grey"] = float("nan")
    assert "nan" in changes(golden, now)
    del now["mean_rcbv"]["bsw"]["grey"]
    assert "none" in changes(golden, now)
    altered = copy.deepcopy(golden)
    altered["weights_sha256"]["unet-gru"] = "0"
    assert "weights_sha256" in changes(golden, altered)
