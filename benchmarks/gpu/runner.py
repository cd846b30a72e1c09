"""All stages, one after another, within the time that there is."""

import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from epochal.benchmarks.gpu import page
from epochal.benchmarks.gpu.process import Kept, Outcome, run_case
from epochal.benchmarks.gpu.sizes import Sizes
from epochal.benchmarks.gpu.stages import ENVIRONMENT, Case, Stage, stages
from epochal.common import storage
from epochal.common.errors import RequestError, WorkError

STAGE_SECONDS = 8 * 60.0
LEAST_SECONDS = 20.0
"""A case is not begun with less left."""

PAGE = "gpu.md"


@dataclass
class Runner:
    """One command's work.

    Attributes:
        out: where everything goes.
        end: time.monotonic() at which the command's time is over.
        only: the name of one stage; all when None.
    """

    out: Path
    sizes: Sizes
    end: float
    only: str | None = None
    done: dict[str, dict[str, Outcome]] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()

    def run(self) -> int:
        """Run what is left; print each stage's table; return 0, or 1 where something failed or differs."""
        self.out.mkdir(parents=True, exist_ok=True)
        self.stages = stages(self.sizes)
        environment, *others = self.stages
        assert environment.name == ENVIRONMENT, "what was measured before counts on the same machine alone"
        self._stage(environment, None)
        (here,) = self.done[ENVIRONMENT].values()
        if here.state == "cut":
            raise RequestError("--minutes is over before anything could be measured: give more")
        if not here.rows:
            raise WorkError(f"the machine could not be asked what it is: {here.reason}")
        kept = Kept(self.out / "cases", [here.rows, asdict(self.sizes)])
        for stage in others:
            self._stage(stage, kept)
        return self._ending()

    def _stage(self, stage: Stage, kept: Kept | None) -> None:
        stage_end = min(self.end, time.monotonic() + STAGE_SECONDS)
        done = self.done.setdefault(stage.name, {})
        asked = self.only in (None, stage.name) or stage.name == ENVIRONMENT
        for case in stage.cases:
            outcome = kept.read(stage.name, case) if kept else None
            if outcome is None and asked:
                outcome = self._case(stage, case, stage_end - time.monotonic())
                if kept and outcome.state == "finished":
                    kept.write(stage.name, case, outcome)
            if outcome is None:
                continue
            done[case.name] = outcome
            text = page.markdown(self.stages, self.done, not self.sizes.gpu)
            storage.write_atomic(str(self.out / PAGE), text.encode())
            print(page.state(case, outcome), file=sys.stderr, flush=True)
        if asked:
            print(page.printed(stage, done), flush=True)

    def _case(self, stage: Stage, case: Case, seconds: float) -> Outcome:
        if seconds < LEAST_SECONDS:
            return Outcome("cut", [], 0.0, "not begun")
        return run_case(case, self.out, stage.name, seconds, self.sizes.gpu)

    def _ending(self) -> int:
        """Say what is left, and where everything lies."""
        outcomes = [outcome for of_stage in self.done.values() for outcome in of_stage.values()]
        cut = sum(outcome.state == "cut" for outcome in outcomes)
        wrong = sum(not outcome.passed for outcome in outcomes)
        if cut:
            print(f"{cut} of {len(outcomes)} cases were cut for lack of time: run the same command again to go on")
        if wrong:
            print(f"{wrong} of {len(outcomes)} cases failed or differ from what must be: see the tables above")
        print(f"written: {self.out / PAGE}")
        return 1 if wrong else 0
