"""Flag > environment > file > default; a mistake is one line that names flag, value, remedy."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from dyvte.engine import opening
from dyvte.engine.build import EngineConfig, build_core
from dyvte.engine.core import EngineCore
from dyvte.model import Model
from server.__main__ import open_engine
from server.commandline import load_settings
from server.settings import ConfigError, Settings


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "dyvte.yaml"
    path.write_text("port: 1\nmax-waiting: 2\nmax_num_seqs: 3\nkv_cache_memory: 2GiB\n")
    return path


def test_flag_beats_environment_beats_file_beats_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYVTE_PORT", "11")
    monkeypatch.setenv("DYVTE_MAX_WAITING", "12")
    settings = load_settings(["--config", str(file), "--port", "21"])
    assert (settings.port, settings.max_waiting, settings.max_num_seqs) == (21, 12, 3)
    assert settings.max_images == Settings.model_fields["max_images"].default


def test_the_file_may_be_named_by_the_environment(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYVTE_CONFIG", str(file))
    assert load_settings([]).kv_cache_memory == 2 * 2**30


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2GiB", 2**31), ("512MiB", 2**29), ("1.5GB", 1_500_000_000), ("4096", 4096), ("1k", 1000)],
)
def test_bytes_are_written_as_people_write_them(text: str, expected: int) -> None:
    assert load_settings(["--kv-cache-memory", text]).kv_cache_memory == expected


def test_every_setting_is_a_flag_and_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {
        "model": "m", "gates": "g", "served_model_name": "n", "device": "cpu", "dtype": "float32",
        "host": "::1", "log_level": "debug", "log_format": "json", "default_exits": "off",
    }  # fmt: skip
    flags = [part for name, v in given.items() for part in (f"--{name.replace('_', '-')}", v)]
    from_flags = load_settings(flags)
    for name, value in given.items():
        monkeypatch.setenv(f"DYVTE_{name.upper()}", value)
    assert load_settings([]) == from_flags


def test_switches_have_two_positions() -> None:
    assert load_settings(["--no-metrics"]).metrics is False
    assert load_settings(["--metrics-key"]).metrics_key is True


def test_keys_are_lists_and_never_printed() -> None:
    settings = load_settings(["--api-key", "sesame, thyme"])
    assert [key.get_secret_value() for key in settings.api_key] == ["sesame", "thyme"]
    assert "sesame" not in repr(settings)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--port", "99999"], ("--port", "99999", "65535")),
        (["--max-num-seqs", "none"], ("--max-num-seqs", "none", "integer")),
        (["--kv-cache-memory", "much"], ("--kv-cache-memory", "much", "2GiB")),
        (["--default-exits", '{"policy": "fixed"}'], ("--default-exits", "exit_layer")),
        (["--log-level", "loud"], ("--log-level", "loud", "debug")),
        (["--no-such-flag"], ("--no-such-flag", "--help")),
        (["--config", "/no/such/file"], ("--config", "/no/such/file", "file")),
        (["--max-aggressiveness", "2"], ("--max-aggressiveness", "2", "1")),
        (["--shadow-share", "1.5"], ("--shadow-share", "1.5", "1")),
        (["--api-key", ""], ("--api-key", "empty", "leave it out")),
        (["--api-key", " ,"], ("--api-key", "empty", "leave it out")),
        (["--host", ""], ("--host", "at least 1 character")),
        (["--image-hosts", "https://x"], ("--image-hosts", "https://x", "images.example")),
        (["--cors-origins", "https://x/"], ("--cors-origins", "https://x/", "without a path")),
        (["--cors-origins", "app.example"], ("--cors-origins", "app.example", "https://")),
    ],
)
def test_a_mistake_is_one_line_with_flag_value_and_remedy(
    argv: list[str], words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(argv)
    line = str(caught.value)
    assert "\n" not in line
    assert all(word in line for word in words), line


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose and charts hand on what nobody set as an empty text."""
    for name in ("API_KEY", "GATES", "PORT", "CONFIG"):
        monkeypatch.setenv(f"DYVTE_{name}", "")
    assert load_settings([]) == Settings()
    assert Settings().api_key == ()


def test_origins_are_as_browsers_send_them() -> None:
    origins = ("https://app.example:8443", "http://localhost")
    assert load_settings(["--cors-origins", ",".join(origins)]).cors_origins == origins
    assert load_settings(["--cors-origins", "*"]).cors_origins == ("*",)


def test_an_unknown_key_of_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("prot: 1\n")
    with pytest.raises(ConfigError, match="prot"):
        load_settings(["--config", str(path)])


@pytest.mark.parametrize("said", ["config: other.yaml\n", "config:\n"])
def test_a_file_cannot_name_another_file(said: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(said)
    with pytest.raises(ConfigError, match="config: is not a setting of a file"):
        load_settings(["--config", str(path)])


def test_a_folder_gives_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "eye-7b").mkdir()
    assert Settings(model=f"{tmp_path}/eye-7b/").name == "eye-7b"
    assert Settings(model="org/eye").name == "org/eye"
    assert Settings(model="org/eye", served_model_name="eye").name == "eye"


def test_every_setting_that_the_engine_takes_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    taken = inspect.signature(opening.open_engine).parameters
    monkeypatch.setattr(opening, "open_engine", lambda model, **named: given.update(named))
    settings = load_settings(["--no-cuda-graphs", "--weights", "bnb-nf4"])
    open_engine(settings)
    assert given.keys() == taken.keys() - {"model"}
    assert given == {name: getattr(settings, name) for name in given}
    assert (given["cuda_graphs"], given["weights"]) == (False, "bnb-nf4")


@pytest.mark.parametrize("graphs", [True, False])
def test_the_core_is_built_with_or_without_cuda_graphs(
    graphs: bool, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def watched(model: Model, config: EngineConfig) -> EngineCore:
        asked.append(config.cuda_graphs)
        return build_core(model, config)

    monkeypatch.setattr(opening, "build_core", watched)
    opening.open_engine(str(tiny_folder), device="cpu", cuda_graphs=graphs)
    assert asked == [graphs]
