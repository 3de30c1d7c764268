"""Items of a request to ``/v1/responses`` → messages of a chat.

What the assistant said and the calls beside it are items of their own here and one message there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from server.api.messages import (
    AssistantMessage,
    CalledFunction,
    ImagePart,
    ImageUrl,
    Message,
    RefusalPart,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from server.api.responses.items import (
    AssistantItem,
    CallItem,
    CallOutputItem,
    InputImage,
    InputText,
    Item,
    SaidText,
    SystemItem,
    UserItem,
)
from server.api.responses.names import Names

Said = str | list[TextPart | RefusalPart] | None


@dataclass(slots=True)
class _Turn:
    """An assistant's turn that may go on; ``places`` are the paths of its calls."""

    place: str
    said: Said = None
    calls: list[ToolCall] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


class Conversation:
    """Messages in the making; ``names`` learns where each came from."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._messages: list[Message] = []
        self._turn: _Turn | None = None

    def messages(self) -> list[Message]:
        """All that was added."""
        self._close()
        return self._messages

    def instruct(self, text: str, place: str) -> None:
        """A system message."""
        self._add(SystemMessage(role="system", content=text), place)

    def ask(self, text: str, place: str) -> None:
        """A user's message of text alone."""
        self._add(UserMessage(role="user", content=text), place)

    def item(self, item: Item, place: str) -> None:
        """One item of the input."""
        match item:
            case UserItem():
                self._add(UserMessage(role="user", content=_shown(item.content)), place)
            case SystemItem():
                self._add(SystemMessage(role=item.role, content=_plain(item.content)), place)
            case AssistantItem():
                self._say(item, place)
            case CallItem():
                self._call(item, place)
            case CallOutputItem():
                self._return(item, place)

    def _add(self, message: Message, place: str) -> None:
        self._close()
        self._names.add(f"messages[{len(self._messages)}]", place)
        self._messages.append(message)

    def _say(self, item: AssistantItem, place: str) -> None:
        if self._turn is not None and not self._turn.calls:
            self._close()
        turn = self._turn = self._turn or _Turn(place)
        said = _said(item.content)
        turn.said = said if turn.said is None else [*_parts(turn.said), *_parts(said)]

    def _call(self, item: CallItem, place: str) -> None:
        turn = self._turn = self._turn or _Turn(place)
        function = CalledFunction(name=item.name, arguments=item.arguments)
        turn.calls.append(ToolCall(id=item.call_id, type="function", function=function))
        turn.places.append(place)

    def _return(self, item: CallOutputItem, place: str) -> None:
        content = _plain(item.output)
        self._add(ToolMessage(role="tool", content=content, tool_call_id=item.call_id), place)
        self._names.add(f"messages[{len(self._messages) - 1}].tool_call_id", f"{place}.call_id")

    def _close(self) -> None:
        """Write down the assistant's turn."""
        turn, self._turn = self._turn, None
        if turn is None:
            return
        at = f"messages[{len(self._messages)}]"
        self._names.add(at, turn.place)
        for index, place in enumerate(turn.places):
            self._names.add(f"{at}.tool_calls[{index}].function", place)
        # Checked where it came in; a bound on calls in one message is not this protocol's.
        message = AssistantMessage.model_construct(
            role="assistant", content=turn.said, tool_calls=turn.calls or None
        )
        self._messages.append(message)


def _shown(content: str | list[InputText | InputImage]) -> str | list[TextPart | ImagePart]:
    if isinstance(content, str):
        return content
    return [_image(part) if isinstance(part, InputImage) else _text(part.text) for part in content]


def _image(part: InputImage) -> ImagePart:
    detail = "high" if part.detail == "original" else part.detail
    return ImagePart(type="image_url", image_url=ImageUrl(url=part.image_url, detail=detail))


def _plain(content: str | list[InputText]) -> str | list[TextPart]:
    return content if isinstance(content, str) else [_text(part.text) for part in content]


def _said(content: str | list[SaidText | InputText | RefusalPart]) -> Said:
    if isinstance(content, str):
        return content
    return [part if isinstance(part, RefusalPart) else _text(part.text) for part in content]


def _parts(said: Said) -> list[TextPart | RefusalPart]:
    return [_text(said or "")] if said is None or isinstance(said, str) else said


def _text(text: str) -> TextPart:
    return TextPart(type="text", text=text)
