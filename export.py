"""Writes a version of a run as a file or folder that other programs load, or uploads it.

python -m export --run_id ID --version best FILE.safetensors
"""

from __future__ import annotations

import config
from cli import launch, parser


def main(argv: list[str] | None = None) -> int:
    """Write what --to says: a single file, a LoRA file, a pipeline folder; or upload to the Hugging Face hub."""
    options, given = parser.parse(config.ExportOptions, argv)

    from publishing import files

    options, version = files.choose_version(options, given)
    if options.to == "hub":
        from publishing import hub

        hub.export_to_hub(options, version)
    else:
        files.export(options, version)
    return 0


if __name__ == "__main__":
    launch.run_script(main)
