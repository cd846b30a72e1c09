"use strict";
const $ = (selector, root = document) => root.querySelector(selector);
const short = (fingerprint) => fingerprint.slice(0, 8);
const count = (n) => n == null ? "unknown" : n.toLocaleString("en-US");
const COLOURS = 6, MOST_COMPARED = 6, SHOWN = matchMedia("(max-width: 44rem)").matches ? 10 : 25, LINEAGE_SHOWN = 30, CHOICES = 100;
const state = { compared: new Map(), run: null, plan: null, lineage: null, names: {} };

/* h("td", {class: "n"}, "text", node): every text becomes a text node, so nothing of the data is ever markup. */
function h(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "rect", "text", "line", "title", "polyline", "polygon", "circle"].includes(tag) || attributes.svg;
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "svg") continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

async function call(method, path, body) {
  const token = sessionStorage.getItem("token");
  const headers = { ...(body && { "content-type": "application/json" }), ...(token && { authorization: `Bearer ${token}` }) };
  let response;
  try {
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error("The service does not answer.");
  }
  const found = await response.json().catch(() => ({ detail: `The service answered with status ${response.status}.` }));
  if (response.status === 401) $("#token-form").hidden = false;
  if (!response.ok) throw new Error(found.detail);
  return found;
}
const get = (path, query = {}) => {
  const given = Object.entries(query).filter(([, value]) => value !== "" && value != null);
  return call("GET", path + (given.length ? "?" + new URLSearchParams(given) : ""));
};

/* Rows sort by a column at a click on its head; a cell may be a node whose `sort` is what it goes by. Of a list that comes
   a page at a time this sorts the page. */
function worth(value, numeric) {
  if (value?.sort !== undefined) return value.sort;
  const words = value instanceof Node ? value.textContent : value ?? "";
  return numeric ? parseFloat(String(words).replaceAll(",", "")) || 0 : words;
}
const below = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a ?? "").localeCompare(String(b ?? ""), "en-US", { numeric: true });
function table(heads, rows, empty, name) {
  if (!rows.length) return h("p", { class: "quiet" }, empty);
  const numeric = (i) => heads[i].startsWith("#") ? "n" : null;
  const names = heads.map((head) => head.replace("#", ""));
  const cell = (value, i) => h(i ? "td" : "th", { class: numeric(i), "data-head": names[i], scope: i ? null : "row" }, h("span", {}, value));
  const body = h("tbody"), ths = names.map((head, i) => h("th", { class: numeric(i), scope: "col" }, head === "Action" ? head : h("button", { type: "button", class: "sort", onclick: () => sortBy(i) }, head)));
  const place = (chosen) => {
    const sorted = chosen ? [...rows].sort((a, b) => (chosen.down ? -1 : 1) * below(...[a, b].map((row) => worth(row[chosen.column], numeric(chosen.column))))) : rows;
    body.replaceChildren(...sorted.map((row) => h("tr", {}, row.map(cell))));
    ths.forEach((th, i) => i === chosen?.column ? th.setAttribute("aria-sort", chosen.down ? "descending" : "ascending") : th.removeAttribute("aria-sort"));
  };
  const sortBy = (column) => {
    const now = { column, down: sorts[name]?.column === column && !sorts[name].down };
    if (name) sorts[name] = now;
    place(now);
  };
  place(sorts[name]);
  return h("table", { class: "stack" }, h("thead", {}, h("tr", {}, ths)), body);
}
const sorts = {};
const sortable = (node, value) => Object.assign(node, { sort: value });
const pairs = (entries) => h("dl", {}, entries.map(([name, value, wide]) => h("div", { class: wide ? "wide" : null }, h("dt", {}, name), h("dd", {}, value))));
/* The places of the pages before this one; `next` is the place of what comes after it. */
const pages = {};
const pageOf = (list) => (pages[list] ??= [null]).at(-1);
function pager(list, next, show) {
  const before = pages[list].length > 1;
  const turn = (change) => async () => { change(); await guard($("#problem"), show); };
  return next || before ? h("p", { class: "pager" }, before ? link("Newer", turn(() => pages[list].pop()), `Newer ${list}`) : null, before && next ? " " : null,
    next ? link("Older", turn(() => pages[list].push(next)), `Older ${list}`) : null, h("span", { class: "quiet" }, ` page ${pages[list].length}`)) : null;
}
const link = (text, onclick, label) => h("button", { type: "button", class: "text", onclick, "aria-label": label }, text);
const fill = (place, ...nodes) => (typeof place === "string" ? $(place) : place).replaceChildren(...nodes.filter(Boolean));

