"""`torchrun` over two hosts beside two processes on one: `python tests/bench/two_hosts.py` (Linux, as root).

The hosts are network namespaces joined by a virtual cable, one process in each, on one shared folder; the same recipe
runs once as two processes of one host. Prints one JSON line: the ratio of the tokens per second, whether the final
weights are the same bytes, and the seconds from the death of the second host's process to the end of the first's.
"""

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import training_setup as setup

HOSTS = [f"hflm{os.getpid()}{name}" for name in "ab"]
ADDRESSES = ["10.213.77.1", "10.213.77.2"]
PORT = "29655"


def connect():
    """Two namespaces, each with its own loopback and one end of the cable as `cable`."""
    for host in HOSTS:
        ip("netns", "add", host)
        ip("-n", host, "link", "set", "lo", "up")
    ip("link", "add", "cable", "netns", HOSTS[0], "type", "veth", "peer", "name", "cable", "netns", HOSTS[1])
    for host, address in zip(HOSTS, ADDRESSES, strict=True):
        ip("-n", host, "addr", "add", f"{address}/24", "dev", "cable")
        ip("-n", host, "link", "set", "cable", "up")


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


def launch(folder, host, *arguments, run):
    """torchrun with `arguments`, in a namespace where `host` names one."""
    inside = ["ip", "netns", "exec", HOSTS[host]] if host is not None else []
    command = [sys.executable, "-m", "torch.distributed.run", "--master_port", PORT, *arguments]
    own = {"GLOO_SOCKET_IFNAME": "cable"} if host is not None else {}
    with open(folder / f"{run}-{host}.log", "w") as log:
        return subprocess.Popen(
            [*inside, *command, "-m", "hflm", "run", "recipe.yaml", "--output", run],
            cwd=folder,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1", **own},
        )


def over_both(folder, run):
    shared = ["--nnodes", "2", "--nproc_per_node", "1", "--master_addr", ADDRESSES[0]]
    return [launch(folder, rank, *shared, "--node_rank", str(rank), run=run) for rank in (0, 1)]


def finish(processes, folder, run):
    """(tokens per second, digest of the final weights)."""
    for process in processes:
        assert process.wait() == 0, "\n".join(log.read_text() for log in folder.glob(f"{run}-*.log"))
    weights = (folder / run / "model" / "model.safetensors").read_bytes()
    return setup.stage(folder, run)["tokens_per_second"], hashlib.sha256(weights).hexdigest()


def seconds_to_end(folder):
    """Kill the second host's process in the middle of the training; how long the first one takes to leave."""
    first, second = over_both(folder, "killed")
    metrics = folder / "killed" / "pretrain" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") > 1):
        assert first.poll() is second.poll() is None, (folder / "killed-0.log").read_text()
        time.sleep(0.1)
    listed = subprocess.run(["ip", "netns", "pids", HOSTS[1]], capture_output=True, text=True, check=True)
    began = time.monotonic()
    for pid in listed.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    code = first.wait()
    second.wait()
    assert code != 0
    return time.monotonic() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        setup.prepare(folder, 4096, chosen.steps)
        try:
            connect()
            one = finish([launch(folder, None, "--nproc_per_node", "2", run="one")], folder, "one")
            two = finish(over_both(folder, "two"), folder, "two")
            ended = seconds_to_end(folder)
        finally:
            for host in HOSTS:
                subprocess.run(["ip", "netns", "del", host], check=False)
        found = {"ratio": round(two[0] / one[0], 3), "same_weights": two[1] == one[1]}
        found |= {"tokens_per_second": {"two_hosts": two[0], "one_host": one[0]}}
        print(json.dumps({**found, "seconds_to_end_after_a_death": round(ended, 1)}))


if __name__ == "__main__":
    main()
