"""What `dyvte check` found out, as tables and a few sentences for a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from rich import box
from rich.console import Console
from rich.table import Table

from dyvte.cli.account import si
from dyvte.inspection import GateFacts, Inspection
from dyvte.sizing import depths

NAMES = {Fraction(3, 4): "¾", Fraction(1, 2): "½", Fraction(1, 4): "¼"}


def show(found: Inspection, console: Console) -> None:
    """Print everything."""
    _heading(found, console)
    for table in (_parts(found), _images(found), _requests(found), _memory(found)):
        console.print(table)
    for sentence in _sentences(found):
        console.print(sentence, highlight=False, soft_wrap=True)


def _heading(found: Inspection, console: Console) -> None:
    model = found.model
    read = f"loaded on {model.device}" if model.loaded else "no weight was read"
    kernels = (f"kernels for {model.kernels}",) if model.kernels else ()
    facts = (
        f"[bold]{model.name}[/]",
        model.family,
        f"{model.layout} layout",
        read,
        model.dtype,
        *kernels,
        f"context {model.context}",
    )
    console.print(" · ".join(facts), highlight=False, soft_wrap=True)


def _count(parameters: int) -> str:
    """``13.4 B``: of parameters people say billions, not giga."""
    return si(parameters).strip().replace("G", "B")


def _table(title: str, left: Iterable[str], right: Iterable[str]) -> Table:
    """Columns of words, then columns of numbers."""
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD)
    for head in left:
        table.add_column(head)
    for head in right:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _parts(found: Inspection) -> Table:
    table = _table("", ("part", "kind"), ("layers", "width", "parameters"))
    for part in found.parts:
        kind = part.kind
        if part.part == "decoder":
            kind += f", {found.model.heads} heads, {found.model.kv_heads} kv heads"
        sizes = ("" if each is None else str(each) for each in (part.layers, part.width))
        table.add_row(part.part, kind, *sizes, _count(part.parameters))
    total = sum(part.parameters for part in found.parts)
    weights = f"{si(found.model.weight_bytes)}B in {found.model.dtype}"
    table.add_section()
    table.add_row("all", weights, "", "", _count(total))
    return table


def _images(found: Inspection) -> Table:
    table = _table("", ("image",), ("visual tokens", "tower and projector"))
    for image in found.images:
        size = f"{image.width}x{image.height}"
        table.add_row(size, str(image.visual_tokens), f"{si(image.vision_flops)}FLOPs")
    return table


def _requests(found: Inspection) -> Table:
    asked, image = found.request, found.images[0]
    table = _table(
        f"one image of {image.width}x{image.height} ({asked.visual} visual tokens), "
        f"{asked.text} text tokens, {asked.generated} generated",
        ("image leaves",),
        ("vision + prefill", "whole request", "saved", "KV"),
    )
    for cost in found.requests:
        flops = cost.flops
        table.add_row(
            _leaves(found, cost.exit_layer),
            f"{si(flops.vision + flops.prefill)}FLOPs",
            f"{si(flops.total)}FLOPs",
            f"{flops.saved_ratio:.1%}" if cost.exit_layer is not None else "",
            f"{si(cost.kv_bytes)}B",
        )
    return table


def _memory(found: Inspection) -> Table:
    table = _table(
        f"memory for {found.serving.concurrency} such requests at once (estimate)",
        ("images have left",),
        ("weights", "KV pages", "activations", "together"),
    )
    for each in found.memory_estimate:
        numbers = (each.weights, each.kv_pages, each.activations, each.total)
        table.add_row(_leaves(found, each.exit_layer), *(f"{si(number)}B" for number in numbers))
    return table


def _leaves(found: Inspection, layer: int | None) -> str:
    """``after layer 15 of 32 (½)``."""
    if layer is None:
        return "never"
    num_layers = next(part.layers for part in found.parts if part.part == "decoder") or 0
    share = next(share for share, at in depths(num_layers).items() if at == layer)
    return f"after layer {layer} ({NAMES[share]} of {num_layers})"


def _sentences(found: Inspection) -> Iterable[str]:
    serving, asked = found.serving, found.request
    if found.images_assumed:
        yield "Visual tokens as the family's releases count: the folder has no image processor."
    rows = serving.rows_at_once(asked.prompt)
    yield (
        f"KV pages: {serving.concurrency} requests × layers × whole pages of {serving.page_size} "
        f"rows × 2 · kv heads · head_dim · {serving.itemsize} B; until a prefill ends its request "
        'holds what "never" needs.'
    )
    yield (
        f"Activations, an estimate: {rows} rows × (6 · hidden + 2 · (q + kv) + 3 · MLP) · "
        f"{serving.itemsize} B and the logits; the vision tower's own are left out."
    )
    yield (
        f"Beside these the server's prefix cache keeps {si(found.prefix_state_bytes)}B of hidden "
        "states of such a request once its image has left; what they may take of its budget is "
        "set aside when the KV pool is sized."
    )
    yield from _gates(found.gates)
    for note in found.model.notes:
        yield f"{note}."


def _gates(gates: GateFacts) -> Iterable[str]:
    if gates.layers:
        first, last = gates.layers[0], gates.layers[-1]
        whole = list(gates.layers) == list(range(first, last + 1))
        where = f"{first}..{last}" if whole else ", ".join(map(str, gates.layers))
        made = f", made for {gates.made_for}" if gates.made_for else ""
        yield (
            f"Gates at layers {where}{made}: {_count(gates.parameters)} parameters, asking "
            f"them all costs {si(gates.flops)}FLOPs."
        )
    else:
        yield "Gates: none. Savings within minutes: docs/exits.md."
    if gates.trained_on:
        yield f"Trained on {gates.trained_on}."
    if gates.calibrated:
        yield f"Calibrated: {', '.join(gates.calibrated)}; presets {', '.join(gates.presets)}."
    elif gates.layers:
        yield "Not calibrated: nobody measured how many answers an exit changes."
    yield f"Policies: {', '.join(gates.policies)}."
    if gates.note:
        yield f"Note: {gates.note}."
