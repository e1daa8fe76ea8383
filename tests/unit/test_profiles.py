"""Profiles: the shipped ones keep their promises, a wrong `models.yaml` says where it is wrong."""

from pathlib import Path

import pytest

from core import profiles
from core.errors import ConfigurationError, ModelNotFound
from core.profiles import Defaults, Profile, Profiles, environment_of

ROOT = Path(__file__).resolve().parents[2]
TWO = (Profile(id="one", name="One"), Profile(id="two"))


@pytest.fixture
def shipped() -> Profiles:
    return profiles.load(ROOT / "models.yaml")


def written(folder: Path, text: str) -> Path:
    path = folder / "models.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        profiles.load(path)
    return caught.value.message


# The shipped file.


def test_the_chat_profile_has_no_tools(shipped: Profiles) -> None:
    chat = shipped.get("claude-chat")
    assert chat.tools == ()
    assert chat.allowed_tools == ()
    assert chat.system_prompt_mode == "replace"


def test_the_agent_asks_nobody_and_uses_only_what_is_allowed(shipped: Profiles) -> None:
    agent = shipped.get("claude-agent")
    assert agent.permission_mode == "dontAsk"
    assert {"Bash", "Read", "Write", "Edit"} <= set(agent.allowed_tools)
    assert agent.tools is None


def test_no_shipped_profile_skips_permissions(shipped: Profiles) -> None:
    assert {profile.permission_mode for profile in shipped.profiles} == {"dontAsk"}
    assert all(profile.flags == () for profile in shipped.profiles)


def test_the_diagnostic_profile_needs_no_cli(shipped: Profiles) -> None:
    assert [p.id for p in shipped.profiles if p.runner == "diagnostic"] == ["heartline-diagnostic"]


def test_a_request_without_a_model_gets_the_chat(shipped: Profiles) -> None:
    assert shipped.choose(None).id == "claude-chat"


def test_the_shipped_profiles_need_no_environment(shipped: Profiles) -> None:
    assert [environment_of(profile, {}) for profile in shipped.profiles] == [{}] * len(shipped.profiles)


def test_the_commented_example_loads_when_it_is_uncommented(folder: Path) -> None:
    lines = (ROOT / "models.yaml").read_text(encoding="utf-8").splitlines()
    example = next(i for i, line in enumerate(lines) if line.startswith("  # - id:"))
    text = "\n".join([*lines[:example], *(line.replace("  # ", "  ", 1) for line in lines[example:])])
    profile = profiles.load(written(folder, text)).profiles[-1]
    assert environment_of(profile, {"OPENROUTER_API_KEY": "k"})["ANTHROPIC_AUTH_TOKEN"] == "k"


def test_no_shipped_id_is_one_that_open_webui_treats_in_a_special_way(shipped: Profiles) -> None:
    assert not [p.id for p in shipped.profiles if p.id.startswith(("o1", "o3", "gpt-"))]


# A file of one's own.


def test_what_is_left_out_has_a_default(folder: Path) -> None:
    loaded = profiles.load(written(folder, "profiles: [{id: a}]"))
    assert loaded.profiles == (Profile(id="a"),)
    assert loaded.defaults == Defaults()


