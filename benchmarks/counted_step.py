"""What the compiled step does to memory, counted without a GPU: `python -m epochal.benchmarks.counted_step paper-1b`.

A block and the last norm are compiled as training compiles them, forward and backward, and inductor writes the CUDA
kernels; they are counted, not run. The graphs are traced on a CPU under autocast, with the operator in place that CUDA
has for attention (memory-efficient with a mask, without one what `--attention` says), and moved to an H100 that is not
there.

Counted, by inductor's own rule (each buffer that a kernel reads or writes counts once, at most its size): bytes of the
kernels that inductor writes, which leaves out matrix products, attention, the embedding and the optimizer; tensors that
the forward pass leaves for the backward pass, bfloat16 copies of weights among them. The loss over the vocabulary is
counted apart, compiled and not: what torch runs of it operation by operation counts each tensor once an operation.
"""

import argparse
import contextlib
import copy
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any
from unittest import mock

import torch
import torch._functorch.config as functorch
import torch._inductor.config as inductor
import torch.nn.functional as F
from torch import Tensor, nn
from torch._inductor import compile_fx
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.attention import SDPBackend
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from epochal.train.model import cross_entropy
from epochal.train.model.kernels import attention, products
from epochal.train.model.layers import WIDE, NarrowWeights, RMSNorm
from epochal.train.model.presets import model_section, presets
from epochal.train.model.rotary import rotations
from epochal.train.model.transformer import Block, ModelConfig, Transformer
from epochal.train.settings.model import ModelSection

H100 = {
    "type": "cuda",
    "name": "NVIDIA H100",
    "major": 9,
    "minor": 0,
    "multi_processor_count": 132,
    "regs_per_multiprocessor": 65536,
    "max_threads_per_multi_processor": 2048,
    "warp_size": 32,
    "total_memory": 80 * 2**30,
}


@dataclass
class Graph:
    """One compiled graph.

    Attributes:
        kernels: those that inductor writes.
        traffic: bytes that they read and write.
        wide: operations with float64 in the kernels' source.
        saved: bytes that a backward graph was left by the forward pass, weights themselves not counted.
    """

    backward: bool
    kernels: int
    traffic: int
    wide: int
    saved: int


@dataclass
class Counts:
    """What a module's graphs add up to."""

    graphs: list[Graph] = field(default_factory=list)

    def total(self, name: str) -> int:
        """Return the sum of a field of `Graph`."""
        return sum(int(getattr(graph, name)) for graph in self.graphs)


def counts(module: nn.Module, x: Tensor, *args: Any) -> Counts:
    """Return what `module(x, *args)` and its gradients are compiled to. Nothing is computed: tensors stay unwritten."""
    weights = {tuple(p.shape) for p in module.parameters()}
    with _counting(weights) as (found, write):
        compiled = torch.compile(module, backend=write, fullgraph=True)
        with torch.autocast("cpu", torch.bfloat16):
            y = compiled(x, *args)
        y.backward(torch.empty_like(y))
    return found


@contextlib.contextmanager
def _counting(weights: set[tuple[int, ...]]) -> Iterator[tuple[Counts, Callable[[Any, Any], Any]]]:
    """Give counts, and a backend of `torch.compile` that adds to them; `weights` have shapes that are not `saved`."""
    found = Counts()
    views: set[str] = set()

    def lower(graph: Any, inputs: list[Any], **how: Any) -> Callable[[list[Any]], list[Any]]:
        kept = copy.deepcopy(graph)
        saved = _saved(graph, weights, views) if how.get("is_backward") else 0
        views.update(_views(kept, weights))
        source, sizes = _lowered(graph, inputs, how)
        wide = source.count("tl.float64") + source.count("torch.float64")
        found.graphs.append(Graph(bool(how.get("is_backward")), len(sizes), sum(sizes), wide, saved))
        return _unwritten(kept)

    def write(graph: Any, inputs: Any) -> Any:
        return compile_fx.compile_fx(graph, inputs, inner_compile=lower)  # type: ignore[arg-type]

    torch._dynamo.reset()
    with _imagined_gpu():
        yield found, write
    torch._dynamo.reset()


