"""Plain text as prompts, without a chat template: tokenised and checked in worker threads."""

from __future__ import annotations

import time
from dataclasses import dataclass

from dyvte.engine.events import Checked, Engine
from dyvte.params import ExitOptions, SamplingParams
from dyvte.prompt import Prompt
from server.characters import check_characters


@dataclass(frozen=True, slots=True)
class TextJob:
    """Prompts of text or ids. ``special``: text gets what the tokenizer puts around it (BOS)."""

    prompts: tuple[str | list[int], ...]
    sampling: SamplingParams
    exits: ExitOptions
    special: bool = True
    form_param: str = ""


@dataclass(frozen=True, slots=True)
class PreparedTexts:
    """Prompts that fit the model, and how each reads."""

    job: TextJob
    prompts: tuple[Prompt, ...]
    texts: tuple[str, ...]
    checked: tuple[Checked, ...]
    seconds: float

    @property
    def prompt_tokens(self) -> int:
        """Of all prompts together."""
        return sum(each.prompt_tokens for each in self.checked)


def prepare_texts(job: TextJob, engine: Engine) -> PreparedTexts:
    """Blocking. Raises PromptError, OptionError."""
    began = time.perf_counter()
    prompts, texts, checked = [], [], []
    for given in job.prompts:
        check_characters(engine.info.max_model_len, given)
        ids = engine.tokenize(given, job.special) if isinstance(given, str) else given
        prompt = Prompt(ids)
        checked.append(engine.check(prompt, job.sampling, job.exits))
        prompts.append(prompt)
        texts.append(given if isinstance(given, str) else engine.detokenize(given))
    seconds = time.perf_counter() - began
    return PreparedTexts(job, tuple(prompts), tuple(texts), tuple(checked), seconds)
