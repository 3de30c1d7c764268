"""The embedded default model: its picture world, its questions, its training recipe.

Everything here makes or measures one artefact, the LLaVA folder in `assets/`. The rest of the
library never imports this package; it only loads that folder like any other model.
"""
