"""Fetches the newest version of run "one" from trackio, slowly: python -m support.slow_fetch OUTPUT_DIR PROJECT

It begins when it is given a line.
"""

import sys
import time

import config
from tracking import artifacts, trackers


def main(output_dir, project):
    options = config.InferenceOptions(output_dir=output_dir, tracker="trackio", wandb_project=project)
    download = trackers.Trackio.download

    def slowly(artifact, folder):
        print("downloading", flush=True)
        time.sleep(1.5)
        download(artifact, folder)

    trackers.Trackio.download = staticmethod(slowly)
    input()  # until both are ready
    artifacts.fetch_version(options, "one", "latest")


if __name__ == "__main__":
    main(*sys.argv[1:])
