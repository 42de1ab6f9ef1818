"""How long a visitor of `hflm demo` waits for the first word, over HTTP, after the model is loaded.

    RUN=runs/quickstart python tests/bench/demo_first_token.py --repeats 20

A server of its own on a free port, asked through Gradio's client as the page asks it: into the queue, answers as a
stream of events. The seconds run from the request to the first text that goes beyond the prompt. The first request of
the server is distinguished from the others.

Prints one JSON line, in seconds: `first` of the first request, `median`, `worst` and `all` of those after it, and
`ratio`, the median over the 0.5 s that are wanted; below 1 is faster.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time

TARGET = 0.5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=os.environ.get("RUN"), help="a run or any model (default: $RUN)")
    parser.add_argument("--prompt", default="English: The horses follow a blue hat.\nLumo:")
    parser.add_argument("--repeats", type=int, default=20)
    given = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "hflm", "demo", given.model, "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        server.stdout.readline()  # its address: the model is loaded
        seconds = measured(f"http://127.0.0.1:{port}", given.prompt, given.repeats)
    finally:
        server.terminate()
        server.wait()
    first, *rest = seconds
    median = statistics.median(rest)
    found = {"first": first, "median": median, "worst": max(rest), "all": rest, "ratio": median / TARGET}
    print(json.dumps(found))


def measured(url, prompt, repeats):
    from gradio_client import Client

    client, seconds = Client(url, verbose=False), []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        job = client.submit(prompt, 0, 40, 0.8, 0.95, 1.0, api_name="/generate")
        seconds.append(next(time.perf_counter() - started for text in job if text != prompt))
        job.result()
    return seconds


if __name__ == "__main__":
    main()
