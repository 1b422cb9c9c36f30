"""`python -m tests.compatibility`: what has changed since the snapshots were written, and what it means.

`--write` rewrites them (`make snapshots`). `--since REVISION` compares them with those of a git revision,
such as the tag of the last release, and says which step of the version the changes need.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from polos_redis.embedded import EmbeddedServer
from tests.compatibility import snapshots
from tests.compatibility.surfaces import all_facts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compatibility", description=__doc__)
    parser.add_argument("--write", action="store_true", help="rewrite the snapshots")
    parser.add_argument("--since", metavar="REVISION", help="compare the snapshots with those of a revision")
    options = parser.parse_args()
    if options.since:
        try:
            found = snapshots.since(options.since)
        except RuntimeError as error:
            parser.error(f"--since {options.since}: git says: {error}")
    else:
        with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder) / "redis") as server:
            work = Path(folder) / "work"
            work.mkdir()
            facts = all_facts(server.url, "snapshots", work)
        found = [
            change
            for surface, after in facts.items()
            for change in snapshots.changes(surface, snapshots.read(surface), after)
        ]
        if options.write:
            for surface, after in facts.items():
                snapshots.write(surface, after)
    print(snapshots.report(found) or "No difference.")
    return 1 if found and not (options.write or options.since) else 0


if __name__ == "__main__":
    sys.exit(main())
