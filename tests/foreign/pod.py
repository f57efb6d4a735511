"""What every pod runs: servers, and then the cases of a group whenever `run` asks for them.

    pod.py serve GROUP...     starts the servers of these groups
    pod.py forward            starts the forward proxy
    pod.py ask                waits for files that name groups
    pod.py cases GROUP        runs one group's cases, and prints a line of JSON for each

A pod is a process namespace (mesh.yml): nothing that is started here outlives it.
"""

import importlib
import json
import os
import subprocess
import sys
import time
import traceback

import cases

WORK, SIDE, POD = (os.environ[f"FOREIGN_{name}"] for name in ("WORK", "SIDE", "POD"))
# All cases of a group.
GROUP_SECONDS = 240


def serve(site, groups):
    """Starts servers; which groups' could not be started, and why, is written down."""
    for group in groups:
        try:
            importlib.import_module(f"groups.{group}").serve(site)
        # The other groups can still be run.
        except Exception:  # pylint: disable=broad-except
            report(site.work / f"{group}.{SIDE}.broken", traceback.format_exc())
    report(site.work / f"{POD}.ready", "")
    # As the first process of its namespace it inherits the orphans.
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(1)


def ask(site):
    """Runs the cases of each group when a file says so."""
    report(site.work / f"{POD}.ready", "")
    while True:
        for order in site.work.glob(f"*.{SIDE}.ask"):
            order.unlink()
            group = order.name.split(".")[0]
            results = site.work / f"{group}.{SIDE}.results"
            with open(results, "wb") as out, open(site.own / f"{group}.log", "wb") as log:
                command = [sys.executable, __file__, "cases", group]
                try:
                    subprocess.run(command, stdout=out, stderr=log, timeout=GROUP_SECONDS, check=False)
                except subprocess.TimeoutExpired:
                    log.write(b"the group took too long\n")
            results.rename(results.with_suffix(".done"))
        time.sleep(0.05)


def run_cases(site, group):
    """Prints what the cases of a group see."""
    importlib.import_module(f"groups.{group}")
    # First of all, so that those are missed that are not run.
    print(json.dumps({"cases": [name for name, _, _ in cases.CASES]}), flush=True)
    for name, seconds, function in cases.CASES:
        began = time.monotonic()
        result = {"case": name, **cases.run_case(site, function, seconds)}
        result["seconds"] = round(time.monotonic() - began, 1)
        print(json.dumps(result), flush=True)


def report(path, text):
    """Writes a file that is never seen half written."""
    unfinished = path.with_suffix(path.suffix + "~")
    unfinished.write_text(text)
    unfinished.rename(path)


def main():
    """See above."""
    site = cases.Site(WORK, SIDE)
    command, *groups = sys.argv[1:]
    if command == "serve":
        serve(site, groups)
    elif command == "forward":
        serve(site, ["forward"])
    elif command == "ask":
        ask(site)
    else:
        run_cases(site, *groups)


main()