def _lowered(graph: Any, inputs: list[Any], how: dict[str, Any]) -> tuple[str, list[int]]:
    """Return the source that inductor writes for `graph` on a GPU, and the bytes that each kernel reads and writes."""
    values = (n.meta.get("val") for n in graph.graph.nodes)
    mode = next(v.fake_mode for v in values if isinstance(v, FakeTensor))
    for node in graph.graph.nodes:
        if "val" in node.meta:
            node.meta["val"] = _pytree.tree_map(lambda v: _moved(v, mode), node.meta["val"])
        node.args, node.kwargs = (torch.fx.node.map_aggregate(a, _to_gpu) for a in (node.args, node.kwargs))
    graph.recompile()
    written: list[tuple[str, list[int]]] = []

    def write(lowering: Any) -> Any:
        code = lowering.codegen()[0]
        ours = [n for n in lowering.scheduler.nodes if not type(n).__name__.startswith(("Extern", "Nop"))]
        # Here, because newer torch (2.15) can tell sizes only while it compiles.
        written.append((getattr(code, "value", code), [n.get_read_write_buffers_sizes() for n in ours]))
        return mock.Mock()

    with mock.patch.object(GraphLowering, "compile_to_module", write):
        compile_fx.compile_fx_inner(graph, [_moved(x, mode) for x in inputs], **how)
    return written[0]


def _to_gpu(x: Any) -> Any:
    return torch.device("cuda:0") if isinstance(x, torch.device) else x


def _moved(value: Any, mode: FakeTensorMode) -> Any:
    if not isinstance(value, Tensor):
        return value
    with mode:
        return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="cuda:0")


def _views(graph: Any, weights: set[tuple[int, ...]]) -> Iterator[str]:
    """Yield the names of what a graph returns that are weights, or their given copies, seen in another shape."""
    for node in graph.graph.find_nodes(op="output")[0].all_input_nodes:
        root = node
        while root.op == "call_function" and getattr(root.target, "is_view", False):
            root = root.args[0]
        if root.op == "placeholder" and tuple(root.meta["val"].shape) in weights:
            yield node.name


def _saved(graph: Any, weights: set[tuple[int, ...]], views: set[str]) -> int:
    """Return the bytes of a backward graph's inputs: no gradients, and no weights of the module or `views` of them."""
    held = 0
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        if node.op != "placeholder" or not isinstance(value, Tensor) or node.name.startswith("tangents"):
            continue
        if node.name in views:
            continue
        weight = node.name.startswith("primals") and tuple(value.shape) in weights
        held += 0 if weight else value.numel() * value.element_size()
    return held


def _unwritten(graph: Any) -> Callable[[list[Any]], list[Any]]:
    """Return what stands in for a compiled graph: it gives tensors of the right shapes that nobody has written."""

    def run(args: list[Any]) -> list[Any]:
        inputs = list(args)
        args.clear()
        with FakeTensorMode() as mode:
            out = graph(*[mode.from_tensor(x) if isinstance(x, Tensor) else x for x in inputs])
        return [torch.empty_strided(o.shape, o.stride(), dtype=o.dtype) if isinstance(o, Tensor) else o for o in out]

    run._boxed_call = True  # type: ignore[attr-defined]
    return run


def _attention(cudnn: bool) -> Callable[..., Tensor]:
    """Return attention by CUDA's own operators, which a CPU's graph then holds in the place of its own."""

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Any, dropout_p: float = 0.0, is_causal: bool = False) -> Tensor:
        q, k, v = (x.to(torch.get_autocast_dtype("cpu")) for x in (q, k, v))
        if mask is None and cudnn:
            return torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, dropout_p, is_causal)[0]
        if mask is None:
            return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal)[0]
        bias = torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, -torch.inf)
        bias = bias.expand(*q.shape[:3], k.shape[2])
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, dropout_p, is_causal)[0]

    return attend


