"""What must be true when the dust has settled: looked up in Redis and held against what the clients read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from rq import Queue
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from core import events, keys
from core.events import AnyEvent, Failed, Terminal, Text
from core.log import EventLog, status_of
from core.run import TERMINAL, Lane, Status
from core.runs import RunStore
from tests.chaos.clients import Chatter, Client, Reader
from tests.chaos.faults import Faults
from tests.chaos.measures import ALLOWED_DESCRIPTORS, ALLOWED_MEGABYTES, ALLOWED_THREADS, Measure
from tests.deployment import Deployment

PARTED = "what it read first is not in the log"
DOUBLE_SECONDS = 15.0
"""So close together, Valkey's last second and the worker that would have given it again are both gone."""

LOSS_SECONDS = 2.0
"""What was written so shortly before Valkey was killed may be gone: `appendfsync everysec`."""


@dataclass
class Record:
    """A run as Redis has it in the end."""

    status: Status
    log: list[bytes]

    @property
    def events(self) -> list[Any]:
        return [events.decode(data) for data in self.log]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Text))


@dataclass
class Report:
    """Rows of (what, how many), and what is wrong."""

    rows: list[tuple[str, object]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        width = max(len(what) for what, _ in self.rows)
        lines = [f"{what:<{width}}  {count}" for what, count in self.rows]
        return "\n".join([*lines, *(f"WRONG: {text}" for text in self.wrong)])


def runs(redis: "Redis") -> dict[str, Record]:
    """Every run that Redis knows."""
    log, store = EventLog(redis, 1), RunStore(redis, 1)
    found = {}
    for key in redis.scan_iter(match=keys.run("*"), count=1000):
        run_id = key.decode().split("{")[1].split("}")[0]
        found[run_id] = Record(store.get(run_id).status, log.read(run_id, count=1_000_000))
    return found


def unsettled(redis: "Redis") -> list[str]:
    """What is still going on: runs that have not ended, jobs that RQ counts as waiting or started."""
    going_on = [f"run {i} {record.status}" for i, record in runs(redis).items() if record.status not in TERMINAL]
    for lane in Lane:
        line = Queue(lane.value, connection=redis, serializer=JSONSerializer)
        started = StartedJobRegistry(queue=line)
        going_on += [f"queued {job_id}" for job_id in redis.lrange(line.key, 0, -1)]
        going_on += [f"intermediate {job_id}" for job_id in redis.lrange(line.intermediate_queue_key, 0, -1)]
        going_on += [f"started {job_id}" for job_id in started.get_job_ids(cleanup=False)]
    going_on += [f"lease {run_id}" for run_id in redis.zrange(keys.leases(), 0, -1)]
    return going_on


class Proof:
    """Looks at everything once; `report` says what it found."""

    def __init__(self, heartline: Deployment, clients: Sequence[Client], faults: Faults) -> None:
        self._heartline = heartline
        self._clients = clients
        self._faults = faults
        self._runs = runs(heartline.redis)
        self.report = Report()

    def look(self, before: Mapping[str, Measure], unsettled: Sequence[str], marked: Sequence[str]) -> Report:
        self._look_at_runs()
        self._look_at_usage()
        self._look_at_clients()
        self._count("not settled (runs, queue, registry, leases)", len(unsettled))
        self._wrong(f"not settled: {what}" for what in unsettled)
        self._count("processes of runs left", len(marked))
        self._wrong(f"left behind: {what}" for what in marked)
        self._look_at_parts(before)
        for kind, count in sorted(self._faults.counts.items()):
            self._count(f"fault: {kind}", count)
        self._count("faults", sum(self._faults.counts.values()))
        return self.report

    def _count(self, what: str, count: object) -> None:
        self.report.rows.append((what, count))

    def _wrong(self, texts: Any) -> None:
        self.report.wrong.extend(texts)

    # --- the runs ---------------------------------------------------------------------------------

    def _look_at_runs(self) -> None:
        endings: Counter[str] = Counter()
        for run_id, record in self._runs.items():
            self._wrong(f"run {run_id}: {what}" for what in inconsistencies(run_id, record))
            endings[ending(record)] += 1
        accepted = {accepted.run_id for client in self._clients for accepted in client.accepted}
        lost = [one for client in self._clients for one in client.accepted if one.run_id not in self._runs]
        self._count("runs accepted", len(accepted))
        self._count("runs that no client was told of", len(self._runs.keys() - accepted))
        for name, count in sorted(endings.items()):
            self._count(f"runs {name}", count)
        if 2 * endings[Status.COMPLETED] < len(accepted):
            self._wrong(["fewer than half of the runs have completed"])
        self._count("runs lost with Valkey's last second", len(lost))
        self._wrong(
            f"run {one.run_id}: accepted and not in Redis" for one in lost if not self._may_be_lost(one.told_at)
        )

    def _look_at_usage(self) -> None:
        """A run may stay uncounted when a process dies just behind its end; none may be counted twice."""
        days = self._heartline.redis.scan_iter(match=keys.usage("*", "*"))
        counted = Counter[str]()
        for day in days:
            for number, count in self._heartline.redis.hgetall(day).items():
                counted[number.decode().partition(" ")[2]] += int(count)
        for status in TERMINAL:
            there = sum(record.status is status for record in self._runs.values())
            self._count(f"runs {status} that the usage counts", counted[status])
            if counted[status] > there:
                self._wrong([f"the usage counts {counted[status]} runs {status}, and there are {there}"])

    def _may_be_lost(self, at: float) -> bool:
        """Whether Valkey was killed so soon afterwards that it may have forgotten."""
        return any(at - 1.0 <= killed_at <= at + LOSS_SECONDS for killed_at in self._faults.losses)

    def _may_be_told_otherwise(self, record: Record, seen: Sequence[bytes]) -> bool:
        """Whether what parts `seen` from the log was lost by Valkey and by the run's worker, in one moment: then
        the run is ended for them, where the log ends."""
        parted = next((here for there, here in zip(record.log, seen, strict=False) if there != here), None)
        if parted is None or record.status is Status.COMPLETED:
            return False
        at = events.decode(parted).at
        died = any(abs(at - died_at) <= DOUBLE_SECONDS for died_at in self._faults.worker_deaths)
        return died and self._may_be_lost(at)

    def _was_told_otherwise(self, client: Client, record: Record) -> bool:
        """The same for a client. A chat has no times to go by: there any such moment will do."""
        if isinstance(client, Reader):
            return any(self._may_be_told_otherwise(record, seen) for seen in (client.seen, *client.earlier))
        moments = (abs(lost - died) for lost in self._faults.losses for died in self._faults.worker_deaths)
        return (
            isinstance(client, Chatter)
            and record.status is not Status.COMPLETED
            and self._judge_chatter(client, record) == [PARTED]
            and any(apart <= DOUBLE_SECONDS for apart in moments)
        )

    # --- the clients ------------------------------------------------------------------------------

    def _look_at_clients(self) -> None:
        complete = exact = double = 0
        for client in self._clients:
            found = self._judge(client)
            record = self._runs.get(client.run_id or "")
            if record is not None and self._was_told_otherwise(client, record):
                double += 1
                continue
            self._wrong(f"client {client.question.tag} (run {client.run_id}): {what}" for what in found)
            if found or record is None or not client.finished:
                continue
            complete += 1
            exact += record.status is Status.COMPLETED
        self._count("clients (some before the faults began)", len(self._clients))
        gone = sum(isinstance(client, Chatter) and client.gone for client in self._clients)
        self._count("clients that left for good", gone)
        self._count("clients with the whole log, byte for byte", complete)
        self._count("of them with the CLI's whole text, byte for byte", exact)
        self._count("clients whose run's end was lost by Valkey and worker at once", double)
        self._count("clients that were told their run is lost", sum(client.lost for client in self._clients))
        self._count("times that a client came back", sum(client.resumed for client in self._clients))
        self._count(
            "times that a client was told to start over",
            sum(len(client.earlier) for client in self._clients if isinstance(client, Reader)),
        )
        longest = max((client.longest_silence for client in self._clients), default=0)
        self._count("longest silence on a connection, seconds", f"{longest:.1f}")

    def _judge(self, client: Client) -> list[str]:
        if client.crash is not None:
            return [f"crashed: {client.crash!r}"]
        if client.is_alive():
            return ["still waits"]
        record = self._runs.get(client.run_id or "")
        if record is None or client.lost:
            known = client.accepted and self._may_be_lost(client.accepted[-1].told_at)
            return [] if known else ["was told that its run is lost"]
        wrong = []
        asked = client.question
        expected = {asked.answer} if len(client.accepted) == 1 else {asked.answer, asked.again}
        if record.status is Status.COMPLETED and record.text not in expected:
            wrong.append(f"the text is not the CLI's: {record.text[:200]!r}")
        if isinstance(client, Reader):
            wrong += self._judge_reader(client, record)
        elif isinstance(client, Chatter) and not client.gone:
            wrong += self._judge_chatter(client, record)
        return wrong

    def _judge_reader(self, client: Reader, record: Record) -> list[str]:
        wrong = [
            f"before a reset it had read {difference(record.log, seen)}"
            for seen in client.earlier
            if record.log[: len(seen)] != seen
        ]
        if client.seen != record.log:
            wrong.append(f"it read {difference(record.log, client.seen)}")
        return wrong

    def _judge_chatter(self, client: Chatter, record: Record) -> list[str]:
        texts = [(event.seq, event.text) for event in record.events if isinstance(event, Text)]
        wrong = [PARTED for early in client.earlier if texts[: len(early)] != early]
        if client.text != texts:
            wrong.append(f"it read {client.text[-3:]}, the log ends with {texts[-3:]}")
        if client.end != len(record.log):
            wrong.append(f"its end was {client.end}, the log's is {len(record.log)}")
        return wrong

    # --- the parts --------------------------------------------------------------------------------

    def _look_at_parts(self, before: Mapping[str, Measure]) -> None:
        for part in (*self._heartline.replicas, *self._heartline.workers):
            then, now = before[part.log.stem], Measure.of(part)
            if now.pid != then.pid:
                continue
            self._count(
                f"{part.name}: MB, descriptors, threads (before -> after)",
                f"{then.megabytes:.0f} -> {now.megabytes:.0f}, {then.descriptors} -> {now.descriptors}, "
                f"{then.threads} -> {now.threads}",
            )
            self._wrong(f"{part.log.stem} has grown by {what}" for what in now.grown_too_far(then))
        self._count(
            "allowed growth: MB, descriptors, threads", f"{ALLOWED_MEGABYTES}, {ALLOWED_DESCRIPTORS}, {ALLOWED_THREADS}"
        )


def ending(record: Record) -> str:
    """How a run ended, in a word or two."""
    last = record.events[-1] if record.log else None
    return f"failed: {last.code}" if isinstance(last, Failed) else str(record.status)


def inconsistencies(run_id: str, record: Record) -> list[str]:
    """What is wrong with a run in itself."""
    found: list[AnyEvent] = record.events
    wrong = []
    if [event.seq for event in found] != list(range(1, len(found) + 1)):
        wrong.append(f"the seqs are {[event.seq for event in found]}")
    if foreign := {event.run_id for event in found} - {run_id}:
        wrong.append(f"events of {foreign}")
    terminal = [event for event in found if isinstance(event, Terminal)]
    if len(terminal) != 1 or found[-1] is not terminal[0]:
        wrong.append(f"terminal events: {terminal}, the last event: {found[-1:]}")
    elif status_of(terminal[0]) is not record.status:
        wrong.append(f"is {record.status}, and its last event is {terminal[0]}")
    return wrong


def difference(log: Sequence[bytes], seen: Sequence[bytes]) -> str:
    """Where two logs part."""
    for seq, (there, here) in enumerate(zip(log, seen, strict=False), start=1):
        if there != here:
            return f"{here!r} where the log has {there!r} at {seq} (of {len(log)})"
    return f"{len(seen)} events of {len(log)}"
