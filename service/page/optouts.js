/* -- opt-outs -- */
const day = (at) => new Date(at * 1000).toISOString().slice(0, 10);
const dated = (at) => sortable(h("span", {}, day(at)), at);

async function showOptOuts() {
  const name = new FormData($("#optouts-form")).get("name").trim();
  const { optouts, next } = await get("/optouts", { name, limit: SHOWN, cursor: pageOf("lists") });
  fill("#optouts-table", table(["List", "#Version", "#Lines", "#Entered"],
    optouts.map((o) => [link(o.name, () => chooseOptOut(o.name)), count(o.version), o.lines ? count(o.lines) : "none: not in force", dated(o.added)]),
    name ? "No such list." : "No list was entered: epochal optouts NAME FILE enters one.", "lists"), pager("lists", next, showOptOuts));
}
async function chooseOptOut(name) {
  toHash("optout", name);
  await guard($("#optouts [role=alert]"), async () => {
    const o = await get(`/optouts/${encodeURIComponent(name)}`);
    state.optout = name;
    pages.holders = [null];
    fill("#optout-detail", h("h3", {}, `List ${o.name}`),
      pairs([["Version in force", count(o.version)], ["Entered", day(o.added)], ["Lines", count(o.lines)], ["Lines that name no document", count(o.unmatched)],
        ["Documents in pools", `${count(o.documents)}, ${count(o.pools)} ${o.pools === 1 ? "pool" : "pools"} looked at`], ["Fingerprint", h("code", {}, o.fingerprint), true],
        ...(o.unread.length ? [["Pools that cannot be looked at", o.unread.map(short).join(", "), true]] : [])]),
      table(["Version", "#Lines", "#Entered", "Fingerprint"], o.versions.slice(0, SHOWN).map((v) => [`version ${count(v.version)}`, count(v.lines), dated(v.added), h("code", {}, short(v.fingerprint))]), "None.", "versions"),
      o.versions.length > SHOWN ? h("p", { class: "note" }, `The newest ${SHOWN} of ${count(o.versions.length)} versions.`) : null);
    $("#holders-form").hidden = false;
    await showHolders();
    $("#optout-detail").scrollIntoView({ block: "nearest" });
  });
}

/* Who holds documents of the chosen list, a page at a time; of runs and plans also how often they are fed. */
const figure = (n, fed) => fed.unknown.length ? "not known" : count(n);
const since = (run) => run.since === null ? (run.so_far.unknown.length ? "not known" : "still feeds them") : run.so_far.documents ? `position ${count(run.since.position)} of ${run.since.run}` : "it was fed none";
const HOLDERS = {
  run: [["Run", "State", "#Documents in its data", "#Fed so far", "#Most times", "#Fed by its plan’s end", "None since"],
    (r) => [link(r.run, () => chooseRun(r.fingerprint).then(() => $("#runs").scrollIntoView())), r.live ? h("strong", { class: "good" }, "live") : r.state === "open" ? "lease over" : r.state, figure(r.documents, r),
      figure(r.so_far.documents, r.so_far), figure(r.so_far.most, r.so_far), figure(r.to_the_end.documents, r.to_the_end), since(r)]],
  plan: [["Plan", "Data", "#Documents in its data", "#Fed by its end", "#Most times"],
    (p) => [link(p.names[0] ?? short(p.fingerprint), () => choosePlan(p.fingerprint)), p.subset_names.join(" + "), figure(p.documents, p.to_the_end), figure(p.to_the_end.documents, p.to_the_end), figure(p.to_the_end.most, p.to_the_end)]],
  artifact: [["Name", "#Documents", "#Tokens of them"],
    (a) => [link(a.name, () => chooseArtifact(a.fingerprint)), figure(a.documents, a), figure(a.tokens, a)]],
};
async function showHolders() {
  const control = $("#holders-form [name=kind]"), [kind, live] = control.value.split(" "), [heads, row] = HOLDERS[kind] ?? HOLDERS.artifact;
  const { holders, next } = await get(`/optouts/${encodeURIComponent(state.optout)}/holders`, { kind, live, limit: SHOWN, cursor: pageOf("holders") });
  fill("#holders-table", table(heads, holders.map(row), `None of the ${control.selectedOptions[0].text} holds a document of it.`, `holders ${kind}`), pager("holders", next, showHolders));
}
for (const event of ["submit", "change"]) {
  $("#optouts-form").addEventListener(event, (e) => { e.preventDefault(); pages.lists = [null]; guard($("#optouts [role=alert]"), showOptOuts); });
  $("#holders-form").addEventListener(event, (e) => { e.preventDefault(); pages.holders = [null]; guard($("#optouts [role=alert]"), showHolders); });
}