@contextlib.contextmanager
def _imagined_gpu() -> Iterator[None]:
    """Give inductor the answers of an H100 to what it asks of the machine, and keep it from looking for kernels."""
    properties = mock.Mock(**H100)
    properties.name = H100["name"]
    interface = "torch._dynamo.device_interface.CudaInterface"
    answers: dict[str, Any] = {
        "torch.cuda.get_device_properties": lambda *_: properties,
        "torch.cuda.get_device_capability": lambda *_: (9, 0),
        "torch.cuda.current_device": lambda: 0,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.is_available": lambda: False,  # or dynamo asks the imagined one for its generator
        f"{interface}.get_device_properties": staticmethod(lambda *_: properties),
        f"{interface}.get_compute_capability": staticmethod(lambda *_: 90),
        f"{interface}.Worker.get_device_properties": staticmethod(lambda *_: properties),
        f"{interface}.Worker.current_device": staticmethod(lambda: 0),
        "torch._inductor.compile_fx.get_cuda_device_context": lambda _: contextlib.nullcontext(),
        "torch._inductor.compile_fx._check_triton_bf16_support": lambda _: None,
        "torch._inductor.scheduler.has_triton": lambda *_, **__: True,
        "torch.utils._triton.has_triton": lambda *_, **__: True,
        "torch.utils._triton.triton_hash_with_backend": lambda: "none",
    }
    with contextlib.ExitStack() as patched:
        for name, answer in answers.items():
            patched.enter_context(mock.patch(name, answer))
        cudnn = torch._C._get_sdp_priority_order()[0] == SDPBackend.CUDNN_ATTENTION.value  # set by attention.backend
        patched.enter_context(mock.patch.object(F, "scaled_dot_product_attention", _attention(cudnn)))
        patched.enter_context(inductor.patch(fx_graph_cache=False, compile_threads=1))
        patched.enter_context(functorch.patch(enable_autograd_cache=False))
        yield


PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)
READS = {torch.ops.aten.logsumexp.default: 6}
"""How often CUDA's operators go through a tensor that they read: once, but for one that runs as several (amax, sub,
exp_, sum). `ONLY_WRITTEN` are not read at all, of `BY_INDEX` as many elements as there are indices."""
ONLY_WRITTEN = (torch.ops.aten.copy_.default, torch.ops.aten.fill_.Scalar, torch.ops.aten.zeros_like.default)
BY_INDEX = (torch.ops.aten.gather.default, torch.ops.aten.scatter_.src)


class _Operations(TorchDispatchMode):
    """Adds up the bytes that operations outside of `PRODUCTS` read and write, each a kernel of its own."""

    traffic = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = op(*args, **(kwargs or {}))
        if op in PRODUCTS or op.is_view or "empty" in op.name() or op is torch.ops.aten.detach.default:
            return out
        read = [a for a in args[1 if op in ONLY_WRITTEN else 0 :] if isinstance(a, Tensor)]
        written = [a for a in _pytree.tree_leaves(out) if isinstance(a, Tensor)]
        if op in BY_INDEX:
            self.traffic += sum(_size(args[2]) for _ in (*read, *written))
        else:
            self.traffic += READS.get(op, 1) * sum(map(_size, read)) + sum(map(_size, written))
        return out


def _size(x: Tensor) -> int:
    return x.numel() * x.element_size()


