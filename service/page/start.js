/* -- start -- */
/* What is looked at stands in the address, so that it can be handed on: #run=..., #compare=a+b, #document=key or key+run. */
const toHash = (what, id) => { if (id) history.replaceState(null, "", `#${what}=${id}`); };
const opened = location.hash; // what is chosen while the page is still loading is not chosen again
async function fromHash(hash) {
  const [what, id] = hash.slice(1).split("=");
  if (!id) return;
  const choose = { run: chooseRun, plan: choosePlan, artifact: chooseArtifact, lineage: chooseLineage, document: chooseDocument, optout: chooseOptOut };
  if (what === "compare") {
    state.compared = new Map(id.split("+").slice(0, MOST_COMPARED).map((one) => [one, one]));
    await showCompared();
    await showRuns();
  } else await choose[what]?.(decodeURIComponent(id));
  $({ run: "#run-detail", compare: "#compared", document: "#document-found", optout: "#optout-detail" }[what] ?? `#${{ artifact: "catalogue" }[what] ?? what}`)?.scrollIntoView();
}
addEventListener("hashchange", () => guard($("#problem"), () => fromHash(location.hash)));
for (const event of ["submit", "change"]) $("#runs-form").addEventListener(event, (e) => { e.preventDefault(); pages.runs = [null]; guard($("#problem"), showRuns); });
function start() {
  return guard($("#problem"), async () => { const newest = await newestArtifacts(); fillChoices(newest); await Promise.all([showRuns(), showArtifacts(newest), showOptOuts(), showLimits()]); await fromHash(opened); });
}
start();
setInterval(() => { if (!document.hidden && $("#token-form").hidden) guard($("#problem"), showRuns); }, 3000);
