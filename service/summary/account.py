"""What a run was trained on, gathered from the service: plans and positions, the ledger's counts, manifests.

Nothing is guessed. What no manifest says is not stated here either; documents that say so count it.
"""

import re
from collections.abc import Container, Iterator, Mapping
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
_VERSION = re.compile(r"(?P<name>.+), version (?P<version>\d+)")
"""What a manifest calls a version of an opt-out list."""

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
class LeftOut:
    """A list of documents, or a condition on them, that a pool was built or a subset carved without.

    Attributes:
        name: of the list, or of its file; the condition itself.
        kind: list or condition.
        version: of an opt-out list that the service knows.
        lines: of a list; unmatched: those that name no document of the pool. None where that is not stated.
        documents: of the pool that it names, or that the condition holds for; of a build those that it kept out.
    """

    name: str
    kind: str
    version: int | None
    lines: int | None
    unmatched: int | None
    documents: int | None


@dataclass(frozen=True)
class Removed:
    """A step of a build that took documents out, or what a subset was carved without."""

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
    left_out: list[LeftOut]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Dataset:
    """A subset (or pool) that was trained on, and how much of it the model was fed.

    Attributes:
        pool: fingerprint of the pool that it is cut from; None where the catalogue lacks it.
        documents: with a token in it.
        positions: samples read.
        tokens_fed: tokens read, each as often as it was.
        without: what it was carved without; left_out: the lists that named that.
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
    left_out: list[LeftOut]


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
class Holder:
    """A data set, or a pool that one is cut from, that has tokens of documents of a list; None where that is not
    known."""

    name: str
    kind: str
    fingerprint: str
    documents: int | None
    tokens: int | None


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
        held_by: the data sets, and the pools that they are cut from, that hold documents of it.
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
    held_by: list[Holder]


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
    lists = list(_lists(client))
    names = {of["name"] for of in lists}
    history = [_stretch(client, ancestor, manifests, names) for ancestor in shown["ancestry"]]
    pools = [d.pool for stretch in history for d in stretch.datasets if d.pool is not None]
    seen, why = _seen(client, shown["fingerprint"])
    return Account(
        run=shown["name"],
        fingerprint=shown["fingerprint"],
        state=shown["state"],
        receipt=shown["receipt"],
        details=shown["details"],
        history=history,
        pools=[_pool(m, names) for p in dict.fromkeys(pools) if (m := _manifest(client, p, manifests)) is not None],
        seen=seen,
        not_counted=why,
        optouts=[_optout(client, of, shown["fingerprint"]) for of in lists if of["lines"]],
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


def _stretch(
    client: "Client", ancestor: dict[str, Any], known: dict[str, dict[str, Any] | None], lists: Container[str]
) -> Stretch:
    data = client.get(f"/plans/{ancestor['plan']}")
    order = order_from_dict(data if "sources" in data else {k: v for k, v in data.items() if k not in _SHOWN})
    plans = plans_at(order, ancestor["position"])
    datasets = [_dataset(plan, count, _manifest(client, plan.subset, known), lists) for plan, count in plans]
    where = (ancestor["run"], ancestor["fingerprint"], ancestor["plan"], ancestor["position"], order.positions)
    return Stretch(*where, datasets)


def _dataset(plan: Any, count: int, manifest: dict[str, Any] | None, lists: Container[str]) -> Dataset:
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
        left_out=_left_out(((manifest or {}).get("without") or {}).get("by"), lists),
    )


def _without(said: Any) -> list[Removed]:
    """Return what a subset was carved without, as its manifest says."""
    if not isinstance(said, dict):
        return []
    by = ", ".join(str(part.get("name")) for part in said.get("by", ()))
    return [Removed(by or "carved without documents", said["documents"], said["tokens"])]


def _left_out(said: Any, lists: Container[str]) -> list[LeftOut]:
    """Return what a manifest says of lists and conditions that documents were left out by.

    Args:
        lists: names of opt-out lists that the service knows.
    """
    found = []
    for part in said or ():
        name, version = str(part["name"]), _VERSION.fullmatch(str(part["name"]))
        if version is not None and version["name"] in lists:
            name = version["name"]
        kind, counts = part.get("kind", "list"), [part.get(key) for key in ("lines", "unmatched", "documents")]
        if kind == "condition":
            counts[:2] = None, None
        found.append(
            LeftOut(name, kind, int(version["version"]) if version and version["name"] == name else None, *counts)
        )
    return found


def _pool(m: dict[str, Any], lists: Container[str]) -> Pool:
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
        left_out=_left_out(statistics.get("exclude") or _named(config.get("exclude")), lists),
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


def _named(files: Any) -> list[dict[str, Any]]:
    """Return the lists of a build whose manifest says no more of them than their files."""
    return [{"name": str(shareable(str(name))).rpartition("/")[2]} for name in files or ()]


def _lists(client: "Client") -> Iterator[dict[str, Any]]:
    """Yield all opt-out lists, the last version of each; none from a service that knows no lists."""
    cursor = None
    while True:
        try:
            answer = client.get("/optouts", limit=1000, cursor=cursor)
        except EpochalError as error:
            if getattr(error, "status", None) != 404:
                raise
            return
        yield from answer["optouts"]
        cursor = answer["next"]
        if cursor is None:
            return


def _optout(client: "Client", of: dict[str, Any], run: str) -> OptOut:
    answer = client.get(f"/optouts/{of['name']}/runs/{run}")
    held = answer["held"]
    keys = ("name", "kind", "fingerprint", "documents", "tokens")
    held_by = [Holder(*(row[key] for key in keys)) for row in answer.get("artifacts", ())]
    entered = datetime.fromtimestamp(of["added"], UTC).date().isoformat()
    known = of["name"], of["version"], entered, of["lines"]
    if held is None:
        return OptOut(*known, 0, 0, 0, [], None, held_by)
    fed, since = held["so_far"], held["since"]
    where = (since["run"], since["position"]) if since else None
    return OptOut(*known, held["held"], fed["documents"], fed["most"], fed["unknown"], where, held_by)


def latest_date(account: Account) -> tuple[str, int]:
    """Return the latest date that a source says it was collected at (empty: none says one), and how many say none."""
    stated = [dates_in(source.facts.get("collected")) for pool in account.pools for source in pool.sources]
    return max((date for dates in stated for date in dates), default=""), sum(not dates for dates in stated)


def dates_in(fact: Any) -> list[str]:
    """Return the dates in a fact, as 2024, 2024-03 or 2024-03-31."""
    return [date for text in (fact if isinstance(fact, list) else [fact or ""]) for date in _DATE.findall(str(text))]
