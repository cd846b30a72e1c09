"""A grid's YAML: what is accepted, which runs follow from it, what names them."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from epochal.__main__ import main
from epochal.common.config import shipped_names
from epochal.common.errors import RequestError
from epochal.train.config import load_config
from epochal.train.crossover import compare, cost, launch
from epochal.train.crossover.commands import GRID
from epochal.train.crossover.grid import GRIDS, load_grid, plan
from epochal.train.run_state.overview import GRID_RUN


def test_a_grid_is_the_product_of_its_factors(make_plan):
    made = make_plan(
        replicates={"300": 2, "1003": 1},
        seeds=[1, 2],
        overrides={"model": {"dropout": [0.0, 0.1]}, "optimizer.lr": [1e-3]},
    )
    runs = made.runs
    assert len(runs) == len({r.name for r in runs}) == len({r.folder for r in runs}) == (2 + 1) * 2 * 2 * 2
    assert all(GRID_RUN.search(r.name) for r in runs)  # `epochal list` knows them by it
    assert {(r.unique_tokens, r.replicate) for r in runs} == {(300, 0), (300, 1), (1003, 0)}
    assert {r.config.model.dropout for r in runs} == {0.0, 0.1}
    assert all(r.config.optimizer.lr == 1e-3 and r.config.seed == r.seed for r in runs)
    assert all(r.config.max_duration == "6018" and r.config.autoresume for r in runs)
    assert [r.replicate for r in runs] == sorted(r.replicate for r in runs)  # one whole comparison first


def test_a_key_of_one_objective_varies_its_runs_only(make_plan):
    made = make_plan(overrides={"objective.input_masking": [0.0, 0.3], "model.dropout": [0.0, 0.1]})
    assert sum(r.objective == "ar" for r in made.runs) == 2 * 4
    assert sum(r.objective == "mdm" for r in made.runs) == 2 * 2
    rows = [
        {"unique_tokens": r.unique_tokens, "objective": r.objective, "settings": json.dumps(r.settings, sort_keys=True)}
        for r in made.runs
    ]
    pairs = list(compare.comparisons(rows))
    assert len(pairs) == 2 * 4  # every AR setting with the MDM run of its dropout
    assert all(json.loads(ar)["model.dropout"] == json.loads(mdm)["model.dropout"] for _, ar, mdm in pairs)


def test_an_empty_section_is_a_setting_and_not_nothing(make_plan):
    made = make_plan(settings={"eval_loader": {"exact": {}}})
    assert all(run.config.eval_loader.exact.every == 1 for run in made.runs)


ARMS = {
    "ar": {"regular": {"model.dropout": 0.1, "objective": {"input_masking": 0.2}}},
    "mdm": {"eps": {"objective.eps": 0.01}},
}


def test_every_budget_is_run_with_each_arm_and_every_run_names_its_own(make_plan):
    plain = make_plan()
    made = make_plan(arms=ARMS, replicates=2)
    assert [(r.objective, r.arm) for r in made.runs[:4]] == [
        *(("ar", "default"), ("ar", "regular")),
        *(("mdm", "default"), ("mdm", "eps")),
    ]
    assert len(made.runs) == 2 * 2 * 4
    regular = made.runs[1]
    assert regular.config.model.dropout == 0.1
    assert regular.config.objective.input_masking == 0.2
    assert regular.name.startswith("u300-ar-regular-r0-s17-")
    assert all(GRID_RUN.search(r.name) for r in made.runs)
    assert "arm=regular" in regular.label
    # a grid without arms goes on under the names that it had
    assert {r.name for r in plain.runs} <= {r.name for r in made.runs}
    rows = [
        {"unique_tokens": r.unique_tokens, "objective": r.objective, "settings": json.dumps(r.settings, sort_keys=True)}
        for r in made.runs
    ]
    arms = [
        (json.loads(ar).get("arm"), json.loads(mdm).get("arm")) for n, ar, mdm in compare.comparisons(rows) if n == 300
    ]
    assert sorted(arms, key=str) == sorted([(None, None), ("regular", None), (None, "eps")], key=str)


def test_an_arm_may_change_the_default_itself(make_plan):
    made = make_plan(arms={"ar": {"default": {"model.dropout": 0.2}, "plain": {}}})
    assert {(r.arm, r.config.model.dropout) for r in made.runs if r.objective == "ar"} == {
        ("default", 0.2),
        ("plain", 0.0),
    }


def test_the_grid_of_the_help_is_one_of_both_objectives(tmp_path):
    head, *lines = GRID.splitlines()
    body = "\n".join(line for line in lines if line.startswith("  "))
    path = tmp_path / "mine.yaml"
    path.write_text(body)
    grid = load_grid(str(path), [])
    assert head.startswith("a grid of your own")
    assert [objective.name for objective in grid.objectives] == ["ar", "mdm"]
    assert grid == load_grid(str(path), ["objectives=[ar,mdm]"])


@pytest.mark.slow
def test_a_run_is_named_by_what_its_figures_follow_from(make_plan, tmp_path):
    keys = [r.key for r in make_plan().runs]
    assert [r.key for r in make_plan(out=str(tmp_path / "elsewhere"), name="other", threads=2).runs] == keys
    assert [r.key for r in make_plan(settings={"save_interval": "3ba", "progress_bar": True}).runs] == keys
    for change in (
        {"settings": {"optimizer.lr": 1e-3}},
        {"settings": {"eval_interval": "4ba"}},
        {"total_tokens": 9027},
        {"seeds": [3]},
        {"unique_tokens": [301, 1004]},
    ):
        assert not set(keys) & {r.key for r in make_plan(**change).runs}, change
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "artifacts" / "pools", moved)
    assert [r.key for r in make_plan(pool=str(moved / "toy")).runs] == keys


def test_a_runs_file_says_what_the_grid_says(make_plan):
    made = make_plan(settings={"optimizer": {"betas": [0.9, 0.99]}}, objectives=["ar", {"name": "mdm", "eps": 0.01}])
    launch.prepare(made, made.runs)
    for run in made.runs:
        assert load_config(f"{run.folder}/config.yaml") == run.config
        assert Path(run.subset, "manifest.json").exists()
    assert made.runs[1].config.objective.eps == 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unique_token": [1]}, "unknown key 'unique_token': did you mean 'unique_tokens'?"),
        ({"unique_tokens": [300, 6019]}, "6,019 unique tokens are more than total_tokens"),
        ({"unique_tokens": [300, 300]}, "unique_tokens names a value twice"),
        ({"unique_tokens": [1003], "replicates": 9}, "asked for 1,003 unique tokens, but pool 'toy' has 4,003"),
        ({"replicates": {"300": 2}}, "replicates must name exactly the counts of unique_tokens"),
        ({"overrides": {"optimizer.lr": 1e-3}}, "optimizer.lr must be a list of the values to run"),
        ({"overrides": {"seed": [1, 2]}}, "seed is set by the grid itself: use seeds"),
        ({"settings": {"max_duration": "9ep"}}, "max_duration is set by the grid itself: use total_tokens"),
        ({"settings": {"optimizer": {"lrr": 1}}}, "unknown key 'optimizer.lrr': did you mean 'optimizer.lr'?"),
        ({"objectives": ["ar", "ar"]}, "objectives names one twice"),
        ({"objectives": ["ar", "dual"]}, "a grid sets ar against mdm, and knows no 'dual'"),
        ({"objectives": ["ar", {"name": "block", "block_size": 4}]}, "knows no 'block'"),
        ({"objectives": ["gan"]}, "objectives"),
        ({"overrides": {"objective.input_mask": [0, 1]}}, "did you mean 'objective.input_masking'?"),
        ({"objectives": ["mdm"], "overrides": {"objective.input_masking": [0]}}, "known are eps, fixed_ratio"),
        ({"arms": {"gan": {"a": {}}}}, "gan is none of the grid's objectives (ar, mdm)"),
        ({"arms": {"ar": {"a": {"objective.input_mask": 0.1}}}}, "did you mean 'objective.input_masking'?"),
        ({"arms": {"mdm": {"a": {"objective.input_masking": 0.1}}}}, "mdm has no 'objective.input_masking'"),
        ({"arms": {"ar": {"a": {"optimizer.lrr": 0.1}}}}, "unknown key 'optimizer.lrr': did you mean 'optimizer.lr'?"),
        ({"arms": {"ar": {"a": {"seed": 1}}}}, "seed is set by the grid itself: use seeds"),
        ({"arms": {"ar": {"a": {}}}}, "two of its runs are the same one"),
        ({"arms": {"ar": {"A b": {}}}}, "the arm 'A b' of ar: a name is small letters, digits and _"),
        ({"arms": {"ar": [1]}}, "ar must be names of arms with their training keys"),
        (
            {"arms": {"ar": {"a": {"model.dropout": 0.3}}}, "overrides": {"model.dropout": [0.0]}},
            "which overrides vary",
        ),
        (
            {"settings": {"model.document_mask": True}},
            "its bound does not compare with AR's NLL: leave the key out of MDM",
        ),
        ({"arms": {"mdm": {"told": {"model.document_mask": True}}}}, "an MDM is told where documents end"),
        ({"own_decay": [1, 1]}, "own_decay names a value twice"),
        ({"own_decay": [0]}, "own_decay"),
        ({"base": "nowhere"}, "nowhere is neither a file nor the name of a shipped configuration"),
        ({"validation": "/nowhere"}, "the validation pool /nowhere does not exist"),
    ],
)
def test_a_wrong_grid_is_one_line(make_plan, changes, message):
    with pytest.raises(RequestError) as error:
        make_plan(**changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", shipped_names(GRIDS))
def test_every_shipped_grid_can_be_planned(name, capsys, monkeypatch):
    monkeypatch.setattr(cost, "_probed", lambda run, threads: cost.Clock(1e-6, "a test"))
    assert main(["crossover", name, "--plan", "--json"]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["runs"] == sum(b["runs"] for b in body["budgets"]) > 0
    assert body["flops"] == pytest.approx(sum(b["flops"] for b in body["budgets"]))
    assert body["h100_hours"] == pytest.approx(body["flops"] / (989e12 * body["mfu"]) / 3600)


def test_an_arm_that_drops_out_is_timed_like_the_others(make_plan):
    keys = {"model.dropout_mlp": 0.1, "model.stochastic_depth": 0.2}
    made = make_plan(arms={"ar": {"dropped": keys}, "mdm": {"dropped": keys}})
    assert cost.estimate(made)["seconds_here"] > 0


def test_flops_of_the_papers_run_are_its_size_times_its_tokens():
    """6ND of the 1B model on 96B tokens is 6.3e20; attention over 2048 tokens adds 17 % where nothing is masked."""
    made = plan(load_grid("crossover-paper-a"))
    ar, mdm = (next(r for r in made.runs if r.objective == o) for o in ("ar", "mdm"))
    six_nd = 6 * (ar.shape.block_parameters + ar.shape.head_parameters) * 96e9
    assert six_nd == pytest.approx(6.26e20, rel=0.005)
    assert ar.flops / six_nd == pytest.approx(1.088, abs=0.005)
    assert cost.h100_hours(ar.flops, 1.0) == pytest.approx(ar.flops / 989e12 / 3600)
    assert 1.0 < mdm.flops / six_nd < 1.2


def test_a_grid_without_exact_likelihoods_goes_on_under_the_names_it_had(make_plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no pool lies
    assert "u1B-mdm-r0-s17-afb44606" in {run.name for run in plan(load_grid("crossover-paper-sizes")).runs}  # with FSDP
    names = {run.name for run in plan(load_grid("crossover-paper-a")).runs}
    assert {"u1.5B-ar-r0-s17-ad0af3e1", "u1.5B-mdm-r0-s17-f6d3b5dc"} <= names
    without, asked = (
        {run.name for run in made.runs}
        for made in (make_plan(), make_plan(settings={"eval_loader.exact": {"order": "entropy"}}))
    )
    assert (without & asked) == {name for name in without if "-ar-" in name}  # AR's stay as they are


def test_the_price_of_exact_likelihoods_is_in_the_time_that_a_plan_states(make_plan):
    shares = {}
    for exact in (None, {"order": "confidence", "tokens_per_step": 3, "every": 2}):
        settings = {"eval_loader.dataset.samples": 4, "eval_loader.noise_samples": 2, "eval_loader.exact": exact}
        made = make_plan(settings=settings)
        found = {r.objective: (cost.validation_flops_share(r), r.seq_len) for r in made.runs}
        shares[exact is None] = found
    length = shares[True]["mdm"][1]
    assert shares[False]["ar"] == shares[True]["ar"]
    ratio = shares[False]["mdm"][0] / shares[True]["mdm"][0]
    assert ratio == pytest.approx((2 + -(-length // 3) / 2) / 2)


def test_a_job_array_names_every_run_that_is_left(make_plan, tmp_path):
    made = make_plan(gpus_per_run=8)
    script = launch.slurm_script(made, made.runs[1:], 3)
    assert "#SBATCH --array=0-2%3\n" in script
    assert "#SBATCH --cpus-per-task=1\n" in script
    assert "composer.cli -n 8 -m epochal.train" in script
    assert [run.folder in script for run in made.runs] == [False, True, True, True]
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert checked.returncode == 0, checked.stderr


def test_planning_asks_for_nothing_and_writes_nothing(make_plan, tmp_path, capsys):
    make_plan()
    before = sorted(tmp_path.rglob("*"))
    assert main(["crossover", str(tmp_path / "grid.yaml"), "--plan"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("toy: 4 runs, 24.1k tokens, ")
    assert "time on this machine: about " in out
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["crossover", str(tmp_path / "grid.yaml"), "pool=/nowhere", "--plan"]) == 0
    assert "the pool /nowhere does not exist yet" in capsys.readouterr().out
    assert main(["crossover", str(tmp_path / "grid.yaml"), "pool=/nowhere"]) == 2
    assert "the pool /nowhere does not exist: build it" in capsys.readouterr().err


def test_a_document_mask_may_be_an_arm_of_ar_whose_nll_stays_exact(make_plan):
    made = make_plan(arms={"ar": {"within": {"model.document_mask": True}}})
    assert {run.objective for run in made.runs if run.shape.document_mask} == {"ar"}
