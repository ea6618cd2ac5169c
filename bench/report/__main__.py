"""`python -m bench.report [RAW]`: makes docs/performance.md from raw figures, or anew from RAW."""

from __future__ import annotations

import sys
from pathlib import Path

from bench.report.document import PAGE, PLOTS, filled, plots, with_raw
from tunneld.errors import UsageError


def main(argv: list[str]) -> int:
    page = PAGE.read_text()
    try:
        for path in argv:
            page = with_raw(page, Path(path))
    except (UsageError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    PAGE.write_text(filled(page))
    PLOTS.mkdir(exist_ok=True)
    for place, text in plots(page).items():
        place.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
