"""Opening a folder in ``transformers``' layout, or its configs alone; writing one."""
