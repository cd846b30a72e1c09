"""What a run was trained on, gathered from the service: plans and positions, the ledger's counts, manifests.

Nothing is guessed. What no manifest says is not stated here either; documents that say so count it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ...common.errors import EpochalError
from ...shards.description.card import shareable
from ...shards.facts import facts_of
from ...shards.order.stored import order_from_dict
from ..ledger import plans_at

if TYPE_CHECKING:
    from ..client.client import Client

_DATE = re.compile(r"\b(?:19|20)\d\d(?:-(?:0[1-9]|1[0-2])(?:-(?:0[1-9]|[12]\d|3[01]))?)?\b")
_SHOWN = ("tokens", "passes", "partial_samples")
"""What the service adds to a plan's own numbers."""


@dataclass(frozen=True)
class Source:
    """A source of a pool, as its manifest has it.

    Attributes:
        documents: of it in the pool and its validation pool, after everything was taken out; None where not counted.
        facts: what it says of itself: license, url, collected, language, pii, citation.
    """

    name: str
    documents: int | None
    tokens: int | None
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Removed:
    """A step of a build that took documents out, or a list of documents that a subset was carved without."""

    step: str
    documents: int
    tokens: int | None


@dataclass(frozen=True)
class Pool:
    """A pool: where the text of the data sets comes from, and what became of it."""

    name: str
    fingerprint: str
    tokens: int
    documents: int
    tokenizer: str
    sources: list[Source]
    removed: list[Removed]
    excluded: list[str]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Dataset:
    """A subset (or pool) that was trained on, and how much of it the model was fed.

    Attributes:
        pool: fingerprint of the pool that it is cut from; None where the catalogue lacks it.
        documents: with a token in it.
        positions: samples read.
        tokens_fed: tokens read, each as often as it was.
        without: what it was carved without.
    """

    name: str
    fingerprint: str
    pool: str | None
    documents: int | None
    unique_tokens: int
    samples: int
    seq_len: int
    positions: int
    tokens_fed: int
    passes: float
    policy: str
    seed: int
    without: list[Removed]


@dataclass(frozen=True)
class Stretch:
    """What one run of the model's history trained on: positions [0, position) of its plan."""

    run: str
    fingerprint: str
    plan: str
    position: int
    positions: int
    datasets: list[Dataset]


@dataclass(frozen=True)
class Seen:
    """What the ledger counts over the whole history, EOD included.

    Attributes:
        documents: with a token that was fed at least once.
        unique_tokens: that were fed at least once; tokens_fed: each as often as it was.
        most_exposures: of any token.
    """

    documents: int
    unique_tokens: int
    tokens_fed: int
    most_exposures: int


@dataclass(frozen=True)
class OptOut:
    """An opt-out list that the service has in force, and what the model was fed of it.

    Attributes:
        entered: the day, as 2026-03-31 (UTC).
        lines: of the list; documents: of it in what the model was trained on.
        fed: documents of which a token was fed over the whole history.
        most_exposures: of any of their tokens.
        unknown: data sets of which that cannot be known.
        since: the run and the position after which none was fed; None where the run itself was fed some.
    """

    name: str
    version: int
    entered: str
    lines: int
    documents: int
    fed: int
    most_exposures: int
    unknown: list[str]
    since: tuple[str, int] | None


@dataclass(frozen=True)
class Account:
    """Everything that the summary and the bill of materials say.

    Attributes:
        history: the run itself, then the runs that its model went through.
        seen: None where a pool's documents cannot be read; `not_counted` then says why.
    """

    run: str
    fingerprint: str
    state: str
    receipt: str
    details: Mapping[str, Any]
    history: list[Stretch]
    pools: list[Pool]
    seen: Seen | None
    not_counted: str = ""
    optouts: list[OptOut] = field(default_factory=list)
    epochal: str = field(default="")

    @property
    def tokens_fed(self) -> int:
        """Tokens that the model was fed over its history, by its plans."""
        return sum(d.tokens_fed for stretch in self.history for d in stretch.datasets)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self) | {"tokens_fed": self.tokens_fed}


def gather(client: "Client", run: str, version: str) -> Account:
    """Return the account of a run, by its name or fingerprint.

    Raises:
        RefusedError: when the service does not know it.
        AwayError: when the service does not answer.
    """
    shown = client.get(f"/runs/{quote(run, safe='')}", points=1)
    manifests: dict[str, dict[str, Any] | None] = {}
    history = [_stretch(client, ancestor, manifests) for ancestor in shown["ancestry"]]
    pools = [d.pool for stretch in history for d in stretch.datasets if d.pool is not None]
    seen, why = _seen(client, shown["fingerprint"])
    return Account(
        run=shown["name"],
        fingerprint=shown["fingerprint"],
        state=shown["state"],
        receipt=shown["receipt"],
        details=shown["details"],
        history=history,
        pools=[_pool(m) for p in dict.fromkeys(pools) if (m := _manifest(client, p, manifests)) is not None],
        seen=seen,
        not_counted=why,
        optouts=list(_optouts(client, shown["fingerprint"])),
        epochal=version,
    )


