"""From a sample of a data file to what the model is run on, or the reason why it is not.

Decoding and resizing pictures is done here, off the thread that runs the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dyvte.data import Sample, Skip
from dyvte.data.pictures import PictureError
from dyvte.errors import PromptError
from dyvte.model import Model
from dyvte.prompt import Message, Prompt
from dyvte.training.collect import Example, Plan


@dataclass(frozen=True, slots=True)
class Prepared:
    """Some samples of one batch that can be run, and those that cannot."""

    samples: list[Sample]
    examples: list[Example]
    skipped: list[Skip]


def prepare(model: Model, samples: Sequence[Sample], plan: Plan) -> Prepared:
    """Open, process and tokenise. Nothing is raised for a sample that is unfit: it is skipped."""
    ready = Prepared([], [], [])
    for sample in samples:
        try:
            example = _example(model, sample, plan)
        except (PictureError, PromptError) as error:
            ready.skipped.append(Skip(sample.line, " ".join(str(error).split())))
            continue
        ready.samples.append(sample)
        ready.examples.append(example)
    return ready


def _example(model: Model, sample: Sample, plan: Plan) -> Example:
    if not sample.pictures:
        raise PromptError("there is no image: nothing could exit")
    if plan.paper and sample.answer is None:
        raise PromptError("there is no answer for the paper's label")
    messages = sample.load()
    prompt = model.prompt(messages)
    answer = None
    if plan.paper and sample.answer is not None:
        answer = answer_ids(model, prompt, messages, sample.answer)
    rows = model.adapter.layout(prompt).rows
    room = model.adapter.max_positions - rows
    needed = max(plan.max_tokens if plan.consistent else 0, len(answer or ()))
    if needed > room:
        raise PromptError(
            f"{rows} rows and {needed} answer tokens exceed the context of "
            f"{model.adapter.max_positions}"
        )
    return Example(prompt, answer)


def answer_ids(
    model: Model, prompt: Prompt, messages: Sequence[Message], answer: str
) -> tuple[int, ...]:
    """Ids of ``answer`` as the model would have to give it, end of sequence included.

    The chat format writes the answer into the conversation; what follows the prompt, up to the
    end of the turn, is the answer. Where the ids of the prompt do not come first (a tokenizer
    that merges across the seam), the answer is tokenised alone. Raises PromptError.
    """
    assert model.chat is not None, "the prompt was made with it"
    assert model.tokenizer is not None, "a chat format comes with one"
    eos = model.adapter.eos_token_ids
    whole = model.chat.encode([*messages, {"role": "assistant", "content": answer}])
    count = len(prompt.token_ids)
    if whole[:count] == list(prompt.token_ids):
        rest = whole[count:]
        end = next((index for index, token in enumerate(rest) if token in eos), None)
        if end:
            return tuple(rest[: end + 1])
    alone = model.tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
    if not alone:
        raise PromptError("the answer has no tokens")
    return (*alone, min(eos))
