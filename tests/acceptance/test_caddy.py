"""The Caddyfile with the real Caddy in front of real replicas, with the fake CLI.

That nothing on the way waits is shown by order, never by the clock: a word is made when the one before was read.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import caddy, sse
from tests.caddy import Caddy
from tests.chaos.proof import inconsistencies, runs
from tests.deployment import KEYS, Deployment, Part, chat, eventually
from tests.sse import Watcher

DRAIN_SECONDS = 4.0
MAX_BODY_BYTES = 200_000
ENDLESS = {"text": ["a"], "repeat": 2, "interval": 600, "child": 600}


@pytest.fixture(scope="module")
def heartline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    caddy.program()  # or skip, before anything is started
    with Deployment(
        tmp_path_factory.mktemp("heartline"),
        replicas=2,
        worker_slots=40,
        heartbeat_seconds=0.3,
        drain_seconds=DRAIN_SECONDS,
        stop_grace_seconds=1,
        disconnect_grace_seconds=0.5,
        max_body_bytes=MAX_BODY_BYTES,
        max_prompt_bytes=100_000,
    ) as deployment:
        yield deployment


@pytest.fixture
def proxy(heartline: Deployment, tmp_path: Path) -> Iterator[Caddy]:
    limit = {"HEARTLINE_MAX_BODY_BYTES": str(MAX_BODY_BYTES)}
    with Caddy(tmp_path, [part.url for part in heartline.replicas], environment=limit) as running:
        yield running


def command(**fields: object) -> str:
    """A prompt that the fake CLI obeys."""
    return json.dumps(fields)


def words(count: int, interval: float) -> str:
    return command(text=[f"{number}," for number in range(count)], interval=interval)


def spoken(count: int) -> str:
    return "".join(f"{number}," for number in range(count))


def submit(proxy: Caddy, prompt: str, **fields: object) -> str:
    with proxy.http() as client:
        answer = client.post("/v1/runs", json={"prompt": prompt, **fields})
        assert answer.status_code == 201, answer.text
        run_id: str = answer.json()["id"]
        return run_id


def text_of(watcher: Watcher) -> str:
    return "".join(event["text"] for event in watcher.seen if event["type"] == "text")


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["localhost, http://caddy:8080", "heartline.example.com", "http://:8080"])
def test_the_file_is_valid_and_in_order(tmp_path: Path, site: str) -> None:
    given = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "CADDY_SITE": site}
    given |= caddy.buffering(caddy.program())
    for arguments in (["validate", "--config"], ["fmt", "--diff"]):
        adapter = ["--adapter", "caddyfile"] if arguments[0] == "validate" else []
        argv = [caddy.program(), *arguments, str(caddy.CADDYFILE), *adapter]
        done = subprocess.run(argv, env=given, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert not [line for line in done.stdout.splitlines() if line.startswith(("+", "-"))]
        assert '"level":"warn"' not in done.stderr


def test_requests_are_read_to_their_end_before_they_are_passed_on() -> None:
    """Or Caddy cuts an answer off that comes before it has seen the end of the request (golang/go#40747). That is a
    race of a hundred to one on a busy machine, so what is looked at is the configuration."""
    given = {"PATH": os.environ["PATH"], **caddy.buffering(caddy.program())}
    argv = [caddy.program(), "adapt", "--config", str(caddy.CADDYFILE), "--adapter", "caddyfile"]
    found = json.loads(subprocess.run(argv, env=given, capture_output=True, timeout=60, check=True).stdout)

    def proxies(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict) and node.get("handler") == "reverse_proxy":
            yield node
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            yield from proxies(child)

    to_heartline = [proxy for proxy in proxies(found) if "health_checks" in proxy]
    assert len(to_heartline) == 2
    assert all(proxy.get("buffer_requests") or proxy.get("request_buffers") for proxy in to_heartline)


# --- streams --------------------------------------------------------------------------------------


class Paced(ThreadingHTTPServer):
    """A replica that sends a chunk only when it was told that the one before has been read."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Paced)
        self.read = threading.Semaphore(0)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class _Paced(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Paced

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(50):
            data = f"data: {number} {'x' * 600}\n\n".encode()  # worth compressing
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            assert self.server.read.acquire(timeout=30), f"chunk {number} was never read"
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("accepts", ["identity", "gzip, br, zstd"])
def test_every_chunk_arrives_before_the_next_one_is_made(tmp_path: Path, accepts: str) -> None:
    replica = Paced()
    try:
        with Caddy(tmp_path, [replica.url]) as proxy, proxy.http() as client:
            asked = client.stream("POST", "/v1/chat/completions", json={}, headers={"Accept-Encoding": accepts})
            with asked as answer:
                assert "Content-Encoding" not in answer.headers
                for number, frame in enumerate(sse.of(answer)):
                    assert (frame.data or "").split()[0] == str(number)
                    replica.read.release()
            assert number == 49
    finally:
        replica.shutdown()
        replica.server_close()


def test_words_and_heartbeats_of_a_silent_run_pass_at_once(heartline: Deployment, proxy: Caddy) -> None:
    with (
        proxy.http() as client,
        client.stream("POST", "/v1/chat/completions", json=chat(command(**ENDLESS), stream=True)) as answer,
    ):
        run_id = answer.headers["X-Run-Id"]
        beats = 0
        for frame in sse.of(answer):
            beats = beats + 1 if frame.comment == "heartbeat" else 0
            if beats == 3:  # behind the first word, in front of the second, which is ten minutes away
                break
        assert heartline.run(run_id)["status"] == "running"
        assert heartline.run(run_id)["answer"] == "a"
    eventually(lambda: heartline.run(run_id)["status"] == "cancelled", what="the replica sees the client leave")
    assert heartline.marked_processes() == []


def test_a_whole_answer_is_kept_alive_as_well(heartline: Deployment, proxy: Caddy) -> None:
    with proxy.http() as client:
        answer = client.post("/v1/chat/completions", json=chat(words(20, 0.1)))
        assert answer.text.startswith("\n")
        assert answer.json()["choices"][0]["message"]["content"] == spoken(20)


def test_that_a_client_has_left_is_told_before_there_is_anything_to_write(tmp_path: Path) -> None:
    """A proxy that learns of it only when it writes would take until the next heartbeat, an hour away."""
    caddy.program()
    patient = {"heartbeat_seconds": 3600, "proxy_idle_seconds": 7200, "disconnect_grace_seconds": 0.2}
    with (
        Deployment(tmp_path, **patient) as heartline,  # type: ignore[arg-type]
        Caddy(tmp_path, [heartline.replicas[0].url]) as proxy,
    ):
        with (
            proxy.http() as client,
            client.stream("POST", "/v1/chat/completions", json=chat(command(**ENDLESS), stream=True)) as answer,
        ):
            run_id = answer.headers["X-Run-Id"]
            assert next(frame for frame in sse.of(answer) if "a" in sse.contents([frame]))
        eventually(lambda: heartline.run(run_id)["status"] == "cancelled", what="the replica sees the client leave")
        assert heartline.marked_processes() == []


def test_a_client_that_leaves_before_the_first_byte_ends_its_run(heartline: Deployment, proxy: Caddy) -> None:
    body = json.dumps(chat(command(sleep_before=600))).encode()
    address = urllib.parse.urlsplit(proxy.url)
    with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (address.netloc.encode(), KEYS["alice"].encode(), len(body), body)
        )
        run_id = eventually(lambda: heartline.redis.zrange("heartline:leases", 0, -1))[0].decode()
    eventually(lambda: heartline.run(run_id)["status"] == "cancelled", what="it is seen that nobody waits")


def test_the_official_client_reads_through_it(heartline: Deployment, proxy: Caddy) -> None:
    for owner in KEYS:
        with proxy.openai(owner) as client:
            assert "chat" in [model.id for model in client.models.list()]
            stream = client.chat.completions.create(
                model="chat", messages=[{"role": "user", "content": words(10, 0.01)}], stream=True
            )
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == spoken(10)


# --- what does not pass ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/METRICS", "/%6detrics", "/./metrics", "/v1/../metrics"])
def test_the_numbers_are_not_for_everybody(proxy: Caddy, path: str) -> None:
    address = urllib.parse.urlsplit(proxy.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=20)
    connection.request("GET", path)  # a raw path: httpx would tidy it up
    answer = connection.getresponse()
    assert answer.status == 404
    assert json.loads(answer.read())["error"]["code"] == "not_found"
    connection.close()


def test_a_body_that_is_too_large_is_refused_and_hurts_nobody_else(proxy: Caddy) -> None:
    def in_parts() -> Iterator[bytes]:
        for _ in range(20):
            yield b" " * 50_000

    headers = {"Content-Type": "application/json"}
    with proxy.http() as client:
        for body in (b" " * (MAX_BODY_BYTES + 1), b" " * 5_000_000, in_parts(), in_parts(), in_parts()):
            refused = client.post("/v1/chat/completions", content=body, headers=headers)
            if "CADDY_BUFFER" in proxy.environment and not isinstance(body, bytes):
                assert refused.status_code == 400  # 2.6 passes on what it has read, and says that it was all
                continue
            assert refused.status_code == 413
            assert refused.json()["error"]["code"] == "request_too_large"
            assert str(MAX_BODY_BYTES) in refused.json()["error"]["message"]
            # A proxy that counts this as the replica's failure has none left. (A GET would wait for one.)
            assert client.post("/v1/runs", json={}).status_code == 400


def test_clients_that_break_off_hurt_nobody_else(proxy: Caddy) -> None:
    address = urllib.parse.urlsplit(proxy.url)
    with proxy.http() as client:
        for _ in range(10):
            with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
                connection.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
                    b"Authorization: Bearer %s\r\nContent-Length: 1000\r\n\r\nhalf"
                    % (address.netloc.encode(), KEYS["alice"].encode())
                )
            assert client.post("/v1/runs", json={}).status_code == 400


