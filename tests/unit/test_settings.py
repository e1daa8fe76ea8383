"""Settings come from the environment and `.env`; what is wrong stops the start with one line."""

from pathlib import Path

import msgspec
import pytest

from core.errors import ConfigurationError
from core.settings import Settings, load


def refusal(environ: dict[str, str], dotenv: Path | None = None) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(environ, dotenv)
    return caught.value.message


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load({}, None) == Settings()


def test_the_promised_defaults_hold() -> None:
    settings = load({}, None)
    assert settings.heartbeat_seconds == 15
    assert settings.run_timeout_seconds == 600
    assert settings.address == ("127.0.0.1", 8080)
    assert settings.redis_url == ""


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings().bind = "0.0.0.0:80"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("HEARTLINE_WORKER_SLOTS", "8", "worker_slots", 8),
        ("HEARTLINE_HEARTBEAT_SECONDS", "0.5", "heartbeat_seconds", 0.5),
        ("HEARTLINE_HEARTBEAT_SECONDS", " 7 ", "heartbeat_seconds", 7.0),
        ("HEARTLINE_HEARTBEAT_STYLE", "dot", "heartbeat_style", "dot"),
        ("HEARTLINE_LANGUAGE", "de", "language", "de"),
        ("HEARTLINE_PROGRESS", "text", "progress", "text"),
        ("HEARTLINE_LOG_LEVEL", "DEBUG", "log_level", "DEBUG"),
        ("HEARTLINE_LOG_FORMAT", "json", "log_format", "json"),
        ("HEARTLINE_METRICS", "off", "metrics", "off"),
        ("HEARTLINE_METRICS_TOKEN", "a-token-of-prometheus", "metrics_token", "a-token-of-prometheus"),
        ("HEARTLINE_WORKER_METRICS_BIND", "[::1]:9464", "worker_metrics_address", ("::1", 9464)),
        ("HEARTLINE_REDIS_URL", "rediss://host:6380/1", "redis_url", "rediss://host:6380/1"),
        ("HEARTLINE_REDIS_URL", "unix:///run/redis.sock", "redis_url", "unix:///run/redis.sock"),
        ("HEARTLINE_API_KEYS", "12345", "api_keys", "12345"),
    ],
)
def test_a_variable_sets_its_field(variable: str, text: str, field: str, value: object) -> None:
    assert getattr(load({variable: text}, None), field) == value


WRONG = [
    ("HEARTLINE_WORKER_SLOTS", "many"),
    ("HEARTLINE_WORKER_SLOTS", "0"),
    ("HEARTLINE_WORKER_SLOTS", "257"),
    ("HEARTLINE_WORKER_SLOTS", "1.5"),
    ("HEARTLINE_WORKER_SLOTS", " "),
    ("HEARTLINE_HEARTBEAT_SECONDS", "0"),
    ("HEARTLINE_HEARTBEAT_SECONDS", "-1"),
    ("HEARTLINE_HEARTBEAT_SECONDS", "15s"),
    ("HEARTLINE_HEARTBEAT_SECONDS", "nan"),
    ("HEARTLINE_RUN_TIMEOUT_SECONDS", "inf"),
    ("HEARTLINE_HEARTBEAT_STYLE", "wave"),
    ("HEARTLINE_PROGRESS", "yes"),
    ("HEARTLINE_LANGUAGE", "fr"),
    ("HEARTLINE_LOG_LEVEL", "debug"),
    ("HEARTLINE_LOG_FORMAT", "xml"),
    ("HEARTLINE_METRICS", "true"),
    ("HEARTLINE_METRICS_TOKEN", "123456789012345"),
    ("HEARTLINE_METRICS_TOKEN", "a token with blanks in it"),
    ("HEARTLINE_METRICS_TOKEN", "größer-als-16-zeichen"),
    ("HEARTLINE_WORKER_METRICS_BIND", "9464"),
    ("HEARTLINE_WORKER_METRICS_BIND", "localhost:65536"),
    ("HEARTLINE_LOG_TTL_SECONDS", "59"),
    ("HEARTLINE_LOG_TTL_SECONDS", "3600.5"),
    ("HEARTLINE_MAX_BODY_BYTES", "16MB"),
    ("HEARTLINE_MAX_BODY_BYTES", "1023"),
    ("HEARTLINE_MAX_TOOL_OUTPUT_BYTES", "1"),
    ("HEARTLINE_BIND", "8080"),
    ("HEARTLINE_BIND", "localhost"),
    ("HEARTLINE_BIND", "localhost:http"),
    ("HEARTLINE_BIND", "localhost:65536"),
    ("HEARTLINE_BIND", "a b:80"),
    ("HEARTLINE_BIND", "::1:80"),
    ("HEARTLINE_BIND", "localhost:80\nnonsense"),
    ("HEARTLINE_REDIS_URL", "http://redis"),
    ("HEARTLINE_REDIS_URL", "localhost:6379"),
]


@pytest.mark.parametrize(("variable", "text"), WRONG)
def test_a_wrong_value_stops_with_one_line_that_begins_with_its_variable(variable: str, text: str) -> None:
    message = refusal({variable: text})
    assert message.startswith(variable)
    assert len(message.splitlines()) == 1


