"""Gates from a frozen model: collect (status, label) pairs, then fit; the model never learns."""
