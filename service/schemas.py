"""What requests hold, checked at the door: names, ranges, no unknown keys."""

from decimal import Decimal
from typing import Annotated, Any, Literal

import orjson
from fastapi import Path, Query
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints, model_validator

from ..common.config import Section, validate
from ..common.errors import RequestError
from ..common.text import content_key, normalise
from ..shards.order.amendment.skips import MOST_REASON
from ..shards.order.base import POLICIES
from ..shards.order.mixture_config import MixtureSettings
from ..shards.order.windows import MAX_WINDOW
from ..shards.without.lists import Entry
from .catalogue import is_storable
from .models import INT

NAME = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,127}$"

Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Label = Annotated[str, StringConstraints(pattern=NAME)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^[^\x00-\x1f\x7f]*$")]
CheckpointName = Annotated[Text, StringConstraints(max_length=400)]


def _no_truth_value(value: Any) -> Any:
    """Return `value` unless it is true or false, which Python takes for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Number = BeforeValidator(_no_truth_value)
Natural = Annotated[int, Field(ge=0, le=INT), Number]
Positive = Annotated[int, Field(ge=1, le=INT), Number]
LeaseNumber = Annotated[int, Field(ge=1, le=INT), Number]
TokenCount = Positive | Annotated[str, StringConstraints(max_length=40)]
Epochs = Annotated[Decimal, Field(gt=0, le=10**9, max_digits=18), Number]
Weight = Annotated[float, Field(gt=0, le=10**6, allow_inf_nan=False), Number]
Position = Annotated[int, Field(ge=0, le=INT), Number]
SkipRequest = Annotated[
    tuple[Position, Position, Annotated[str, StringConstraints(min_length=1, max_length=MOST_REASON)]],
    Field(description="[first position that is passed over, first one after it, reason]"),
]
Seconds = Annotated[float, Field(ge=1, le=86_400, allow_inf_nan=False), Number]
PolicyName = Literal["reshuffle", "fixed", "global", "sequential", "repack"]
assert set(POLICIES) == {"reshuffle", "fixed", "global", "sequential", "repack"}


def _storable(value: dict[str, Any]) -> dict[str, Any]:
    """Return `value` if every JSON reader and both databases take it."""
    if not is_storable(value):
        raise ValueError("must be JSON: finite numbers, integers of 64 bits, Unicode text, no deep nesting")
    if len(orjson.dumps(value)) > MOST_BYTES:
        raise ValueError(f"is at most {MOST_BYTES:,} bytes")
    return value


MOST_BYTES = 100_000
MOST_SKIPS = 1000
"""Spans that a plan passes over: each is looked at for every count."""

Object = Annotated[dict[str, Any], AfterValidator(_storable)]
PlanPath = Annotated[str, Path(description="name or fingerprint of a plan", pattern=NAME)]
RunPath = Annotated[str, Path(description="name or fingerprint of a run", pattern=NAME)]
KeyPath = Annotated[str, Path(description="32 hexadecimal digits", pattern=r"^[0-9a-f]{32}$")]
RunQuery = Annotated[Text | None, Query(description="only this run: name or fingerprint")]
RunNameQuery = Annotated[Text, Query(description="name or fingerprint of a run")]
PositionQuery = Annotated[int | None, Query(ge=0, le=INT, description="as of this position of the run")]
PointsQuery = Annotated[int, Query(ge=1, le=5000)]


class NamedDocument(Section):
    """A document, by its key, its id or its text; the first of them counts. Of a text the key is made, and it is not
    kept."""

    key: Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F]{32}$")] | None = None
    id: Annotated[str, StringConstraints(min_length=1, max_length=10_000)] | None = None
    text: Annotated[str, StringConstraints(max_length=4 << 20)] | None = None

    @model_validator(mode="after")
    def _names_one(self) -> "NamedDocument":
        if self.key is None and self.id is None and self.text is None:
            raise ValueError("names no document: give it a field key, id or text")
        return self

    def entry(self) -> Entry:
        """Return it as a line of a list."""
        if self.key is not None:
            return "key", self.key.lower()
        if self.id is not None:
            return "id", self.id
        return "key", content_key(normalise(self.text or "")).hex()


MOST_DOCUMENTS = 200_000
"""Lines of a list of documents in a request."""

Line = Annotated[str, StringConstraints(min_length=1, max_length=10_000)]
DocumentList = Annotated[list[Line | NamedDocument], Field(max_length=MOST_DOCUMENTS)]


def _entries(documents: list[Any]) -> list[Entry]:
    """Return documents of a request as lines of a list. Raises RequestError."""
    try:
        return [(None, d) if isinstance(d, str) else d.entry() for d in documents if _encoded(d)]
    except UnicodeEncodeError:
        raise RequestError("documents: a name is not Unicode: it has half a surrogate pair") from None


def _encoded(document: Any) -> bool:
    texts = [document] if isinstance(document, str) else [document.id, document.text]
    return all(text is None or text.encode() is not None for text in texts)


class OptOutRequest(Section):
    """A list of documents that are to be fed no more: what the lines of a file for `epochal carve --without` say.

    Attributes:
        documents: each a line that is looked for as a key, as an id and as a text, or an object that says which.
    """

    name: Label
    documents: DocumentList

    def entries(self) -> list[Entry]:
        """Return its documents as lines of a list.

        Raises:
            RequestError: for text that is not Unicode.
        """
        return _entries(self.documents)


class CarveRequest(Section):
    """A subset to carve.

    Attributes:
        pool: name or fingerprint.
        unique_tokens: an integer, or text as 500M.
        name: of the subset.
        without: documents of which it holds no token, as in an opt-out list.
        without_optouts: names of opt-out lists of whose documents it holds no token.
    """

    pool: Text
    unique_tokens: TokenCount
    replicate: Annotated[int, Field(ge=0, le=10_000), Number] = 0
    name: Label | None = None
    without: DocumentList = []
    without_optouts: Annotated[list[Label], Field(max_length=100)] = []

    def entries(self) -> list[Entry]:
        """Return the documents of `without` as lines of a list.

        Raises:
            RequestError: for text that is not Unicode.
        """
        return _entries(self.without)


class SourceRequest(Section):
    """A source of a mixture.

    Attributes:
        subset: name or fingerprint of a subset or pool. How much of it is read: epochs, tokens, weight, or nothing
            where stages say it.
        seed: the plan's when not given.
    """

    subset: Text
    epochs: Epochs | None = None
    tokens: TokenCount | None = None
    weight: Weight | None = None
    seed: Natural | None = None
    policy: PolicyName = "reshuffle"


class StageRequest(Section):
    """A stage of a mixture: its tokens (the last may take the rest) and the weight of each source in it."""

    tokens: TokenCount | None = None
    weights: Annotated[dict[Label, Weight], Field(min_length=1, max_length=100)]


class MixtureRequest(Section):
    """Several subsets in one stream, as `train_loader.dataset.mixture` of a run: see docs/repetition.md."""

    sources: Annotated[dict[Label, SourceRequest], Field(min_length=1, max_length=100)]
    stages: Annotated[list[StageRequest], Field(max_length=100)] = []
    window: Annotated[int, Field(ge=1, le=MAX_WINDOW), Number] = 1000
    seed: Natural | None = None

    def settings(self) -> MixtureSettings:
        """Return it as settings whose paths are names or fingerprints.

        Raises:
            RequestError: for a wrong request.
        """
        data = self.model_dump(mode="json", exclude_none=True)
        for source in data["sources"].values():
            source["path"] = source.pop("subset")
        return validate(MixtureSettings, data, "mixture")


class PlanRequest(Section):
    """A plan to make: of a subset (or pool), by name or fingerprint, with either total_tokens or epochs; or of a
    mixture, with one of them where its sources have weights.

    Attributes:
        seed: of the order, or of sources without one.
        skip: spans of its positions that are passed over.
    """

    subset: Text | None = None
    mixture: MixtureRequest | None = None
    total_tokens: TokenCount | None = None
    epochs: Epochs | None = None
    seed: Natural = 0
    policy: PolicyName | None = None
    skip: Annotated[list[SkipRequest], Field(max_length=MOST_SKIPS)] = []
    name: Label | None = None


class ParentRequest(Section):
    """The run whose model is trained on, and the position at which it is taken over (its last reported one)."""

    run: Text
    position: Natural | None = None


class RunRequest(Section):
    """A run that starts, or goes on.

    Attributes:
        plan: as `to_dict` of a Plan or Mixture gives it, or the name or fingerprint of a known one.
        holder: who claims the name; the same holder may claim it again while its lease lasts.
        session: of the process: asking again with it changes nothing.
        lease_seconds: how long the lease lasts after each report.
    """

    name: Label
    plan: Object | Text
    batch_samples: Positive
    holder: Label
    session: Label
    lease_seconds: Seconds = 120.0
    parent: ParentRequest | None = None
    details: Object = {}


class ReportItem(Section):
    """What a run has done by a position (samples trained on so far)."""

    position: Natural
    tokens: Natural
    loss: Annotated[float, Field(allow_inf_nan=False), Number] | None = None
    kind: Annotated[str, Field(pattern=r"^[a-z_]{1,20}$")] | None = None
    digest: Fingerprint | None = None
    split: Literal["train", "validation"] = "train"


class LeaseRequest(Section):
    """What is said under a lease; alone it renews it.

    Attributes:
        token: the lease's number.
        session: of the claim that got it.
        after: how many calls under the lease were acknowledged before this one: the service refuses to go on, with
            the number that it has, when it has fewer.
    """

    token: LeaseNumber
    session: Label | None = None
    after: Natural | None = None


class ReportRequest(LeaseRequest):
    """Reports under a lease."""

    reports: Annotated[list[ReportItem], Field(min_length=1, max_length=10_000)]


class CheckpointRequest(LeaseRequest):
    """A checkpoint that was written."""

    position: Natural
    name: CheckpointName
    digest: Fingerprint | None = None


class CloseRequest(LeaseRequest):
    """A run that ends.

    Attributes:
        receipt: as `Receipt.to_dict` gives it; it is checked after the answer.
    """

    state: Literal["finished", "failed", "stopped"]
    receipt: Object | None = None


class LimitRequest(Section):
    """A cap: exposures of a document over a run's ancestry, over its own subset, or tokens over the ancestry."""

    kind: Literal["exposures", "subset_exposures", "tokens"]
    cap: Natural
    subset: Text | None = None


class TextRequest(Section):
    """A document's text, to be looked up by its key.

    Attributes:
        run: as for a key.
        position: as for a key.
    """

    text: Annotated[str, StringConstraints(max_length=4 << 20)]
    run: Text | None = None
    position: Natural | None = None


class Problem(BaseModel):
    """What is wrong with a request, in one sentence."""

    detail: str
