"""The way of a word to a client: the API by itself, and through a proxy. Asks as a client does."""

import http.client
import json
import socket
import ssl
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from doctor.case import Case
from doctor.finding import Finding, failed, ok, skipped, warning
from doctor.stream import Reading, StillRunning, read, unpacker

SILENCE_SECONDS = 20.0
RUN_SECONDS = 60.0
HELD_BACK_SECONDS, LATE_SECONDS = 2.0, 0.5
SLOW_FIRST_BYTE_SECONDS = 3.0

UNBUFFER = (
    "Let it pass event streams on at once: nginx 'proxy_buffering off' and 'gzip off' there; Caddy no 'encode' on "
    "these routes; Apache 'flushpackets=on'; a CDN: no compression, caching or scanning of them."
)
BEGIN = "Start it with 'make run' or 'python -m app'; HEARTLINE_BIND says where it listens."


class Refused(Exception):
    """The answer was not the one that was wanted; the finding says what it means."""

    def __init__(self, said: str, fix: str) -> None:
        super().__init__(said)
        self.said, self.fix = said, fix


class Way:
    """One address of the API."""

    def __init__(self, name: str, url: str, key: str) -> None:
        """`name` is `direct` or `url`; the address may be the one that OpenAI's clients are given, with /v1."""
        self.name = name
        self.url = url.rstrip("/").removesuffix("/v1")
        self.is_direct = name == "direct"
        self._key = key

    def check(self, part: str) -> str:
        return f"{self.name}: {part}"

    @contextmanager
    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Iterator[http.client.HTTPResponse]:
        """The answer, unread. Raises `Refused` for one that is none."""
        parts = urllib.parse.urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=SILENCE_SECONDS)
        headers = {
            "Authorization": f"Bearer {self._key}",
            "Content-Type": "application/json",
            "Accept-Encoding": "gzip",  # as browsers and Open WebUI do: what compresses may hold back
        }
        try:
            connection.request(method, parts.path + path, json.dumps(body) if body is not None else None, headers)
            yield connection.getresponse()
        except ssl.SSLError as error:
            fix = "Give the proxy a certificate for this name; SSL_CERT_FILE names an authority of your own."
            raise Refused(f"{self.url} has no valid certificate ({error.reason}).", fix) from None
        except TimeoutError:
            said = f"Nothing came from {self.url} for {SILENCE_SECONDS:g} s."
            raise Refused(said, "See the log of what listens there." if self.is_direct else UNBUFFER) from None
        except socket.gaierror:
            raise Refused(f"There is no host {parts.hostname}.", "Correct the address, or the DNS.") from None
        except ConnectionRefusedError:
            raise Refused(f"Nobody listens at {self.url}.", BEGIN if self.is_direct else "Start the proxy.") from None
        except ValueError:
            fix = "Correct the address (https rather than http?), or the proxy's routes."
            raise Refused(f"What comes from {self.url} is not what Heartline sends.", fix) from None
        except (OSError, http.client.HTTPException) as error:
            said = f"The connection to {self.url} broke ({type(error).__name__})."
            raise Refused(said, "See the log of what listens there.") from None
        finally:
            connection.close()

    def fetch(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        """The status and the JSON of an answer; None for one that is not JSON."""
        with self.ask(method, path, body) as response:
            data = response.read()
            try:
                return response.status, json.loads(unpacker(response)(data))
            except ValueError:
                return response.status, None


def check_ways(case: Case) -> Iterator[Finding]:
    """The API by itself, then each `--url`. All streams are read at the same time: each takes ten seconds."""
    ways = [Way("direct", case.settings.local_url, case.api_key), *(Way("url", url, case.api_key) for url in case.urls)]
    usable = []
    for way in ways:
        finding = check_api(way)
        usable.append(finding.grade == "ok")
        yield finding
    with ThreadPoolExecutor(2 * len(ways)) as pool:
        pending = [
            (pool.submit(check_count, way, case, good), pool.submit(check_run, way, case, good))
            for way, good in zip(ways, usable, strict=True)
        ]
        for streams in pending:
            yield from (stream.result() for stream in streams)


def check_api(way: Way) -> Finding:
    name = way.check("api")
    try:
        status, found = way.fetch("GET", "/v1/models")
        if status == 200 and isinstance(found, dict) and "data" in found:
            return _ready(way)
    except Refused as refused:
        return failed(name, refused.said, refused.fix)
    error = found.get("error") if isinstance(found, dict) else None
    if status == 401 and isinstance(error, dict) and error.get("code") == "invalid_api_key":
        return failed(
            name,
            f"{way.url} does not know the key.",
            "It reads its keys when it starts: restart it, give it the same HEARTLINE_API_KEYS, or name a file with "
            "one of its keys with --key-file.",
        )
    if isinstance(error, dict):
        return failed(name, f"{way.url} answers {status}: {error.get('message')}", "See the log of the API.")
    if status in (502, 503, 504):
        return failed(
            name,
            f"{way.url} answers {status}: the proxy does not reach the API.",
            f"Correct where it sends requests. {BEGIN}",
        )
    return failed(
        name,
        f"{way.url} answers {status}, and not as Heartline does.",
        "Correct the address (https rather than http?), or the proxy's routes.",
    )


def _ready(way: Way) -> Finding:
    """What the API itself says of its Redis and its workers: they may be others than ours."""
    status, found = way.fetch("GET", "/readyz")
    if status == 503 and isinstance(found, dict):
        said = ", ".join(f"{key} {value}" for key, value in found.items())
        fix = "Give the API and the workers the same HEARTLINE_REDIS_URL, and start a worker."
        return failed(way.check("api"), f"{way.url} answers, but is not ready: {said}.", fix)
    return ok(way.check("api"), f"{way.url} answers, and knows the key.")


def check_count(way: Way, case: Case, usable: bool) -> Finding:
    """The counting stream: neither Redis nor a worker is in its way."""
    name = way.check("test stream")
    if not usable or case.quick:
        return skipped(name, "Not asked for." if case.quick else "The API cannot be used.")
    reading = Reading(time.time())
    try:
        with way.ask("GET", "/test/stream") as response:
            if response.status != 200:
                return failed(
                    name, f"GET /test/stream is answered with {response.status}.", "Let the proxy pass it on."
                )
            for _ in read(response, reading, reading.asked_at + RUN_SECONDS):
                pass
    except StillRunning:
        return failed(name, f"The ten counts were not over after {RUN_SECONDS:g} s.", UNBUFFER, **reading.facts())
    except Refused as refused:
        return failed(name, refused.said, refused.fix, **reading.facts())
    return judged(name, way, reading, "ten counts")


def check_run(way: Way, case: Case, usable: bool) -> Finding:
    """A run, and its events: the whole way."""
    name = way.check("run")
    if not usable or case.quick:
        return skipped(name, "Not asked for." if case.quick else "The API cannot be used.")
    known = case.profiles.offered if case.profiles else ()
    model = case.model or next((profile.id for profile in known if profile.runner == "diagnostic"), "")
    if not model:
        return skipped(name, "No model in models.yaml has 'runner: diagnostic'; --model names another one.")
    reading = Reading(time.time())
    try:
        status, run = way.fetch("POST", "/v1/runs", {"model": model, "prompt": "Say hello.", "detach": False})
        if status != 201:
            message = run["error"]["message"] if isinstance(run, dict) and "error" in run else "no JSON"
            return failed(name, f"POST /v1/runs is answered with {status}: {message}", "See the log of the API.")
        reading = Reading(time.time())
        return _watched(way, name, run["id"], reading, model)
    except Refused as refused:
        return failed(name, refused.said, refused.fix, **reading.facts())


def _watched(way: Way, name: str, run_id: str, reading: Reading, model: str) -> Finding:
    try:
        with way.ask("GET", f"/v1/runs/{run_id}/events") as response:
            if response.status != 200:
                return failed(
                    name, f"The run's events are answered with {response.status}.", "Let the proxy pass them on."
                )
            for arrival in read(response, reading, reading.asked_at + RUN_SECONDS):
                if (trouble := _trouble(name, arrival.event, arrival.data, reading, model)) is not None:
                    way.fetch("POST", f"/v1/runs/{run_id}/cancel")
                    return trouble
    except StillRunning:
        way.fetch("POST", f"/v1/runs/{run_id}/cancel")
    ended = bool(reading.arrivals) and reading.arrivals[-1].event == "completed"
    if not ended:
        last = reading.arrivals[-1].event if reading.arrivals else "nothing"
        fix = "See the worker's log under this run's id; 'queued' says that no slot was free."
        return failed(name, f"Run {run_id} had not ended after {RUN_SECONDS:g} s; the last that came was {last}.", fix)
    return judged(name, way, reading, f"a run of {model}")


def _trouble(name: str, event: str, data: dict[str, Any], reading: Reading, model: str) -> Finding | None:
    """What an event says of a run that has failed, or is about to."""
    facts = reading.facts()
    if event == "api_retry" and data.get("http_status") in (401, 403):
        return failed(
            name,
            f"The model's API refuses what the CLI pays with for {model} ({data['http_status']}).",
            "Correct ANTHROPIC_API_KEY or the model's environment, or log in anew with 'claude'; restart the worker.",
            **facts,
        )
    if event == "failed":
        return failed(
            name, f"The run failed ({data.get('code')}): {data.get('message')}", _fix_of(data.get("code")), **facts
        )
    if event in ("cancelled", "lost"):
        return failed(name, f"The run ended as {event}.", "See the log of the API and of the worker.", **facts)
    return None


def _fix_of(code: object) -> str:
    return {
        "cli_missing": "Run 'make cli', or set HEARTLINE_CLAUDE_BIN, and restart the worker.",
        "cli_error": "The message has the CLI's own words: mostly it is not logged in, or its key is wrong.",
        "unknown_profile": "Give the API and the workers the same models.yaml, and restart both.",
        "worker_lost": "See the end of the worker's log: it died, or could not reach Redis.",
        "queue_timeout": "Raise HEARTLINE_WORKER_SLOTS, or start another worker.",
    }.get(str(code), "The worker's log has more under the run's id.")


def judged(name: str, way: Way, reading: Reading, what: str) -> Finding:
    """What the times of a whole stream say."""
    facts, held = reading.facts(), reading.held_back_seconds
    times = (
        f"first byte after {reading.first_byte_seconds:.2f} s, largest gap {reading.largest_gap_seconds:.2f} s, "
        f"nothing held back for more than {held:.2f} s"
    )
    if held > HELD_BACK_SECONDS:
        said = (
            f"{what.capitalize()} came through {way.url} in {len(reading.chunks)} pieces, up to {held:.1f} s late: "
            "something on the way buffers."
        )
        fix = "Nothing should be between: see whether the machine is overloaded." if way.is_direct else UNBUFFER
        return failed(name, said, fix, **facts)
    if held > LATE_SECONDS or reading.first_byte_seconds > SLOW_FIRST_BYTE_SECONDS:
        said = f"{what.capitalize()} came through {way.url}, but not smoothly: {times}."
        return warning(name, said, "See whether a machine on the way, or the network, is overloaded.", **facts)
    return ok(name, f"{what.capitalize()} came live through {way.url}: {times}.", **facts)
