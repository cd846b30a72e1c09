"""What the service answers, as types: JSON data with these keys, of which later versions may send more."""

from typing import Any, Literal, TypedDict


class Artifact(TypedDict):
    """A pool or subset.

    Attributes:
        pool: fingerprint of the pool whose stream it is cut from.
        current: whether one of its names still means it.
        available: whether it lies anywhere the service can read it.
        added: seconds since 1970, as all times.
    """

    fingerprint: str
    kind: Literal["pool", "subset"]
    pool: str
    tokens: int
    samples: int
    documents: int
    seq_len: int
    tokenizer: str
    tokenizer_fingerprint: str
    name: str
    names: list[str]
    current: bool
    replicate: int | None
    start_sample: int
    available: bool
    added: float


class Place(TypedDict):
    """Where an artifact lies, or lay."""

    path: str
    layout: str
    gone: bool


class Meaning(TypedDict):
    """What a name meant since when."""

    name: str
    fingerprint: str
    since: float


class ArtifactInFull(Artifact):
    """An artifact with its manifest, its places, what its pool's sources say of themselves, and its names' history."""

    manifest: dict[str, Any]
    sources: dict[str, dict[str, Any]]
    locations: list[Place]
    history: list[Meaning]


class ArtifactPage(TypedDict):
    """A page of artifacts; `next` is the cursor of the next one. `problems`: what cannot be read, by folder."""

    artifacts: list[Artifact]
    next: str | None
    problems: dict[str, str]


class PlanEntry(TypedDict):
    """A plan, as `to_dict` of it, and what it and its subsets are called."""

    fingerprint: str
    names: list[str]
    plan: dict[str, Any]
    subset_names: list[str]
    added: float


class PlanPage(TypedDict):
    """A page of plans."""

    plans: list[PlanEntry]
    next: str | None


class Piece(TypedDict):
    """`tokens` of document `number` of its pool, which has `of` of them, from `begin` on, that lie in one sample."""

    number: int
    key: str
    id: str
    source: str
    begin: int
    tokens: int
    of: int


class _Read(TypedDict):
    position: int
    id: int
    documents: list[Piece]


class Content(_Read, total=False):
    """What one position reads; of a mixture also the component and its own sample."""

    component: str
    sample: int


class ContentPage(TypedDict):
    """What positions [start, stop) read; `next` is where the rest begins."""

    start: int
    stop: int
    positions: list[Content]
    next: int | None


class SourceProgress(TypedDict):
    """How far a run is in one source of its mixture."""

    name: str
    subset: str
    policy: str
    position: int
    positions: int
    passes: float


class Run(TypedDict):
    """A run, how far it is, and what that means for its plan.

    Attributes:
        state: `open` until it says how it ended.
        live: it holds the lease on its name, of number `lease`.
        receipt: none, not checked yet, valid, not valid (then `receipt_problem` says why).
        position: samples trained on, of `positions`.
        expected: `unique_tokens_seen` is an expectation.
        subset: None for a mixture, as whose `sources` its parts are listed.
    """

    fingerprint: str
    name: str
    plan: str
    batch_samples: int
    parent: str | None
    parent_position: int
    details: dict[str, Any]
    state: Literal["open", "finished", "failed", "stopped"]
    position: int
    tokens: int
    loss: float | None
    kind: str | None
    digest: str | None
    reported: float | None
    added: float
    receipt_problem: str | None
    thinned: int
    live: bool
    lease: int | None
    receipt: str
    step: int
    positions: int
    passes: float
    subset: str | None
    policy: str
    unique_tokens: int
    unique_tokens_seen: int
    expected: bool
    steps: int
    sources: list[SourceProgress]


class Report(TypedDict):
    """A report of a run, under the lease of number `token`."""

    position: int
    token: int
    tokens: int
    loss: float | None
    kind: str | None
    digest: str | None
    at: float
    unique_tokens_seen: int


class Stretch(TypedDict):
    """A run that a model went through, up to `position`."""

    run: str
    fingerprint: str
    plan: str
    position: int


