"""What holds between processes: slots and places, broken channels, stopping, failing CLIs. With the fake CLI."""

import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.dialects.openai_chat import PROGRESS_MARK, without_progress
from tests import sse
from tests.deployment import FAKE_CLAUDE, KEYS, Deployment, chat, eventually
from tests.sse import Watcher


@pytest.fixture(scope="module")
def heartline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(
        tmp_path_factory.mktemp("heartline"), replicas=2, heartbeat_seconds=0.5, progress="text", worker_slots=4
    ) as deployment:
        yield deployment


def command(**fields: object) -> str:
    """A prompt that the fake CLI obeys."""
    return json.dumps(fields)


def error_of(found: list[sse.Frame]) -> dict[str, str]:
    error: dict[str, str] = next(frame.json["error"] for frame in found if frame.data and '"error"' in frame.data)
    return error


def streamed(heartline: Deployment, prompt: str, replica: int = 0) -> list[sse.Frame]:
    with (
        heartline.http(replica=replica) as client,
        client.stream("POST", "/v1/chat/completions", json=chat(prompt, stream=True)) as answer,
    ):
        return list(sse.of(answer))


def test_ten_chats_on_four_slots_each_get_their_own_answer(heartline: Deployment) -> None:
    def one(number: int) -> list[sse.Frame]:
        prompt = command(text=[f"<{number}>"], repeat=20, interval=0.1)
        return streamed(heartline, prompt, replica=number % 2)

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(one, range(10)))
    waited = 0
    for number, found in enumerate(answers):
        text = sse.contents(found)
        assert text.startswith(f"{PROGRESS_MARK}[Starting Test Chat …]")
        assert without_progress(text) == f"<{number}>" * 20
        assert found[-1].data == "[DONE]"
        waited += "in the queue" in text
    assert waited >= 6 - 2  # ten less four slots; the last ones may slip through between two looks
    assert any(frame.comment == "heartbeat" for found in answers for frame in found)


def test_a_killed_channel_costs_no_event(heartline: Deployment) -> None:
    prompt = command(text=["a", "b", "c"], repeat=40, interval=0.02)
    with heartline.http() as client:
        run_id = client.post("/v1/runs", json={"prompt": prompt}).json()["id"]
    watchers = [Watcher(run_id, KEYS["alice"]) for _ in heartline.replicas]
    for watcher, replica in zip(watchers, heartline.replicas, strict=True):
        watcher.connect(replica.url)
    for seq in (5, 30, 60, 90):
        eventually(lambda seq=seq: all(watcher.cursor >= seq for watcher in watchers))  # type: ignore[misc]
        assert heartline.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub") > 0
    for watcher in watchers:
        watcher.join()
        assert [event["seq"] for event in watcher.seen] == list(range(1, len(watcher.seen) + 1))
        assert watcher.finished
    assert watchers[0].seen == watchers[1].seen
    assert "".join(event["text"] for event in watchers[0].seen if event["type"] == "text") == "abc" * 40


def test_a_slow_client_loses_nothing(heartline: Deployment) -> None:
    prompt = command(text=["0123456789" * 10], repeat=30000)
    with (
        heartline.http() as client,
        client.stream("POST", "/v1/chat/completions", json=chat(prompt, stream=True)) as answer,
    ):
        run_id = answer.headers["X-Run-Id"]
        # Not a byte is read until the run has long ended: the socket fills, the log keeps the rest.
        eventually(lambda: heartline.run(run_id)["status"] == "completed", seconds=60)
        assert sse.contents(sse.of(answer)).endswith("]\n\n" + "0123456789" * 300000)


