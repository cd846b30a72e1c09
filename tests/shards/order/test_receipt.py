import json
from pathlib import Path

import numpy as np
import pytest
import torch

from epochal.__main__ import main
from epochal.common.errors import RequestError, WorkError
from epochal.shards.order.plan import Plan
from epochal.shards.order.receipt import Receipt

PLAN = Plan("ab" * 16, 63, 1001, 16, 3370, seed=4)


def receipt_of(positions) -> Receipt:
    receipt = Receipt(PLAN)
    receipt.add(np.asarray(positions), PLAN.ids(positions))
    return receipt


def test_parts_in_any_order_make_the_receipt_of_the_run() -> None:
    shuffled = np.random.default_rng(0).permutation(PLAN.positions)
    receipt = receipt_of(shuffled[:50])
    for part in (shuffled[120:], shuffled[50:120]):
        receipt.merge(receipt_of(part))
    assert receipt.check() is None
    assert (receipt.count, receipt.digest) == (PLAN.positions, PLAN.digest(0, PLAN.positions))


def test_states_of_ranks_are_summed_by_an_int64_tensor() -> None:
    states = [torch.from_numpy(receipt_of(np.arange(r, PLAN.positions, 4)).state) for r in range(4)]
    assert Receipt(PLAN, torch.stack(states).sum(0).numpy()).check() is None


def test_tensors_and_matrices_can_be_added() -> None:
    receipt = Receipt(PLAN)
    positions = torch.arange(PLAN.positions).reshape(2, -1)
    receipt.add(positions, torch.from_numpy(PLAN.ids(positions.ravel().numpy()).astype(np.int64)).reshape(2, -1))
    assert receipt.check() is None


@pytest.mark.parametrize(
    ("positions", "text"),
    [
        (range(100), "not finished: positions 0 to 100"),
        (range(1, 100), "digests differ"),
        ([*range(99), 98], "digests differ"),
        ([*range(PLAN.positions - 1), 0], "digests differ"),
        ([*range(PLAN.positions), 0], "seen twice"),
        ([], "not finished: positions 0 to 0"),
    ],
)
def test_check_says_what_is_wrong(positions, text: str) -> None:
    assert text in (receipt_of(np.array(list(positions), np.int64)).check() or "")


def test_receipts_of_two_plans_do_not_mix() -> None:
    other = Receipt(Plan("ab" * 16, 63, 1001, 16, 3370, seed=5))
    with pytest.raises(RequestError, match="seed is 5, not 4"):
        receipt_of([0]).merge(other)
    with pytest.raises(ValueError, match="shape"):
        other.add([1, 2], [1])
    with pytest.raises(RequestError, match="shape"):
        Receipt(PLAN, np.zeros(2))


def test_json_comes_back() -> None:
    receipt = receipt_of(range(PLAN.positions))
    again = Receipt.from_json(receipt.to_json())
    assert np.array_equal(again.state, receipt.state)
    assert again.check() is None
    for text in ("", "{}", '{"receipt_version": 9}'):
        with pytest.raises(RequestError):
            Receipt.from_json(text)
    changed = {**PLAN.to_dict(), "seed": 9}
    for damage in (
        *({"digest": "x" * 32}, {"digest": 5}, {"digest": f"-{1:031x}"}),
        *({"count": "9"}, {"count": -1}, {"count": 2**64}, {"plan": changed}),
    ):
        with pytest.raises(WorkError):
            Receipt.from_json(json.dumps(receipt.to_dict() | damage))


def test_audit_command(tmp_path: Path, capsys) -> None:
    path = tmp_path / "receipt.json"
    path.write_text(receipt_of(range(PLAN.positions)).to_json())
    assert main(["audit", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert main(["audit", str(tmp_path)]) == 0  # the run's folder
    assert "ok: " in capsys.readouterr().out
    path.write_text(receipt_of(range(7)).to_json())
    assert main(["audit", str(path), "--json"]) == 1
    assert "not finished" in json.loads(capsys.readouterr().out)["problem"]
    assert main(["audit", str(path)]) == 1
    assert "not ok" in capsys.readouterr().out
    for wrong in (tmp_path / "none", tmp_path.parent):
        assert main(["audit", str(wrong)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
