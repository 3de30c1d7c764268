"""Teaching where to look: some heads' attention is led to what a question is about.

Owns the loss -log(attention mass on the patches of the right objects) for the rows that ask and
answer. It shows the lookup in minutes that answers alone take hours to find, and it has the
picture read in early layers, which is what a visual exit needs. For comparisons, two further
heads of later layers are led from the answer back to the words that name the two objects.
Legend: L lanes of all pictures, H heads, T rows per lane, S keys, V visual rows, D head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dyvte.demo.lanes import Lanes
from dyvte.demo.render import PRINT_ID

GUIDED_HEADS = 2
REST = 4.0
_NEVER = -1e9


class Guide:
    """Watches one layer for one batch; `loss` and `mass` are there after `watch` was called."""

    def __init__(self, looks: Tensor, owners_BV: Tensor) -> None:
        wanted = (looks[..., None] >> owners_BV[:, None, None, :]) & 1
        self.wanted_LTV = wanted.bool().flatten(0, 1)
        self.guided_LT = (looks > 0).flatten(0, 1)
        self.loss = torch.zeros(())
        self.mass = 0.0

    def watch(self, q_LHTD: Tensor, k_LHSD: Tensor, mask_L1TS: Tensor, start: int) -> None:
        """Take the loss from a layer's queries and keys; visual keys begin at `start`."""
        q, k = q_LHTD[:, :GUIDED_HEADS], k_LHSD[:, :GUIDED_HEADS]
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask_L1TS, _NEVER)
        visual = scores[..., start : start + self.wanted_LTV.shape[2]]
        right = visual.masked_fill(~self.wanted_LTV[:, None], _NEVER).logsumexp(-1)
        log_mass = (right - scores.logsumexp(-1)).clamp(min=-20)
        chosen = log_mass.transpose(1, 2)[self.guided_LT]
        if not len(chosen):
            return
        self.loss = -chosen.mean()
        self.mass = float(chosen.detach().exp().mean())


class PairGuide:
    """Leads two more heads to the rows that name the first and the second object."""

    def __init__(self, lanes: Lanes) -> None:
        self.pairs_LT2 = lanes.pairs.flatten(0, 1)
        self.loss = torch.zeros(())
        self.mass = 0.0

    def watch(self, q_LHTD: Tensor, k_LHSD: Tensor, mask_L1TS: Tensor, start: int) -> None:
        """Take the loss from a layer's queries and keys; lane keys are the last T."""
        del start
        lane, row = (self.pairs_LT2[..., 0] >= 0).nonzero(as_tuple=True)
        if not len(lane):
            return
        text = k_LHSD.shape[2] - q_LHTD.shape[2]
        heads = slice(GUIDED_HEADS, GUIDED_HEADS + 2)
        q, k = q_LHTD[:, heads], k_LHSD[:, heads]
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask_L1TS, _NEVER)
        wanted = self.pairs_LT2[lane, row] + text
        log_mass = scores[lane, :, row].log_softmax(-1).gather(-1, wanted[..., None])
        self.loss = -log_mass.clamp(min=-20).mean()
        self.mass = float(log_mass.detach().exp().mean())


class TallyGuide:
    """Leads two further heads of a row that counts to every object that counts, equally.

    What attention returns is an average, and an average has no number, unless a constant share
    stays outside of the picture: of n objects each gets 1 / (n + REST), and text rows the rest.
    """

    def __init__(self, lanes: Lanes, owners_BV: Tensor) -> None:
        self.lane, self.row = (lanes.tallies >= 0).flatten(0, 1).nonzero(as_tuple=True)
        tallies = lanes.tallies.flatten(0, 1)[self.lane, self.row]
        counted = ((tallies[:, None] >> torch.arange(PRINT_ID + 1)) & 1).float()
        owners = owners_BV[self.lane // lanes.tokens.shape[1]]
        self.shown_NVO = F.one_hot(owners, PRINT_ID + 1).float()
        counted = counted * self.shown_NVO.amax(1)
        self.wanted_NO = counted / (counted.sum(1, keepdim=True) + REST)
        self.loss = torch.zeros(())
        self.mass = 0.0

    def watch(self, q_LHTD: Tensor, k_LHSD: Tensor, mask_L1TS: Tensor, start: int) -> None:
        """Take the loss from a layer's queries and keys; visual keys begin at `start`."""
        if not len(self.lane):
            return
        heads = slice(GUIDED_HEADS, GUIDED_HEADS + 2)
        q, k = q_LHTD[self.lane, heads, self.row], k_LHSD[self.lane, heads]
        scores = (q[:, :, None] @ k.mT / q.shape[-1] ** 0.5)[:, :, 0]
        scores = scores.masked_fill(~mask_L1TS[self.lane, :, self.row], _NEVER)
        attention = scores.softmax(-1)
        visual = attention[..., start : start + self.shown_NVO.shape[1]]
        mass_NHO = visual @ self.shown_NVO
        rest_NH = 1 - visual.sum(-1)
        wanted, rest = self.wanted_NO[:, None], 1 - self.wanted_NO.sum(-1)[:, None]
        cross = -(wanted * mass_NHO.clamp(min=1e-6).log()).sum(-1)
        cross = cross - rest * rest_NH.clamp(min=1e-6).log()
        entropy = -torch.special.xlogy(wanted, wanted).sum(-1) - torch.special.xlogy(rest, rest)
        self.loss = 8 * (cross - entropy).mean()
        self.mass = float((cross - entropy).detach().mean())
