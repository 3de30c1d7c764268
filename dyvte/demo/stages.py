"""The stages of the training: what each teaches, for how long, and at what rate.

Owns numbers only. A rate rises over `warmup` steps, stays, and falls over the last `decay` share.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dyvte.demo.questions import MIX


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. `depth` counts the decoder layers in use; 0 trains the vision tower alone.

    `exits` is the share of steps with a random visual exit, `talks` that of pictures with a
    conversation; `glances` are further pictures that the tower names and nobody asks about.
    `scenes` are the seeds of the pictures that the stage draws from.
    """

    name: str
    steps: int
    rate: float
    pictures: int
    depth: int
    lanes: int = 3
    warmup: int = 50
    decay: float = 0.0
    final_rate: float = 0.1
    naming: float = 0.4
    guidance: float = 0.0
    sight: bool = False
    exits: float = 0.0
    talks: float = 0.0
    glances: int = 0
    scenes: range = range(40_000)
    mix: dict[str, float] = field(default_factory=lambda: dict(MIX))

    def __post_init__(self) -> None:
        if self.steps < 1 or self.pictures < 1:
            raise ValueError(f"stage {self.name!r}: steps and pictures must be at least 1")
        if not 0 <= self.exits <= 1:
            raise ValueError(f"stage {self.name!r}: exits={self.exits} is not a share in 0..1")

    def rate_at(self, step: int) -> float:
        """Learning rate of a step of this stage."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        falling = self.steps * self.decay
        left = (self.steps - step) / falling if falling else 1.0
        fall = self.final_rate + (1 - self.final_rate) * min(1.0, left)
        return self.rate * rise * fall


_HARD = MIX | {
    **{"shape": 5.0, "count": 4.0, "relation": 4.0, "neighbor": 1.5, "describe": 1.0},
    **{"background": 2.0},
}
_WEAK = MIX | {
    **{"shape": 5.0, "count": 6.0, "relation": 6.0, "neighbor": 2.0, "describe": 1.2},
    **{"presence": 3.0, "position": 2.5, "text": 0.5},
}
_POLISH = Stage(
    "polish",
    steps=1180,
    rate=1.7e-3,
    warmup=30,
    decay=1.0,
    final_rate=0.03,
    pictures=10,
    lanes=2,
    depth=12,
    guidance=0.3,
    naming=0.6,
    sight=True,
    exits=0.6,
    talks=0.2,
    glances=6,
    mix=_WEAK,
)
STAGES = (
    Stage("see", steps=1500, rate=4e-3, pictures=10, depth=0, sight=True),
    Stage(
        "read",
        steps=780,
        rate=3e-3,
        decay=0.36,
        final_rate=0.57,
        pictures=10,
        lanes=2,
        depth=6,
        guidance=0.4,
        naming=0.8,
        sight=True,
        mix=_HARD,
    ),
    Stage(
        "exits",
        steps=380,
        rate=1.7e-3,
        warmup=1,
        decay=1.0,
        final_rate=0.05,
        pictures=10,
        lanes=2,
        depth=12,
        guidance=0.3,
        naming=0.6,
        sight=True,
        exits=0.65,
        mix=_HARD,
    ),
    _POLISH,
    # Pictures that no stage before has seen: on the first ones the tower had begun to know shapes
    # by heart (98 % in training, 96 % on others).
    replace(
        _POLISH,
        name="hone",
        steps=1090,
        rate=1.0e-3,
        final_rate=0.02,
        pictures=8,
        guidance=0.2,
        naming=1.0,
        glances=16,
        scenes=range(300_000, 350_000),
        mix=_WEAK | {"shape": 8.0, "count": 5.0, "relation": 5.0},
    ),
)
