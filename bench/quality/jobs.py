"""What is to be measured, and its measuring: in this process, or in several side by side."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context

import torch

import ssd_core
from ssd_core.errors import OutOfMemoryError, UserError
from ssd_core.models.base import ImageModel
from ssd_core.sampling import Sampling

from .batches import Batch
from .cells import Cells
from .ledger import Record
from .ways import Way


@dataclass(frozen=True)
class Job:
    """The cells of one way on one batch."""

    way: Way
    batch: Batch
    cells: Sequence[str]

    def about(self, cell: str) -> Record:
        """What is known of a cell before it is measured."""
        return {
            "cell": cell,
            "method": self.way.method,
            "budget": self.way.budget,
            "policy": self.way.about,
            "seed": self.batch.seed,
            "captions": self.batch.captions,
        }

    def measure(self, cells: Cells) -> Iterator[Record]:
        """A record for each cell: what was measured, or why the method refuses it."""
        for cell in self.cells:
            try:
                found = cells.measure(cell, self.way, self.batch)
            except OutOfMemoryError:
                raise
            except UserError as error:
                if self.way.full:
                    raise
                found = {"refused": str(error), "prompts": len(self.batch.scenes)}
            yield self.about(cell) | found


def measure(jobs: Iterable[Job], cells: Cells) -> Iterator[Record]:
    """The records of jobs, one after the other."""
    for job in jobs:
        yield from job.measure(cells)


def measure_beside(jobs: Iterable[Job], workers: int, given: argparse.Namespace, settings: Record) -> Iterator[Record]:
    """The same, in order, by processes that share the processor's cores: a small model does not keep several busy."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    with get_context("spawn").Pool(workers, _begin, (given, settings, threads)) as pool:
        for records in pool.imap(_measure, jobs):
            yield from records


def load(given: argparse.Namespace) -> ImageModel:
    """The model that the command line asks for."""
    return ssd_core.load(given.model, device=given.device, dtype=given.dtype)


def cells_of(model: ImageModel, given: argparse.Namespace, settings: Record) -> Cells:
    """What measures with a model as the command line says."""
    return Cells(model, Sampling(given.guidance), given.out.with_suffix(".tokens"), settings)


_cells: Cells  # of a process that measures beside others


def _begin(given: argparse.Namespace, settings: Record, threads: int) -> None:
    global _cells
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever waits for the records ends this process
    torch.set_num_threads(threads)
    _cells = cells_of(load(given), given, settings)


def _measure(job: Job) -> list[Record]:
    return list(job.measure(_cells))
