"""EAGLE X4/X5: several vision towers, one file each, whose channels lie side by side."""
