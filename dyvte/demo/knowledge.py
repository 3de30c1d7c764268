"""What the model knows without looking: small facts, manners, and whether there is a picture.

These questions need no visual token at all; they are why exits differ from question to question.
"""

from __future__ import annotations

import random

from dyvte.demo import wording as say

OPPOSITES = {
    **{"left": "right", "right": "left", "top": "bottom", "bottom": "top", "small": "large"},
    **{"large": "small", "light": "dark", "dark": "light", "above": "below", "below": "above"},
    **{"hot": "cold", "cold": "hot", "yes": "no", "no": "yes", "black": "white", "white": "black"},
    **{"open": "close", "stop": "go", "go": "stop"},
}
CORNERS = {"triangle": 3, "square": 4, "rectangle": 4, "hexagon": 6, "diamond": 4, "circle": 0}
MIXED = {
    ("blue", "yellow"): "green",
    ("red", "yellow"): "orange",
    ("red", "blue"): "purple",
    ("red", "white"): "pink",
    ("black", "white"): "gray",
}
OPPOSITE = ("what is the opposite of {w}", "opposite of {w}", "name the opposite of {w}")
SIDES = (
    "how many sides does a {s} have",
    "how many corners does a {s} have",
    "number of sides of a {s}",
    "how many corners has a {s} got",
)
MIXING = ("what color do {a} and {b} make", "mix {a} and {b}", "what is {a} mixed with {b}")
NEXT = ("what number comes after {n}", "what comes after {n}", "which number follows {n}")
SUM = ("what is {a} + {b}", "what is {a} plus {b}", "{a} + {b}", "add {a} and {b}")
PICTURE = (
    "is there a picture",
    "do you see a picture",
    "did i send an image",
    "can you see an image",
)
SMALL_TALK = {
    "hello": ("hello", "hi", "hey", "hello there", "good morning", "hi there", "good day"),
    "you are welcome.": ("thank you", "thanks", "thanks a lot", "thank you very much"),
    "i am a small demo model. i look at pictures of shapes and words.": (
        *("who are you", "what are you", "what is your name", "what model is this", "who is this"),
        *("introduce yourself", "tell me about yourself"),
    ),
    "i can name colors, shapes, sizes, places, numbers and words in a picture.": (
        *("what can you do", "help", "what can i ask", "how can you help me", "what do you know"),
    ),
    "goodbye!": ("goodbye", "bye", "see you", "bye bye"),
}
GREETING = {
    True: "hello! ask me about the picture.",
    False: "hello! send me a picture and ask about it.",
}


def _fact(rng: random.Random) -> tuple[str, str]:
    roll = rng.random()
    if roll < 0.3:
        word = rng.choice(tuple(OPPOSITES))
        return rng.choice(OPPOSITE).format(w=word), OPPOSITES[word]
    if roll < 0.5:
        shape = rng.choice(tuple(CORNERS))
        return rng.choice(SIDES).format(s=shape), str(CORNERS[shape])
    if roll < 0.65:
        pair = rng.choice(tuple(MIXED))
        a, b = rng.sample(pair, 2)
        return rng.choice(MIXING).format(a=a, b=b), MIXED[pair]
    if roll < 0.8:
        n = rng.randrange(9)
        return rng.choice(NEXT).format(n=n), str(n + 1)
    a_number, b_number = rng.randrange(6), rng.randrange(5)
    return rng.choice(SUM).format(a=a_number, b=b_number), str(a_number + b_number)


def chat(rng: random.Random, with_picture: bool) -> tuple[str, str]:
    """A question and its answer, both independent of what a picture shows."""
    roll = rng.random()
    if roll < 0.55:
        text, answer = _fact(rng)
    elif roll < 0.7:
        text, answer = rng.choice(PICTURE), "yes" if with_picture else "no"
    else:
        answer = rng.choice(tuple(SMALL_TALK))
        text = rng.choice(SMALL_TALK[answer])
        answer = GREETING[with_picture] if answer == "hello" else answer
        return text + rng.choice(("", "", "!", ".", "?")), answer
    return say.phrase(text, rng), answer
