"""One HTML page that shows versions of one or several runs side by side: scores, covers, learning curves, commands.

It opens from disk, needs no network, and holds everything: nothing else has to be sent along.
"""

from __future__ import annotations

import config
from cli import launch, parser


def main(argv: list[str] | None = None) -> int:
    """Draw the covers that are missing, then write the page."""
    options, given = parser.parse(config.ReportOptions, argv)

    from page import report

    report.require_writable(options.report_path)
    launch.launch_on_gpus(options.num_gpus, __file__, argv)
    report.write_report(options, given)
    return 0


if __name__ == "__main__":
    launch.run_script(main)
