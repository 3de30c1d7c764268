"""Images decoded, prompt built and checked, in worker threads: the event loop never waits.

A bounded pool of threads; what each stage took is told to whoever measures. Errors come out in
HTTP's words, naming the image that caused them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from PIL import Image

from dyvte.engine.events import Engine
from dyvte.prompt import Prompt
from server.api.errors import bad_request
from server.api.translate import ChatJob, ImageSource
from server.images import ImageError, ImageLimits, decode_image, read_data_url
from server.settings import Settings


class MediaWatch(Protocol):
    """Told what media cost and why it was refused; called from worker threads."""

    def media_seconds(self, stage: str, seconds: float) -> None:
        """``stage`` is "fetch", "decode" or "preprocess"."""

    def media_error(self, reason: str) -> None:
        """``reason`` is an ``ImageFault``."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that fits the model. The job's messages are let go: images are large."""

    job: ChatJob
    prompt: Prompt
    prompt_tokens: int
    seconds: float


class Preprocessor:
    """Turns jobs into prompts on its own threads."""

    def __init__(self, settings: Settings, watch: MediaWatch) -> None:
        self._settings = settings
        self._watch = watch
        self._pool = ThreadPoolExecutor(settings.preprocess_workers, "preprocess")

    async def prepare(self, job: ChatJob, engine: Engine) -> Prepared:
        """The job's prompt, checked against the model. Raises ApiError (400), PromptError,
        OptionError."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._prepare, job, engine)

    def close(self) -> None:
        """Drop what has not begun; the threads end with their current image."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _prepare(self, job: ChatJob, engine: Engine) -> Prepared:
        began = time.perf_counter()
        messages = self._with_pictures(job)
        decoded = time.perf_counter()
        prompt = engine.prepare(messages)
        tokens = engine.check(prompt, job.sampling, job.exits)
        ended = time.perf_counter()
        if job.images:
            self._watch.media_seconds("preprocess", ended - decoded)
        return Prepared(replace(job, messages=()), prompt, tokens, ended - began)

    def _with_pictures(self, job: ChatJob) -> list[Mapping[str, Any]]:
        """The messages with a picture where an ``ImageSource`` was."""
        settings = self._settings
        limits = ImageLimits(
            settings.max_image_bytes, settings.max_image_pixels, settings.max_request_pixels
        )
        return [
            {**message, "content": [self._part(part, limits) for part in message["content"]]}
            if isinstance(message["content"], list)
            else message
            for message in job.messages
        ]

    def _part(self, part: Mapping[str, Any], limits: ImageLimits) -> Mapping[str, Any]:
        if part["type"] != "image":
            return part
        return {"type": "image", "image": self._picture(part["image"], limits)}

    def _picture(self, source: ImageSource, limits: ImageLimits) -> Image.Image:
        began = time.perf_counter()
        try:
            data = read_data_url(source.url, limits.max_bytes)
            picture = decode_image(data, limits, source.detail)
        except ImageError as error:
            self._watch.media_error(error.fault)
            message = f"Invalid '{source.path}': {error.message}."
            raise bad_request(message, source.path, "invalid_image") from error
        self._watch.media_seconds("decode", time.perf_counter() - began)
        return picture
