"""`python -m runs` several times in one process: python -m support.commands_of_runs "WORDS" "WORDS" ...

"rm FOLDER" deletes a folder meanwhile.
"""

import shutil
import sys

import runs
from common.errors import UserError


def main(*commands):
    for words in map(str.split, commands):
        if words[0] == "rm":
            shutil.rmtree(words[1])
            continue
        try:
            status = runs.main(["--output_dir", "runs", "--tracker", "wandb", "--wandb_project", "p", *words])
        except UserError as problem:
            print("refused:", problem)
            status = 2
        print("status", status, "\n---")


if __name__ == "__main__":
    main(*sys.argv[1:])
