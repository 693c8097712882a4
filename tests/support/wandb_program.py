"""Some lines with a wandb tracker of ours: python -m support.wandb_program CODE RUN_ID FOLDER ENTITY

The lines put what they find into `answer`, which is printed as JSON.
"""

import dataclasses
import json
import os
import pathlib
import sys
import time

import config
from tracking import trackers, wandb_tracker


def main(code, run_id, folder, entity):
    folder, answer = pathlib.Path(folder), {}
    options = config.RunsOptions(tracker="wandb", wandb_project="p", wandb_entity=entity or None)

    def make(name, **files):
        (folder / name).mkdir()
        for path, text in files.items():
            (folder / name / path).write_text(text)
        return folder / name

    def refused(action):
        try:
            action()
        except trackers.TrackerError as problem:
            return str(problem)

    def print_answer():
        print(json.dumps(answer), flush=True)

    def connect(**changes):
        return trackers.connect(dataclasses.replace(options, **changes), run_id)

    def shorten_timeout():
        wandb_tracker.CONNECT_TIMEOUT = 2

    known = dict(
        answer=answer, folder=folder, make=make, refused=refused, print_answer=print_answer, time=time, connect=connect
    )
    known |= dict(os=os, tracker=connect(), VERSIONS=trackers.VERSIONS, STATES=trackers.STATES)
    exec(code, known | dict(shorten_timeout=shorten_timeout))
    print_answer()


if __name__ == "__main__":
    main(*sys.argv[1:])
