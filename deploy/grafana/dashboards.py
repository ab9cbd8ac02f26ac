#!/usr/bin/env python3
"""Makes the dashboards: `dashboards.py` writes dashboards/*.json, `dashboards.py --check` compares.

Needs grafana-foundation-sdk (`make dashboards` brings it). A row begins with what tells that something
is wrong; what tells why stands behind it.
"""

import pathlib
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from load_run import load_run
from overview import overview
from stores import stores

FOLDER = pathlib.Path(__file__).parent / "dashboards"


def main():
    differ = []
    for dashboard in (overview(), stores(), load_run()):
        path = FOLDER / f"{dashboard.uid}.json"
        made = JSONEncoder(sort_keys=True, indent=2).encode(dashboard) + "\n"
        if "--check" not in sys.argv:
            path.write_text(made)
        elif not path.exists() or path.read_text() != made:
            differ.append(path.name)
    if differ:
        sys.exit(f"not what dashboards.py makes, run `make dashboards`: {', '.join(differ)}")


if __name__ == "__main__":
    main()
