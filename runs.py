"""The runs: their versions, aliases, updates, losses, scores, sizes, and where they are, on this disk or in a tracker.

With --publish a tracker gets what it has missed of a run; with --prune wandb loses what the run's list has dropped.
"""

from __future__ import annotations

import config
from cli import launch, parser


def main(argv=None):
    """List, publish or prune. Returns the exit status."""
    options, given = parser.parse(config.RunsOptions, argv)

    from tracking import listing, publishing

    options = listing.with_tracker_of_run(options, given)
    if options.publish:
        return publishing.publish(options)
    if options.prune:
        return publishing.prune(options)
    return listing.print_listing(options)


if __name__ == "__main__":
    launch.run_script(main)
