"""How people ask: templates and synonyms, one tuple of templates per kind of question.

Owns surface language only; which question fits a scene and what its answer is belongs to
`questions`. `{r}` is a reference without its article ("red circle"), other fields are named
by their meaning. All text is lower case, as the tokenizer makes it anyway.
"""

from __future__ import annotations

import random

NOUNS = ("object", "object", "object", "thing", "shape", "figure", "item")
SYNONYMS = {
    "color": ("colour",),
    "gray": ("grey",),
    "ellipse": ("oval",),
    "center": ("middle",),
    "cross": ("plus", "plus sign"),
    "diamond": ("rhombus",),
    "large": ("big",),
    "small": ("little", "tiny"),
    "picture": ("image", "image", "photo", "drawing"),
}
LEADS = (
    *("please tell me", "tell me", "can you tell me", "please say", "hey", "hi", "quick question"),
    *("i wonder", "so", "now", "ok", "look at the picture", "look and tell me", "question"),
    *("answer briefly", "please answer", "could you tell me", "in the picture", "in this picture"),
)
TAILS = (
    *("in the picture", "in the picture", "in this picture", "in the image", "please", "here"),
    *("shown here", "you see", "in this image", "now", "in it", "thanks", "in the scene"),
    *("answer briefly", "answer with one word", "in one word", "overall", "there"),
)

