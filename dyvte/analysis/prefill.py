"""One prompt through the engine's own prefill, watched: with an exit or without.

The same code that answers requests runs here (``dyvte.generate``, one token), with a backend that
lets the readers look on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dyvte.analysis.heatmap import Cells, HeatMap
from dyvte.analysis.profile import Layer, Profile
from dyvte.analysis.regions import Regions
from dyvte.analysis.rows import RowReader, WatchedAttention
from dyvte.attention import choose_backend
from dyvte.engine.build import EngineConfig
from dyvte.model import Model
from dyvte.offline import generate
from dyvte.params import ExitOptions, SamplingParams
from dyvte.prompt import Prompt

ONE = SamplingParams(max_tokens=1, temperature=0)


@dataclass(frozen=True, slots=True)
class Watched:
    """What a prefill showed. ``exit_layer`` None: the image stayed."""

    layers: list[Layer]
    exit_layer: int | None
    heat: HeatMap | None = None


def watch(
    model: Model, prompt: Prompt, exits: ExitOptions, heat_layers: Sequence[int] = ()
) -> Watched:
    """Run the prompt once under ``exits``; with ``heat_layers`` also draw those layers' grids.

    Raises PromptError, OptionError; ValueError for a prompt without an image.
    """
    adapter = model.adapter
    layout = adapter.layout(prompt)
    profile = Profile(Regions.of(layout, adapter.device))
    readers: list[RowReader] = [profile]
    heat = HeatMap(Cells.of(layout), heat_layers) if heat_layers else None
    if heat is not None:
        readers.append(heat)
    attention = choose_backend(adapter.device, adapter.dtype)
    backend = WatchedAttention(attention, readers, positions=layout.positions)
    config = EngineConfig(max_num_seqs=1)
    (result,) = generate(model, prompt, ONE, exits, config=config, attention=backend)
    return Watched(profile.layers(), result.exit_layer, heat)
