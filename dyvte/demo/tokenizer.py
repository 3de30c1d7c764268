"""The demo model's tokenizer and chat template.

Byte-level BPE trained on the world's own questions and answers: every string encodes, every word
of the world is one token. Text is lowered. A prompt is `<s>user:<image> question assistant:`, so
at least two tokens follow the last image whatever the question.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from dyvte.demo.palette import COLORS
from dyvte.demo.questions import ask, without_picture
from dyvte.demo.shapes import SHAPES
from dyvte.demo.world import SIZES, WORDS, sample_scene

SPECIALS = ("<unk>", "<s>", "</s>", "<pad>", "<image>")
UNK, BOS, EOS, PAD, IMAGE = range(5)
VOCAB = 1280
SYSTEMS = (
    "you are a helpful assistant.",
    "you are a helpful assistant that answers questions about images.",
    "answer briefly.",
    "you are dyvte, a vision assistant. be short.",
)
_SPLIT = r"'(?:s|t|re|ve|m|ll|d)| ?[a-z]+| ?[0-9]| ?[^\sa-z0-9]+|\s+"
_CORPUS_SCENES = 6000
# Words that people use around the world's own: one token each, known or not.
_EXTRA = """
about above across after again all also an and another answer any are around as ask assistant away
background be because before begin beside better between big bigger biggest black blank bold both
bright but button by came canvas change chart child clear click close closer closest colored colors
come contain contains content corner could dark darker depict describe description did different
displayed do does done down draw drawing drawn each edge eight either empty end every exactly
example explain feature few field figure fill filled find first five focus for form found four
from front full get girl give given good got great green grey had half hand has have he hello help
her here high higher highest hollow house how i identify if image images in inside into is it its
just keep kind know large larger largest last least leave left leftmost less letter letters level
light lighter like line list located location look lot low lower lowest made make many may me
middle mark more most much must my name named near nearest need next nine no none not nothing now
number object objects of off on once one only open or other our out outline outlined outside over
page paint painted part photo picture piece pixel place placed plain plus point position present
question read really rightmost round row same say scene screen second see seen send sentence seven
shade shape shapes short should show shown side sign similar simple single six sized sizes small
smaller smallest so solid some something specify stand such sure tell text than thank that the
their them then there these they thing things this those three to together top total two type
under up upper us use used very view visible want was we well were what when where whether which
while who whole whose why will with within word words would write written you your zero
""".split()

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- set parts = message['content'] -%}
{%- set ns = namespace(images='', text='') -%}
{%- if parts is string -%}{%- set ns.text = parts -%}
{%- elif parts -%}
{%- for part in parts -%}
{%- if part['type'] in ('image', 'image_url') -%}{%- set ns.images = ns.images + '<image>' -%}
{%- elif part['type'] == 'text' -%}\
{%- set ns.text = (ns.text + ' ' + part['text']) if ns.text else part['text'] -%}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- set text = ns.text | trim -%}
{%- if message['role'] in ('system', 'developer') -%}{{- text + '\\n' -}}
{%- elif message['role'] == 'assistant' -%}{{- ' assistant: ' + text + eos_token -}}
{%- else -%}{{- 'user:' + ns.images + (' ' + text if text else '') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- ' assistant:' -}}{%- endif -%}
"""


def _corpus() -> Iterator[str]:
    rng = random.Random(5)
    words = (*COLORS, *SHAPES, *SIZES, *WORDS, *(f"{s}s" for s in SHAPES), "crosses", "none")
    for word in (*words, *(str(n) for n in range(10))):
        yield f" {word}" * 400
    for word in _EXTRA:
        yield f" {word}" * 40
    for _ in range(300):
        yield "user: assistant:"
        yield from SYSTEMS
    for seed in range(_CORPUS_SCENES):
        scene = sample_scene(-1 - seed)
        for _ in range(6):
            question = ask(scene, rng)
            yield f"user: {question.text} assistant: {question.answer}"
        question = without_picture(rng)
        yield f"user: {question.text} assistant: {question.answer}"


def train_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, trained from nothing; the same on every run."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    # The answer starts with a space ("assistant: red"); readers do not want to see it.
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def word_ids(tokenizer: PreTrainedTokenizerFast, words: tuple[str, ...]) -> list[int]:
    """Ids of words as they stand inside a sentence; each must be a single token."""
    ids = [tokenizer.encode(f" {word}", add_special_tokens=False) for word in words]
    broken = [w for w, i in zip(words, ids, strict=True) if len(i) != 1]
    if broken:
        raise ValueError(f"words: {', '.join(broken)} are not single tokens; raise VOCAB")
    return [i[0] for i in ids]
