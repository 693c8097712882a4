"""torch.distributed.run, whose processes come from the fork server: python -m support.torchrun WORDS..."""

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

from support import processes


def start(args, **more):
    return processes.start([word for word in args if word != "-u"], fresh=True, **more)


if __name__ == "__main__":
    subprocess_handler.Popen = start
    run.main()
