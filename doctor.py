"""What this machine has for training: GPU, driver, libraries, memory and disk, and what to do if something is missing.

python -m doctor
"""

from __future__ import annotations

import command_line
import config


def main(argv=None):
    """Print the report. Returns the exit status."""
    options, _ = command_line.parse(config.DoctorOptions, argv)

    try:
        import cli.doctor
    except ModuleNotFoundError as problem:
        raise config.UserError(f"{problem.name} is not installed: run make doctor, which installs it") from None
    return cli.doctor.main(options)


if __name__ == "__main__":
    command_line.run_script(main)
