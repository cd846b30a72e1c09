"""What is compiled, counted."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

GRAPHS: list[int] = []


@torch._dynamo.register_backend(name="counted")
def counted(graph: Any, inputs: Any) -> Any:
    GRAPHS.append(len(graph.graph.nodes))
    return graph.forward


@pytest.fixture
def graphs() -> Iterator[list[int]]:
    """Yield the list that the backend `counted` adds the number of each graph's operations to."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    GRAPHS.clear()
    yield GRAPHS
    torch._dynamo.reset()