def test_without_replicas_it_says_so_in_the_form_that_clients_read(tmp_path: Path) -> None:
    with Caddy(tmp_path, [f"http://{caddy.NOBODY}"]) as proxy, proxy.http() as client:
        refused = client.get("/v1/models")
        assert refused.status_code in (502, 503)
        assert refused.json()["error"]["code"] == "no_replica"
        assert int(refused.headers["Retry-After"]) > 0


def test_headers_say_what_browsers_need_and_no_more(proxy: Caddy) -> None:
    with proxy.http() as client:
        for answer in (client.get("/v1/models"), client.get("/metrics")):
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert "Server" not in answer.headers


def test_a_site_name_has_tls_and_streams_pass_it(heartline: Deployment, tmp_path: Path) -> None:
    with Caddy(tmp_path, [part.url for part in heartline.replicas], site="https://localhost") as proxy:
        with (
            proxy.http() as client,
            client.stream("POST", "/v1/chat/completions", json=chat(command(**ENDLESS), stream=True)) as answer,
        ):
            assert "Strict-Transport-Security" not in answer.headers  # it would be every other program's here, too
            run_id = answer.headers["X-Run-Id"]
            assert next(frame for frame in sse.of(answer) if "a" in sse.contents([frame]))
        eventually(lambda: heartline.run(run_id)["status"] == "cancelled", what="the replica sees the client leave")
        plain = httpx.get(f"http://localhost:{proxy.environment['CADDY_HTTP_PORT']}/v1/models")
        assert plain.status_code == 308
        assert plain.headers["Location"].startswith("https://localhost")