def test_a_token_is_never_shown() -> None:
    assert "hunter2" not in refusal({"HEARTLINE_METRICS_TOKEN": "hunter2"})


def test_a_redis_password_is_never_shown() -> None:
    assert "hunter2" not in refusal({"HEARTLINE_REDIS_URL": "http://:hunter2@redis"})


LADDERS = [
    ("HEARTLINE_HEARTBEAT_SECONDS", "60", "HEARTLINE_PROXY_IDLE_SECONDS", "60"),
    ("HEARTLINE_HEARTBEAT_SECONDS", "61", "HEARTLINE_PROXY_IDLE_SECONDS", "60"),
    ("HEARTLINE_STOP_GRACE_SECONDS", "20", "HEARTLINE_DRAIN_SECONDS", "20"),
    ("HEARTLINE_RUN_TIMEOUT_SECONDS", "3600", "HEARTLINE_LOG_TTL_SECONDS", "3600"),
    ("HEARTLINE_MAX_PROMPT_BYTES", "5000", "HEARTLINE_MAX_BODY_BYTES", "4999"),
]


@pytest.mark.parametrize(("lower", "small", "upper", "large"), LADDERS)
def test_an_inconsistent_ladder_names_both_its_rungs(lower: str, small: str, upper: str, large: str) -> None:
    message = refusal({lower: small, upper: large})
    assert message.startswith(f"{lower}={small}")
    assert f"{upper}={large}" in message
    assert len(message.splitlines()) == 1


def test_the_prompt_may_be_as_large_as_the_body() -> None:
    same = {"HEARTLINE_MAX_PROMPT_BYTES": "5000", "HEARTLINE_MAX_BODY_BYTES": "5000"}
    assert load(same, None).max_prompt_bytes == 5000


@pytest.mark.parametrize("name", ["HEARTLINE_HEARTBEAT", "HEARTLINE_heartbeat_seconds", "HEARTLINE_"])
def test_an_unknown_setting_is_refused_by_name(name: str) -> None:
    assert refusal({name: "1"}).startswith(f"{name}:")


def test_an_unknown_setting_is_refused_though_it_is_empty() -> None:
    assert "HEARTLINE_TYPO" in refusal({"HEARTLINE_TYPO": ""})


@pytest.mark.parametrize("name", ["HEARTLINE_RUN_ID", "PATH", "heartline_bind", "XHEARTLINE_"])
def test_what_is_no_setting_is_left_alone(name: str) -> None:
    assert load({name: "anything"}, None) == Settings()


@pytest.mark.parametrize("field", Settings.__struct_fields__)
def test_an_empty_variable_counts_as_unset(field: str) -> None:
    assert load({f"HEARTLINE_{field.upper()}": ""}, None) == Settings()


def test_the_file_is_read(folder: Path) -> None:
    dotenv = folder / ".env"
    dotenv.write_text("# a comment\nHEARTLINE_WORKER_SLOTS=7\nexport HEARTLINE_LANGUAGE='de'\nOTHER=1\n")
    settings = load({}, dotenv)
    assert (settings.worker_slots, settings.language) == (7, "de")


def test_the_environment_wins_over_the_file(folder: Path) -> None:
    dotenv = folder / ".env"
    dotenv.write_text("HEARTLINE_WORKER_SLOTS=7\nHEARTLINE_LANGUAGE=de\n")
    settings = load({"HEARTLINE_WORKER_SLOTS": "3"}, dotenv)
    assert (settings.worker_slots, settings.language) == (3, "de")


def test_a_missing_file_is_no_error(folder: Path) -> None:
    assert load({}, folder / "nothing") == Settings()


@pytest.mark.parametrize("line", ["HEARTLINE_TYPO=1", "HEARTLINE_WORKER_SLOTS=none"])
def test_what_is_wrong_in_the_file_is_refused_too(folder: Path, line: str) -> None:
    dotenv = folder / ".env"
    dotenv.write_text(line + "\n")
    assert refusal({}, dotenv).startswith(line.partition("=")[0])


@pytest.mark.parametrize("line", ["HEARTLINE_BIND", "HEARTLINE_BIND="])
def test_a_name_without_a_value_in_the_file_counts_as_unset(folder: Path, line: str) -> None:
    dotenv = folder / ".env"
    dotenv.write_text(line + "\n")
    assert load({}, dotenv) == Settings()


@pytest.mark.parametrize(
    ("bind", "address"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("localhost:1", ("localhost", 1)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
        ("[::1]:8080", ("::1", 8080)),
    ],
)
def test_the_address_is_host_and_port(bind: str, address: tuple[str, int]) -> None:
    assert load({"HEARTLINE_BIND": bind}, None).address == address


def test_the_keys_file_lies_in_the_state_folder_unless_named(folder: Path) -> None:
    assert Settings(state_dir=str(folder)).keys_file == folder / "api-keys"
    assert Settings(api_keys_file=str(folder / "mine")).keys_file == folder / "mine"


def test_an_unfinished_run_is_kept_longer_than_it_can_work() -> None:
    settings = Settings()
    assert settings.unfinished_ttl_seconds > settings.run_timeout_seconds + settings.log_ttl_seconds


def test_every_setting_has_a_default() -> None:
    assert all(not field.required for field in msgspec.structs.fields(Settings))