def test_the_order_of_the_file_is_kept(folder: Path) -> None:
    loaded = profiles.load(written(folder, "profiles: [{id: c}, {id: a}, {id: b}]"))
    assert [profile.id for profile in loaded.profiles] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "null"),
        ("just text", "Expected"),
        ("[]", "Expected"),
        ("{}", "profiles"),
        ("profiles: []", "$.profiles"),
        ("profiles: {id: a}", "$.profiles"),
        ("profiles: [a]", "$.profiles[0]"),
        ("profiles: [{name: a}]", "$.profiles[0]"),
        ("profiles: [{id: a}, {id: ''}]", "$.profiles[1].id"),
        ("profiles: [{id: 'a b'}]", "$.profiles[0].id"),
        ('profiles: [{id: "a\\n"}]', "$.profiles[0].id"),
        ("profiles: [{id: 5}]", "$.profiles[0].id"),
        ("profiles: [{id: 2026-01-01}]", "$.profiles[0].id"),
        ("profiles: [{id: a, modle: x}]", "modle"),
        ("profiles: [{id: a, runner: shell}]", "$.profiles[0].runner"),
        ("profiles: [{id: a, permission_mode: yolo}]", "$.profiles[0].permission_mode"),
        ("profiles: [{id: a, tools: Bash}]", "$.profiles[0].tools"),
        ("profiles: [{id: a, allowed_tools: [1]}]", "$.profiles[0].allowed_tools[0]"),
        ("profiles: [{id: a, system_prompt_mode: prepend}]", "$.profiles[0].system_prompt_mode"),
        ("profiles: [{id: a, max_turns: 0}]", "$.profiles[0].max_turns"),
        ("profiles: [{id: a, max_turns: many}]", "$.profiles[0].max_turns"),
        ("profiles: [{id: a, max_budget_usd: -1}]", "$.profiles[0].max_budget_usd"),
        ("profiles: [{id: a, max_budget_usd: .nan}]", "$.profiles[0].max_budget_usd"),
        ("profiles: [{id: a, run_timeout_seconds: 0}]", "$.profiles[0].run_timeout_seconds"),
        ("profiles: [{id: a, run_timeout_seconds: .inf}]", "$.profiles[0].run_timeout_seconds"),
        ("profiles: [{id: a, environment: {X: 1}}]", "$.profiles[0].environment"),
        ("profiles: [{id: a}]\nmodels: []", "models"),
        ("profiles: [{id: a}]\ndefaults: {absent: b}", "defaults.absent"),
        ("profiles: [{id: a}]\ndefaults: {unknown: b}", "defaults.unknown"),
        ("profiles: [{id: a}]\ndefaults: {default: a}", "default"),
        ("profiles: [{id: a}, {id: b}, {id: a}]", "'a'"),
        ("profiles: [", "line 1"),
        ("profiles:\n\t- id: a", "line 2"),
        ("profiles: [{id: a, model: !!python/name:os.system }]", "line 1"),
        ("profiles: [{id: a, model: 2026-99-99}]", "YAML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_that_names_the_place(folder: Path, text: str, place: str) -> None:
    path = written(folder, text)
    message = refusal(path)
    assert str(path) in message
    assert place in message
    assert len(message.splitlines()) == 1


def test_a_missing_file_is_named_with_its_variable(folder: Path) -> None:
    assert refusal(folder / "none.yaml").startswith("HEARTLINE_MODELS_FILE=")


def test_a_folder_is_no_file(folder: Path) -> None:
    assert refusal(folder).startswith("HEARTLINE_MODELS_FILE=")


def test_a_file_that_is_not_utf8_is_refused(folder: Path) -> None:
    path = folder / "models.yaml"
    path.write_bytes(b"profiles: [{id: \xff}]")
    assert len(refusal(path).splitlines()) == 1


# Choosing.


def test_a_profile_is_found_by_its_id() -> None:
    assert Profiles(TWO).get("two") is TWO[1]


@pytest.mark.parametrize("absent", [None, ""])
def test_without_a_default_a_model_must_be_named(absent: str | None) -> None:
    with pytest.raises(ModelNotFound, match="Known models: one, two") as caught:
        Profiles(TWO).choose(absent)
    assert caught.value.param == "model"


@pytest.mark.parametrize("absent", [None, ""])
def test_the_default_serves_a_request_that_names_none(absent: str | None) -> None:
    assert Profiles(TWO, Defaults(absent="two")).choose(absent) is TWO[1]


def test_a_model_that_is_not_listed_is_refused() -> None:
    with pytest.raises(ModelNotFound, match="'gpt-4' does not exist") as caught:
        Profiles(TWO, Defaults(absent="one")).choose("gpt-4")
    assert caught.value.param == "model"


def test_a_model_that_is_not_listed_gets_its_default() -> None:
    assert Profiles(TWO, Defaults(unknown="one")).choose("gpt-4") is TWO[0]


def test_a_listed_model_never_gets_the_default() -> None:
    assert Profiles(TWO, Defaults(absent="one", unknown="one")).choose("two") is TWO[1]


def test_a_long_name_is_cut_in_the_error() -> None:
    with pytest.raises(ModelNotFound) as caught:
        Profiles(TWO).get("x" * 10_000)
    assert len(caught.value.message) < 300


def test_a_profile_without_a_name_is_shown_by_its_id() -> None:
    assert [profile.label for profile in TWO] == ["One", "two"]


# The environment.


@pytest.mark.parametrize(
    ("value", "environ", "filled"),
    [
        ("plain", {}, "plain"),
        ("", {}, ""),
        ("${A}", {"A": "1"}, "1"),
        ("x${A}y${B}z", {"A": "1", "B": "2"}, "x1y2z"),
        ("${A:-d}", {}, "d"),
        ("${A:-d}", {"A": ""}, "d"),
        ("${A:-d}", {"A": "1"}, "1"),
        ("${A:-}", {}, ""),
        ("${A:-https://h/p?q=1:2}", {}, "https://h/p?q=1:2"),
        ("$A {A} $", {"A": "1"}, "$A {A} $"),
        ("${A}", {"A": "${B}", "B": "no"}, "${B}"),
    ],
)
def test_a_variable_is_filled_in(value: str, environ: dict[str, str], filled: str) -> None:
    assert environment_of(Profile(id="a", environment={"X": value}), environ) == {"X": filled}


@pytest.mark.parametrize("environ", [{}, {"MISSING": ""}])
def test_a_variable_that_is_missing_is_named_with_its_profile(environ: dict[str, str]) -> None:
    profile = Profile(id="needy", environment={"X": "${MISSING}"})
    with pytest.raises(ConfigurationError, match=r"'needy' needs MISSING"):
        environment_of(profile, environ)


# The task profile.


def test_the_shipped_task_profile_is_small_and_can_do_nothing(shipped: Profiles) -> None:
    task = shipped.task
    assert task is not None
    assert (task.model, task.tools, task.max_turns, task.run_timeout_seconds) == ("haiku", (), 1, 30)
    assert task.system_prompt_mode == "replace"
    assert [profile.id for profile in shipped.profiles if shipped.is_task(profile.id)] == [task.id]


def test_the_task_profile_is_no_model_of_the_clients() -> None:
    known = Profiles(profiles=(*TWO, Profile(id="small", tools=())), defaults=Defaults(task="small"))
    assert [profile.id for profile in known.offered] == ["one", "two"]
    assert known.get("small").id == "small"
    for refuse in (known.choose, known.offer):
        with pytest.raises(ModelNotFound) as caught:
            refuse("small")
        assert caught.value.message == "The model 'small' does not exist. Known models: one, two."


def test_a_request_for_the_task_profile_is_one_for_an_unknown_model() -> None:
    known = Profiles(profiles=(*TWO, Profile(id="small", tools=())), defaults=Defaults(task="small", unknown="two"))
    assert known.choose("small").id == "two"


def test_without_a_task_profile_tasks_are_off() -> None:
    known = Profiles(profiles=TWO)
    assert known.task is None
    assert not any(known.is_task(profile.id) for profile in TWO)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("defaults: {task: b}\nprofiles: [{id: a}]", "defaults.task names 'b', which is no profile"),
        ("defaults: {task: b}\nprofiles: [{id: a}, {id: b}]", "must say 'tools: []'"),
        ("defaults: {task: b}\nprofiles: [{id: a}, {id: b, tools: [Bash]}]", "must say 'tools: []'"),
        ("defaults: {task: b}\nprofiles: [{id: a}, {id: b, tools: [], answer_file: x}]", "can have no answer_file"),
        ("defaults: {task: b}\nprofiles: [{id: b, tools: []}]", "there is no profile but 'b'"),
        ("defaults: {task: b, absent: b}\nprofiles: [{id: a}, {id: b, tools: []}]", "defaults.absent names 'b'"),
        ("defaults: {task: b, unknown: b}\nprofiles: [{id: a}, {id: b, tools: []}]", "which is only for tasks"),
    ],
)
def test_a_task_profile_that_cannot_be_one_is_refused_in_one_line(folder: Path, text: str, why: str) -> None:
    said = refusal(written(folder, text))
    assert why in said
    assert "\n" not in said
