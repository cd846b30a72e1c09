"""Where the modules of version 0.1.0 lie now: their old names are still imported, with a warning, until 0.3.

Scripts, notebooks and pickles of others name modules; a house that is tidied up need not break them.
"""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = __name__.partition(".")[0]

MOVED = {
    "datapipe.cluster": "datapipe.stages.cluster",
    "datapipe.content": "datapipe.text.document_key",
    "datapipe.deal": "datapipe.external_sort",
    "datapipe.decontaminate": "datapipe.text.decontaminate",
    "datapipe.executors": "datapipe.run.executors",
    "datapipe.filters": "datapipe.text.filters",
    "datapipe.finish": "datapipe.stages.finish",
    "datapipe.ingest": "datapipe.stages.ingest",
    "datapipe.match": "datapipe.stages.match",
    "datapipe.pack": "datapipe.stages.pack",
    "datapipe.progress": "datapipe.run.stage_progress",
    "datapipe.readers": "datapipe.sources.text",
    "datapipe.shipped": "datapipe.config",
    "datapipe.sorted_table": "datapipe.external_sort",
    "datapipe.task_server": "datapipe.run.fork_server",
    "datapipe.tokenized": "datapipe.sources.tokens",
    "datapipe.words": "datapipe.text.words",
    "service.core": "service.service",
    "service.documents": "service.document_index",
    "service.order": "service.api.order_stream",
    "service.places": "shards.order.permutation",
    "service.reporter": "service.client.reporter",
    "service.requests": "service.schemas",
    "shards.columns": "shards.arrow",
    "shards.content": "common.text",
    "shards.dataset": "shards.loader.dataset",
    "shards.errors": "common.errors",
    "shards.flat": "shards.formats.flat",
    "shards.keys": "common.hashing",
    "shards.megatron": "shards.formats.megatron",
    "shards.mixture": "shards.order.mixture",
    "shards.mixture_settings": "shards.order.mixture_config",
    "shards.page": "common.html",
    "shards.permutation": "shards.order.permutation",
    "shards.plan": "shards.order.plan",
    "shards.progress": "common.progress",
    "shards.receipt": "shards.order.receipt",
    "shards.rows": "shards.formats.rows",
    "shards.samples": "shards.loader.sample_reader",
    "shards.settings": "common.config",
    "shards.sink": "common.publish",
    "shards.storage": "common.storage",
    "shards.stream": "shards.loader.stream",
    "shards.units": "common.units",
    "shards.wds": "shards.formats.webdataset",
    "tokenize.decoding": "tokenize.tokenizer",
    "tokenize.parts": "datapipe.stages.parts",
    "train.accuracy": "train.eval.metrics",
    "train.benchmarks": "train.eval.tasks",
    "train.bound": "train.objective.nelbo",
    "train.choice": "train.eval.scoring",
    "train.continuation": "train.eval.continuation",
    "train.cross_entropy": "train.model.cross_entropy",
    "train.crossover.charts": "train.crossover.report.charts",
    "train.crossover.estimate": "train.crossover.fits.estimate",
    "train.crossover.overlay": "train.crossover.report.overlay",
    "train.crossover.page": "train.crossover.report.page",
    "train.crossover.panels": "train.crossover.report.panels",
    "train.crossover.scaling": "train.crossover.fits.scaling",
    "train.crossover.wording": "train.crossover.report.wording",
    "train.demo": "examples.demo",
    "train.eval_tasks": "train.eval.callback",
    "train.evaluate": "train.eval.evaluate",
    "train.evaluation_tables": "train.eval.tables",
    "train.extras": "train.composer_registry",
    "train.flops": "train.model.flops.formulas",
    "train.flops_measure": "train.model.flops.measured",
    "train.generate": "train.eval.generate",
    "train.huggingface": "train.model.hf_export",
    "train.incremental": "train.model.kv_cache",
    "train.inference_flops": "train.model.flops.formulas",
    "train.language_model": "train.model.composer",
    "train.leaks": "train.eval.contamination",
    "train.likelihood": "train.eval.likelihood",
    "train.lm_eval_adapter": "train.eval.lm_eval_adapter",
    "train.noise": "train.objective.noise",
    "train.objectives": "train.objective.objectives",
    "train.plot": "train.crossover.report.charts",
    "train.reporting": "train.service_callback",
    "train.optimizer": "train.optimization.optimizer",
    "train.schedules": "train.optimization.schedules",
    "train.terminal": "train.eval.terminal",
}
"""Old name -> new name, below the package. A name whose place is a folder of the same name now (`shards.order`) is that
folder's."""


class _Moved:
    """Answers an import of an old name with the module of the new one: one module, not a copy.

    A finder and loader by its methods: the base classes of `importlib.abc` would double the time of `import epochal`.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != PACKAGE or name not in MOVED:
            return None
        return ModuleSpec(fullname, self)  # type: ignore[arg-type]  # a loader by its methods

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = f"{PACKAGE}.{MOVED[spec.name.partition('.')[2]]}"
        warnings.warn(f"{spec.name} is {new} now: the old name goes in 0.3", FutureWarning, stacklevel=2)
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None, "the import system put the old name's there"
        module.__spec__ = module.__spec__.loader_state


def answer_old_names() -> None:
    """Let the names of version 0.1.0 be imported, where no file of that name is."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
