"""`dyvte calibrate`: what exits change and save on collected samples, into a gate card."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dyvte.cli.usage import CommandError, Parser, number, whole
from dyvte.exits.presets import RISKS

if TYPE_CHECKING:
    from dyvte.exits.files import GateCard
    from dyvte.exits.gate import GateBank
    from dyvte.training.calibrate import CalibrateConfig, Findings
    from dyvte.training.collection import Collection


def run(argv: Sequence[str]) -> int:
    """Measure, show the table, write the card."""
    args = _parser().read(argv)
    out = _out(args)

    from rich.console import Console

    from dyvte.cli.calibration_table import show
    from dyvte.exits.files import read_gates, write_card, write_gates
    from dyvte.training.calibrate import calibrate, check_unseen  # torch loads here
    from dyvte.training.collection import load_collected

    collection = load_collected(args.data)
    bank, card = read_gates(args.gates) if args.gates else (None, None)
    if bank is not None:
        bank.check(collection.shape.hidden_size, collection.num_layers)
        check_unseen(collection, card)
        _check_model(args, out, card, collection)
    config = _config(args, bank)
    findings = calibrate(collection, bank, config)
    found = _card(card, bank, collection, findings, config)
    if out == args.gates:
        write_card(out, found)
    else:
        write_gates(out, bank, found)
    show(findings.calibration, Console())
    for sentence in _sentences(findings, config):
        print(sentence)
    for warning in findings.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{out}: serve it with dyvte serve --gates {out}")
    return 0


def _parser() -> Parser:
    parser = Parser(
        "dyvte calibrate",
        "How many answers each setting changes, bounded with a stated confidence, and what it "
        "saves. Needs what dyvte collect --labels self wrote, and no model.",
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="a collection of unseen questions")
    add("--gates", type=Path, metavar="DIR", help="gates to measure; none: only state, fixed, vtw")
    add(
        "--foreign-gates",
        action="store_true",
        help="measure gates made for another model on the one of --data",
    )
    add("--out", type=Path, metavar="DIR", help="where the card goes (the gates' own folder)")
    add("--confidence", type=number, default=0.95, metavar="C", help="of every bound, 0..1")
    add("--policies", metavar="P", help="some of gate,state,fixed,vtw (all that can be measured)")
    add("--fit-share", type=number, default=0.4, metavar="S", help="of the pictures, fits state")
    add("--vtw-eta", type=number, default=0.003, metavar="N", help="highest mean KL of vtw, nats")
    add("--safe", type=number, default=RISKS["safe"], metavar="R", help="promise of that preset")
    add("--balanced", type=number, default=RISKS["balanced"], metavar="R", help="likewise")
    add("--seed", type=whole(0), default=0, metavar="S", help="of the split into parts")
    return parser


def _out(args: argparse.Namespace) -> Path:
    out: Path | None = args.out or args.gates
    if out is None:
        raise CommandError("--out is missing", "without --gates, say where the card goes")
    if out.is_file():
        raise CommandError(f"--out: {out} is a file", "give a folder with --out DIR")
    if args.gates is None and (out / "gates.safetensors").exists():
        raise CommandError(
            f"--out: {out} holds gates", "measure them with --gates, or go elsewhere"
        )
    return out


def _check_model(
    args: argparse.Namespace, out: Path, card: GateCard | None, collection: Collection
) -> None:
    """Gates of one model on another are measured when asked, and never in their own folder."""
    made_for = card.model if card else None
    if made_for is None or collection.origin is None or made_for.same_model(collection.origin):
        return
    what = f"were made for {made_for}, --data is of {collection.origin}"
    if not args.foreign_gates:
        raise CommandError(
            f"--gates {args.gates}: {what}", "to measure them on that model, add --foreign-gates"
        )
    if out == args.gates:
        raise CommandError(
            f"--gates {args.gates}: {what}", "name another folder with --out: the card would change"
        )


def _config(args: argparse.Namespace, bank: GateBank | None) -> CalibrateConfig:
    from dyvte.training.calibrate import POLICIES, CalibrateConfig

    policies = POLICIES if bank is not None else POLICIES[1:]
    if args.policies is not None:
        policies = tuple(filter(None, args.policies.split(",")))
        if "gate" in policies and bank is None:
            raise CommandError(
                "--policies: there are no gates to measure", "name them: --gates DIR"
            )
    return CalibrateConfig(
        policies,
        args.confidence,
        args.fit_share,
        args.seed,
        args.vtw_eta,
        safe=args.safe,
        balanced=args.balanced,
    )


def _card(
    card: GateCard | None,
    bank: GateBank | None,
    collection: Collection,
    findings: Findings,
    config: CalibrateConfig,
) -> GateCard:
    """The gates' own card, or a new one, with everything measured anew."""
    from dyvte.exits.files import GateCard
    from dyvte.exits.presets import presets_for

    layers = tuple(sorted(bank.layers)) if bank is not None else ()
    own = card or GateCard(collection.shape.hidden_size, collection.num_layers, layers)
    own.check(collection.shape.hidden_size, collection.num_layers)
    default = findings.calibration.default
    return replace(
        own,
        layers=layers,
        model=collection.origin or own.model,
        calibration=findings.calibration.as_json(),
        presets=presets_for(default, config.risks) if default else {},
        state=asdict(findings.state.scale) if findings.state else None,
        vtw=asdict(findings.vtw) if findings.vtw else None,
    )


def _sentences(findings: Findings, config: CalibrateConfig) -> list[str]:
    """What the table does not say."""
    said = []
    if findings.state is not None:
        saved = sorted(findings.state.saved.items(), key=lambda item: -item[1])
        told = ", ".join(f"{name} {value:.1%}" for name, value in saved)
        said.append(
            f"state reads {findings.state.scale.signal}; prefill saved at 2 % changed, {told}"
        )
    if findings.vtw is not None:
        layer = findings.vtw.k - 1
        said.append(
            f"vtw takes the image out after layer {layer} (mean KL under {config.vtw_eta:g})"
        )
    elif "vtw" in config.policies:
        said.append(f"vtw is not offered: no layer has a mean KL under {config.vtw_eta:g}")
    default = findings.calibration.default
    if default is not None:
        curve = findings.calibration.curve(default, conversation=False)
        proved = curve is not None and curve.lowest_risk(config.confidence) <= config.balanced
        what = "which keeps every image: too few samples"
        if proved:
            what = f"≤ {config.balanced * 100:.3g} % changed"
        said.append(f"the server's default will be {default}, {what}")
    return said
