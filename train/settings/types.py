"""Types of values that several sections of a run share."""

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from ...common.config import Section
from ..durations import with_unit

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Part = Annotated[float, Field(ge=0.0, lt=1.0)]
"""A share that leaves something."""

Positive = Annotated[int, Field(gt=0, lt=2**63)]
Size = Annotated[int, Field(gt=0, le=2**20)]
"""Of a part of a model: beyond this nothing can hold it."""

Workers = Annotated[int, Field(ge=0, le=1024)]
Span = str | int
Interval = Annotated[str | int, BeforeValidator(with_unit)]
"""A span with its unit: of a bare number, one cannot know whether it counts steps or tokens."""


class FiguresSection(Section):
    """A section that a run's figures follow from, and that has got keys since the first version."""

    LATER: ClassVar[tuple[str, ...]] = ()
    """Keys that an earlier version did not have."""

    def changed(self, *keys: str) -> list[str]:
        """Return those of `keys` that say something else than their defaults, which a run's `config.yaml` has too."""
        return [key for key in keys if getattr(self, key) != type(self).model_fields[key].default]

    def figures(self) -> dict[str, Any]:
        """Return the section as what a run is: JSON values, a key of LATER only where it says something else than its
        default, so that runs go by the names that they had before there was such a key."""
        fields = type(self).model_fields
        defaults = {key: fields[key].get_default(call_default_factory=True) for key in self.LATER}
        body = self.model_dump(mode="json")
        return {k: v for k, v in body.items() if k not in defaults or getattr(self, k) != defaults[k]}
