"""Real clusters on this machine for tests: Ray of two nodes with a worker each, Slurm of one node with two."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=1
KillWait=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def ray_cluster() -> Iterator[str]:
    """Yield the address of a Ray cluster of two nodes, one CPU each. Skips where Ray is missing."""
    pytest.importorskip("ray", reason="the package ray is missing (extra 'ray')")
    import ray
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    node = {"num_cpus": 1, "memory": 4 << 30, "object_store_memory": 100 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    try:
        cluster.add_node(**node)
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


def ray_workers() -> list[int]:
    """Return the process ids of Ray's workers that run a task of a build."""
    return [pid for pid, command in _processes() if command.startswith(b"ray::_RankWorker.run_for_rank")]


def _processes() -> Iterator[tuple[int, bytes]]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield int(path.parent.name), path.read_bytes()


@contextlib.contextmanager
def slurm_cluster() -> Iterator[None]:
    """Run munged, slurmctld and slurmd in a temporary folder, with the environment pointing there. Skips where they
    are missing or not root's to run."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here (Debian: slurm-wlm, munge)")
    if os.geteuid() != 0:
        pytest.skip("slurmd starts jobs as root only")
    folder = Path(tempfile.mkdtemp(prefix="slurm"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        host = socket.gethostname().partition(".")[0]
        ports = _free_ports(2)
        (folder / "slurm.conf").write_text(SLURM_CONF.format(folder=folder, host=host, ports=ports))
        (folder / "state").mkdir()
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o600)
        folder.chmod(0o755)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        munge = ["--key-file=munge.key", "--socket=munge.socket", "--pid-file=munge.pid", "--seed-file=munge.seed"]
        options = [option.replace("=", f"={folder}/", 1) for option in munge]
        _start(stack, ["munged", "--foreground", "--force", *options], folder)
        _until(lambda: (folder / "munge.socket").exists(), folder)
        _start(stack, ["slurmctld", "-D"], folder)
        _start(stack, ["slurmd", "-D", "-N", host], folder)
        _until(lambda: b"idle" in subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True).stdout, folder)
        yield


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def _start(stack: contextlib.ExitStack, command: list[str], folder: Path) -> None:
    log = stack.enter_context(open(folder / f"{command[0]}.out", "wb"))  # noqa: SIM115
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def stop() -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(stop)


def _until(done: Callable[[], bool], folder: Path) -> None:
    for _ in range(300):
        if done():
            return
        time.sleep(0.1)
    logs = "\n".join(f"{path.name}: {path.read_text(errors='replace')[-500:]}" for path in folder.glob("*.out"))
    pytest.skip(f"Slurm does not start here: {logs}")