def test_browsers_keep_to_tls_at_a_real_name(heartline: Deployment, tmp_path: Path) -> None:
    with Caddy(tmp_path, [heartline.replicas[0].url], site="http://") as proxy:  # whatever name it is asked by
        url = proxy.url.replace("http://", "http://127.0.0.1")
        answer = httpx.get(f"{url}/healthz", headers={"Host": "heartline.example.com"})
        assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


def test_pages_go_to_the_dashboard_and_all_else_to_the_api(heartline: Deployment, tmp_path: Path) -> None:
    replica = heartline.replicas[0].url
    pages = ["/", "/login", "/logout", "/runs", "/runs/0123", "/jobs", "/jobs/queues", "/static/page.css"]
    elsewhere = ["/v1/models", "/v1/runs", "/healthz", "/readyz", "/test/stream", "/runsome"]
    for kind, paths in (("api", pages), ("dashboard", elsewhere)):
        hosts = {"api": [replica], "dashboard": [replica]}
        hosts[kind] = [f"http://{caddy.NOBODY}"]  # whoever asks there, is told so
        folder = tmp_path / kind
        folder.mkdir()
        with Caddy(folder, hosts["api"], dashboard=hosts["dashboard"]) as proxy, proxy.http() as client:
            for path in paths:
                assert client.get(path).status_code not in (502, 503), path