function ticks(a, b) {
  const rough = (b - a) / 4, power = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 5, 10].find((m) => m * power >= rough) * power;
  const found = [];
  for (let v = Math.ceil(a / step) * step; v <= b + step / 1e6; v += step) found.push(Math.abs(v) < step / 1e6 ? 0 : v);
  return found;
}
/* 50,000; 1.5M from a million on; as many decimals as steps of the axis need. */
function axisNumber(v, span) {
  const [unit, name] = [[1e12, "T"], [1e9, "B"], [1e6, "M"]].find(([n]) => Math.abs(v) >= n) ?? [1, ""];
  if (v !== 0 && Math.abs(v) < 1e-4) return v.toExponential(1);
  return (v / unit).toLocaleString("en-US", { maximumFractionDigits: Math.min(8, Math.max(0, 1 - Math.floor(Math.log10(span / unit)))) }) + name;
}

/* A chart of lines: series = [{name, points: [[x, y], ...]}]. */
function chart(title, series, xName, format = (y) => y.toPrecision(3)) {
  const all = series.flatMap((s) => s.points);
  if (!all.length) return h("p", { class: "quiet" }, `${title}: nothing reported yet.`);
  const range = (values) => { const [a, b] = [Math.min(...values), Math.max(...values)]; return a === b ? [a - (a ? Math.abs(a) / 10 : 1), b + (b ? Math.abs(b) / 10 : 1)] : [a, b]; };
  const [x0, x1] = range(all.map((p) => p[0])), [y0, y1] = range(all.map((p) => p[1]));
  const [upright, across] = [[y0, y1], [x0, x1]].map(([a, b]) => ticks(a, b).map((v) => [v, axisNumber(v, b - a)]));
  const [width, height, right, top, bottom] = [420, 220, 22, 10, 34];
  const left = 14 + 7 * Math.max(...upright.map(([, words]) => words.length)); // as wide as its longest label
  const x = (v) => left + (v - x0) / (x1 - x0) * (width - left - right), y = (v) => height - bottom - (v - y0) / (y1 - y0) * (height - top - bottom);
  const last = series.map((s) => s.points.length ? `${s.name} ends at ${format(s.points.at(-1)[1])}` : "").filter(Boolean).join(", ");
  return h("figure", { style: "margin:0;max-width:34rem" },
    h("figcaption", { class: "quiet", style: "font-size:.85rem" }, title),
    h("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", style: "width:100%;height:auto", "aria-label": `${title}: ${last}` },
      upright.map(([v, words]) => h("g", {}, h("line", { class: "axis", x1: left, x2: width - right, y1: y(v), y2: y(v) }), h("text", { class: "quiet", x: left - 6, y: y(v) + 4, "text-anchor": "end" }, words))),
      across.map(([v, words]) => h("text", { class: "quiet", x: x(v), y: height - bottom + 16, "text-anchor": "middle" }, words)),
      h("text", { class: "quiet", x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle" }, xName),
      series.map((s, i) => h("g", { class: `c${i % COLOURS}` },
        h("polyline", { points: s.points.map(([a, b]) => `${x(a).toFixed(1)},${y(b).toFixed(1)}`).join(" "), fill: "none", stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": i ? 4 + 2 * i : null }),
        s.points.length === 1 ? h("circle", { cx: x(s.points[0][0]), cy: y(s.points[0][1]), r: 3, fill: "currentColor" }) : null))),
    h("div", { class: "legend" }, series.map((s, i) => h("span", {}, h("i", { class: `c${i % COLOURS}`, style: i ? "border-top-style:dashed" : null }), s.name))));
}

/* -- runs -- */
const KINDS = { masked_nll: "NLL of masked tokens", nll_random_input: "loss with random inputs", nll_both_directions: "loss in both directions", dual_given_lengths: "loss of both types, given lengths", nll: "NLL", nelbo: "NELBO (upper bound)", nelbo_given_lengths: "NELBO given lengths", nll_masked_input: "loss with masked inputs", dual: "loss of both types" };
const loss = (run) => run.loss == null ? "not reported" : `${run.loss.toFixed(3)} ${KINDS[run.kind] ?? ""}`;
const ago = (at) => { const s = Math.max(0, Date.now() / 1000 - at); return s < 90 ? `${s.toFixed(0)} s ago` : s < 5400 ? `${(s / 60).toFixed(0)} min ago` : `${(s / 3600).toFixed(1)} h ago`; };
function progress(run) {
  const share = run.position / run.positions;
  return h("div", {}, `${count(run.position)} of ${count(run.positions)}`,
    h("div", { class: "track", role: "progressbar", "aria-label": `${run.name}: position`, "aria-valuenow": Math.round(100 * share), "aria-valuemin": 0, "aria-valuemax": 100 }, h("i", { style: `width:${100 * share}%` })));
}
async function showRuns() {
  const asked = new FormData($("#runs-form"));
  const { runs, next, total, live } = await get("/runs", { name: asked.get("name").trim(), live: asked.get("live"), limit: SHOWN, cursor: pageOf("runs") });
  fill("#runs-note", `${count(live)} live, ${count(total - live)} other, the last heard of first. Refreshed every 3 seconds.`);
  fill("#run-names", ...runs.map((run) => h("option", { value: run.name })));
  const focused = document.activeElement?.closest("#runs-table") ? document.activeElement.textContent : null;
  fill("#runs-table", table(["Run", "State", "Position", "#Passes", "Loss", "#Unique tokens seen", "Receipt", "Last report", "Action"],
    runs.map((run) => [link(run.name, () => chooseRun(run.fingerprint)), run.live ? h("strong", { class: "good" }, "live") : run.state === "open" ? "lease over" : run.state,
      sortable(progress(run), run.position / run.positions), run.passes.toFixed(2), sortable(h("span", {}, loss(run)), run.loss ?? Infinity),
      sortable(h("span", {}, (run.expected ? "about " : "") + count(run.unique_tokens_seen)), run.unique_tokens_seen),
      h("span", { class: { valid: "good", "not valid": "bad" }[run.receipt] }, run.receipt === "none" && run.digest ? `digest ${short(run.digest)}` : run.receipt),
      sortable(h("span", {}, run.reported ? ago(run.reported) : "-"), -(run.reported ?? 0)),
      link(state.compared.has(run.fingerprint) ? "Leave out" : "Compare", () => compare(run), `${state.compared.has(run.fingerprint) ? "Leave out" : "Compare"} ${run.name}`)]),
    total || asked.get("name") || asked.get("live") ? "No such run." : "No run has registered. Give a training configuration the key service: with this address.", "runs"), pager("runs", next, showRuns));
  if (focused) [...document.querySelectorAll("#runs-table button")].find((b) => b.textContent === focused)?.focus();
  const known = runs.map((run) => run.fingerprint + run.state).join();
  if (state.known !== known) await Promise.all([showLineage(), showPlans()]);
  state.known = known;
  if (state.run) await showRun();
  if ([...state.compared.keys()].some((one) => runs.some((run) => run.fingerprint === one && run.live))) await showCompared();
}
async function chooseRun(fingerprint) {
  [state.run, state.shown, state.digest] = [fingerprint, null, null];
  toHash("run", fingerprint);
  await guard($("#problem"), showRun);
}
const line = (run, reports) => reports.filter((r) => r.loss != null).map((r) => [r.tokens / run.unique_tokens, r.loss]);
async function showRun() {
  if (state.shown === state.run) return; // it is over, and here
  const run = await get(`/runs/${state.run}`), validation = await get(`/runs/${state.run}`, { split: "validation" });
  state.shown = run.live ? null : state.run;
  const series = [{ name: `training ${KINDS[run.kind] ?? ""}`, points: line(run, run.reports) }];
  if (validation.reports.length) series.push({ name: `validation ${KINDS[validation.reports[0].kind]}`, points: line(run, validation.reports) });
  const seen = run.reports.filter((r) => r.loss != null).map((r) => [r.unique_tokens_seen, r.loss]);
  const growing = seen.filter(([n]) => n < (seen.at(-1)?.[0] ?? 0)).length; // once everything was seen, the line would be upright
  fill("#run-detail", h("h3", {}, `Run ${run.name}`),
    pairs([["Plan", link(short(run.plan), () => choosePlan(run.plan)), false], ["Order", run.policy], ["Step", `${count(run.step)} of ${count(run.steps)}`], ["Tokens", count(run.tokens)],
      ...run.sources.map((s) => [`Source ${s.name}`, `${s.passes.toFixed(2)} passes, ${count(s.position)} of ${count(s.positions)} positions`]),
      ["Lease", run.lease ?? "-"], ["Fingerprint", h("code", {}, run.fingerprint), true],
      ["Ancestry", run.ancestry.map((a) => `${a.name ?? a.run} to ${count(a.position)}`).join(", from "), true],
      ...(run.thinned ? [["Thinned", `${count(run.thinned)} old training reports were taken out, one a span was left`, true]] : []),
      ...(run.receipt_problem ? [["Receipt", run.receipt_problem, true]] : [])]),
    h("div", { class: "charts" }, chart("Loss, nats per token", series, "passes over the unique tokens"),
      2 * growing > seen.length ? chart("Loss by unique tokens seen", [{ name: `training ${KINDS[run.kind] ?? ""}`, points: seen }], run.expected ? "unique tokens seen (expectation)" : "unique tokens seen") : null),
    h("p", {}, link("Show its lineage", () => chooseLineage(run.fingerprint)), " ", link("Hold its digest against the plan", checkDigest), " ", h("span", { role: "status", id: "digest" }, state.digest ?? "")));
}

/* Several runs in one chart: what each was last measured on, validation where there is any. */
async function compare(run) {
  await guard($("#problem"), async () => {
    if (!state.compared.delete(run.fingerprint)) {
      if (state.compared.size === MOST_COMPARED) throw new Error(`At most ${MOST_COMPARED} runs side by side: leave one out first.`);
      state.compared.set(run.fingerprint, run.name);
    }
    toHash("compare", [...state.compared.keys()].join("+"));
    await showCompared();
    await showRuns();
  });
}
async function showCompared() {
  const found = await Promise.all([...state.compared.keys()].map(async (one) => {
    const [train, validation] = await Promise.all(["train", "validation"].map((split) => get(`/runs/${one}`, { split })));
    const measured = line(validation, validation.reports).length ? validation : train;
    state.compared.set(one, train.name);
    const kind = measured.reports.find((r) => r.loss != null)?.kind;
    return { run: train, split: measured === validation ? "validation" : "training", kind: KINDS[kind] ?? "", points: line(train, measured.reports) };
  }));
  fill("#compared", ...(found.length ? [h("h3", {}, "Side by side"),
    chart("Loss, nats per token", found.map((one) => ({ name: `${one.run.name}, ${one.split} ${one.kind}`, points: one.points })), "passes over each run’s unique tokens"),
    new Set(found.map((one) => one.kind)).size > 1 ? h("p", { class: "note" }, "Losses of different kinds: an upper bound above an exact loss proves nothing.") : null,
    table(["Run", "#Passes", "#Best", "#Last", "#Unique tokens", "Order", "Action"], found.map(({ run, points }) => {
      const losses = points.map(([, y]) => y);
      return [link(run.name, () => chooseRun(run.fingerprint)), run.passes.toFixed(2), losses.length ? Math.min(...losses).toFixed(3) : "-", losses.at(-1)?.toFixed(3) ?? "-", count(run.unique_tokens), run.policy,
        link("Leave out", () => compare(run), `Leave out ${run.name}`)];
    }), "", "compared")] : []));
}
async function checkDigest() {
  try {
    const found = await get(`/runs/${state.run}/receipt`);
    state.digest = found.valid ? `The ${count(found.position)} samples trained on are the plan’s, in order.` : `The digest is not the plan’s: ${found.digest}, not ${found.expected}.`;
  } catch (error) { state.digest = error.message; }
  $("#digest").textContent = state.digest;
}

/* -- catalogue -- */
const newestArtifacts = () => get("/artifacts", { limit: CHOICES });
/* `newest` is what `newestArtifacts` gave: where nothing is searched for, the table's first page is the beginning of it. */
async function showArtifacts(newest = null) {
  const asked = Object.fromEntries(new FormData($("#search-form"))), at = pageOf("artifacts"), plain = newest && !at && !Object.values(asked).some(Boolean);
  const found = plain ? { ...newest, artifacts: newest.artifacts.slice(0, SHOWN), next: newest.artifacts.length > SHOWN ? { offset: SHOWN } : newest.next }
    : await get("/artifacts", { ...asked, limit: SHOWN, ...(at?.offset ? at : { cursor: at }) });
  fill("#artifacts-table", table(["Name", "Kind", "#Unique tokens", "#Documents", "Tokenizer", "Fingerprint", "Action"],
    found.artifacts.map((a) => [link(a.name + (a.current ? "" : " (earlier)"), () => chooseArtifact(a.fingerprint)), a.replicate ? `${a.kind}, replicate ${a.replicate}` : a.kind, count(a.tokens), count(a.documents), a.tokenizer,
      h("button", { class: "text", type: "button", title: a.fingerprint, onclick: () => chooseLineage(a.fingerprint), "aria-label": `${short(a.fingerprint)}, lineage of ${a.name}` }, h("code", {}, short(a.fingerprint))),
      link(a.kind === "pool" ? "Carve" : "Plan", () => a.kind === "pool" ? go("carve", "pool", a.fingerprint) : go("plan", "subset", a.fingerprint), `${a.kind === "pool" ? "Carve" : "Plan"} ${a.name}`)]),
    "Nothing found.", "artifacts"), pager("artifacts", found.next, () => showArtifacts()));
  $("#artifact-problems").textContent = Object.entries(found.problems).map(([path, problem]) => `${path}: ${problem}`).join(" ");
}
async function chooseArtifact(fingerprint) {
  toHash("artifact", fingerprint);
  await guard($("#problem"), async () => {
    const a = await get(`/artifacts/${fingerprint}`);
    const said = Object.entries(a.sources).flatMap(([name, facts]) => Object.entries(facts).map(([key, value]) => [name, key, [value].flat().join(", ")]));
    fill("#artifact-detail", h("h3", {}, `${a.kind === "pool" ? "Pool" : "Subset"} ${a.name}`),
      pairs([["Unique tokens", count(a.tokens)], ["Documents", count(a.documents)], ["Tokens per sample", count(a.seq_len)],
        ["Places", a.locations.map((l) => l.path + (l.gone ? " (gone)" : "")).join(", ") || "-", true], ["Fingerprint", h("code", {}, a.fingerprint), true]]),
      table(["Source", "What", "Said"], said, "Its sources state no licence, citation or origin."));
    $("#artifact-detail").scrollIntoView({ block: "nearest" });
  });
}
function go(form, field, value) {
  const control = $(`#${form}-form [name=${field}]`);
  control.value = value;
  $(`#${form}`).scrollIntoView();
  control.focus();
}
function fillChoices({ artifacts }) {
  artifacts.forEach((a) => { state.names[a.fingerprint] = a.name; });
  const options = (list, extra = []) => [...extra, ...list.map((a) => h("option", { value: a.fingerprint }, `${a.name}: ${count(a.tokens)}`))];
  for (const [selector, list, extra] of [["#carve-form [name=pool]", artifacts.filter((a) => a.kind === "pool")],
    ["#plan-form [name=subset]", artifacts], ["#limit-form [name=subset]", artifacts, [h("option", { value: "" }, "any subset")]]]) {
    const control = $(selector), before = control.value;
    fill(control, ...options(list, extra));
    if ([...control.options].some((o) => o.value === before)) control.value = before;
  }
}

/* -- plans -- */
const plansOf = (p) => p.sources ? p.sources.map((s) => s.plan) : [p]; // a mixture has several
const sum = (plans, key) => plans.reduce((n, p) => n + p[key], 0);
async function showPlans() {
  const { plans, next } = await get("/plans", { limit: SHOWN, cursor: pageOf("plans") });
  fill("#plans-table", table(["Plan", "Subset", "#Tokens", "#Passes", "Order", "#Seed"],
    plans.map((p) => [p, plansOf(p.plan)]).map(([p, parts]) => [link(p.names[0] ?? short(p.fingerprint), () => choosePlan(p.fingerprint)), p.subset_names.join(" + "), count(sum(parts, "total_tokens")),
      (sum(parts, "total_tokens") / sum(parts, "unique_tokens")).toPrecision(4), p.plan.policy ?? "mixture", p.plan.seed]), "No plan yet.", "plans"), pager("plans", next, showPlans));
}
async function choosePlan(fingerprint) {
  state.plan = fingerprint;
  toHash("plan", fingerprint);
  await guard($("#problem"), async () => {
    const plan = await get(`/plans/${fingerprint}`), curve = await get(`/plans/${fingerprint}/curve`);
    const passes = (p) => p.position / curve.samples;
    const order = plan.sources
      ? [["Order", `mixture, windows of ${count(plan.window)}, seed ${plan.seed}`], ["Tokens", count(plan.tokens)], ...plan.sources.map((s) => [`Source ${s.name}`,
        `${state.names[s.plan.subset] ?? short(s.plan.subset)}, ${(s.plan.total_tokens / s.plan.unique_tokens).toPrecision(4)} passes, ${s.plan.policy}, seed ${s.plan.seed}`])]
      : [["Subset", state.names[plan.subset] ?? short(plan.subset)], ["Order", `${plan.policy}, seed ${plan.seed}`], ["Tokens", count(plan.tokens)],
        ["Passes", count(plan.passes) + (plan.partial_samples ? ` and ${count(plan.partial_samples)} samples` : "")]];
    const exposures = curve.points[0].most === null ? [] : [{ name: "most seen sample", points: curve.points.map((p) => [passes(p), p.most]) }, { name: "least seen sample", points: curve.points.map((p) => [passes(p), p.least]) }];
    fill("#plan-detail", h("h3", {}, "Plan ", h("code", {}, short(fingerprint))),
      pairs([...order, ["Positions", count(plan.positions)], ["Unique tokens", count(plan.unique_tokens)],
        ["Fingerprint", h("code", {}, fingerprint), true]]),
      h("div", { class: "charts" }, exposures.length ? chart("Exposures of a sample", exposures, "passes’ worth of positions") : null,
        chart(`Samples not seen yet, %${curve.kind === "expected" ? " (expectation)" : ""}`, [{ name: "not seen yet", points: curve.points.map((p) => [passes(p), 100 * p.unseen]) }], "passes’ worth of positions", (y) => `${y.toFixed(1)} %`)));
    $("#step-form").hidden = false;
    fill("#step-found");
    $("#plan-detail").scrollIntoView({ block: "nearest" });
  });
}

/* -- lineage -- */
async function chooseLineage(id) {
  state.lineage = id;
  toHash("lineage", id);
  await guard($("#problem"), showLineage);
  $("#lineage").scrollIntoView();
}
async function showLineage() {
  const found = await get("/lineage", { of: state.lineage, limit: state.lineage ? null : LINEAGE_SHOWN });
  let { nodes, edges } = found;
  const continued = new Set(edges.map((e) => e.from));
  const newest = {};
  for (const e of edges) { const n = nodes.find((m) => m.id === e.to); if (n.kind === "checkpoint" && !(newest[e.from]?.position > n.position)) newest[e.from] = n; }
  const kept = new Set(Object.values(newest).map((n) => n.id));
  nodes = nodes.filter((n) => n.kind !== "checkpoint" || continued.has(n.id) || kept.has(n.id));
  const byId = Object.fromEntries(nodes.map((n) => [n.id, n]));
  edges = edges.filter((e) => byId[e.from] && byId[e.to]);
  const depth = {}, base = { pool: 0, subset: 1, plan: 2, run: 3, checkpoint: 4 };
  nodes.forEach((n) => { depth[n.id] = base[n.kind]; });
  for (let pass = 0; pass < nodes.length; pass++) {
    let moved = false;
    for (const e of edges) if (depth[e.to] <= depth[e.from]) { depth[e.to] = depth[e.from] + 1; moved = true; }
    if (!moved) break;
  }
  const rows = {}, place = {}, [w, hgt, gx, gy] = [144, 40, 26, 12];
  const order = [...nodes].sort((a, b) => depth[a.id] - depth[b.id]);
  for (const n of order) {
    const parents = edges.filter((e) => e.to === n.id && place[e.from]).map((e) => place[e.from][1]);
    const wanted = parents.length ? Math.min(...parents) : 0;
    const y = Math.max(rows[depth[n.id]] ?? 0, wanted);
    place[n.id] = [depth[n.id] * (w + gx), y];
    rows[depth[n.id]] = y + hgt + gy;
  }
  const width = Math.max(0, ...Object.values(place).map((p) => p[0])) + w + 4, height = Math.max(0, ...Object.values(rows));
  const cut = (text) => text.length > 19 ? text.slice(0, 18) + "…" : text;
  const second = (n) => n.kind === "checkpoint" ? `checkpoint at ${count(n.position)}` : n.kind === "run" ? `run, ${n.state} at ${count(n.position)}` : `${n.kind}, ${count(n.tokens)}`;
  const act = (n) => n.kind === "run" ? () => chooseRun(n.id).then(() => $("#runs").scrollIntoView()) : n.kind === "plan" ? () => choosePlan(n.id).then(() => $("#plan-detail").scrollIntoView()) : () => chooseLineage(n.id.split("@")[0]);
  fill("#lineage-note", state.lineage ? `What ${byId[state.lineage]?.name ?? "this"} came from and led to. ` : found.cut ? `The newest ${LINEAGE_SHOWN} of each kind; choose one to see where it came from. ` : "Everything there is, the newest checkpoint of each run. ",
    state.lineage && found.cut ? "There is more of it than is shown. " : "", state.lineage ? link("Show everything", () => chooseLineage(null)) : "");
  fill("#lineage-picture", nodes.length ? h("svg", { width, height, viewBox: `-2 -2 ${width} ${height}`, role: "group", "aria-label": "pool to subset to plan to run to checkpoint to continued run" },
    edges.map((e) => { const [a, b] = [place[e.from], place[e.to]], y1 = a[1] + hgt / 2, y2 = b[1] + hgt / 2, x1 = a[0] + w, x2 = b[0]; return h("path", { class: "edge", d: `M${x1} ${y1}C${x1 + gx / 2} ${y1} ${x2 - gx / 2} ${y2} ${x2} ${y2}` }); }),
    nodes.map((n) => { const [x, y] = place[n.id]; return h("a", { svg: true, href: "#lineage", "aria-label": `${cut(n.name)} ${cut(second(n))}, ${n.kind} ${n.name}`, onclick: (event) => { event.preventDefault(); act(n)(); } },
      h("title", {}, `${n.name} ${n.id}`), h("rect", { class: "box", x, y, width: w, height: hgt, rx: 4 }), h("text", { x: x + 8, y: y + 17 }, cut(n.name)), " ", h("text", { class: "quiet", x: x + 8, y: y + 33 }, cut(second(n)))); }))
    : h("p", { class: "quiet" }, "Nothing to show yet."));
}

/* -- limits -- */
const LIMITS = { exposures: "exposures of a document, all ancestors counted", subset_exposures: "exposures of a document on the run’s own subset", tokens: "tokens in all, all ancestors counted" };
async function showLimits() {
  const { limits } = await get("/limits");
  fill("#limits-table", table(["Limit", "#At most", "Only runs on", "Action"],
    limits.map((l) => [LIMITS[l.kind], count(l.cap), l.subset ? state.names[l.subset] ?? short(l.subset) : "any subset",
      link("Remove", () => guard($("#limits [role=alert]"), async () => { await call("DELETE", `/limits/${l.id}`); await showLimits(); }), `Remove limit ${l.id}`)]), "No limits."));
}

/* -- forms -- */
async function guard(place, work) {
  try { await work(); place.textContent = ""; return true; } catch (error) { place.textContent = error.message; return false; }
}
function submits(id, work) {
  $(`#${id}-form`).addEventListener("submit", async (event) => {
    event.preventDefault();
    const form = event.target, section = form.closest("section"), button = $("button", form), status = $("p[role=status]", section);
    button.disabled = true;
    if (status) status.textContent = "Working.";
    let said;
    const done = await guard($("[role=alert]", section) ?? $("#problem"), async () => { said = await work(Object.fromEntries(new FormData(form))); });
    if (status) status.textContent = done ? said ?? "" : "";
    button.disabled = false;
  });
}
const given = (data) => Object.fromEntries(Object.entries(data).map(([k, v]) => [k, v.trim()]).filter(([, v]) => v !== ""));
submits("carve", async (data) => {
  const made = await call("POST", "/subsets", { ...given(data), replicate: +data.replicate });
  const newest = await newestArtifacts();
  fillChoices(newest);
  await Promise.all([showArtifacts(newest), showLineage()]);
  $("#plan-form [name=subset]").value = made.fingerprint;
  return `${made.name}: exactly ${count(made.tokens)} unique tokens, fingerprint ${made.fingerprint}.`;
});
submits("plan", async (data) => {
  const made = await call("POST", "/plans", { ...given(data), seed: +data.seed });
  await Promise.all([showPlans(), showLineage()]);
  await choosePlan(made.fingerprint);
  return `Plan ${made.fingerprint}: ${count(made.positions)} positions.`;
});
submits("step", async (data) => {
  fill("#step-found");
  const found = await get(`/plans/${state.plan}/documents`, { step: data.step, batch_samples: data.batch_samples });
  const rows = found.positions.flatMap((p) => p.documents.map((d) => [count(p.position), p.component ? `${p.component} ${count(p.sample)}` : count(p.id), d.id, d.source, `${count(d.begin)} to ${count(d.begin + d.tokens - 1)}`, count(d.of)]));
  fill("#step-found", table(["Position", "Sample", "Document", "Source", "Tokens of it", "#of"], rows, "No document."));
  const rest = found.next === null ? "" : ` The rest begins at position ${count(found.next)}: ask for it over HTTP.`;
  return `Step ${count(+data.step)} reads positions ${count(found.start)} to ${count(found.stop - 1)}.${rest}`;
});
submits("limit", async (data) => {
  await call("POST", "/limits", { kind: data.kind, cap: +data.cap, ...(data.subset && { subset: data.subset }) });
  await showLimits();
});
submits("document", lookUp);
submits("search", () => { pages.artifacts = [null]; return showArtifacts(); });
$("#token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", new FormData(event.target).get("token"));
  $("#token-form").hidden = true;
  start();
});