FAILURES = {
    "exits with a code": (command(no_result=True, exit=3, stderr="out of luck"), "no_result", "exit code 3"),
    "exits without a result": (command(text=["half"], no_result=True), "no_result", "no result"),
    "tells an error": (command(error="credit balance too low"), "cli_error", "credit balance too low"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failing_cli_gives_its_reason(heartline: Deployment, case: str) -> None:
    prompt, code, says = FAILURES[case]
    found = streamed(heartline, prompt)
    assert error_of(found)["code"] == code
    assert says in error_of(found)["message"]
    assert found[-1].data == "[DONE]"


def test_strange_output_is_survived(heartline: Deployment) -> None:
    prompt = command(
        raw=["not json", "{", '{"type":"brand_new","x":1}', '{"type":"assistant","message":7}', "", '"text"', "null"],
        huge_line=40_000_000,
        stderr_bytes=5_000_000,
        text=["still", " here"],
    )
    assert sse.contents(streamed(heartline, prompt)).endswith("still here")


def test_a_cli_that_hangs_after_its_result_has_answered_all_the_same(heartline: Deployment) -> None:
    found = streamed(heartline, command(text=["done"], hang_after_result=600))
    assert sse.contents(found).endswith("done")
    assert found[-1].data == "[DONE]"
    assert heartline.marked_processes() == []


def test_what_a_tool_left_in_a_session_of_its_own_is_swept(heartline: Deployment) -> None:
    found = streamed(heartline, command(text=["done"], child=600))
    assert found[-1].data == "[DONE]"
    assert heartline.marked_processes() == []


def test_a_missing_cli_is_a_sentence(tmp_path: Path) -> None:
    program = tmp_path / "claude"
    program.write_bytes(FAKE_CLAUDE.read_bytes())
    program.chmod(0o755)
    with Deployment(tmp_path, claude_bin=program) as heartline:
        program.unlink()
        error = error_of(streamed(heartline, "anyone?"))
    assert error["code"] == "cli_missing"
    assert "No such file" in error["message"]


def test_an_answer_beyond_the_limit_is_stopped(tmp_path: Path) -> None:
    with Deployment(tmp_path, max_answer_bytes=10_000, language="de") as heartline:
        found = streamed(heartline, command(text=["0123456789"], repeat=100_000, interval=0.001))
        assert error_of(found)["code"] == "answer_too_long"
        assert "abgebrochen" in error_of(found)["message"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_worker_gives_its_runs_their_last_word(tmp_path: Path, number: signal.Signals) -> None:
    with Deployment(tmp_path, drain_seconds=3, stop_grace_seconds=1) as heartline:
        found: list[sse.Frame] = []
        prompt = command(text=["a"], repeat=2, interval=600, child=600)
        reader = threading.Thread(target=lambda: found.extend(streamed(heartline, prompt)))
        reader.start()
        eventually(heartline.marked_now)
        assert heartline.workers[0].stop(number) == 0
        reader.join(20)
        assert not reader.is_alive()
        assert error_of(found)["code"] == "worker_shutdown"
        assert found[-1].data == "[DONE]"
        assert heartline.marked_processes() == []


def test_the_shipped_diagnostic_counts(heartline: Deployment) -> None:
    with heartline.http() as client:
        body = chat("count", model="heartline-diagnostic", stream=True)
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert sse.contents(sse.of(answer)).endswith("0 1 2 3 4 5 6 7 8 9")


def test_a_restarted_redis_with_its_data_costs_no_event(tmp_path: Path) -> None:
    with Deployment(tmp_path, replicas=1, heartbeat_seconds=0.3) as heartline:
        prompt = command(text=["a", "b"], repeat=60, interval=0.05)
        with heartline.http() as client:
            run_id = client.post("/v1/runs", json={"prompt": prompt}).json()["id"]
        watcher = Watcher(run_id, KEYS["alice"])
        watcher.connect(heartline.replicas[0].url)
        eventually(lambda: watcher.cursor > 10)
        heartline.restart_valkey()
        watcher.join()
        assert [event["seq"] for event in watcher.seen] == list(range(1, len(watcher.seen) + 1))
        assert "".join(event["text"] for event in watcher.seen if event["type"] == "text") == "ab" * 60
