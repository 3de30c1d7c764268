"""`dyvte train`: gates from what `dyvte collect` wrote; the language model is not loaded."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dyvte.cli.progress import Bar
from dyvte.cli.usage import CommandError, Parser, number, whole
from dyvte.errors import OptionError

if TYPE_CHECKING:
    from dyvte.training.collection import Collection
    from dyvte.training.fit import Fit, FitConfig

REPORT = "training.json"


def run(argv: Sequence[str]) -> int:
    """Fit, print how each layer's gate decides, write the gate folder and the report."""
    args = _parser().read(argv)
    if not args.data.is_dir():
        raise CommandError(f"--data {args.data} is not a folder", "make it with dyvte collect")
    args.out.mkdir(parents=True, exist_ok=True)  # before work that would be lost

    from dyvte.training.collection import load_collected  # torch loads here
    from dyvte.training.fit import fit
    from dyvte.training.verdict import as_table

    collection = load_collected(args.data)
    kind = args.labels or ("paper" if collection.consistent is None else "self")
    label = collection.label(kind)
    if label is None:
        raise OptionError("labels", f"{kind} was not collected in {args.data}; use the other kind")
    config = _config(args)
    columns, layers = _layers(collection, args.min_layer)
    with Bar("fitting", len(layers), "layers") as bar:
        found = fit(
            collection.status_of, label[:, columns], collection.groups, layers, config, bar.update
        )
    _write(args.out, collection, found, config, kind)
    print(as_table(found.layers))
    if found.without:
        print(f"no gate for layers {', '.join(map(str, found.without))}: hardly anything may exit")
    print(f"{args.out}: {len(found.layers)} gates, {found.gates.parameters} parameters")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "dyvte train",
        "Fit one gate per collected layer; prints how each decides on samples kept aside.",
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="what dyvte collect wrote")
    add("--out", type=Path, required=True, metavar="DIR", help="gate folder to write")
    add(
        "--shape",
        choices=("full", "compact"),
        default="compact",
        help="full: the paper's 2d → 2048 → 2; compact: 2d → 64 → 2",
    )
    add("--inner", type=whole(1), metavar="N", help="another inner width")
    add("--labels", choices=("paper", "self"), help="default: self where it was collected")
    add("--min-layer", type=whole(0), default=0, metavar="L", help="no gate below this layer")
    add("--epochs", type=whole(1), metavar="N", help="at most; an early stop ends a layer")
    add("--patience", type=whole(1), metavar="N", help="epochs without gain before it stops")
    add("--lr", type=number, metavar="R", help="highest learning rate")
    add("--balance", type=number, metavar="B", help="0 … 1: how far rare labels weigh more")
    add(
        "--held-out",
        type=number,
        metavar="P",
        help="share kept from learning: half to stop on, half to report on",
    )
    add("--seed", type=whole(0), default=0, metavar="S")
    return parser


def _config(args: argparse.Namespace) -> FitConfig:
    from dyvte.exits.gate import INNER
    from dyvte.training.fit import COMPACT, FitConfig

    inner = args.inner or (INNER if args.shape == "full" else COMPACT)
    names = ("epochs", "patience", "lr", "balance", "held_out", "seed")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return FitConfig(inner=inner, **given)


def _layers(collection: Collection, lowest: int) -> tuple[list[int], list[int]]:
    """Columns and layers that may get a gate: the last layer's would save nothing."""
    chosen = [
        (column, layer)
        for column, layer in enumerate(collection.layers)
        if lowest <= layer < collection.num_layers - 1
    ]
    if not chosen:
        raise OptionError(
            "min_layer", f"{lowest} leaves no layer below the last of {collection.num_layers}"
        )
    return [column for column, _ in chosen], [layer for _, layer in chosen]


def _write(out: Path, collection: Collection, found: Fit, config: FitConfig, kind: str) -> None:
    from dyvte.exits.files import GateCard, write_gates

    about = collection.settings
    card = GateCard(
        hidden_size=collection.shape.hidden_size,
        num_layers=collection.num_layers,
        layers=tuple(sorted(found.gates.layers)),
        model=collection.origin,
        trained_on=f"{len(collection)} samples of {about.get('data')} on {about.get('model')}, "
        f"labels {kind}, inner width {config.inner}, seed {config.seed}",
        training_data=str(about.get("data_digest", "")),
    )
    write_gates(out, found.gates, card)
    report = {
        "labels": kind,
        "config": asdict(config),
        "collected": about,
        "parameters": found.gates.parameters,
        "layers": [asdict(layer) for layer in found.layers],
        "without": found.without,
    }
    (out / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
