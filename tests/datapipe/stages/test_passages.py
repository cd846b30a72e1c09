import json
import re
from pathlib import Path

import pytest

from epochal.datapipe.build import build
from epochal.tests.support.builds import settings
from epochal.tests.support.corpora import real_documents, write_jsonl


@pytest.mark.slow
def test_excerpts_end_at_whole_characters_and_pairs_begin_where_they_differ(tmp_path):
    (text,) = real_documents(1, 20_000)
    one, other = (f"{text[:9_000]} {word} {text[9_000:]}" for word in ("uniqueword", "otherword"))
    lines = [json.dumps({"id": f"d{i}", "text": t}).encode() for i, t in enumerate((one, other, "\U0001f389" * 3_000))]
    pool = build(settings(tmp_path, write_jsonl(tmp_path / "in", lines, ["a.jsonl"])), quiet=True).pool
    page = Path(pool, "report.html").read_text()
    party = "\U0001f389" * 300
    assert f">{party}…<" in page
    assert "\ufffd" not in page
    (pair,) = re.findall(r'<div class="pair">.*?</div>', page, re.DOTALL)
    ours, theirs = re.findall(r"<blockquote[^>]*>…(.*?)…</blockquote>", pair, re.DOTALL)
    assert {re.search(r"uniqueword|otherword", text).group() for text in (ours, theirs)} == {"uniqueword", "otherword"}