def count_loss(shape: ModelConfig, targets: int, compiled: bool) -> int:
    """Return the bytes that the loss over the vocabulary, with its gradients, reads and writes beside its products."""
    x = torch.empty(targets, shape.hidden, dtype=torch.bfloat16, device="meta", requires_grad=True)
    head = torch.empty(shape.padded_vocab, shape.hidden, device="meta", requires_grad=True)
    labels, weights = (torch.empty(targets, dtype=d, device="meta") for d in (torch.int64, torch.float32))
    chunks: list[tuple[cross_entropy.OfChunk, tuple[Tensor, ...]]] = []

    def compiled_chunk(of_chunk: cross_entropy.OfChunk, backend: str) -> cross_entropy.OfChunk:
        def chunk(*of_targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            chunks.append((of_chunk, of_targets))
            logits, of_label, _ = of_targets
            return logits.new_empty((), dtype=torch.float32), torch.empty_like(logits), torch.empty_like(of_label)

        return chunk

    with mock.patch.object(cross_entropy, "compiled_chunk", compiled_chunk), _Operations() as operations:
        backend = "inductor" if compiled else None
        loss = cross_entropy.weighted_nll_sum(x, head, labels, weights, shape.vocab_size, backend)
        torch.autograd.grad(loss, (x, head))
    return operations.traffic + sum(_chunk_traffic(*chunk) for chunk in chunks)


def _chunk_traffic(of_chunk: cross_entropy.OfChunk, of_targets: tuple[Tensor, ...]) -> int:
    with _counting(set()) as (found, write):
        chunk = torch.compile(cross_entropy.narrowly(of_chunk), backend=write, fullgraph=True)
        chunk(*(torch.empty(x.shape, dtype=x.dtype) for x in of_targets))
    return found.total("traffic")


@dataclass(frozen=True)
class Step:
    """A micro-batch through a whole model, but for embedding and loss.

    Attributes:
        traffic: bytes, of all layers.
        traffic_of_layer: bytes.
        saved: bytes, of all layers.
        saved_of_layer: bytes.
        kernels_of_layer: forward and backward.
        graphs: compiled, forward and backward counted apart.
        wide: operations in float64.
    """

    traffic: int
    traffic_of_layer: int
    saved: int
    saved_of_layer: int
    kernels_of_layer: int
    graphs: int
    wide: int


def count_step(
    shape: ModelConfig,
    rows: int,
    length: int,
    pad: bool = False,
    recompute: Any = None,
    kernel: str | None = None,
    precision: str = "amp_bf16",
) -> Step:
    """Return the counts of a micro-batch of `rows` samples of `length` tokens; `pad`: one of them has PAD;
    `recompute`: `activation_checkpointing`; `kernel`: `attention_backend`."""
    with torch.device("meta"):
        model = Transformer(shape)
    model.recompute_activations(recompute)
    block, norm = model.blocks[0].to_empty(device="cpu"), model.norm.to_empty(device="cpu")
    assert isinstance(block, Block), "the model's first layer"
    assert isinstance(norm, RMSNorm), "the model's last norm"
    x = torch.empty(rows, length, shape.hidden, dtype=torch.bfloat16, requires_grad=True)
    assert shape.head_size is not None, "filled in by ModelConfig"
    rotation = rotations(None, 0, length, shape.head_size, shape.rope_base, torch.device("cpu"))
    mask = torch.ones(rows, 1, 1, length, dtype=torch.bool) if pad else None
    narrow = WIDE
    if precision == products.FLOAT8:
        products.convert(block)
    else:
        with torch.autocast("cpu", torch.bfloat16):
            narrow = NarrowWeights(adds=True)(block)
    with attention.backend(kernel):
        layer, last = counts(block, x, rotation, mask, None, narrow), counts(norm, x)
    return Step(
        traffic=shape.layers * layer.total("traffic") + last.total("traffic"),
        traffic_of_layer=layer.total("traffic"),
        saved=shape.layers * layer.total("saved") + last.total("saved"),
        saved_of_layer=layer.total("saved"),
        kernels_of_layer=layer.total("kernels"),
        graphs=len(layer.graphs) + len(last.graphs),
        wide=layer.total("wide") + last.total("wide"),
    )


def main() -> int:
    """Count one micro-batch and print what was counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset", choices=presets(), help="shape of the model")
    parser.add_argument("--objective", choices=("ar", "mdm"), default="ar")
    parser.add_argument("--rows", type=int, default=8, help="samples of a micro-batch (default 8)")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a sample (default 2048)")
    parser.add_argument("--pad", action="store_true", help="a micro-batch that has PAD")
    parser.add_argument("--recompute", choices=("norms", "products"), help="activation_checkpointing")
    parser.add_argument("--attention", choices=("flash", "cudnn"), help="attention_backend (default flash)")
    parser.add_argument("--precision", choices=("amp_bf16", products.FLOAT8), default="amp_bf16")
    args = parser.parse_args()
    section = ModelSection.model_validate(model_section({"preset": args.preset}, "benchmark"))
    shape = section.shape(args.objective == "ar", 50259)
    step = count_step(shape, args.rows, args.length, args.pad, args.recompute, args.attention, args.precision)
    targets = args.rows * args.length // (1 if args.objective == "ar" else 2)  # of MDM half of the tokens in the mean
    compiled, eager = (count_loss(shape, targets, c) for c in (True, False))
    of = {"torch": torch.__version__, "preset": args.preset, "objective": args.objective}
    print(json.dumps(of | asdict(step) | {"targets": targets, "loss": compiled, "loss_not_compiled": eager}))
    print(
        f"{step.traffic / 1e9:.1f} GB of pointwise traffic ({step.traffic_of_layer / 1e9:.2f} a layer), "
        f"{step.saved / 2**30:.1f} GiB saved for the backward pass, {step.kernels_of_layer} kernels a layer, "
        f"{step.wide} operations in float64\n"
        f"loss over the vocabulary, of {targets:,} targets: {compiled / 1e9:.1f} GB, {eager / 1e9:.1f} not compiled"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
