"""Does ``transformers``' tensor-parallel plan hold with packed rows? Processes on the CPU (gloo).

Each process loads its shard of the model by the model's own plan and runs the ordinary engine on
the same prompts, packed together; its cache holds its own key/value heads. Compared with one
process that has the whole model, in float32: tokens, exits, and whether the processes agree.
Needs the package ``accelerate``, with which ``transformers`` loads shards.

    python -m benchmarks.tensor_parallel --model demo --processes 2
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import ProcessException, spawn
from transformers import DistributedConfig

import dyvte
from benchmarks.machine import Origin
from dyvte.demo.dataset import Sample, samples
from dyvte.models.checkpoints.native import native_adapter
from dyvte.models.checkpoints.opened import implementations, read_config
from dyvte.models.decoder import DecoderAdapter
from dyvte.models.registry import find

EXITS: dict[str, dict[str, Any]] = {
    "off": {"policy": "off"},
    "fixed": {"policy": "fixed", "exit_layer": 5},
    "gate": {"aggressiveness": 0.5},
    "fastv": {"policy": "off", "prune": {"method": "fastv", "layer": 3, "ratio": 0.5}},
    "divprune": {"policy": "off", "prune": {"method": "divprune", "layer": 0, "ratio": 0.5}},
    "state": {"policy": "state", "aggressiveness": 0.012},
}
PORT = 29_613


def answers(model: dyvte.Model, policy: str, args: argparse.Namespace) -> dict[str, Any]:
    """Tokens and exit layers of all prompts, and what this process holds of the model."""
    prompts = [model.prompt(_messages(sample)) for sample in samples(args.prompts, "test")]
    sampling = dyvte.SamplingParams(max_tokens=args.max_tokens, temperature=0, ignore_eos=True)
    exits = dyvte.ExitOptions(**EXITS[policy])
    results = dyvte.generate(model, prompts, sampling, exits)
    adapter = model.adapter
    assert isinstance(adapter, DecoderAdapter)
    return {
        "tokens": [result.token_ids for result in results],
        "exits": [result.exit_layer for result in results],
        "bytes": sum(_bytes(parameter) for parameter in adapter.model.parameters()),
        "kv_heads": adapter.decoder.num_kv_heads,
    }


def _messages(sample: Sample) -> list[dict[str, Any]]:
    picture = {"type": "image", "image": sample.picture}
    return [{"role": "user", "content": [picture, {"type": "text", "text": sample.question}]}]


def _bytes(parameter: torch.Tensor) -> int:
    local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return local.numel() * local.element_size()


def sharded(name: str, processes: int) -> dyvte.Model:
    """This process's share of the model, with a cache for its own heads."""
    whole = dyvte.load(name, device="cpu", dtype="float32")
    folder = find(name)
    family = native_adapter(read_config(folder))
    assert family is not None, "only transformers' own layout has a plan"
    shard = family.native.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation=implementations(),
        distributed_config=DistributedConfig(tp_size=processes),
    )
    adapter = family(shard.eval(), whole.gates)
    heads = adapter.decoder.num_kv_heads // processes
    adapter.decoder = replace(adapter.decoder, num_kv_heads=heads)
    return replace(whole, adapter=adapter)


def work(rank: int, policy: str, args: argparse.Namespace, out: str) -> None:
    """One process."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(args.processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(PORT),
    }
    found = answers(sharded(args.model, args.processes), policy, args)
    (Path(out) / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    torch.distributed.destroy_process_group()


def together(policy: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """What each process answered. Raises ProcessException where they part ways."""
    with tempfile.TemporaryDirectory() as out:
        spawn(work, (policy, args, out), nprocs=args.processes)
        paths = [Path(out) / f"{rank}.json" for rank in range(args.processes)]
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def main(argv: Sequence[str] | None = None) -> int:
    """Run both ways and print what is the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=16)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(Origin.here([Path(sys.argv[0]).name, *sys.argv[1:]], 0, "cpu"))
    whole = dyvte.load(args.model, device="cpu", dtype="float32")
    for policy in EXITS:
        alone = answers(whole, policy, args)
        try:
            print(policy, told(alone, together(policy, args)), sep="\t", flush=True)
        except ProcessException as error:
            print(policy, f"the processes part ways: {str(error).splitlines()[-1]}", sep="\t")
    return 0


def told(alone: dict[str, Any], ranks: Sequence[dict[str, Any]]) -> str:
    """Equal answers, equal exits, whether all processes agree, and what each holds."""
    count = len(alone["tokens"])
    same = {
        field: sum(a == b for a, b in zip(alone[field], ranks[0][field], strict=True))
        for field in ("tokens", "exits")
    }
    agree = all(rank["tokens"] == ranks[0]["tokens"] for rank in ranks)
    share = max(rank["bytes"] for rank in ranks) / alone["bytes"]
    heads = [rank["kv_heads"] for rank in ranks]
    return (
        f"same tokens {same['tokens']}/{count}, same exits {same['exits']}/{count}, processes "
        f"agree: {agree}; weights {share:.2f} of {alone['bytes']} B, KV heads {heads} of "
        f"{alone['kv_heads']}"
    )


if __name__ == "__main__":
    sys.exit(main())
