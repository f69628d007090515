"""Where cases run: workers on this machine, an existing Dask cluster, or jobs of SLURM."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PerfusionCBVLib.errors import MissingPackageError, PerfusionError, UsageError

if TYPE_CHECKING:
    from distributed import Client

ATTEMPTS = 3
"""How often a case is given to a worker that dies on it, before it is given up."""

GPU = "GPU"
"""Name of the Dask resource of which every worker with a graphics processor has one."""

SECONDS_TO_CONNECT = 20
_ONE_THREAD = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    )
}


@dataclass(frozen=True)
class ClusterRequest:
    """Which workers a user asks for.

    Parameters
    ----------
    workers : int or None
        On this machine or as jobs, one thread each; None: as many as there are cores (or graphics processors).
    memory_gb : float or None
        Of each, 10⁹ bytes; a worker that needs more is ended. None: an equal share of this machine's.
    scheduler : str or None
        Address of an existing cluster.
    slurm : bool
        Start the workers as jobs.
    slurm_time : str
        Longest time of a job.
    slurm_options : tuple of str
        Of sbatch, such as ``--partition=short``.

    Raises
    ------
    UsageError
    """

    workers: int | None = None
    memory_gb: float | None = None
    scheduler: str | None = None
    slurm: bool = False
    slurm_time: str = "24:00:00"
    slurm_options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers is {self.workers}; at least one worker is needed.")
        if self.memory_gb is not None and not 0 < self.memory_gb < float("inf"):
            raise UsageError(f"--memory is {self.memory_gb:g} GB; it must be above 0, for example 8.")
        if self.scheduler is not None and self.slurm:
            raise UsageError("--scheduler uses a cluster that runs and --slurm starts one; pass one of them.")
        if self.scheduler is not None and (self.workers is not None or self.memory_gb is not None):
            raise UsageError("--workers and --memory are for workers that this command starts; leave them out.")
        if self.slurm and (self.workers is None or self.memory_gb is None):
            raise UsageError("--slurm needs the number of jobs (--workers) and the memory of each in GB (--memory).")
        if self.slurm_options and not self.slurm:
            raise UsageError("--slurm-option belongs to --slurm; add it or leave the option out.")


@dataclass(frozen=True, eq=False)
class Cluster:
    """Connected workers.

    Attributes
    ----------
    client : distributed.Client
    text : str
        What they are, for the terminal.
    starts_workers : bool
        This process starts them on this machine.
    uses_gpu : bool
        A case takes a worker's graphics processor, one case at a time.
    """

    client: Client
    text: str
    starts_workers: bool
    uses_gpu: bool

    def slots(self) -> int:
        """Return how many cases can run now; workers come and go."""
        if not self.uses_gpu:
            return sum(self.client.nthreads().values())
        return sum(worker.get("resources", {}).get(GPU, 0) >= 1 for worker in _workers(self.client))


@contextmanager
def connected(request: ClusterRequest, device: str, is_network: bool, cases: int, folder: Path) -> Iterator[Cluster]:
    """Give the workers that were asked for; what was started ends with the block.

    Parameters
    ----------
    request : ClusterRequest
    device : "auto", "cpu", "cuda" or "mps"
    is_network : bool
        Whether the method runs on a device at all.
    cases : int
        There are never more workers than cases.
    folder : Path
        Private folder that all workers see.

    Raises
    ------
    MissingPackageError, UsageError, PerfusionError
    """
    _require_dask(request.slurm)
    import dask

    with ExitStack() as stack:
        stack.enter_context(dask.config.set(_CONFIG))
        stack.enter_context(_quiet_logs())
        if request.scheduler is not None:
            yield stack.enter_context(_existing(request.scheduler, device, is_network))
        elif request.slurm:
            yield stack.enter_context(_slurm(request, device, is_network, cases, folder))
        else:
            yield stack.enter_context(_local(request, device, is_network, cases))


_CONFIG: dict[str, Any] = {
    "distributed.scheduler.allowed-failures": ATTEMPTS - 1,
    # A case's memory is its own, not Dask's to spill; a worker above its limit is ended before the system ends others.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    # Python code in a case holds the interpreter for seconds now and then.
    "distributed.comm.timeouts.connect": f"{SECONDS_TO_CONNECT}s",
    "distributed.admin.tick.limit": "1h",
    "distributed.nanny.environ": _ONE_THREAD,
    "distributed.scheduler.work-stealing": False,
    # No pages for the network: names of cases are nobody else's business.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
}


@contextmanager
def _local(request: ClusterRequest, device: str, is_network: bool, cases: int) -> Iterator[Cluster]:
    import dask
    from distributed import Client, LocalCluster
    from distributed.system import MEMORY_LIMIT

    uses_gpu = is_network and _has_gpu(device)
    workers = request.workers or (1 if uses_gpu else _cores())
    if uses_gpu and workers > 1:
        raise UsageError(
            f"--workers is {workers}, but a case takes the graphics processor for itself and this command uses one of "
            "this machine. Pass --workers 1 or --device cpu, or start a Dask worker for each processor and pass "
            "--scheduler."
        )
    workers = min(workers, cases)
    memory_bytes = int(MEMORY_LIMIT / workers if request.memory_gb is None else request.memory_gb * 1e9)
    with (
        tempfile.TemporaryDirectory(prefix="perfusion-cbv-batch-") as scratch,
        dask.config.set({"distributed.worker.preload": ["PerfusionCBVLib.batch.worker_start"]}),
    ):
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=memory_bytes,
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address=None,
            local_directory=scratch,
            silence_logs=logging.CRITICAL + 1,
            security=True,  # other users of this machine can reach the ports of Dask, but have no certificate
            resources={GPU: 1} if uses_gpu else None,
        )
        with cluster, Client(cluster, set_as_default=False) as client:
            each = "1 worker" if workers == 1 else f"{workers} workers"
            text = f"{each} on this machine, one thread and up to {memory_bytes / 1e9:.1f} GB each"
            yield Cluster(client, text, starts_workers=True, uses_gpu=uses_gpu)


@contextmanager
def _existing(address: str, device: str, is_network: bool) -> Iterator[Cluster]:
    from distributed import Client

    try:
        client = Client(address, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise PerfusionError(
            f"No Dask scheduler answers at {address} ({type(error).__name__}). Check the address, or start one with: "
            "dask scheduler"
        ) from error
    with client:
        with_gpu = any(worker.get("resources", {}).get(GPU, 0) >= 1 for worker in _workers(client))
        if is_network and device == "cuda" and not with_gpu:
            raise UsageError(
                "--device cuda needs workers that offer a graphics processor, and none does. Start them with: dask "
                f"worker {address} --nthreads 1 --resources GPU=1"
            )
        uses_gpu = is_network and with_gpu and device in ("auto", "cuda")
        yield Cluster(client, f"the cluster at {address}", starts_workers=False, uses_gpu=uses_gpu)


@contextmanager
def _slurm(request: ClusterRequest, device: str, is_network: bool, cases: int, folder: Path) -> Iterator[Cluster]:
    from dask_jobqueue import SLURMCluster
    from distributed import Client

    assert request.workers is not None
    uses_gpu = is_network and device == "cuda"
    private = folder / "slurm"
    private.mkdir(mode=0o700, parents=True, exist_ok=True)
    cluster = SLURMCluster(
        cores=1,
        processes=1,
        memory=f"{request.memory_gb}GB",
        walltime=request.slurm_time,
        python=sys.executable,
        job_name="perfusion-cbv",
        job_extra_directives=[*request.slurm_options, *(["--gres=gpu:1"] if uses_gpu else [])],
        job_script_prologue=[f"export {name}={value}" for name, value in _ONE_THREAD.items()],
        worker_extra_args=["--resources", f"{GPU}=1"] if uses_gpu else [],
        log_directory=str(private),
        shared_temp_directory=str(private),
        scheduler_options={"dashboard_address": ":0"},
        silence_logs=logging.CRITICAL + 1,
        security=True,
    )
    with cluster, Client(cluster, set_as_default=False) as client:
        _require_accepted(cluster.job_script(), private)
        jobs = min(request.workers, cases)
        cluster.scale(jobs=jobs)
        text = "1 SLURM job" if jobs == 1 else f"{jobs} SLURM jobs"
        yield Cluster(client, text, starts_workers=False, uses_gpu=uses_gpu)


def _require_accepted(script: str, folder: Path) -> None:
    """Ask SLURM whether it would take the job, because Dask says nothing when it does not."""
    path = folder / "job.sh"
    path.write_text(script, encoding="utf-8")
    try:
        answer = subprocess.run(["sbatch", "--test-only", str(path)], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise PerfusionError("There is no sbatch here. Run --slurm where jobs are submitted.") from error
    if answer.returncode != 0:
        said = " ".join(answer.stderr.split()) or f"exit code {answer.returncode}"
        raise PerfusionError(f"SLURM does not take the jobs ({said}). Check --slurm-option, --slurm-time and --memory.")


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _has_gpu(device: str) -> bool:
    """Return whether a network's cases on this machine would use a graphics processor."""
    if device == "cpu":
        return False
    try:
        from PerfusionCBVLib.networks.inference import choose_device

        return choose_device(device).type != "cpu"
    except ModuleNotFoundError:
        return False  # without PyTorch every case says what to install


def _workers(client: Client) -> list[dict[str, Any]]:
    return list(client.scheduler_info(n_workers=-1)["workers"].values())


def _require_dask(slurm: bool) -> None:
    try:
        import distributed  # noqa: F401

        if slurm:
            import dask_jobqueue  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"Batches need the package {error.name}, which is not installed: pip install 'perfusion-cbv[batch]'."
        ) from error


@contextmanager
def _quiet_logs() -> Iterator[None]:
    """Keep Dask's own remarks, about versions, lost connections and restarted workers, off the user's terminal."""
    families = ("distributed", "tornado", "asyncio", "dask_jobqueue")
    # Dask gives some of its loggers a level of their own, which their family's does not change.
    known = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in families]
    kept = {name: logging.getLogger(name).level for name in (*families, *known)}
    for name in kept:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(distributed|dask|dask_jobqueue|tornado)(\.|$)")
            yield
    finally:
        for name, level in kept.items():
            logging.getLogger(name).setLevel(level)
