"""The same as a bill of materials for machine learning: CycloneDX 1.6, JSON. Its bytes follow from the account."""

import uuid
from collections.abc import Sequence
from typing import Any

from ...common.hashing import digest
from ...shards.description.markdown import web_address
from ...shards.facts import plain
from .account import Account, Dataset, LeftOut, Pool, Source, Stretch

Json = dict[str, Any]


def bom(account: Account) -> Json:
    """Return the bill of materials."""
    datasets = {d.fingerprint: d for s in account.history for d in s.datasets}
    pools = {p.fingerprint: p for p in account.pools}
    alone = [d for d in datasets.values() if d.fingerprint not in pools]
    body = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "epochal", "version": account.epochal}]},
            "component": _model(account),
        },
        "components": [*(_dataset(d, account) for d in alone), *(_pool(p, account) for p in account.pools)],
        "dependencies": _dependencies(account, alone),
    }
    return body | {"serialNumber": f"urn:uuid:{uuid.UUID(digest(body), version=5)}"}


def _model(a: Account) -> Json:
    named = {"type": "machine-learning-model", "bom-ref": _run(a.fingerprint), "name": a.run, "version": a.fingerprint}
    counts = {"tokensFed": a.tokens_fed, "position": a.history[0].position, "receipt": a.receipt, "state": a.state}
    if a.seen is not None:
        seen = {"uniqueTokensFed": a.seen.unique_tokens, "documentsFed": a.seen.documents}
        counts |= seen | {"mostExposures": a.seen.most_exposures}
    for o in a.optouts:
        fed = {"documents": o.documents, "documentsFed": o.fed, "mostExposures": o.most_exposures}
        counts |= _of_list("optOut", o.name, {"version": o.version, "entered": o.entered, "lines": o.lines} | fed)
    refs = dict.fromkeys(d.fingerprint for s in a.history for d in s.datasets)
    parameters: Json = {
        "approach": {"type": "self-supervised"},
        "task": "text-generation",
        "architectureFamily": "transformer",
        "datasets": [{"ref": _data(ref)} for ref in refs],
    }
    if objective := a.details.get("objective"):
        parameters["modelArchitecture"] = {"ar": "autoregressive", "mdm": "masked diffusion"}.get(
            str(objective), plain(objective)
        )
    ancestors = [_ancestor(stretch) for stretch in a.history[1:]]
    pedigree = {"pedigree": {"ancestors": ancestors}} if ancestors else {}
    return named | pedigree | {"modelCard": {"modelParameters": parameters}, "properties": _properties(counts)}


def _ancestor(stretch: Stretch) -> Json:
    counts = {"position": stretch.position, "tokensFed": sum(d.tokens_fed for d in stretch.datasets)}
    named = {"type": "machine-learning-model", "bom-ref": _run(stretch.fingerprint), "name": stretch.run}
    return named | {"version": stretch.fingerprint, "properties": _properties(counts)}


def _dataset(d: Dataset, account: Account) -> Json:
    counts = {"uniqueTokens": d.unique_tokens, "samples": d.samples, "sampleTokens": d.seq_len}
    if d.documents is not None:
        counts["documents"] = d.documents
    for removed in d.without:
        counts |= {"documentsTakenOut": removed.documents, "tokensTakenOut": removed.tokens or 0}
    counts |= _lists(account, d.fingerprint, d.left_out)
    return _data_component(d.name, d.fingerprint) | {"properties": _properties(counts)}


def _pool(p: Pool, account: Account) -> Json:
    counts: Json = {"uniqueTokens": p.tokens, "documents": p.documents, "tokenizer": p.tokenizer}
    counts |= _lists(account, p.fingerprint, p.left_out)
    inner = [_source(p, source) for source in p.sources]
    parts = {"components": inner} if inner else {}
    return _data_component(p.name, p.fingerprint) | {"properties": _properties(counts)} | parts


def _lists(account: Account, fingerprint: str, left_out: Sequence[LeftOut]) -> Json:
    """Return which lists of documents an artifact was made without, and of which opt-out lists it still holds some."""
    found: Json = {}
    for one in left_out:
        stated = {"version": one.version, "lines": one.lines, "documents": one.documents, "unmatched": one.unmatched}
        known = {key: n for key, n in stated.items() if n is not None}
        found |= _of_list("leftOut", one.name, {"kind": one.kind} | known)
    for o in account.optouts:
        for held in (held for held in o.held_by if held.fingerprint == fingerprint):
            counts = {"documents": held.documents, "tokens": held.tokens}
            shown = {key: "not known" if n is None else n for key, n in counts.items()}
            found |= _of_list("holdsOptedOut", o.name, {"version": o.version} | shown)
    return found


def _of_list(what: str, name: str, values: Json) -> Json:
    return {f"{what}:{plain(name)}:{key}": value for key, value in values.items()}


def _data_component(name: str, fingerprint: str) -> Json:
    return {
        "type": "data",
        "bom-ref": _data(fingerprint),
        "name": plain(name),
        "version": fingerprint,
        "data": [{"type": "dataset", "name": plain(name)}],
    }


def _source(pool: Pool, s: Source) -> Json:
    stated = {key: s.facts[key] for key in ("collected", "language", "pii", "citation") if key in s.facts}
    counts = {key: n for key, n in (("documents", s.documents), ("tokens", s.tokens)) if n is not None}
    component: Json = {
        "type": "data",
        "bom-ref": f"{_data(pool.fingerprint)}/source/{plain(s.name)}",
        "name": plain(s.name),
        "data": [{"type": "dataset", "name": plain(s.name)}],
        "properties": _properties(counts | stated),
    }
    if licences := _texts(s.facts.get("license")):
        named = [{"license": {"name": text, "acknowledgement": "declared"}} for text in licences]
        component["licenses"] = named
    if addresses := [text for text in _texts(s.facts.get("url")) if web_address(text)]:
        component["externalReferences"] = [{"type": "website", "url": text} for text in addresses]
    return component


def _dependencies(a: Account, alone: list[Dataset]) -> list[Json]:
    """Return what each component is made from: runs from data sets and the runs before them, subsets from pools."""
    edges: dict[str, list[str]] = {}
    for number, stretch in enumerate(a.history):
        before = [_run(s.fingerprint) for s in a.history[number + 1 : number + 2]]
        edges[_run(stretch.fingerprint)] = [*dict.fromkeys(_data(d.fingerprint) for d in stretch.datasets), *before]
    for d in alone:
        edges[_data(d.fingerprint)] = [_data(d.pool)] if d.pool in {p.fingerprint for p in a.pools} else []
    edges |= {_data(p.fingerprint): [] for p in a.pools}
    return [{"ref": ref, "dependsOn": on} for ref, on in edges.items()]


def _properties(values: Json) -> list[Json]:
    return [{"name": f"epochal:{key}", "value": plain(value)} for key, value in values.items()]


def _texts(fact: Any) -> list[str]:
    return [] if fact is None else [plain(text) for text in (fact if isinstance(fact, list) else [fact])]


def _run(fingerprint: str) -> str:
    return f"run:{fingerprint}"


def _data(fingerprint: str | None) -> str:
    return f"data:{fingerprint}"