def _manifest(client: "Client", fingerprint: str, known: dict[str, dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return an artifact's manifest; None where the catalogue lacks it."""
    if fingerprint not in known:
        try:
            known[fingerprint] = client.get(f"/artifacts/{fingerprint}")["manifest"]
        except EpochalError as error:
            if getattr(error, "status", None) != 404:
                raise
            known[fingerprint] = None
    return known[fingerprint]


def _stretch(client: "Client", ancestor: dict[str, Any], known: dict[str, dict[str, Any] | None]) -> Stretch:
    data = client.get(f"/plans/{ancestor['plan']}")
    order = order_from_dict(data if "sources" in data else {k: v for k, v in data.items() if k not in _SHOWN})
    plans = plans_at(order, ancestor["position"])
    datasets = [_dataset(plan, count, _manifest(client, plan.subset, known)) for plan, count in plans]
    where = (ancestor["run"], ancestor["fingerprint"], ancestor["plan"], ancestor["position"], order.positions)
    return Stretch(*where, datasets)


def _dataset(plan: Any, count: int, manifest: dict[str, Any] | None) -> Dataset:
    parent = (manifest or {}).get("parent")
    fed = plan.tokens_before(count)
    return Dataset(
        name=manifest["name"] if manifest else plan.subset,
        fingerprint=plan.subset,
        pool=None if manifest is None else parent["fingerprint"] if parent else plan.subset,
        documents=manifest["documents"] if manifest else None,
        unique_tokens=plan.unique_tokens,
        samples=plan.samples,
        seq_len=plan.seq_len,
        positions=count,
        tokens_fed=fed,
        passes=fed / plan.unique_tokens,
        policy=plan.policy,
        seed=plan.seed,
        without=_without((manifest or {}).get("without")),
    )


def _without(said: Any) -> list[Removed]:
    """Return what a subset was carved without, as its manifest says."""
    if not isinstance(said, dict):
        return []
    by = ", ".join(str(part.get("name")) for part in said.get("by", ()))
    return [Removed(by or "carved without documents", said["documents"], said["tokens"])]


def _pool(m: dict[str, Any]) -> Pool:
    statistics, config = m.get("statistics") or {}, m.get("config") or {}
    counted = statistics.get("sources") or {}
    facts = {source["name"]: {k: v for k, v in source.items() if k != "name"} for source in facts_of(config)}
    names = list(dict.fromkeys([*facts, *counted]))
    numbers = {name: counted.get(name) or {} for name in names}
    return Pool(
        name=m["name"],
        fingerprint=m["fingerprint"],
        tokens=m["tokens"],
        documents=m["documents"],
        tokenizer=str(shareable(m["tokenizer"]["name"])),
        sources=[
            Source(name, numbers[name].get("documents"), numbers[name].get("tokens"), facts.get(name, {}))
            for name in names
        ],
        removed=[
            Removed(step["step"], -step["documents"], None if step["tokens"] is None else -step["tokens"])
            for step in statistics.get("waterfall") or ()
            if step["documents"] < 0
        ],
        excluded=[str(name).rpartition("/")[2] for name in config.get("exclude") or ()],
        versions=m.get("versions") or {},
    )


def _seen(client: "Client", run: str) -> tuple[Seen | None, str]:
    """Return the ledger's counts; None, and why, where it cannot count."""
    try:
        counted = client.histogram(run)
    except EpochalError as error:
        if getattr(error, "status", None) not in (404, 409, 422):
            raise
        return None, str(error)
    tokens = {int(k): n for k, n in counted["tokens"].items()}
    documents = sum(n for k, n in counted["any"].items() if int(k))
    unique = sum(n for k, n in tokens.items() if k)
    return Seen(documents, unique, sum(k * n for k, n in tokens.items()), max(tokens, default=0)), ""


def _optouts(client: "Client", run: str) -> Iterator[OptOut]:
    """Yield what a run was fed of every list that names documents; none from a service that knows no lists."""
    cursor = None
    while True:
        try:
            answer = client.get("/optouts", limit=1000, cursor=cursor)
        except EpochalError as error:
            if getattr(error, "status", None) != 404:
                raise
            return
        yield from (_optout(client, of, run) for of in answer["optouts"] if of["lines"])
        cursor = answer["next"]
        if cursor is None:
            return


def _optout(client: "Client", of: dict[str, Any], run: str) -> OptOut:
    held = client.get(f"/optouts/{of['name']}/runs/{run}")["held"]
    entered = datetime.fromtimestamp(of["added"], UTC).date().isoformat()
    known = of["name"], of["version"], entered, of["lines"]
    if held is None:
        return OptOut(*known, 0, 0, 0, [], None)
    fed, since = held["so_far"], held["since"]
    where = (since["run"], since["position"]) if since else None
    return OptOut(*known, held["held"], fed["documents"], fed["most"], fed["unknown"], where)


def latest_date(account: Account) -> tuple[str, int]:
    """Return the latest date that a source says it was collected at (empty: none says one), and how many say none."""
    stated = [dates_in(source.facts.get("collected")) for pool in account.pools for source in pool.sources]
    return max((date for dates in stated for date in dates), default=""), sum(not dates for dates in stated)


def dates_in(fact: Any) -> list[str]:
    """Return the dates in a fact, as 2024, 2024-03 or 2024-03-31."""
    return [date for text in (fact if isinstance(fact, list) else [fact or ""]) for date in _DATE.findall(str(text))]
