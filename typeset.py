"""Sets title and author as type on a picture, or on a folder of pictures.

python -m typeset PICTURE --title TITLE --author AUTHOR
"""

from __future__ import annotations

import config
from cli import launch, parser


def main(argv: list[str] | None = None) -> int:
    """Write <name>.typeset.png for each picture."""
    options, _ = parser.parse(config.TypesetOptions, argv)

    from generation import type_on_covers

    type_on_covers.typeset(options)
    return 0


if __name__ == "__main__":
    launch.run_script(main)
