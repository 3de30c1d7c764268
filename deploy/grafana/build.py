"""Writes dashboards/*.json from the three dashboards as code: ``python -m deploy.grafana.build``.

The JSON is committed, so that whoever deploys needs no Python; a test holds the two together.
"""

from __future__ import annotations

import json
from pathlib import Path

from deploy.grafana.dashboard import Dashboard
from deploy.grafana.pages import compute_savings, quality, service

FOLDER = Path(__file__).parent / "dashboards"
DASHBOARDS: tuple[Dashboard, ...] = (
    compute_savings.DASHBOARD,
    service.DASHBOARD,
    quality.DASHBOARD,
)


def text_of(dashboard: Dashboard) -> str:
    """The file's content, the same on every machine."""
    return json.dumps(dashboard.json(), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write every dashboard."""
    FOLDER.mkdir(exist_ok=True)
    for dashboard in DASHBOARDS:
        path = FOLDER / f"{dashboard.uid}.json"
        path.write_text(text_of(dashboard), encoding="utf-8")


if __name__ == "__main__":
    main()
