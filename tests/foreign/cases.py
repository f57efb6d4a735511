"""What all groups share: how a case is written down, and how servers are started."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time

CASES = []
# A case that takes longer hangs.
CASE_SECONDS = 30
# A server that does not listen by then never will, nor will its database be made.
START_SECONDS = 60


def case(name, seconds=CASE_SECONDS):
    """Makes a function of a Site a case.

    It asserts what has to come out, whoever is in between, and returns what it saw, as JSON, to be compared with what is seen
    through the mesh. Of a number whose name ends with `_ms` only a bound is compared (`run` says which).
    """

    def remember(function):
        CASES.append((name, seconds, function))
        return function

    return remember


class Site:
    """Where a case runs: `side` is direct or meshed."""

    def __init__(self, work, side):
        self.work = pathlib.Path(work)
        self.side = side
        self.server = f"server-{side}.foreign"
        # A forward proxy's pod.
        self.forward = f"forward-{side}.foreign"
        # Files that both sides use: certificates, things to be sent.
        self.shared = self.work / "shared"
        # Of this pod alone.
        self.own = self.work / os.environ["FOREIGN_POD"]
        self.own.mkdir(exist_ok=True)
        self.own.chmod(0o755)
        self.started = []

    def plain(self, text):
        """Without what is different by nature: the names and addresses of the two sides' servers."""
        for role in ("server", "forward"):
            for side in ("direct", "meshed"):
                name = f"{role}-{side}.foreign"
                with contextlib.suppress(OSError):
                    text = text.replace(socket.gethostbyname(name), role.upper())
                text = text.replace(name, role.upper())
        return text

    def run(self, *command, stdin=b"", ok=True, env=None, seconds=CASE_SECONDS):
        """The standard output of a client program, which has to succeed."""
        command = [str(word) for word in command]
        done = subprocess.run(
            command, input=stdin, capture_output=True, timeout=seconds, env={**os.environ, **(env or {})}, check=False
        )
        if ok and done.returncode != 0:
            said = (done.stdout + done.stderr)[-600:].decode(errors="replace").strip()
            raise AssertionError(self.plain(f"{' '.join(command)} exited with {done.returncode}: {said}"))
        return done.stdout if ok else (done.returncode, done.stdout, done.stderr)

    def curl(self, *arguments, **options):
        """curl's standard output."""
        return self.run("curl", "--silent", "--show-error", "--max-time", "25", *arguments, **options)

    def start(self, *command, port, env=None):
        """Starts a server program, and waits until it listens on `port`."""
        command = [str(word) for word in command]
        # Named after their order: many are Python's.
        with open(self.own / f"{len(self.started)}-{pathlib.Path(command[0]).name}.log", "wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **(env or {})}
            )
        self.started.append(process)
        self.wait_for(port, process, log.name)
        return process

    @staticmethod
    def wait_for(port, process, log):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.05)
        end = pathlib.Path(log).read_text(errors="replace")[-600:]
        raise RuntimeError(f"{process.args[0]} does not listen on port {port}: {end}")


class LeftOut(Exception):
    """A case cannot be run on this machine, whether there is a mesh or not."""


class TimedOut(AssertionError):
    """A case took too long."""


def run_case(site, function, seconds):
    """What `function` saw, or why it failed."""

    def give_up(*_):
        raise TimedOut(f"not done within {seconds} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        return {"saw": function(site)}
    except LeftOut as why:
        return {"left out": str(why)}
    except TimedOut as error:
        return {"failed": str(error)}
    except subprocess.TimeoutExpired as error:
        return {"failed": site.plain(f"{' '.join(error.cmd)}: not done within {error.timeout} s")}
    # Whatever a client library raises is what its user would see.
    except Exception as error:  # pylint: disable=broad-except
        return {"failed": site.plain(f"{type(error).__name__}: {error}")}
    finally:
        signal.alarm(0)
