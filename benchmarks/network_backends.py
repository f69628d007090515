"""How fast each network runs a slice, by every way of running it on this processor, and how much the map changes.

.venv/bin/pip install onnx onnxruntime openvino     # optional: without them these rows are left out
.venv/bin/python benchmarks/network_backends.py
"""

import contextlib
import importlib.util
import io
import time

import numpy as np
import torch

from PerfusionCBVLib.evaluate import TEST_SEED
from PerfusionCBVLib.networks.cards import load_network
from PerfusionCBVLib.networks.features import network_slices, voxel_features
from PerfusionCBVLib.networks.grid import network_grid, network_input
from PerfusionCBVLib.networks.inference import SLICES_AT_ONCE
from PerfusionCBVLib.settings import NETWORK_METHODS
from PerfusionCBVLib.train.samples import draw_prepared

ROUNDS = 5


def inputs(name):
    """Return one batch of slices of a simulated patient."""
    subject, prepared, fit = draw_prepared(TEST_SEED + 3)
    if name == "anchored-unet":
        size = np.array(subject.series.voxel_size_mm)
        slices = network_slices(voxel_features(prepared, fit), prepared.usable, size)
    else:
        slices = network_input(prepared, network_grid(prepared.mask, subject.series.affine))[0]
    middle = len(slices) // 2 - SLICES_AT_ONCE // 2
    return torch.from_numpy(slices[middle : middle + SLICES_AT_ONCE])


def first(output):
    """Return the map of a network's output, as numpy."""
    return (output[0] if isinstance(output, tuple) else output).float().numpy()


def ways(name, network, batch):
    """Yield the name of a way, and a function that runs the batch by it."""
    yield "eager", lambda: first(network(batch))
    last = torch.channels_last
    spread = load_network(name)[0].to(memory_format=last)
    there = batch.to(memory_format=last)
    yield "channels last", lambda: first(spread(there))

    def half():
        with torch.autocast("cpu", torch.bfloat16):
            return first(network(batch))

    yield "bfloat16", half
    compiled = torch.compile(network)
    yield "torch.compile", lambda: first(compiled(batch))
    if importlib.util.find_spec("onnx") is None:
        return
    stored = io.BytesIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            torch.onnx.export(network, (batch,), stored, dynamo=False, opset_version=20)
    except Exception as error:
        print(f"| {name} | ONNX export | failed: {' '.join(str(error).split())[:60]} | | |")
        return
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(stored.getvalue(), providers=["CPUExecutionProvider"])
        feed = {session.get_inputs()[0].name: batch.numpy()}
        yield "ONNX Runtime", lambda: session.run(None, feed)[0]
    if importlib.util.find_spec("openvino") is not None:
        import openvino

        model = openvino.compile_model(openvino.Core().read_model(stored.getvalue()), "CPU")
        yield "OpenVINO", lambda: model(batch.numpy())[0]


def main():
    """Print a table: best of several rounds, ways taken in turn so that a busy machine treats them alike."""
    print("| network | way | ms a slice | over the fastest | largest change of rCBV |\n|---|---|---|---|---|")
    for name in NETWORK_METHODS:
        network, _ = load_network(name)
        batch = inputs(name)
        with torch.inference_mode():
            runs = {}
            for way, run in ways(name, network, batch):
                try:
                    runs[way] = (run, run())  # the first run warms up
                except Exception as error:
                    print(f"| {name} | {way} | failed: {str(error).splitlines()[0][:60]} | | |")
            best = dict.fromkeys(runs, np.inf)
            for _ in range(ROUNDS):
                for way, (run, _) in runs.items():
                    began = time.perf_counter()
                    run()
                    best[way] = min(best[way], (time.perf_counter() - began) / len(batch) * 1000)
        exact = runs["eager"][1]
        for way, milliseconds in best.items():
            change = np.abs(runs[way][1] - exact).max()
            print(f"| {name} | {way} | {milliseconds:.1f} | {milliseconds / min(best.values()):.2f} | {change:.1e} |")


if __name__ == "__main__":
    main()