COLOR = (
    *("what color is the {r}", "what color is the {r}", "what is the color of the {r}"),
    *("what's the color of the {r}", "which color is the {r}", "which color does the {r} have"),
    *("what color does the {r} have", "the {r} is what color", "tell me the color of the {r}"),
    *("name the color of the {r}", "color of the {r}", "{r} color", "what color is {r}"),
    *("give the color of the {r}", "what color the {r} is", "do you know the color of the {r}"),
    *("what color would you say the {r} is", "identify the color of the {r}", "color of {r}"),
    *("which color was used for the {r}", "in what color is the {r} drawn", "{r}: what color"),
    *("what is the {r}'s color", "say the color of the {r}", "how is the {r} colored"),
    *("there is one {r}. what color is it", "look at the {r}. what is its color"),
    *("what color do you see on the {r}", "the {r} has which color", "the color of the {r} is"),
)
SHAPE = (
    *("what shape is the {r}", "what shape is the {r}", "what is the shape of the {r}"),
    *("what is the {r}", "which shape is the {r}", "what kind of shape is the {r}"),
    *("what form does the {r} have", "what shape does the {r} have", "shape of the {r}"),
    *("name the shape of the {r}", "tell me the shape of the {r}", "the {r} is what shape"),
    *("what type of shape is the {r}", "identify the {r}", "what figure is the {r}"),
    *("which shape does the {r} have", "the {r} is a", "{r} shape", "what is the form of the {r}"),
    *("what geometric shape is the {r}", "say what shape the {r} is", "what sort of shape is {r}"),
    *(
        "look at the {r}. what shape is it",
        "give the shape of the {r}",
        "what would you call the {r}",
    ),
)
SIZE = (
    *("what size is the {r}", "how big is the {r}", "how large is the {r}", "size of the {r}"),
    *("what is the size of the {r}", "is the {r} small, medium or large", "tell me the {r}'s size"),
    *("is the {r} large, medium or small", "which size does the {r} have", "how small is the {r}"),
    *("name the size of the {r}", "the {r} is what size", "what size does the {r} have"),
)
COUNT = (
    *("how many {r} are there", "how many {r} are there", "how many {r} do you see"),
    *("how many {r} can you see", "count the {r}", "number of {r}", "what is the number of {r}"),
    *("how many {r} are in the picture", "how many {r} are shown", "how many {r} exist"),
    *("how many {r} does the picture have", "how many {r}", "tell me how many {r} there are"),
    *("please count the {r}", "give the number of {r}", "count all {r}", "how many {r} appear"),
    *("how many {r} does the picture contain", "the number of {r} is", "how many {r} in total"),
    *("what is the count of {r}", "say how many {r} you see", "how many {r} were drawn"),
)
PRESENCE = (
    *(
        "is there a {r}",
        "is there a {r}",
        "is there any {r}",
        "do you see a {r}",
        "can you see a {r}",
    ),
    *("does the picture have a {r}", "does the picture show a {r}", "does it contain a {r}"),
    *("is a {r} in the picture", "is a {r} visible", "are there any {rs}", "do you see any {rs}"),
    *("does the picture contain a {r}", "any {r}", "any {rs}", "is there at least one {r}"),
    *("are there {rs}", "has the picture got a {r}", "a {r} is there, right", "can a {r} be seen"),
    *("is a {r} shown", "does a {r} exist", "is there some {r}", "would you say there is a {r}"),
    *("is one of the objects a {r}", "check if there is a {r}", "tell me if there is a {r}"),
)
POSITION = (
    *(
        "where is the {r}",
        "where is the {r}",
        "where is the {r} located",
        "where can i find the {r}",
    ),
    *(
        "what is the position of the {r}",
        "in which part of the picture is the {r}",
        "where's the {r}",
    ),
    *("position of the {r}", "tell me where the {r} is", "location of the {r}", "find the {r}"),
    *("what is the location of the {r}", "where do you see the {r}", "locate the {r}"),
    *("where in the picture is the {r}", "which part of the picture shows the {r}"),
    *("at which place is the {r}", "the {r} is where", "where does the {r} lie", "where is {r}"),
    *("show me where the {r} is", "where was the {r} drawn", "on which side is the {r}"),
)
AT = (
    *(
        "what is at the {w}",
        "what is at the {w}",
        "what is in the {w}",
        "what do you see at the {w}",
    ),
    *("what object is at the {w}", "what's at the {w}", "which object is at the {w}"),
    *("name the object at the {w}", "what can be seen at the {w}", "what lies at the {w}"),
    *("what is on the {w}", "tell me what is at the {w}", "what is there at the {w}"),
    *("what is in the {w} corner", "what is in the {w} part", "which thing is in the {w}"),
)
RELATION = (
    *("is the {a} {rel} the {b}", "is the {a} {rel} the {b}", "is the {a} located {rel} the {b}"),
    *(
        "is {a} {rel} {b}",
        "does the {a} lie {rel} the {b}",
        "would you say the {a} is {rel} the {b}",
    ),
    *("the {a} is {rel} the {b}, right", "true or false: the {a} is {rel} the {b}"),
    *("do you see the {a} {rel} the {b}", "check if the {a} is {rel} the {b}"),
    *("tell me if the {a} is {rel} the {b}", "is it true that the {a} is {rel} the {b}"),
)
NEIGHBOR = (
    *("what is {rel} the {b}", "what is {rel} the {b}", "which object is {rel} the {b}"),
    *("what do you see {rel} the {b}", "what's {rel} the {b}", "what object is {rel} the {b}"),
    *("name the object {rel} the {b}", "tell me what is {rel} the {b}", "what lies {rel} the {b}"),
)
BIGGER = (
    *("which is bigger, the {a} or the {b}", "which one is larger, the {a} or the {b}"),
    *("what is bigger, the {a} or the {b}", "which is larger: {a} or {b}"),
    *("is the {a} or the {b} bigger", "which object is bigger, the {a} or the {b}"),
)
WORD = (
    *("what does it say", "what does it say", "what word is written", "what is written"),
    *("read the text", "what does the text say", "what is the word", "which word do you see"),
    *("read the word", "what text is there", "what is the text", "can you read the word"),
    *("what word is shown", "what does the picture say", "tell me the word", "which word is it"),
    *("what word is in the picture", "text", "read it", "what do the letters say"),
)
NUMBER = (
    *("what number is written", "what number is written", "what number is shown"),
    *("what is the number", "which number do you see", "read the number", "which number is it"),
    *("what number is in the picture", "tell me the number", "what number does it show"),
    *("can you read the number", "what does it say", "what is written", "which number is there"),
)
HAS_TEXT = (
    *("is there any text", "is there text", "is something written", "do you see any text"),
    *("is there a word or a number", "is anything written", "does the picture have text"),
)
BACKGROUND = (
    *("what color is the background", "what is the background color", "color of the background"),
    *("what color is the back", "which color is the background", "background color"),
    *("what color does the background have", "tell me the background color"),
    *("name the color of the background", "what is behind the objects: which color"),
)
TONE = (
    *("is the background light or dark", "is the background dark or light", "light or dark"),
    *(
        "is the picture light or dark",
        "is the picture dark or bright",
        "how bright is the background",
    ),
    *("what tone does the background have", "is it a light or a dark background"),
)
DESCRIBE = (
    *("describe the picture", "describe the image", "describe the image", "what is in the picture"),
    *("what do you see", "describe this picture", "describe what you see", "describe it"),
    *("what is shown in the picture", "please describe the picture", "tell me what you see"),
    *("give a description of the picture", "what does the picture show", "describe"),
    *("list the objects", "what objects are there", "name all objects", "caption this picture"),
    *("describe the scene", "describe everything you see", "what can you see", "list everything"),
    *("what objects are in the picture", "write a caption", "what's in the image", "what is this"),
)


def vary(text: str, rng: random.Random, chance: float = 0.18) -> str:
    """Some words replaced by synonyms, each where it stands with probability `chance`."""
    words = text.split(" ")
    for i, word in enumerate(words):
        bare = word.rstrip("s,.:?")
        if bare in SYNONYMS and rng.random() < chance:
            words[i] = rng.choice(SYNONYMS[bare]) + word[len(bare) :]
    return " ".join(words)


def phrase(template: str, rng: random.Random) -> str:
    """A filled template as a person may type it: a lead, a tail, a mark, or none of them."""
    text = template
    roll = rng.random()
    if roll < 0.12:
        text = f"{rng.choice(LEADS)}{rng.choice((' ', ', ', ': '))}{text}"
    elif roll < 0.30:
        text = f"{text}{rng.choice((' ', ' ', ', '))}{rng.choice(TAILS)}"
    text = vary(text, rng)
    return text + rng.choices(("?", "", ".", "!", " ?"), (70, 18, 9, 1, 2))[0]