# --- replicas that come and go --------------------------------------------------------------------


class Asking(threading.Thread):
    """A chat through Caddy that must be read to its end, over plain sockets: no retries, no forgiveness."""

    def __init__(self, proxy: Caddy, prompt: str) -> None:
        super().__init__(daemon=True)
        self.found: list[sse.Frame] = []
        self.failure: BaseException | None = None
        self._url, self._body = proxy.url, json.dumps(chat(prompt, stream=True))
        self.start()

    def run(self) -> None:
        address = urllib.parse.urlsplit(self._url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=40)
        headers = {"Authorization": f"Bearer {KEYS['alice']}", "Content-Type": "application/json"}
        try:
            connection.request("POST", "/v1/chat/completions", self._body, headers)
            response = connection.getresponse()
            assert response.status == 200, response.read()
            # Raises IncompleteRead when it is cut off.
            self.found.extend(sse.frames(line.decode().rstrip("\n") for line in response))
        except BaseException as error:
            self.failure = error
        finally:
            connection.close()

    def text(self) -> str:
        """Once it has ended, and if it ended well."""
        self.join(40)
        assert not self.is_alive(), "it does not end"
        assert self.failure is None, repr(self.failure)
        assert self.found[-1].data == "[DONE]"
        return sse.contents(self.found)


def watch(proxy: Caddy, run_id: str) -> Watcher:
    watcher = Watcher(run_id, KEYS["alice"])
    watcher.connect(proxy.url)
    return watcher


def resume_until_the_end(proxy: Caddy, watcher: Watcher, forgive: bool = False) -> int:
    """Reads on from its cursor as often as it takes; returns how often that was."""
    for times in range(100):
        try:
            watcher.join()
        except (OSError, http.client.HTTPException):
            assert forgive, "it was cut off"
            watcher.failure = None
        if watcher.finished:
            assert [event["seq"] for event in watcher.seen] == list(range(1, len(watcher.seen) + 1))
            return times
        watcher.connect(proxy.url)
    raise AssertionError("it does not end")


def refuses(part: Part) -> bool:
    address = urllib.parse.urlsplit(part.url)
    with socket.socket() as probe:
        return probe.connect_ex((address.hostname or "", address.port or 0)) != 0


def watchers_of(part: Part) -> int:
    """How many clients' streams a replica's processes serve, by its log's last word on it."""
    found = [line for line in part.log.read_text().splitlines() if "app_draining" in line]
    return int(found[-1].split("watchers=")[1].split()[0])


def test_a_killed_replica_costs_native_clients_nothing_and_nobody_else_notices(
    heartline: Deployment, tmp_path: Path
) -> None:
    dying = heartline.start_replica()
    heartline.wait_until_ready()
    with Caddy(tmp_path, [part.url for part in heartline.replicas]) as proxy:
        watchers = [watch(proxy, submit(proxy, words(40, 0.1))) for _ in range(12)]
        eventually(lambda: all(watcher.cursor > 3 for watcher in watchers))
        os.killpg(dying.process.pid, signal.SIGKILL)
        dying.process.wait()
        heartline.parts.remove(dying)
        # Who is connected when it dies has sent his request to the dead: a POST is not sent a second time.
        eventually(lambda: refuses(dying), what="the last of its processes is gone")
        with proxy.http() as client:  # before any health check has told: who can be sent on, is
            assert [client.get("/v1/models").status_code for _ in range(10)] == [200] * 10
        times = [resume_until_the_end(proxy, watcher, forgive=True) for watcher in watchers]
        assert 0 < sum(map(bool, times)) < len(times)  # it had some, by fewest connections, and not all
        assert [text_of(watcher) for watcher in watchers] == [spoken(40)] * len(watchers)
        asked = [Asking(proxy, words(5, 0.01)) for _ in range(10)]
        assert [one.text() for one in asked] == [spoken(5)] * len(asked)


