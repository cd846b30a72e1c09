"""What a run says of its losses to the service."""

from types import SimpleNamespace
from typing import Any

import pytest

from epochal.service.schemas import ReportItem
from epochal.tests.train.objective.test_objectives import IDS
from epochal.train.objective.dual import Dual
from epochal.train.objective.objectives import Autoregressive, MaskedDiffusion, Objective
from epochal.train.service_callback import ServiceReports
from epochal.train.settings.system import ServiceSection

TOLD = {"document_mask": True}
OBJECTIVES: list[Objective] = [
    Autoregressive(IDS),
    Autoregressive(IDS, right_to_left=0.5),
    Autoregressive(IDS, input_masking=0.1, random_replacement=0.1, right_to_left=0.5),
    MaskedDiffusion(IDS),
    MaskedDiffusion(IDS, fixed_ratio=0.3),
    MaskedDiffusion(IDS, **TOLD),
    MaskedDiffusion(IDS, fixed_ratio=0.3, **TOLD),
    Dual(Autoregressive(IDS, **TOLD), MaskedDiffusion(IDS, **TOLD), 0.5),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: o.kind)
def test_the_service_takes_a_report_of_every_kind_of_loss(objective: Objective) -> None:
    """A report that it does not take would hold up all that follow it, and with them the account of exposures."""
    said: list[dict[str, Any]] = []
    plan = SimpleNamespace(tokens_before=lambda position: 16 * position)
    receipts: Any = SimpleNamespace(receipt=SimpleNamespace(count=8, digest="0" * 32, plan=plan))
    section = ServiceSection.model_validate({"url": "http://127.0.0.1:1"})
    reports = ServiceReports(section, {}, receipts, None, "latest")
    reports.reporter = SimpleNamespace(report=lambda **body: said.append(body))  # type: ignore[assignment]
    reports._report(SimpleNamespace(total_loss_dict={f"loss/train/{objective.kind}": 2.5}))  # type: ignore[arg-type]
    (body,) = said
    item = ReportItem.model_validate({k: v for k, v in body.items() if v is not None})
    assert (item.position, item.tokens) == (8, 128)
    assert (item.loss, item.kind) == ((2.5, objective.kind) if len(objective.kind) <= 20 else (None, None))
