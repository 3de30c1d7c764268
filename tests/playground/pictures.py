"""The pictures in docs/figures/playground: the page with the demo model, on two screens.

    PYTHONPATH=.venv/browser python -m tests.playground.pictures

Times in them are those of the machine that ran it.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from PIL import Image

from server.__main__ import open_engine
from server.settings import Settings
from tests.playground.chromium import ask, launched, show, visit
from tests.server.running import serve

Screen = dict[str, Any]
RGB = tuple[int, int, int]

DESKTOP: Screen = {"viewport": {"width": 1280, "height": 800}}
PHONE: Screen = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
SETTLED_MS = 1000  # bars grow, a phone scrolls


def described(page: Any) -> None:
    """One answer with its account."""
    show(page, "A red circle")
    ask(page, "Describe the picture.")


def compared(page: Any) -> None:
    """An exit that comes too early, beside none."""
    show(page, "A red star")
    page.locator(".chip", has_text="Aggressive").click()
    page.locator("#compare").check()
    ask(page)
    page.locator("#verdict").wait_for()


def pruned(page: Any) -> None:
    """Half of the visual tokens leave before the gates let the others go."""
    show(page, "Three hearts")
    page.locator("#prune summary").click()
    page.locator("#prune-method").select_option("fastv")
    ask(page)


SHOTS: dict[str, tuple[Callable[[Any], None], Screen, str]] = {
    "answer": (described, DESKTOP, "light"),
    "compare": (compared, DESKTOP, "dark"),
    "phone": (pruned, PHONE, "light"),
    "phone-dark": (pruned, PHONE, "dark"),
}


def small(png: bytes, path: Path) -> None:
    """Few colours, a third of the bytes: the commonest, so that no flat area is tinted, and some
    that lie far apart, so that none is lost."""
    with Image.open(io.BytesIO(png)) as shot:
        page = shot.convert("RGB")
    counted = page.getcolors(page.width * page.height) or []
    common = [colour for _, colour in sorted(counted, reverse=True)[:192]]
    palette = Image.new("P", (1, 1))
    apart = page.quantize(64, method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette.putpalette([part for colour in common for part in cast(RGB, colour)] + apart)
    page.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the demo, ask, draw."""
    parser = argparse.ArgumentParser("python -m tests.playground.pictures", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/figures/playground"))
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    engine = open_engine(Settings(model="demo", device="cpu"))
    with serve(engine, log_level="warning") as base, launched() as browser:
        for name, (act, screen, scheme) in SHOTS.items():
            with visit(browser, base, color_scheme=scheme, **screen) as seen:
                act(seen.page)
                seen.page.wait_for_timeout(SETTLED_MS)
                small(seen.page.screenshot(), args.out / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
