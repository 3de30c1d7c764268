"""The paper's figures for any model and data: where attention goes, and what an exit does to it."""
