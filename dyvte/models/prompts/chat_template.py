"""A conversation format as a Jinja chat template, for programs that know no other kind.

Rendered and tokenised as a whole, it gives the ids that ``ConversationChat`` gives piece by piece.
Two things have to be said in it for that. Pieces of the original are tokenised alone, so that each
begins with the tokenizer's prefix space, while text behind a special token may get none: where it
does not, the template writes the space. And turns with text between images or an image between
texts keep their order, all others put images first.
"""

from __future__ import annotations

import json
from typing import Any

from dyvte.errors import ModelError
from dyvte.models.prompts.conversations import Conversation

# ``said``: the text of a system or assistant message. ``shown``: a user's parts in their order.
_MACROS = """\
{%- macro said(message) -%}
{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{{ raise_exception(message['role'] ~ ' messages cannot hold an image') }}
{%- endif -%}
{{ part['text'] }}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- macro shown(parts) -%}
{%- if parts is string -%}{{ parts }}{%- else -%}
{%- set seen = namespace(kinds='') -%}
{%- for part in parts -%}
{%- set seen.kinds = seen.kinds ~ ('i' if part['type'] == 'image' else 't') -%}
{%- endfor -%}
{%- set woven = 'it' in seen.kinds and 'ti' in seen.kinds -%}
{%- for kind in (['any'] if woven else ['image', 'text']) -%}
{%- for part in parts if kind in ['any', part['type']] -%}
{{ IMAGE if part['type'] == 'image' else part['text'] }}
{%- endfor -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
"""
_TURNS = """\
{%- set given = messages and messages[0]['role'] == 'system' -%}
{%- set head = SYSTEM_OPENS ~ (said(messages[0]) if given else SYSTEM) ~ SYSTEM_ENDS -%}
{{ BOS }}{{ BOS_SPACE if not head.startswith(' ') }}{{ head }}
{%- for message in (messages[1:] if given else messages) -%}
{%- if message['role'] == 'user' -%}
{{ USER_OPENS ~ shown(message['content']) ~ USER_ENDS }}
{%- elif message['role'] == 'assistant' -%}
{{ ANSWER_OPENS ~ said(message) ~ ANSWER_ENDS }}
{%- else -%}
{{ raise_exception('a system message must be the first one in this chat format') }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ GENERATION }}{%- endif -%}
"""


def chat_template(form: Conversation, tokenizer: Any, image: str) -> str:
    """``form`` over ``tokenizer``, an image being the special token ``image`` once.

    What frames an image is left to whoever expands it. Raises ModelError for a tokenizer whose
    prefix cannot be written.
    """
    bos = tokenizer.bos_token
    begins = bool(bos) and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    space = prefix_space(tokenizer, image)
    words = {
        "BOS": bos if begins else "",
        "BOS_SPACE": space if begins else "",
        "IMAGE": f"{image}{'' if form.frame[1] else space}\n",
        "SYSTEM": form.default_system,
        "GENERATION": form.generation,
    }
    around = {"SYSTEM": form.system, "USER": form.user, "ANSWER": form.assistant}
    for name, (opening, ending) in around.items():
        words |= {f"{name}_OPENS": opening, f"{name}_ENDS": ending}
    said = [f"{{%- set {name} = {json.dumps(text)} -%}}\n" for name, text in words.items()]
    return "".join(said) + _MACROS + _TURNS


def prefix_space(tokenizer: Any, special: str) -> str:
    """What to write behind a special token so that text begins as it does alone."""

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    alone = ids("\nx")
    for space in ("", " "):
        if ids(f"{special}{space}\nx")[1:] == alone:
            return space
    raise ModelError("the tokenizer's prefix before a line break cannot be said in a chat template")
