"""Pruning methods: which visual tokens leave before the exit. One small file a method."""
