"""The conversation formats that the supported original code bases name, as facts.

Sources: ``conversation.py`` of LLaVA (``vicuna_v1``), of VILA in its state of June 2024 and in the
one since December 2024, and of InternVL chat.
"""

from __future__ import annotations

from dataclasses import replace

from dyvte.errors import ModelError
from dyvte.models.prompts.conversations import Conversation

_IM_END, _INTERNVL_FRAME = "<|im_end|>", ("<img>", "</img>")
_SHANGHAI = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, "
    "是一个有用无害的人工智能助手。"
)
_WANXIANG = (
    "你是书生·万象，英文名是InternVL，"
    "是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)

VICUNA_V1 = Conversation(
    name="vicuna_v1",
    default_system="A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    system=("", " "),
    user=("USER: ", " "),
    assistant=("ASSISTANT: ", "</s>"),
    generation="ASSISTANT:",
    stops=("</s>",),
)


def _llama_3(answerer: str, ending: str) -> Conversation:
    def head(role: str) -> str:
        return f"<|start_header_id|>{role}<|end_header_id|>\n\n"

    return Conversation(
        name="llama_3",
        default_system="You are a helpful language and vision assistant. "
        "You are able to understand the visual content that the user provides, "
        "and assist the user with a variety of tasks using natural language.",
        system=(f"<|begin_of_text|>{head('system')}", ending),
        user=(head("user"), ending),
        assistant=(head(answerer), ending),
        generation=head(answerer),
        stops=("<|end_of_text|>", "<|eot_id|>"),
    )


LLAMA_3 = _llama_3("system", "<|end_of_text|>")
"""VILA-1.5's: the answer's role is called ``system`` there, and turns end with the text's end."""
LLAMA_3_ROWS = _llama_3("assistant", "<|eot_id|>")
"""VILA's since December 2024."""


def _chatml(name: str, system: str, ending: str, frame: tuple[str, str]) -> Conversation:
    return Conversation(
        name=name,
        default_system=system,
        system=("<|im_start|>system\n", ending),
        user=("<|im_start|>user\n", ending),
        assistant=("<|im_start|>assistant\n", ending),
        generation="<|im_start|>assistant\n",
        stops=(ending.strip(),),
        frame=frame,
    )


VILA_HERMES_2 = _chatml("hermes-2", "Answer the questions.", _IM_END, ("", ""))
_HERMES_2 = _chatml("Hermes-2", _SHANGHAI, _IM_END, _INTERNVL_FRAME)

INTERNVL = {
    form.name: form
    for form in (
        _HERMES_2,
        replace(_HERMES_2, name="internlm2-chat"),
        _chatml("internvl2_5", _WANXIANG, f"{_IM_END}\n", _INTERNVL_FRAME),
        Conversation(
            name="phi3-chat",
            default_system=_SHANGHAI,
            system=("<|system|>\n", "<|end|>"),
            user=("<|user|>\n", "<|end|>"),
            assistant=("<|assistant|>\n", "<|end|>"),
            generation="<|assistant|>\n",
            stops=("<|end|>",),
            frame=_INTERNVL_FRAME,
        ),
        Conversation(
            name="internvl_zh",
            default_system="",
            system=("", " "),
            user=("<human>: ", " "),
            assistant=("<bot>: ", "</s>"),
            generation="<bot>:",
            stops=("</s>",),
            frame=_INTERNVL_FRAME,
        ),
    )
}


def internvl_format(name: object) -> Conversation:
    """The format that ``template`` in an InternVL config names. Raises ModelError."""
    found = INTERNVL.get(str(name))
    if found is None:
        raise ModelError(f"template {name!r} is not known ({', '.join(INTERNVL)} are)")
    return found
