"""List the runs: their versions, aliases, updates, losses, scores, sizes, and where they are, on disk or in a tracker.

--publish uploads what a tracker lacks of a run; --prune deletes from wandb the versions that the run has dropped;
--verify finds damaged files.
"""

from __future__ import annotations

from collections.abc import Sequence

import config
from cli import launch, parser


def main(argv: Sequence[str] | None = None) -> int:
    """List, publish, prune or verify, as the command line says; returns the exit status."""
    options, given = parser.parse(config.RunsOptions, argv)

    from checkpoints import catalog, verify
    from tracking import listing, publishing

    if options.verify:
        return verify.verify(catalog.find_run(options.output_dir, options.run_id))
    options = listing.inherit_tracker(options, given)
    if options.publish:
        return publishing.publish(options)
    if options.prune:
        return publishing.prune(options)
    return listing.print_listing(options)


if __name__ == "__main__":
    launch.run_script(main)
