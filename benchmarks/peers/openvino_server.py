"""OpenAI's chat completions, as little as the benchmark needs, over OpenVINO GenAI.

OpenVINO's own server has no wheel; this puts HTTP around its ``ContinuousBatchingPipeline`` (paged
keys and values, continuous batching, prefix cache), in float32 throughout. Runs in an environment
of its own, which has openvino-genai, fastapi, uvicorn and pillow and nothing of this project.

    python openvino_server.py --model DIR --port 8112

DIR is what ``optimum-cli export openvino`` writes; conversations are put together as the models of
``benchmarks.model`` expect them.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import queue
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import openvino
import openvino_genai as genai
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from PIL import Image

BOS, IMAGE = "<s>", "<image>"
PRECISION = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}


@dataclass
class Job:
    """One request on its way to the pipeline; ``say`` gets lists of ids, then None or an error."""

    prompt: str
    images: list[Any]
    tokens: int
    say: Callable[[list[int] | Exception | None], None]
    handle: Any = None


@dataclass
class Engine:
    """The pipeline, and the thread that alone talks to it."""

    pipeline: Any
    waiting: queue.SimpleQueue[Job] = field(default_factory=queue.SimpleQueue)

    def start(self) -> None:
        """Run from here on, until the process ends."""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        active: list[Job] = []
        number = 0
        while True:
            while not active or not self.waiting.empty():
                job = self.waiting.get()
                try:
                    job.handle = self._add(number, job)
                except RuntimeError as error:
                    job.say(error)
                    continue
                number += 1
                active.append(job)
            self.pipeline.step()
            active = [job for job in active if not _deliver(job)]

    def _add(self, number: int, job: Job) -> Any:
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = job.tokens
        config.ignore_eos = True
        config.do_sample = False
        config.apply_chat_template = False
        images = (job.images,) if job.images else ()
        return self.pipeline.add_request(number, job.prompt, *images, config)


def _deliver(job: Job) -> bool:
    """Hand on what came; True if it was the last."""
    ended: bool = job.handle.get_status() != genai.GenerationStatus.RUNNING
    while job.handle.can_read():
        for output in job.handle.read().values():
            job.say(list(output.generated_ids))
    if ended:
        job.say(None)
    return ended


def prompt_of(messages: list[dict[str, Any]]) -> tuple[str, list[Any]]:
    """The template of ``benchmarks.model``, and the pictures as the pipeline takes them."""
    text = BOS
    images: list[Any] = []
    for message in messages:
        text += f"{message['role'].upper()}: "
        content: str | list[dict[str, Any]] = message["content"]
        parts: list[dict[str, Any]] = (
            [{"type": "text", "text": content}] if isinstance(content, str) else content
        )
        for part in parts:
            if part["type"] == "image_url":
                images.append(_picture(part["image_url"]["url"]))
                text += f"{IMAGE}\n"
        text += "".join(part["text"] for part in parts if part["type"] == "text") + "\n"
    return f"{text}ASSISTANT:", images


def _picture(url: str) -> Any:
    data = base64.b64decode(url.partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    return openvino.Tensor(pixels[None].copy())


def app_of(engine: Engine, tokenizer: Any, image_tokens: int) -> FastAPI:
    """Two routes."""
    app = FastAPI()

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "bench", "object": "model"}]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> StreamingResponse:
        body = await request.json()
        prompt, images = await asyncio.to_thread(prompt_of, body["messages"])
        ids = tokenizer.encode(prompt).input_ids.shape[1]
        answers: asyncio.Queue[list[int] | Exception | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def say(answer: list[int] | Exception | None) -> None:
            loop.call_soon_threadsafe(answers.put_nowait, answer)

        engine.waiting.put(Job(prompt, images, body["max_tokens"], say))
        rows = ids + len(images) * (image_tokens - 1)
        return StreamingResponse(_events(answers, tokenizer, rows), media_type="text/event-stream")

    return app


async def _events(
    answers: asyncio.Queue[list[int] | Exception | None], tokenizer: Any, prompt_tokens: int
) -> AsyncIterator[str]:
    tokens = 0
    while (answer := await answers.get()) is not None:
        if isinstance(answer, Exception):
            yield _event({"error": {"message": str(answer)}})
            return
        tokens += len(answer)
        delta = {"content": tokenizer.decode(answer) or " "}
        yield _event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}
    yield _event({"choices": [], "usage": usage})
    yield "data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


def main() -> None:
    """Load and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-num-seqs", type=int, default=16)
    parser.add_argument("--cache-gib", type=int, default=2)
    parser.add_argument("--image-tokens", type=int, default=576)
    args = parser.parse_args()
    scheduling = genai.SchedulerConfig()
    scheduling.cache_size = args.cache_gib
    scheduling.max_num_seqs = args.max_num_seqs
    scheduling.max_num_batched_tokens = 4096
    scheduling.dynamic_split_fuse = True
    scheduling.enable_prefix_caching = True
    pipeline = genai.ContinuousBatchingPipeline(args.model, scheduling, "CPU", PRECISION)
    engine = Engine(pipeline)
    engine.start()
    app = app_of(engine, pipeline.get_tokenizer(), args.image_tokens)
    uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="warning")


if __name__ == "__main__":
    main()
