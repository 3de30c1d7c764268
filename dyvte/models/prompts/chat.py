"""From messages to token ids with ``IMAGE`` placeholders.

User text never becomes a special token: a template's own specials are recognised, the same
characters typed by a user are plain text. ``TemplateChat`` renders a tokenizer's Jinja template;
the formats of original code, whose checkpoints bring none, are in ``conversations``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jinja2 import TemplateError, TemplateSyntaxError
from PIL import Image
from transformers.utils.chat_template_utils import _compile_jinja_template

from dyvte.errors import ModelError, PromptError
from dyvte.prompt import DETAILS, IMAGE, Message
from dyvte.tools import OPENING, Tool, uses_tools, without_tools

ROLES = ("system", "user", "assistant", "tool")


class ChatFormat(Protocol):
    """``encode(messages)`` → ids, ready for generation."""

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """One IMAGE per image part, in order. Raises PromptError."""
        ...


def encode(chat: ChatFormat, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
    """The ids of a conversation that may call tools: by the template's own way if it has one.

    Raises PromptError.
    """
    if not uses_tools(messages, tools):
        return chat.encode(messages)
    if isinstance(chat, TemplateChat) and chat.knows_tools:
        return chat.encode(messages, tools)
    return chat.encode(without_tools(messages, tools))


def parts_of(message: Message) -> list[Mapping[str, Any]]:
    """The content of a message as a list of parts. Raises PromptError."""
    if not isinstance(message, Mapping):
        raise PromptError(f"a message is {type(message).__name__}, expected role and content")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise PromptError(f"role {role!r} is not known; use one of {', '.join(ROLES)}")
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, Sequence):
        raise PromptError(f"content is {type(content).__name__}: use a string or a list of parts")
    for part in content:
        _check_part(part)
    return list(content)


def _check_part(part: Any) -> None:
    """Raises PromptError."""
    if not isinstance(part, Mapping):
        raise PromptError(f"a content part is {type(part).__name__}, expected a mapping with type")
    if part.get("type") not in ("text", "image"):
        raise PromptError(f"content part of type {part.get('type')!r}: use text or image")
    if part["type"] == "text" and not isinstance(part.get("text"), str):
        raise PromptError(f"a text part needs text, a string; got {part.get('text')!r}")
    if part["type"] == "image" and part.get("detail", "auto") not in DETAILS:
        raise PromptError(f"detail {part['detail']!r} of an image: use {', '.join(DETAILS)}")


def images_of(messages: Sequence[Message]) -> list[tuple[Image.Image, str]]:
    """Every image of a conversation and its detail, in order.

    Raises PromptError for what is no PIL image.
    """
    return [
        (_picture(part.get("image")), part.get("detail", "auto"))
        for message in messages
        for part in parts_of(message)
        if part["type"] == "image"
    ]


def _picture(image: Any) -> Image.Image:
    if not isinstance(image, Image.Image):
        raise PromptError(
            f"an image part needs image, a PIL image; got {type(image).__name__} "
            "(PIL.Image.open reads files, PIL.Image.fromarray arrays)"
        )
    return image


@dataclass(frozen=True, slots=True)
class TemplateChat:
    """A Jinja chat template over a ``transformers`` tokenizer.

    ``frame`` holds the tokens put around each image (``("<img>", "</img>")``), if any. Raises
    ModelError for a template that is none and for tokens that the tokenizer lacks.
    """

    tokenizer: Any
    template: str
    image_token: str
    frame: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = self.tokenizer.get_vocab()
        for token in (self.image_token, *self.frame):
            if token not in known:
                raise ModelError(f"the tokenizer has no {token!r}, which images need")
        try:
            _compile_jinja_template(self.template)
        except TemplateSyntaxError as error:
            raise ModelError(f"the chat template is broken in line {error.lineno}: {error}") from (
                error
            )

    @property
    def knows_tools(self) -> bool:
        """True if the template tells tools, and calls in the convention that is read here."""
        return "tools" in self.template and OPENING in self.template

    def encode(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> list[int]:
        """Render, split at the template's specials, tokenise the rest as plain text.

        Around it stands what the tokenizer puts around every text, unless the template begins
        with a BOS itself (as in ``transformers.ProcessorMixin.apply_chat_template``).
        Raises PromptError, also where the template itself refuses the conversation.
        """
        specials = sorted(self._specials(), key=len, reverse=True)
        typed = re.compile("|".join(map(re.escape, specials)))
        guard = _unused_character([messages, [tool.signature for tool in tools]])
        plain = [self._guarded(message, typed, guard) for message in messages]
        told = [_guarded_value(tool.signature, typed, guard) for tool in tools]
        try:
            rendered: str = self.tokenizer.apply_chat_template(
                plain,
                tools=told or None,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=True,
            )
        except TemplateError as error:  # what a template's raise_exception raises
            raise PromptError(f"the chat template refuses these messages: {error}") from error
        except Exception as error:  # a template is a program: it may fail at what it never met
            kind = type(error).__name__  # and no more: what it says may name our objects
            raise PromptError(f"the chat template fails at these messages: {kind}") from error
        if guard not in rendered:
            ids: list[int] = self.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        else:
            ids = self._encode_guarded(rendered, typed, guard)
        if not (self.tokenizer.bos_token and rendered.startswith(self.tokenizer.bos_token)):
            before, behind = self._around()
            ids = [*before, *ids, *behind]
        image_id = self.tokenizer.convert_tokens_to_ids(self.image_token)
        around = self.tokenizer.convert_tokens_to_ids(list(self.frame))
        image = [*around[:1], IMAGE, *around[1:]]
        return [each for token in ids for each in (image if token == image_id else [token])]

    def _around(self) -> tuple[list[int], list[int]]:
        """Ids that the tokenizer puts before and behind a text."""
        bare: list[int] = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        whole: list[int] = self.tokenizer("a")["input_ids"]
        starts = range(len(whole) - len(bare) + 1)
        start = next(i for i in starts if whole[i : i + len(bare)] == bare)
        return whole[:start], whole[start + len(bare) :]

    def _specials(self) -> set[str]:
        added = self.tokenizer.added_tokens_decoder.values()
        return {token.content for token in added if token.special} | {self.image_token}

    def _guarded(self, message: Message, typed: re.Pattern[str], guard: str) -> dict[str, Any]:
        """The message with ``guard`` inside every special that its text parts spell.

        Parts are read as one text, since a template may put them side by side.
        """
        parts = parts_of(message)
        text = "".join(str(part["text"]) for part in parts if part["type"] == "text")
        cuts = {match.start() + 1 for match in re.finditer(f"(?={typed.pattern})", text)}
        guarded: list[dict[str, Any]] = []
        at = 0
        for part in parts:
            if part["type"] == "image":
                guarded.append({"type": "image"})
                continue
            plain = str(part["text"])
            letters = (f"{guard * (at + i in cuts)}{letter}" for i, letter in enumerate(plain))
            guarded.append({"type": "text", "text": "".join(letters)})
            at += len(plain)
        shown: dict[str, Any] = {"role": message["role"], "content": guarded}
        if message.get("tool_calls"):
            calls = _guarded_value(message["tool_calls"], typed, guard)
            shown["tool_calls"] = [{"type": "function", "function": call} for call in calls]
        if message["role"] == "tool" or shown.get("tool_calls"):
            # Templates put such a message together as text.
            shown["content"] = "".join(part["text"] for part in guarded)
        return shown

    def _encode_guarded(self, rendered: str, typed: re.Pattern[str], guard: str) -> list[int]:
        ids: list[int] = []
        at = 0
        for match in [*typed.finditer(rendered), None]:
            text = rendered[at : match.start() if match else None].replace(guard, "")
            if text:
                ids += self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)[
                    "input_ids"
                ]
            if match:
                ids.append(self.tokenizer.convert_tokens_to_ids(match[0]))
                at = match.end()
        return ids


def _guarded_value(value: Any, typed: re.Pattern[str], guard: str) -> Any:
    """JSON with ``guard`` inside every special that its strings spell."""
    if isinstance(value, str):
        cuts = {match.start() + 1 for match in re.finditer(f"(?={typed.pattern})", value)}
        return "".join(f"{guard * (at in cuts)}{letter}" for at, letter in enumerate(value))
    if isinstance(value, Mapping):
        return {
            _guarded_value(key, typed, guard): _guarded_value(each, typed, guard)
            for key, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_guarded_value(each, typed, guard) for each in value]
    return value


def _unused_character(values: Any) -> str:
    """A private-use character that no string in ``values`` contains."""
    used = {char for text in _strings(values) for char in text if "\ue000" <= char <= "\uf8ff"}
    return next(char for char in map(chr, range(0xE000, 0xF900)) if char not in used)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _strings(key)
            yield from _strings(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _strings(each)
