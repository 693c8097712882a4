"""Curves and pictures for tensorboard."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy
from PIL import Image

from common.files import remove
from tracking.base import Tracker, tracker_errors


class TensorBoard(Tracker):
    """Writes curves and pictures as event files into the run's folder."""

    name = location = "tensorboard"

    def start(self, folder: pathlib.Path, run_config: Mapping[str, object], step: int) -> None:
        self.how_to_view = f"tensorboard --logdir {folder.parent}"
        with tracker_errors(self.name):
            from torch.utils.tensorboard import SummaryWriter

            # everything is written again from metrics.jsonl: the file of a killed run ends in the middle of a record
            remove(folder / "tensorboard")
            self.writer = SummaryWriter(folder / "tensorboard")

    def log(self, step: int, values: Mapping[str, float], pictures: Mapping[str, pathlib.Path]) -> None:
        with tracker_errors(self.name):
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)
            for name, path in pictures.items():
                self.writer.add_image(name, numpy.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")
            self.writer.flush()

    def finish(self) -> None:
        with tracker_errors(self.name):
            self.writer.close()
