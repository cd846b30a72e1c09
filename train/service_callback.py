"""A run's reports to the repetition-control service, when its configuration has the key `service`."""

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from ..common.cli import say
from ..common.errors import EpochalError
from ..shards.order.receipt import Receipt
from .callbacks import ReceiptCallback
from .run_folder import LOSS_KINDS
from .settings.system import ServiceSection

if TYPE_CHECKING:  # its packages are an extra: imported only by runs that name a service
    from ..service.client.reporter import Reporter


LONGEST_KIND = 20
"""Letters of a loss's name that the service keeps; of a loss with a longer one the loss alone is not reported."""


class ServiceReports(Callback):
    """Registers the run, reports at intervals, closes it at the end of its `with` block; rank 0 alone talks.

    A refusal before the first step stops the run; nothing that the service does later can.

    Attributes:
        claim: name, plan, batch_samples, details; see `service.client.reporter`.
        receipts: holds how far the run is.
        folder: of the run.
        latest: name of the link there to the newest checkpoint.
    """

    def __init__(
        self, section: ServiceSection, claim: dict[str, Any], receipts: ReceiptCallback, folder: str | None, latest: str
    ) -> None:
        self.section = section
        self.claim = claim
        self.receipts = receipts
        self.folder = folder
        self.latest = latest
        self.reporter: Reporter | None = None
        self.reported = 0.0
        self.saved = ""
        self.digests: dict[int, str] = {}
        self.done = False

    @property
    def receipt(self) -> Receipt:
        """Return the receipt so far."""
        return self.receipts.receipt

    def start(self) -> None:
        """Claim the run's name, on all ranks at once.

        Raises:
            RequestError: when the service refuses it.
        """
        problem: EpochalError | None = None
        if dist.get_global_rank() == 0:
            try:
                self._start()
            except EpochalError as error:
                problem = error
        (problem,) = dist.all_gather_object(problem)[:1]
        if problem is not None:
            raise problem

    def _start(self) -> None:
        from ..service.client.reporter import Reporter

        parent = {"run": self.section.parent, "position": self.section.parent_position}
        given = {k: v for k, v in parent.items() if v is not None}
        claim = self.claim | ({"parent": given} if given else {})
        folder = self.folder or tempfile.mkdtemp(prefix="epochal-run-")
        reporter = Reporter(self.section.url, folder, claim, say)
        reporter.start()
        self.reporter = reporter
        self.saved = self._newest()

    def __enter__(self) -> "ServiceReports":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.reporter is None:
            return
        self._report_checkpoint()
        if not self.done:
            self._say(split="train")
        failed = kind is not None and issubclass(kind, Exception)
        self.reporter.close("failed" if failed else "finished" if self.done else "stopped", self.receipt.to_dict())
        self.reporter = None

    def batch_end(self, state: State, logger: Logger) -> None:
        """Report the step when the last report is old enough, and a checkpoint that was written after the last step."""
        if self.reporter is None:
            return
        self._report_checkpoint()
        self.digests = {int(state.timestamp.batch): self.receipt.digest}
        if time.monotonic() - self.reported >= self.section.interval:
            self._report(state)

    def eval_end(self, state: State, logger: Logger) -> None:
        """Report the validation loss."""
        if self.reporter is None:
            return
        for kind, metric in state.eval_metrics.get("validation", {}).items():
            if kind in LOSS_KINDS:
                self._say(split="validation", loss=float(metric.compute()), kind=kind)

    def fit_end(self, state: State, logger: Logger) -> None:
        """Report the end; it comes after the receipt was found valid."""
        self.done = True
        if self.reporter is not None:
            self._report(state)

    def _report(self, state: State) -> None:
        losses = {k.rpartition("/")[2]: v for k, v in (state.total_loss_dict or {}).items() if not k.endswith("total")}
        kind, loss = next(iter(losses.items()), (None, None))
        self._say(split="train", loss=None if loss is None else float(loss), kind=kind)
        self.reported = time.monotonic()

    def _say(self, split: str, loss: float | None = None, kind: str | None = None) -> None:
        assert self.reporter is not None, "only a started run says something"
        if kind and len(kind) > LONGEST_KIND:
            loss = kind = None
        finite = loss if loss is not None and abs(loss) < float("inf") else None
        position, digest = self.receipt.count, self.receipt.digest
        tokens = self.receipt.plan.tokens_before(position)
        said = {"position": position, "tokens": tokens, "digest": digest, "split": split}
        self.reporter.report(**said, loss=finite, kind=kind)

    def _report_checkpoint(self) -> None:
        newest = self._newest()
        if newest != self.saved and self.reporter is not None:
            self.saved = newest
            step = int(newest.removeprefix("ba").partition("-")[0])
            position = min(step * self.claim["batch_samples"], self.receipt.plan.positions)
            self.reporter.checkpoint(position, newest, self.digests.get(step))

    def _newest(self) -> str:
        """Return the name of the newest whole checkpoint, empty when there is none."""
        link = Path(self.folder or "", self.latest)
        return Path(os.readlink(link)).name if self.folder and link.is_symlink() else ""


def send_rest(folder: str) -> None:
    """Send what a finished run could not; one line says when the service still does not answer."""
    from ..service.client.reporter import send_rest

    try:
        send_rest(folder, say)
    except EpochalError as error:
        say(str(error))
