"""Types of values that several sections of a run share."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from ..durations import with_unit

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0, lt=2**63)]
Size = Annotated[int, Field(gt=0, le=2**20)]
"""Of a part of a model: beyond this nothing can hold it."""

Workers = Annotated[int, Field(ge=0, le=1024)]
Span = str | int
Interval = Annotated[str | int, BeforeValidator(with_unit)]
"""A span with its unit: of a bare number, one cannot know whether it counts steps or tokens."""
