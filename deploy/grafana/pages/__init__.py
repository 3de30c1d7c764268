"""The dashboards: what each shows, section by section."""
