"""From decoded pictures to a tower's inputs, and what towers cost."""
