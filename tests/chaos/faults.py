"""The faults: one at a time, of a random kind, on a random victim. Each is undone a moment later."""

import contextlib
import random
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from redis.exceptions import RedisError

from tests.chaos.clients import Client
from tests.deployment import Deployment, Part

AWAY_SECONDS = (0.2, 1.5)
"""How long what was killed stays away."""

PAUSE_SECONDS = (0.5, 3.0)
LOST_SECONDS = 1.0
SAMPLE_SECONDS = 0.05

WEIGHTS = {
    "worker killed": 4,
    "worker stopped": 3,
    "replica killed": 4,
    "replica's child killed": 3,
    "replica stopped": 4,
    "CLI killed": 12,
    "channels cut": 16,
    "connections cut": 12,
    "Valkey paused": 8,
    "Valkey restarted": 5,
    "Valkey killed": 5,
    "Valkey killed, last second lost": 5,
    "client cut off": 21,
}


class Faults:
    """Makes faults in a deployment. `spared` parts are neither killed nor stopped: theirs is the memory that is
    compared in the end."""

    def __init__(
        self, heartline: Deployment, clients: Sequence[Client], chance: random.Random, spared: Sequence[Part] = ()
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.losses: list[float] = []  # the Unix times at which Valkey was killed
        self.worker_deaths: list[float] = []  # and those at which a worker was
        self._heartline = heartline
        self._clients = clients
        self._chance = chance
        self._spared = spared
        self._valkey = threading.Lock()
        self._away: set[int] = set()
        self._threads: list[threading.Thread] = []
        self._sizes: deque[tuple[float, Path, int]] = deque(maxlen=100)
        self._over = threading.Event()
        self._kinds: dict[str, Callable[[], bool]] = {
            "worker killed": lambda: self._end_part("worker", signal.SIGKILL),
            "worker stopped": lambda: self._end_part("worker", signal.SIGTERM),
            "replica killed": lambda: self._end_part("app", signal.SIGKILL),
            "replica stopped": lambda: self._end_part("app", signal.SIGTERM),
            "replica's child killed": self._kill_gunicorn_worker,
            "CLI killed": self._kill_cli,
            "channels cut": lambda: self._cut_connections("pubsub"),
            "connections cut": lambda: self._cut_connections("normal"),
            "Valkey paused": lambda: self._with_valkey(self._pause_valkey),
            "Valkey restarted": lambda: self._with_valkey(self._restart_valkey),
            "Valkey killed": lambda: self._with_valkey(lambda: self._kill_valkey(0)),
            "Valkey killed, last second lost": lambda: self._with_valkey(lambda: self._kill_valkey(LOST_SECONDS)),
            "client cut off": self._cut_client,
        }

    def watch_the_disk(self) -> None:
        """Begin to note how long Valkey's file was when, so that its last second can be taken away."""
        self._in_thread(self._note_sizes)

    def one(self) -> str:
        """Make one fault that is possible now; returns its kind."""
        while True:
            kind = self._chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            if self.make(kind):
                return kind

    def make(self, kind: str) -> bool:
        """Make a fault of this kind; False when there is no victim for it now."""
        if not self._kinds[kind]():
            return False
        self.counts[kind] += 1
        return True

    def settle(self) -> None:
        """Wait until every victim is back."""
        self._over.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), f"{thread.name} does not end"

    # --- the parts --------------------------------------------------------------------------------

    def _end_part(self, name: str, number: signal.Signals) -> bool:
        parts = self._heartline.parts
        victims = [
            part for part in parts if part.name == name and id(part) not in self._away and part not in self._spared
        ]
        if not victims:
            return False
        victim = self._chance.choice(victims)
        self._away.add(id(victim))
        if name == "worker" and number is signal.SIGKILL:
            self.worker_deaths.append(time.time())
        self._in_thread(self._end_and_start_again, victim, number, self._chance.uniform(*AWAY_SECONDS))
        return True

    def _end_and_start_again(self, part: Part, number: signal.Signals, away_seconds: float) -> None:
        if number is signal.SIGKILL:
            kill_all(part)
        else:
            part.stop(number)
        time.sleep(away_seconds)
        self._heartline.start_again(part)
        self._away.discard(id(part))

    def _kill_gunicorn_worker(self) -> bool:
        """gunicorn's master starts another one by itself."""
        victims = [part for part in self._heartline.replicas if id(part) not in self._away and part not in self._spared]
        with contextlib.suppress(psutil.Error, IndexError):
            self._chance.choice(psutil.Process(self._chance.choice(victims).process.pid).children()).kill()
            return True
        return False

    def _kill_cli(self) -> bool:
        for worker in self._chance.sample(self._heartline.workers, len(self._heartline.workers)):
            with contextlib.suppress(psutil.Error):
                if running := psutil.Process(worker.process.pid).children():
                    self._chance.choice(running).kill()
                    return True
        return False

    # --- Valkey -----------------------------------------------------------------------------------

    def _cut_connections(self, kind: str) -> bool:
        if self._valkey.locked():
            return False
        try:
            return int(self._heartline.redis.execute_command("CLIENT", "KILL", "TYPE", kind)) > 0
        except RedisError:
            return False

    def _with_valkey(self, do: Callable[[], None]) -> bool:
        if not self._valkey.acquire(blocking=False):
            return False

        def work() -> None:
            with contextlib.ExitStack() as stack:
                stack.callback(self._valkey.release)
                do()

        self._in_thread(work)
        return True

    def _pause_valkey(self) -> None:
        process = self._heartline.valkey.process
        process.send_signal(signal.SIGSTOP)
        time.sleep(self._chance.uniform(*PAUSE_SECONDS))
        process.send_signal(signal.SIGCONT)

    def _restart_valkey(self) -> None:
        self._heartline.valkey.stop()
        time.sleep(self._chance.uniform(*AWAY_SECONDS))
        self._heartline.start_again(self._heartline.valkey)

    def _kill_valkey(self, lost_seconds: float) -> None:
        valkey = self._heartline.valkey
        self.losses.append(time.time())
        valkey.process.kill()
        valkey.process.wait()
        if lost_seconds:
            self._take_back(time.monotonic() - self._chance.uniform(0, lost_seconds))
        time.sleep(self._chance.uniform(*AWAY_SECONDS))
        self._heartline.start_again(valkey)

    def _note_sizes(self) -> None:
        folder = self._heartline.folder / "state" / "valkey" / "appendonlydir"
        while not self._over.wait(SAMPLE_SECONDS):
            for path in folder.glob("*.incr.aof"):
                with contextlib.suppress(FileNotFoundError):
                    self._sizes.append((time.monotonic(), path, path.stat().st_size))

    def _take_back(self, to: float) -> None:
        """Cut the append-only file to what was in it then, as a host's sudden end would (everysec)."""
        known = [(path, size) for at, path, size in self._sizes if at >= to]
        if known:
            path, size = known[0]
            with path.open("r+b") as file:
                file.truncate(size)
        self._sizes.clear()

    # --- the clients ------------------------------------------------------------------------------

    def _cut_client(self) -> bool:
        victims = [client for client in self._clients if client.is_alive() and client.leaves]
        return bool(victims) and self._chance.choice(victims).cut()

    def _in_thread(self, do: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=do, args=args, name="fault", daemon=True)
        self._threads.append(thread)
        thread.start()


def kill_all(part: Part) -> None:
    """SIGKILL to a part: of a replica, to gunicorn's master and its worker."""
    processes = [psutil.Process(part.process.pid)]
    if part.name == "app":
        processes += processes[0].children(recursive=True)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    part.process.wait()
    psutil.wait_procs(processes, timeout=5)
