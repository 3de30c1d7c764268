"""Questions about images, read from a user's own files; for training, evaluation and analysis."""

from dyvte.data.pictures import Picture
from dyvte.data.reader import read_samples
from dyvte.data.sample import DataError, Sample, Skip, Skips, loaded

__all__ = ["DataError", "Picture", "Sample", "Skip", "Skips", "loaded", "read_samples"]
