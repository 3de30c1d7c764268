"""The first requests of a process pay for allocations and kernel choices; these pay instead.

Captures the graphs of decode steps where the device has some, then runs one text prompt and, if
the tower can be fed, one picture through prefill and decode.
"""

from __future__ import annotations

import logging

from PIL import Image

from dyvte.engine.core import EngineCore
from dyvte.engine.events import EngineRequest
from dyvte.errors import DyvteError
from dyvte.params import SamplingParams
from dyvte.prompt import Prompt

log = logging.getLogger("dyvte.engine")


def warm_up(core: EngineCore) -> None:
    """Capture decode graphs, then run the warm-up prompts to their end.

    Raises what a broken model raises; graphs that cannot be captured are done without.
    """
    _capture(core)
    new = 2
    params = SamplingParams(max_tokens=new, temperature=0, ignore_eos=True)
    # As many rows as tell how long work takes: with fewer a layer's weights take most of the time.
    rows = min(core.runner.pace.least, core.max_model_len - new)
    prompts = [Prompt([0] * max(1, rows))]
    if core.model.chat is not None and core.model.process_images is not None:
        picture = Image.new("RGB", (64, 64), "gray")
        parts = [{"type": "image", "image": picture}, {"type": "text", "text": "warm up"}]
        prompts.append(core.model.prompt([{"role": "user", "content": parts}]))
    for index, prompt in enumerate(prompts):
        try:
            core.add(core.check(EngineRequest(f"warm-up-{index}", prompt, params)))
        except DyvteError as error:
            log.warning("warm-up prompt %d skipped: %s", index, error)
    while core.has_work:
        for emission in core.step():
            if emission.error is not None:
                raise emission.error


def _capture(core: EngineCore) -> None:
    graphs = core.runner.graphs
    if graphs is None or core.model.adapter.device.type != "cuda":
        return
    try:
        graphs.capture()
    except RuntimeError as error:
        log.warning("decode runs without CUDA graphs: %s", str(error).splitlines()[0])
        core.runner.graphs = None
