/* -- documents -- */
const event_ = (e, run) => e ? `position ${count(e.position)}, step ${count(e.step)}${e.run === run ? "" : ` of ${e.run}`}` : "-";
const span_ = (a, b) => a === b ? count(b) : `${count(a)} to ${count(b)}`;
const TIMELINES = 6, LISTED = 50;

async function lookUp(data) {
  const run = data.run.trim() || undefined, text = data.document;
  const found = data.by === "text" ? await call("POST", "/documents/exposures", { text, ...(run && { run }) })
    : data.by === "key" ? await get(`/documents/${encodeURIComponent(text.trim().toLowerCase())}/exposures`, { run })
      : await get("/documents/exposures", { id: text.trim(), run });
  if (found.documents.length === 1) toHash("document", documentLink(found.documents[0].key, run));
  const shown = found.documents.map((d) => [d, h("div")]);
  fill("#document-found", ...shown.flatMap(([d, timelines]) => [
    h("h3", {}, d.id), pairs([["Source", d.source], ["Tokens", count(d.tokens)], ["Key", h("code", {}, d.key), true], ["Link", h("a", { href: `#document=${documentLink(d.key, run)}` }, "to this look-up")]]),
    table(["Run", "#Exposures", "#Tokens fed", "First", "Last", "Within the document"],
      d.runs.map((r) => [link(r.run, () => chooseRun(r.fingerprint).then(() => $("#runs").scrollIntoView())), span_(r.exposures.least, r.exposures.most), count(r.tokens_fed), event_(r.first, r.run), event_(r.last, r.run),
        r.unknown.length ? `not known for ${r.unknown.join(", ")}` : r.intervals.length > 1 ? r.intervals.map((i) => `tokens ${count(i.start)} to ${count(i.stop)}: ${count(i.exposures)}`).join("; ") : "all tokens alike"]),
      "No run has seen it."),
    h("p", { class: "note" }, `${count(d.runs_looked_at)} ${d.runs_looked_at === 1 ? "run" : "runs"} looked at.`), timelines]));
  await Promise.all(shown.map(([d, place]) => showTimelines(d, place)));
}
const documentLink = (key, run) => key + (run ? `+${encodeURIComponent(run)}` : "");
async function chooseDocument(id) {
  const [key, run = ""] = id.split("+"), form = $("#document-form");
  Object.assign(form.elements.by, { value: "key" });
  Object.assign(form.elements.document, { value: key });
  Object.assign(form.elements.run, { value: run });
  await guard($("#document [role=alert]"), () => lookUp({ by: "key", document: key, run }));
}

/* Where the runs that saw a document were fed it: a strip each, from the first position of the oldest run that its model went through. */
async function showTimelines(d, place) {
  const seen = d.runs.filter((r) => r.exposures.most), some = seen.slice(0, TIMELINES);
  if (!some.length) return;
  const found = await Promise.all(some.map((r) => get(`/documents/${d.key}/timeline`, { run: r.fingerprint }).then((t) => timeline(t, d), (error) => h("p", { class: "note" }, `${r.run}: ${error.message}`))));
  fill(place, h("h4", {}, "Where in the runs"), ...found, seen.length > some.length ? h("p", { class: "note" }, `Of the first ${TIMELINES} of ${count(seen.length)} runs. Name a run to see another’s.`) : null);
}
function timeline(found, d) {
  const stretches = [...found.stretches].reverse(); // the oldest run first
  const total = Math.max(1, sum(stretches, "position")), times = sum(stretches, "times"), [width, height] = [1000, 28];
  let before = 0;
  const parts = stretches.map((s, i) => {
    const from = before, x = (position) => (from + position) / total * width;
    before += s.position;
    const most = Math.max(...s.spans);
    const marks = s.events.length === s.times ? s.events.map((e) => h("line", { x1: x(e.position + .5), x2: x(e.position + .5), y1: 3, y2: height - 3 }))
      : s.spans.map((n, k) => n ? h("rect", { x: x(s.position * k / s.spans.length), width: s.position / s.spans.length / total * width, y: 3 + (height - 6) * (1 - n / most), height: (height - 6) * n / most }) : null);
    return h("g", { class: `c${i % COLOURS}` }, h("rect", { class: "ground", x: x(0), y: 0, width: s.position / total * width, height }), marks, i ? h("line", { class: "cut", x1: x(0), x2: x(0), y1: 0, y2: height }) : null);
  });
  const first = stretches.find((s) => s.times)?.events[0];
  const says = `${found.run}: some of it at ${count(times)} ${times === 1 ? "position" : "positions"}${first ? `, the first is ${count(first.position)}` : ""}`;
  const rows = stretches.flatMap((s) => s.events.map((e) => [s.run, count(e.position), count(e.step), count(e.pass + 1) + (e.source ? ` of ${e.source}` : ""), `${count(e.begin)} to ${count(e.begin + e.tokens - 1)}`]));
  return h("figure", { class: "timeline" }, h("figcaption", {}, says),
    h("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `Timeline of ${says}. The table below has the positions.` }, parts),
    h("div", { class: "ends" }, h("span", {}, "0"), h("span", {}, `${count(total)} positions`)),
    stretches.length > 1 ? h("div", { class: "legend" }, stretches.map((s, i) => h("span", {}, h("i", { class: `c${i % COLOURS}` }), `${s.run}, ${count(s.position)}`))) : null,
    h("details", {}, h("summary", {}, `Positions of ${found.run}`), table(["Run", "#Position", "#Step", "#Pass", "Tokens of it"], rows.slice(0, LISTED), "None.", "timeline"),
      times > LISTED ? h("p", { class: "note" }, `The first ${LISTED} of ${count(times)}: GET /documents/${d.key}/timeline has more.`) : null));
}