def test_a_drained_replica_cuts_nobody(heartline: Deployment, tmp_path: Path) -> None:
    leaving = heartline.start_replica(drain_seconds=20, drain_notice_seconds=3)
    heartline.wait_until_ready()
    with Caddy(tmp_path, [part.url for part in heartline.replicas]) as proxy:
        chats = [Asking(proxy, words(50, 0.1)) for _ in range(9)]
        watchers = [watch(proxy, submit(proxy, words(150, 0.1))) for _ in range(9)]
        eventually(lambda: all(one.found for one in chats) and all(watcher.cursor > 3 for watcher in watchers))
        leaving.process.send_signal(signal.SIGTERM)
        eventually(lambda: "app_draining" in leaving.log.read_text(), what="it drains")
        assert 2 <= watchers_of(leaving) < 18
        later = [Asking(proxy, words(5, 0.01)) for _ in range(9)]  # whoever takes these
        eventually(lambda: refuses(leaving), what="it has closed its doors")
        later += [Asking(proxy, words(5, 0.01)) for _ in range(9)]  # not this one
        assert [one.text() for one in later] == [spoken(5)] * len(later)
        assert [one.text() for one in chats] == [spoken(50)] * len(chats)
        times = [resume_until_the_end(proxy, watcher) for watcher in watchers]
        assert any(times)
        assert [text_of(watcher) for watcher in watchers] == [spoken(150)] * len(watchers)
        assert leaving.process.wait(30) == 0
        heartline.parts.remove(leaving)


def test_a_reload_adds_and_removes_replicas_and_cuts_no_stream(heartline: Deployment, tmp_path: Path) -> None:
    first = heartline.replicas[0]
    with Caddy(tmp_path, [first.url]) as proxy:
        chats = [Asking(proxy, words(60, 0.1)) for _ in range(5)]
        watchers = [watch(proxy, submit(proxy, words(60, 0.1))) for _ in range(5)]
        eventually(lambda: all(one.found for one in chats) and all(watcher.cursor > 3 for watcher in watchers))
        added = heartline.start_replica()
        heartline.wait_until_ready()
        proxy.reload([first.url, added.url])
        proxy.reload([added.url])
        assert all(one.is_alive() for one in chats)  # their replica is in no list any more
        later = [Asking(proxy, words(40, 0.1)) for _ in range(3)]
        eventually(lambda: all(one.found for one in later))
        assert [one.text() for one in chats] == [spoken(60)] * len(chats)
        assert [resume_until_the_end(proxy, watcher) for watcher in watchers] == [0] * len(watchers)
        assert [one.text() for one in later] == [spoken(40)] * len(later)
        proxy.reload([first.url])
        assert added.stop() == 0
        heartline.parts.remove(added)


def test_no_run_is_harmed_by_all_that(heartline: Deployment) -> None:
    for run_id, record in runs(heartline.redis).items():
        assert inconsistencies(run_id, record) == []


def test_without_a_worker_requests_still_come_in_and_wait(tmp_path: Path) -> None:
    caddy.program()
    with (
        Deployment(tmp_path, drain_seconds=3) as heartline,
        Caddy(tmp_path, [heartline.replicas[0].url]) as proxy,
    ):
        assert heartline.workers[0].stop() == 0
        replica = heartline.replicas[0].url
        eventually(lambda: httpx.get(f"{replica}/readyz").status_code == 503, what="it has no worker")
        assert httpx.get(f"{replica}/readyz?workers=0").status_code == 200
        assert httpx.get(f"{replica}/readyz?workers=2").status_code == 503
        assert httpx.get(f"{replica}/readyz?workers=-1").json()["error"]["param"] == "workers"
        asked = Asking(proxy, words(5, 0.01))
        eventually(lambda: heartline.redis.llen("rq:queue:heartline") or asked.failure, what="it waits in line")
        proxy.reload([replica])  # its checks begin anew
        with proxy.http() as client:
            assert client.get("/v1/models").status_code == 200
        heartline.start_worker()
        assert asked.text() == spoken(5)
