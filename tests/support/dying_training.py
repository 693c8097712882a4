"""Training that is killed just before a rename: python -m support.dying_training NAME TIMES WORDS...

NAME: of the file or folder that would appear, or how it ends, as in .npy. TIMES: which of the renames to it is not
made, 1 = the first.
"""

import os
import pathlib
import sys

import training
from trainer import latent_cache

replace = os.replace


def main(name, times, *words):
    left = int(times)

    def dying(source, destination):
        nonlocal left
        path = pathlib.Path(destination)
        left -= name in (path.name, path.suffix)
        if left == 0:
            os._exit(9)
        return replace(source, destination)

    os.replace = dying
    latent_cache.COVERS_PER_FILE = 4
    return training.main(list(words))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
