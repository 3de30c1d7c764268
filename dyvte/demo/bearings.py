"""Teaching text rows what they found in the picture: where an object is, and how many there are.

Owns three readings of the decoder's text rows, linear ones, so that later layers can use what is
read. A row that names an object carries its place and extent. The row that answers a comparison
carries the way from one object to the other. The row that counts carries the number. None of it
is in the finished model.
Legend: B pictures, G lanes, T rows per lane, O owners, W decoder width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyvte.demo.lanes import Lanes
from dyvte.demo.places import Places
from dyvte.demo.render import PRINT_ID
from dyvte.demo.sight import Figures

PLACE_LAYER = 3
NUMBER_LAYER = 3
WAY_LAYERS = (4, 5)
_NUMBERS = 8


def frames_of_owners(figures: Figures, centers_V3: Tensor) -> Tensor:
    """[B, O, 3]: x, y and extent of every object that some patch shows; zero where none does."""
    shown = F.one_hot(figures.owners, PRINT_ID + 1).float()
    placed = shown.mT @ (figures.frames + centers_V3)
    return placed / shown.sum(1).clamp(min=1)[..., None]


class Bearings(nn.Module):
    """Watches the text rows of one forward pass; `loss` holds what they got wrong."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.place = nn.Linear(width, 3)
        self.way = nn.Linear(width, 3)
        self.number = nn.Linear(width, _NUMBERS)
        self.loss = torch.zeros(())
        self.seen: dict[str, float] = {}

    def begin(self, lanes: Lanes, figures: Figures, places: Places) -> None:
        self.lanes = lanes
        self.objects_BO3 = frames_of_owners(figures, places.centers)
        # Every process must have a gradient for every head, whatever its questions are.
        self.loss = 0 * torch.stack([p.sum() for p in self.parameters()]).sum()
        self.seen = {}

    def watch(self, index: int, states_BGTW: Tensor) -> None:
        """Look at the text rows after layer `index`."""
        if index == PLACE_LAYER:
            self._places(states_BGTW)
        if index == NUMBER_LAYER:
            self._numbers(states_BGTW)
        if index in WAY_LAYERS:
            self._ways(states_BGTW)

    def _places(self, states: Tensor) -> None:
        names = self.lanes.names
        picture, lane, row = ((names > 0) & (names < PRINT_ID)).nonzero(as_tuple=True)
        if len(picture):
            wanted = self.objects_BO3[picture, names[picture, lane, row]]
            error = (self.place(_normed(states[picture, lane, row])) - wanted).abs()
            self.loss = self.loss + 4 * error.mean()
            self.seen["place"] = float(error.detach().mean())

    def _ways(self, states: Tensor) -> None:
        pairs = self.lanes.pairs
        picture, lane, row = (pairs[..., 0] != pairs[..., 1]).nonzero(as_tuple=True)
        if len(picture):
            first, second = pairs[picture, lane, row].unbind(-1)
            a, b = (self.lanes.names[picture, lane, i] for i in (first, second))
            wanted = self.objects_BO3[picture, a] - self.objects_BO3[picture, b]
            error = (self.way(_normed(states[picture, lane, row])) - wanted).abs()
            self.loss = self.loss + 10 * error.mean()
            self.seen["way"] = float(error.detach().mean())

    def _numbers(self, states: Tensor) -> None:
        tallies = self.lanes.tallies
        chosen = tallies >= 0
        if chosen.any():
            wanted = sum((tallies[chosen] >> i) & 1 for i in range(1, PRINT_ID))
            scores = self.number(_normed(states[chosen]))
            self.loss = self.loss + F.cross_entropy(scores, torch.as_tensor(wanted))
            self.seen["number"] = float((scores.detach().argmax(-1) == wanted).float().mean())


def _normed(states: Tensor) -> Tensor:
    return F.rms_norm(states, states.shape[-1:])
