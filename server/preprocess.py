"""Images fetched and decoded, prompt built and checked: the event loop never waits.

Fetching is the event loop's own work, all else a bounded pool of threads'. What each stage took
is told to whoever measures. Errors come out in HTTP's words, naming the image that caused them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from PIL import Image

from dyvte.engine.events import Checked, Engine
from dyvte.prompt import Prompt
from server.api.errors import bad_request
from server.api.translate import ChatJob, ImageSource
from server.characters import check_characters
from server.forms import FormCompiler
from server.images import Decoding, ImageError, ImageLimits, decode_image, read_data_url
from server.remote import Budget, RemoteImages, is_remote
from server.settings import Settings
from server.texts import PreparedTexts, TextJob, prepare_texts

T = TypeVar("T")


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
    checked: Checked
    seconds: float

    @property
    def prompt_tokens(self) -> int:
        """Rows of the prompt, visual ones counted."""
        return self.checked.prompt_tokens

    @property
    def image_tokens(self) -> int:
        """Rows of the prompt that are no text."""
        text = len(self.prompt.token_ids) - self.prompt.num_images
        return self.prompt_tokens - text


class Preprocessor:
    """Turns jobs into prompts on its own threads."""

    def __init__(
        self, settings: Settings, watch: MediaWatch, remote: RemoteImages | None = None
    ) -> None:
        self._settings = settings
        self._watch = watch
        self._remote = remote or RemoteImages(settings.image_hosts, settings.image_timeout)
        self._decoding = Decoding()
        self._pool = ThreadPoolExecutor(settings.preprocess_workers, "preprocess")
        self._forms = FormCompiler()

    async def prepare(self, job: ChatJob, engine: Engine) -> Prepared:
        """The job's prompt, checked against the model. Raises ApiError (400), PromptError,
        OptionError."""
        wanted, asked = job.sampling.structured_output, job.asked_form
        if asked is not None and asked.wanted != wanted:
            await self._forms.compile(asked.wanted, asked.param, engine)
        await self._forms.compile(wanted, job.form_param, engine)
        fetched = await self._fetch([source for source in job.images if is_remote(source.url)])
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._prepare, job, fetched, engine)

    async def prepare_texts(self, job: TextJob, engine: Engine) -> PreparedTexts:
        """Plain prompts, checked against the model. Raises ApiError (400), PromptError,
        OptionError."""
        await self._forms.compile(job.sampling.structured_output, job.form_param, engine)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, prepare_texts, job, engine)

    async def run(self, work: Callable[[], T]) -> T:
        """Any other work on the same threads."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def close(self) -> None:
        """Drop what has not begun; the threads end with their current image."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._forms.close()
        await self._remote.close()

    async def _fetch(self, sources: list[ImageSource]) -> dict[str, bytes]:
        """The files behind remote URLs, each once, all at the same time."""
        first = {source.url: source for source in reversed(sources)}
        budget = Budget(self._settings.max_body, self._settings.max_image_bytes)
        tasks = [asyncio.ensure_future(self._one(source, budget)) for source in first.values()]
        try:
            return dict(zip(first, await asyncio.gather(*tasks), strict=True))
        finally:
            for task in tasks:
                task.cancel()

    async def _one(self, source: ImageSource, budget: Budget) -> bytes:
        began = time.perf_counter()
        with self._named(source):
            data = await self._remote.fetch(source.url, budget)
        self._watch.media_seconds("fetch", time.perf_counter() - began)
        return data

    def _prepare(self, job: ChatJob, fetched: Mapping[str, bytes], engine: Engine) -> Prepared:
        began = time.perf_counter()
        signatures = [tool.signature for tool in job.tools]
        check_characters(engine.info.max_model_len, job.messages, signatures)
        messages = self._with_pictures(job, fetched)
        decoded = time.perf_counter()
        prompt = engine.prepare(messages, job.tools)
        checked = engine.check(prompt, job.sampling, job.exits)
        ended = time.perf_counter()
        if job.images:
            self._watch.media_seconds("preprocess", ended - decoded)
        return Prepared(replace(job, messages=()), prompt, checked, ended - began)

    def _with_pictures(self, job: ChatJob, fetched: Mapping[str, bytes]) -> list[Mapping[str, Any]]:
        """The messages with a picture where an ``ImageSource`` was."""
        settings = self._settings
        limits = ImageLimits(
            settings.max_image_bytes, settings.max_image_pixels, settings.max_request_pixels
        )

        def part_of(part: Mapping[str, Any]) -> Mapping[str, Any]:
            if part["type"] != "image":
                return part
            source = part["image"]
            picture = self._picture(source, fetched.get(source.url), limits)
            return {"type": "image", "image": picture, "detail": source.detail}

        return [
            {**message, "content": [part_of(part) for part in message["content"]]}
            if isinstance(message["content"], list)
            else message
            for message in job.messages
        ]

    def _picture(self, source: ImageSource, data: bytes | None, limits: ImageLimits) -> Image.Image:
        began = time.perf_counter()
        with self._named(source):
            if data is None:
                data = read_data_url(source.url, limits.max_bytes)
            picture = decode_image(data, limits, self._decoding)
        self._watch.media_seconds("decode", time.perf_counter() - began)
        return picture

    @contextmanager
    def _named(self, source: ImageSource) -> Iterator[None]:
        """An ImageError becomes the 400 that names the image, and is counted."""
        try:
            yield
        except ImageError as error:
            self._watch.media_error(error.fault)
            message = f"Invalid '{source.path}': {error.message}."
            raise bad_request(message, source.path, "invalid_image") from error
