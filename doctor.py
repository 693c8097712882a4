"""Checks whether this machine can train: GPU, driver, libraries, memory and disk; and what to do if not.

python -m doctor
"""

from __future__ import annotations

import config
from cli import launch, parser
from common.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Print the report. Returns the exit status."""
    options, _ = parser.parse(config.DoctorOptions, argv)

    try:
        import cli.doctor
    except ModuleNotFoundError as problem:
        raise UserError(f"{problem.name} is not installed: run make doctor, which installs it") from None
    return cli.doctor.main(options)


if __name__ == "__main__":
    launch.run_script(main)
