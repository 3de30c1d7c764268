"""What the operator decides: every flag is also ``DYVTE_…`` and a key of ``--config file.yaml``.

Precedence: flag > environment > file > default; a variable that is empty is none. A wrong value
is one line that names the flag, the value and the remedy. The command line is built from the fields
below, so that a setting exists in one place, and this file is as long as their list. Knows neither
the engine nor HTTP.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from dyvte.params import ExitOptions
from server.setting_values import ByteSize, Hosts, Origins, Secrets, parse_json_object


class ConfigError(ValueError):
    """A configuration that cannot be used, in one line for the operator."""


def read_config(path: Path) -> dict[str, Any]:
    """The settings of a YAML file; keys may be written like the flags. Raises ConfigError."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}; give a readable file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: is not YAML") from error
    if not isinstance(data, dict):
        raise ConfigError(f"--config {path}: must hold names and values, one a line")
    settings = {str(key).replace("-", "_"): value for key, value in data.items()}
    if "config" in settings:
        raise ConfigError("config: is not a setting of a file; see dyvte serve --help")
    return settings


class Settings(BaseSettings):
    """One field per flag; the description is the flag's help."""

    model_config = SettingsConfigDict(
        env_prefix="DYVTE_", env_ignore_empty=True, extra="forbid", frozen=True
    )

    # The model
    model: str = Field(default="demo", min_length=1, description="demo, a folder or a hub id")
    gates: str | None = Field(
        default=None, min_length=1, description="folder with the exit gates of the model"
    )
    foreign_gates: bool = Field(
        default=False, description="take gates made for another model of the same width"
    )
    served_model_name: str | None = Field(
        default=None, min_length=1, description="name in the API (default: the model's own)"
    )
    allow_pickle: bool = Field(
        default=False, description="read pickled weights (*.bin) too, tensors only"
    )
    token_order: Literal["rows", "columns"] | None = Field(
        default=None,
        description="rows or columns: order of the visual tokens of a VILA in its original layout "
        "(default: by the checkpoint's age)",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, …")
    dtype: str = Field(default="auto", description="auto, float32, bfloat16, float16")
    weights: Literal["auto", "plain", "int8", "torchao-int8", "bnb-int8", "bnb-nf4"] = Field(
        default="auto",
        description="form of the decoder's linear layers: auto is the fastest that rounds nothing, "
        "plain as loaded, int8 in 8 bit (CPUs only); torchao-int8, bnb-int8 and bnb-nf4 round with "
        "those libraries (pip install 'dyvte[quant]')",
    )

    cuda_graphs: bool = Field(
        default=True,
        description="replay decode steps as CUDA graphs, where attention allows it (not on a CPU)",
    )

    # Capacity
    max_model_len: int | None = Field(
        default=None, ge=1, description="prompt rows plus new tokens (default: the model's)"
    )
    max_num_seqs: int = Field(default=64, ge=1, description="sequences that run at once")
    max_stall_ms: float = Field(
        default=100.0,
        ge=0,
        le=600_000,
        allow_inf_nan=False,
        description="longest that prompts which arrive may hold up running streams, per token "
        "(0: as long as they take)",
    )
    max_waiting: int = Field(
        default=256, ge=0, description="requests that may wait; more get a 429"
    )
    max_waiting_tokens: int = Field(
        default=262_144, ge=0, description="prompt tokens that may wait; more get a 429"
    )
    kv_cache_memory: ByteSize | None = Field(
        default=None, ge=1, description="memory for keys and values, for example 2GiB"
    )
    image_cache_memory: ByteSize = Field(
        default=256 * 2**20,
        ge=0,
        description="memory for the vision tower's rows of images seen before (0: keep none)",
    )
    prefix_cache_memory: ByteSize = Field(
        default=2 * 2**30,
        ge=0,
        description="memory for what earlier questions computed of their images, nearly all of it "
        "pages of --kv-cache-memory that nobody needs (0: keep none)",
    )
    preprocess_workers: int = Field(
        default=2, ge=1, le=64, description="threads that decode images"
    )

    # Exits
    default_exits: Annotated[
        str | dict[str, Any] | None, NoDecode, BeforeValidator(parse_json_object)
    ] = Field(
        default=None,
        description="off, safe, balanced, aggressive or a JSON object of exit options: what "
        "holds where a request says nothing (default: what the model's gates allow)",
    )
    max_aggressiveness: float | None = Field(
        default=None, ge=0, le=1, description="cap for requests"
    )
    min_exit_layer: int | None = Field(
        default=None, ge=0, description="images leave after this layer at the earliest"
    )
    shadow_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of answers shaped by an exit that are computed once more without it, "
        "in quiet moments, for /metrics",
    )
    shadow_seed: int = Field(default=0, ge=0, description="seed of the draw of those answers")

    # The door
    host: str = Field(default="127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(
        default=8000, ge=0, le=65535, description="port to listen on (0: any free one)"
    )
    api_key: Secrets = Field(
        default=(), description="key, or several with commas, that requests must carry"
    )
    api_key_file: Path | None = Field(
        default=None,
        description="file of keys, one a line: KEY NAME concurrent=N per_minute=N; read again "
        "when it changes",
    )
    ssl_certfile: Path | None = Field(
        default=None, description="certificate chain in PEM: serve https"
    )
    ssl_keyfile: Path | None = Field(
        default=None, description="its private key in PEM (default: in the same file)"
    )
    cors_origins: Origins = Field(
        default=(), description="origins browsers may call from, with commas"
    )
    playground: bool = Field(
        default=True, description="serve the playground at / and the API's reference at /docs"
    )
    metrics: bool = Field(default=True, description="serve /metrics")
    metrics_key: bool = Field(default=False, description="/metrics needs the API key too")
    metrics_compat: Literal["vllm"] | None = Field(
        default=None,
        description="vllm: /metrics has the names that vLLM's dashboards and autoscalers know, too",
    )
    otlp_endpoint: str | None = Field(
        default=None,
        description="URL of an OpenTelemetry collector for traces, for example "
        "http://127.0.0.1:4318 (default: none, or as OTEL_… variables say)",
    )

    # What one request may ask for
    max_body: ByteSize = Field(default=64 * 2**20, ge=1024, description="bytes of a request body")
    max_bodies: ByteSize = Field(
        default=2**30,
        ge=1024,
        description="bytes of all bodies that are being read or prepared; more get a 429",
    )
    max_images: int = Field(default=16, ge=0, description="images per request")
    max_image_bytes: ByteSize = Field(
        default=32 * 2**20, ge=1, description="bytes of one image file"
    )
    max_image_pixels: int = Field(default=50_000_000, ge=1, description="pixels of one image")
    max_request_pixels: int = Field(default=100_000_000, ge=1, description="pixels of all images")
    image_hosts: Hosts = Field(
        default=(),
        description="hosts that https: images may be fetched from, with commas: name, name:port "
        "or *.name (default: none)",
    )
    image_timeout: float = Field(
        default=10.0, gt=0, description="seconds to fetch the images of a request"
    )
    max_messages: int = Field(default=512, ge=1, description="messages per request")
    max_n: int = Field(default=16, ge=1, le=128, description="choices per request")
    max_stop: int = Field(default=4, ge=0, description="stop strings per request")

    # Time
    request_timeout: float | None = Field(
        default=None,
        gt=0,
        description="seconds from a request's arrival to its last token; more is a 408",
    )
    drain_timeout: float = Field(default=30.0, ge=0, description="seconds to finish after SIGTERM")
    header_timeout: float = Field(
        default=10.0, gt=0, description="seconds to send the request's headers"
    )
    body_timeout: float = Field(
        default=60.0, gt=0, description="seconds to send the request's body"
    )
    write_timeout: float = Field(
        default=30.0, gt=0, description="seconds a reader may stall a stream"
    )
    keep_alive: float = Field(
        default=10.0, gt=0, description="seconds between signs of life in a stream"
    )

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="log level"
    )
    log_format: Literal["auto", "json", "console"] = Field(
        default="auto", description="json, console, or console on a terminal and json elsewhere"
    )
    config: Path | None = Field(default=None, description="YAML file with any of these settings")

    @field_validator("default_exits")
    @classmethod
    def _exits_are_known(cls, value: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        if isinstance(value, dict):
            ExitOptions.of(value)
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _endpoint_is_a_url(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value):
            raise ValueError("give a URL such as http://127.0.0.1:4318")
        return value

    @property
    def name(self) -> str:
        """The base name of the model in the API and in metrics: a folder's own, or the hub id."""
        if self.served_model_name:
            return self.served_model_name
        folder = Path(self.model).expanduser()
        return folder.resolve().name if folder.is_dir() else self.model

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then the file that one of the two names."""
        named = init_settings().get("config") or env_settings().get("config")
        if not named:
            return init_settings, env_settings
        return (
            init_settings,
            env_settings,
            InitSettingsSource(settings_cls, read_config(Path(str(named)))),
        )