class RunInFull(Run):
    """A run with the runs its model went through, itself first, and a curve of its reports."""

    ancestry: list[Stretch]
    reports: list[Report]


class RunPage(TypedDict):
    """A page of runs; `total` and `live` count all that match."""

    runs: list[Run]
    next: str | None
    total: int
    live: int


class Released(TypedDict):
    """A run name that is free; its lease had `seconds` left."""

    run: str
    name: str
    seconds: float
    position: int


class Exposures(TypedDict):
    """How often the least and the most fed token of a document came, and all of them in the mean."""

    least: int
    most: int
    mean: float


class Event(TypedDict):
    """A position, and step, of a run."""

    run: str
    position: int
    step: int


class Interval(TypedDict):
    """Tokens [start, stop) of a document, all fed equally often."""

    start: int
    stop: int
    exposures: int


class Part(TypedDict):
    """Tokens [start, stop) of a document that lie in one sample of a subset (None: the policy `repack`)."""

    sample: int | None
    start: int
    stop: int
    exposures: int
    first: int | None
    last: int | None


class Segment(TypedDict):
    """A document's parts in a run of an ancestry up to `position`; of a mixture in one `source` of it."""

    run: str
    plan: str
    position: int
    source: str | None
    source_position: int
    parts: list[Part]


class _Seen(TypedDict):
    run: str
    fingerprint: str
    exposures: Exposures
    tokens_fed: int
    first: Event | None
    last: Event | None
    intervals: list[Interval]
    unknown: list[str]


class RunSeen(_Seen, total=False):
    """What a run was fed of a document; `unknown`: runs of its ancestry whose pool cannot be read. Where one run was
    asked about, also the `segments` of its ancestry."""

    segments: list[Segment]


class InPool(TypedDict):
    """The pool that a document lies in, and where in its stream."""

    pool: str
    start: int


class DocumentSeen(TypedDict):
    """A document, and the runs that were fed it, of all that were looked at."""

    key: str
    id: str
    source: str
    tokens: int
    pools: list[InPool]
    runs: list[RunSeen]
    runs_looked_at: int


class Seen(TypedDict):
    """The documents of a key, id or text: several where sources share an id."""

    documents: list[DocumentSeen]


Fed = TypedDict("Fed", {"position": int, "step": int, "pass": int, "source": str | None, "begin": int, "tokens": int})
"""A position that fed `tokens` tokens of a document, from `begin` on; `source` is that of a mixture."""


class TimelineStretch(TypedDict):
    """A run of an ancestry up to `position`, of `positions`.

    Attributes:
        times: how many positions fed the document.
        events: the first of them.
        spans: how many there are in each of 100 equal spans of the positions before `position`.
    """

    run: str
    fingerprint: str
    plan: str
    position: int
    positions: int
    times: int
    tokens_fed: int
    events: list[Fed]
    spans: list[int]


class Timeline(TypedDict):
    """Where a document was fed to a run, and to those it continues, itself first."""

    key: str
    run: str
    fingerprint: str
    stretches: list[TimelineStretch]


class Histogram(TypedDict):
    """How many documents and tokens a run saw how often (by the number as text), over its ancestry.

    Attributes:
        whole: documents by how often every token of them was fed.
        any: documents by how often their most fed token was.
    """

    run: str
    fingerprint: str
    position: int
    ancestry: list[dict[str, Any]]
    whole: dict[str, int]
    any: dict[str, int]
    tokens: dict[str, int]


class Limit(TypedDict):
    """A cap that runs are held against when they start, or only those on `subset`."""

    id: int
    kind: Literal["exposures", "subset_exposures", "tokens"]
    cap: int
    subset: str | None
    added: float


class Limits(TypedDict):
    """All limits."""

    limits: list[Limit]


class Removed(TypedDict):
    """The number of a limit that was removed."""

    removed: int


class Health(TypedDict):
    """What the service says of itself."""

    service: str
    version: str


class Lineage(TypedDict):
    """Nodes (id, kind, name) and edges (from, to); `cut` if there are more."""

    nodes: list[dict[str, Any]]
    edges: list[dict[str, Any]]
    cut: bool
