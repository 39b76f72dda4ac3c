// The review page: it shows what the server says, and sends what a person decides. All text is set as text, never as markup.
const $ = (id) => document.getElementById(id);
const STATUS = { unreviewed: "unreviewed", approved: "approved", flagged: "flagged", no_match: "no concept", rejected: "none fits yet" };
const EQUIVALENCE = {
  equal: "equal: the same thing", equivalent: "equivalent: the same meaning", wider: "broader than the term",
  narrower: "narrower than the term", inexact: "related, but not the same", unreviewed: "not said", unmatched: "none: no concept fits",
};
const MATCH = { exact: "exact name", case: "same but for letter case", code: "by code", accents: "same but for accents", similar: "similar name", broader: "above what was found", "": "no candidate" };
const FACETS = {
  statuses: ["Status", (v) => STATUS[v]], languages: ["Language", language], domains: ["Type of first candidate", (v) => v || "none"],
  matches: ["First candidate found by", (v) => MATCH[v] ?? v], candidates: ["Number of candidates", String],
  confidence: ["Confidence", (v) => band(v, [0, 0.5, 0.8, 0.95])], margin: ["Lead over the second", (v) => band(v, [0, 0.01, 0.05, 0.1])],
  reviewers: ["Reviewer", (v) => v || "nobody"], confirmed: ["Second reviewer", (v) => (v ? "confirmed" : "not confirmed")],
};
const BANDS = { confidence: [0, 0.5, 0.8, 0.95], margin: [0, 0.01, 0.05, 0.1] };
const KEYS = [
  ["↑ ↓ or j k", "move in the list"], ["Enter or a", "approve the first candidate"], ["1 – 9", "choose that candidate, and approve"], ["0", "no concept fits"],
  ["r", "none fits yet"], ["f", "flag, to be looked at again"], ["s", "skip"], ["e", "how the concept relates to the term"], ["n", "write a note"],
  ["/", "search all concepts"], ["c", "confirm, as a second reviewer"], ["x", "select for a decision on several"], ["u", "undo my last action"], ["?", "these keys"],
];
const FACET_VALUES = 7; // that are shown at first
const view = { filter: {}, sort: "position", cursors: [null], current: null };
let rows = [], following = null, detail = null, reviewer = "", total = 0, pendingEquivalence = null;
const selected = new Map(), expanded = new Set(); // term → version; facets that are shown whole
let work = Promise.resolve(), waiting = 0, facetTimer, messageTimer, lastChecked = null;

async function api(path, body = {}) {
  const answer = await fetch(`/api/${path}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const found = await answer.json().catch(() => ({ error: `the server answered with status ${answer.status}` }));
  if (!answer.ok) throw new Error(found.error);
  return found;
}

// One thing at a time, in the order of the keys: what is pressed while a decision is saved acts on the term that comes after it.
function enqueue(task) {
  waiting += 1;
  document.querySelector("main").setAttribute("aria-busy", "true");
  work = work.then(task).catch((error) => say(error instanceof TypeError ? "The server does not answer: nothing was saved. Is xsap review still running?" : error.message, true))
    .finally(() => { waiting -= 1; document.querySelector("main").setAttribute("aria-busy", String(waiting > 0)); });
  return work;
}

function say(text, bad = false) {
  clearTimeout(messageTimer);
  $("message").classList.toggle("bad", bad);
  $("message").textContent = text;
  messageTimer = setTimeout(() => { $("message").textContent = ""; }, bad ? 9000 : 4000);
}

function node(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function isolated(text, properties = {}) { return node("bdi", { textContent: text, ...properties }); }
function short(text, most = 60) { return text.length > most ? `${text.slice(0, most)}…` : text; }
function count(number) { return number.toLocaleString("en"); }
function fixed(number, digits = 2) { return number.toFixed(digits); }
function day(milliseconds) { return milliseconds ? new Date(milliseconds).toISOString().slice(0, 10) : ""; }

function language(code) {
  if (!code || code === "und") return "unknown language";
  try { return new Intl.DisplayNames(["en"], { type: "language" }).of(code); } catch { return code; }
}

function band(low, lows) {
  const next = lows[lows.indexOf(low) + 1];
  return next === undefined ? `${low} or more` : `${low} – ${next}`;
}

// The list

async function loadPage() {
  const page = await api("list", { filter: view.filter, sort: view.sort, after: view.cursors.at(-1) });
  rows = page.rows;
  following = page.following;
  for (const row of rows) if (selected.has(row.term)) selected.set(row.term, row.version);
  showList();
  countSoon();
}

function showList() {
  $("list").replaceChildren(...rows.map(listItem));
  $("list-empty").hidden = rows.length > 0;
  $("page-before").disabled = view.cursors.length < 2;
  $("page-next").disabled = following === null;
  $("page-number").textContent = `page ${view.cursors.length}`;
  showSelection();
  markCurrent();
}

function listItem(row) {
  const check = node("input", { type: "checkbox", checked: selected.has(row.term), "aria-label": `Select ${short(row.name)}`, tabIndex: -1 });
  check.addEventListener("click", (event) => select(row, check.checked, event.shiftKey));
  const number = row.confidence >= 0 ? fixed(row.confidence) : row.candidates ? fixed(row.score) : "";
  const shown = row.status === "no_match" || row.status === "rejected" ? "" : row.target;
  const button = node("button", { type: "button", className: "term" },
    node("span", {}, isolated(row.name, { className: "cut name", lang: row.language }), row.noted ? node("span", { className: "number", textContent: "✎", title: "has a note", role: "img", "aria-label": "has a note" }) : null,
      row.frequency >= 0 ? node("span", { className: "number", textContent: `×${count(row.frequency)}`, title: "frequency" }) : null),
    node("span", {}, isolated(shown || (row.candidates ? "—" : "no candidates"), { className: "cut to" }), node("span", { className: "number", textContent: number, title: row.confidence >= 0 ? "confidence" : "score" }),
      node("span", { className: row.status === "unreviewed" ? "hidden" : `status ${row.status}`, textContent: STATUS[row.status] + (row.confirmer ? " ✓✓" : "") })));
  button.addEventListener("click", () => enqueue(() => open(row.term)));
  const item = node("li", {}, check, button);
  item.dataset.term = row.term;
  return item;
}

function markCurrent() {
  for (const item of $("list").children) {
    const current = Number(item.dataset.term) === view.current;
    item.classList.toggle("current", current);
    item.querySelector(".term").setAttribute("aria-current", String(current));
    item.querySelector(".term").tabIndex = current ? 0 : -1;
    if (current) item.scrollIntoView({ block: "nearest" });
  }
  if (!$("list").querySelector(".current .term")) $("list").querySelector(".term")?.setAttribute("tabindex", "0");
  remember();
}

function focusCurrent() {
  ($("list").querySelector(".current .term") ?? $("list")).focus({ preventScroll: true });
}

function replaceRows(changed) {
  for (const row of changed) {
    if (selected.has(row.term)) selected.set(row.term, row.version);
    const at = rows.findIndex((each) => each.term === row.term);
    if (at >= 0) { rows[at] = row; $("list").children[at].replaceWith(listItem(row)); }
  }
  markCurrent();
}

function select(row, on, range) {
  const from = rows.findIndex((each) => each.term === lastChecked), to = rows.findIndex((each) => each.term === row.term);
  const chosen = range && from >= 0 ? rows.slice(Math.min(from, to), Math.max(from, to) + 1) : [row];
  for (const each of chosen) on ? selected.set(each.term, each.version) : selected.delete(each.term);
  lastChecked = row.term;
  showSelection();
}

function showSelection() {
  $("selection").hidden = selected.size === 0;
  $("selection-count").textContent = `${count(selected.size)} selected. Choose their concept on the right, or:`;
  for (const item of $("list").children) item.querySelector("input").checked = selected.has(Number(item.dataset.term));
  for (const button of document.querySelectorAll(".for-selected")) {
    button.hidden = selected.size === 0;
    button.textContent = `For all ${count(selected.size)}`;
  }
}

// A term

async function open(term, found = undefined) {
  const shown = found ?? (await api("term", { term })).term;
  if (!shown) throw new Error("This term is no longer part of the review.");
  detail = shown;
  view.current = shown.term;
  pendingEquivalence = null;
  showDetail();
  markCurrent();
  if (!typing(document.activeElement) && !document.querySelector("dialog[open]")) focusCurrent();
}

function showDetail() {
  $("detail").hidden = false;
  $("nothing").hidden = true;
  $("term-name").textContent = detail.name;
  $("term-name").lang = detail.language;
  const facts = [language(detail.language), detail.code ? `code ${detail.code}` : "", detail.frequency === null ? "" : `occurs ${count(detail.frequency)} times`, detail.assigned ? `for ${detail.assigned}` : ""];
  $("term-facts").replaceChildren(...facts.filter(Boolean).map((fact) => isolated(fact)));
  $("term-columns").replaceChildren(...detail.columns.filter(([, value]) => value).map(([name, value]) => node("div", {}, node("dt", { dir: "auto", textContent: name }), node("dd", { dir: "auto", textContent: value }))));
  showState();
  $("candidates").replaceChildren(...detail.candidates.map((candidate, at) => candidateItem(candidate, at + 1)));
  $("candidates-title").textContent = detail.candidates.length ? "Candidates" : "No candidates: search for a concept";
  $("results").replaceChildren();
  $("search-state").textContent = "";
  $("search-text").value = "";
  $("note").value = detail.comment;
  showSelection();
  $("found").scrollTop = $("term-head").scrollTop = 0;
}

function showState() {
  const [by, on] = detail.decided, [second, secondOn] = detail.confirmed, parts = [node("span", { className: `status ${detail.status}`, textContent: STATUS[detail.status] })];
  if (detail.status !== "unreviewed") {
    for (const target of detail.targets) parts.push(node("span", {}, "→ ", isolated(target.name || target.concept_id), " (", linked(target), ")"));
    if (by) parts.push(isolated(`by ${by} ${day(on)}`));
    if (second) parts.push(isolated(`confirmed by ${second} ${day(secondOn)}`));
  }
  $("term-state").replaceChildren(...parts);
  const words = detail.status === "no_match" ? ["unmatched"] : Object.keys(EQUIVALENCE).filter((each) => each !== "unmatched");
  $("equivalence").replaceChildren(...words.map((word) => node("option", { value: word, textContent: EQUIVALENCE[word] })));
  $("equivalence").value = shownEquivalence();
  $("equivalence").disabled = detail.status === "no_match" || detail.status === "rejected";
  document.querySelector("[data-act=confirm]").hidden = !["approved", "no_match", "rejected"].includes(detail.status) || by === reviewer || second !== "";
}

function shownEquivalence() { return pendingEquivalence ?? (detail.status === "unreviewed" ? "equivalent" : detail.equivalence); }

function linked(concept) {
  const text = concept.code && !concept.concept_id.endsWith(concept.code) ? `${concept.concept_id} · ${concept.vocabulary} ${concept.code}` : concept.concept_id;
  return concept.link ? node("a", { href: concept.link, target: "_blank", rel: "noreferrer noopener", textContent: text, title: "opens another web site" }) : isolated(text);
}

function candidateItem(candidate, number) {
  const types = candidate.semantic_types ?? [], codes = (candidate.codes ?? []).filter((code) => code !== candidate.concept_id && code !== `${candidate.vocabulary}:${candidate.code}`);
  const matched = candidate.matched_name ?? "", name = candidate.name || candidate.concept_id;
  const meter = node("div", { className: "meter" });
  const value = candidate.confidence ?? candidate.score;
  const bar = node("i");
  bar.style.setProperty("--value", Math.max(0, Math.min(1, value)));
  if (candidate.confidence !== undefined) meter.append("confidence ", node("b", { textContent: fixed(candidate.confidence) }), bar, `score ${fixed(candidate.score, 3)}`);
  else meter.append("score ", node("b", { textContent: fixed(candidate.score, 3) }), bar);
  const choose = node("button", { type: "button", textContent: "Choose", "aria-label": `Choose ${short(name)}` });
  choose.addEventListener("click", () => enqueue(() => decide({ targets: [concept(candidate)], status: "approved" })));
  const add = node("button", { type: "button", textContent: "Add", title: "as a further concept of this term", "aria-label": `Add ${short(name)} as a further concept` });
  add.hidden = detail.status !== "approved" || detail.targets.some((target) => target.concept_id === candidate.concept_id);
  add.addEventListener("click", () => enqueue(() => decide({ targets: [...detail.targets.map(concept), concept(candidate)], status: "approved" }, false)));
  const all = node("button", { type: "button", className: "for-selected", "aria-label": `Choose ${short(name)} for all selected terms` });
  all.addEventListener("click", () => enqueue(() => decideSelected({ targets: [concept(candidate)], status: "approved" })));
  const chosen = ["approved", "flagged"].includes(detail.status) && detail.targets.some((target) => target.concept_id === candidate.concept_id);
  return node("li", { className: chosen ? "candidate chosen" : "candidate" }, node("kbd", { textContent: number <= 9 && number > 0 ? number : "·" }),
    node("div", { className: "about" }, node("div", { className: "title", dir: "auto", textContent: name }),
      node("div", { className: "matched" }, matched && matched !== name ? isolated(matched, { lang: candidate.language ?? "" }) : "", matched && matched !== name ? " · " : "",
        `${language(candidate.language)} · ${MATCH[candidate.match] ?? candidate.match}`),
      candidate.definition ? node("div", { className: "matched" }, isolated(candidate.definition)) : "",
      node("div", { className: "codes" }, linked(candidate), ...types.map((type) => isolated(type)), ...codes.slice(0, 6).map((code) => isolated(code)), codes.length > 6 ? node("span", { textContent: `+${codes.length - 6}`, title: codes.slice(6, 60).join(" ") }) : null)),
    meter, node("div", { className: "buttons" }, choose, add, all));
}

function concept(found) {
  return { concept_id: found.concept_id, name: found.name ?? "", vocabulary: found.vocabulary ?? "", code: found.code ?? "", domain: found.domain ?? "", ...(found.mapping_type ? { mapping_type: found.mapping_type } : {}) };
}

// Decisions

async function decide(choice, moveOn = true, on = detail) {
  if (!on) return;
  const at = rows.findIndex((row) => row.term === on.term), next = at >= 0 ? rows[at + 1] : undefined;
  const sent = { versions: [[on.term, on.version]], ...choice };
  if (choice.status === "approved" && pendingEquivalence) sent.equivalence = pendingEquivalence;
  const outcome = await api("decide", { ...sent, following: moveOn && next ? next.term : on.term });
  replaceRows(outcome.rows);
  countSoon();
  if (outcome.conflicts.length) {
    await open(on.term);
    say(`Somebody else decided on this term meanwhile. It is shown as it is now; nothing of yours was saved.`, true);
    return;
  }
  const done = outcome.rows[0], what = choice.confirm ? "confirmed" : choice.comment === undefined ? STATUS[done.status] : "note saved";
  if (!moveOn) { if (detail.term === on.term) { detail = outcome.term; const typed = $("search-text").value; showState(); if (choice.targets) showDetail(); $("search-text").value = typed; } say(`${short(on.name)}: ${what}`); return; }
  if (next) await open(next.term, outcome.term);
  else { detail = outcome.term; await move(1, true); }
  say(`${short(on.name)}: ${what}${done.status === "approved" && !choice.confirm ? ` as ${short(done.target)}` : ""}`);
}

async function decideSelected(choice) {
  const versions = [...selected];
  const outcome = await api("decide", { versions, ...choice });
  replaceRows(outcome.rows);
  countSoon();
  if (outcome.conflicts.length) say(`${count(outcome.conflicts.length)} of the selected terms were changed meanwhile; nothing was saved. Look at them, and decide again.`, true);
  else { selected.clear(); showSelection(); say(`${count(outcome.changed)} terms: ${STATUS[choice.status]}. u undoes it.`); }
  if (detail) await open(detail.term);
}

async function act(name) {
  if (!detail) return;
  if (name === "skip") return move(1);
  if (name === "confirm") return decide({ confirm: true });
  if (name === "approve") return detail.targets.length || detail.candidates.length ? decide({ status: "approved" }) : say("There is no candidate to approve: search for a concept (/), or press 0.", true);
  return decide({ status: name });
}

async function undo() {
  const outcome = await api("undo");
  if (!outcome.action) return say("There is nothing of yours to undo.");
  replaceRows(outcome.rows);
  countSoon();
  if (outcome.changed > 1) await loadPage();
  if (outcome.term) await open(outcome.term.term, outcome.term);
  say(outcome.conflicts.length ? `Undone, but ${count(outcome.conflicts.length)} of the terms were decided again since and stay as they are.` : `Undone${outcome.changed > 1 ? `: ${count(outcome.changed)} terms` : `: ${short(outcome.term.name)}`}`);
}

async function move(step, decided = false) {
  const at = rows.findIndex((row) => row.term === view.current), to = at + step;
  if (rows[to]) return open(rows[to].term);
  if (to >= rows.length && following) { view.cursors.push(following); await loadPage(); return open(rows[0].term); }
  if (to < 0 && view.cursors.length > 1) { view.cursors.pop(); await loadPage(); return open(rows.at(-1).term); }
  if (decided && detail) await open(detail.term, detail);
  if (step > 0) say("This is the end of the list.");
}

async function search(text) {
  if (!text.trim()) return;
  $("search-state").textContent = "Searching… (the first search waits for the model)";
  const on = detail.term, found = await api("search", { text, language: "" }).finally(() => { $("search-state").textContent = ""; });
  if (detail.term !== on) return;
  $("search-state").textContent = found.candidates.length ? `${found.candidates.length} concepts` : `No concept found: ${found.reason ?? "no name is similar"}`;
  $("results").replaceChildren(...found.candidates.map((candidate) => candidateItem(candidate, 0)));
  showSelection();
  $("found").scrollTop = 0;
  $("results").querySelector("button")?.focus();
}

// Filter and facets

function countSoon() { clearTimeout(facetTimer); facetTimer = setTimeout(() => countAll().catch((error) => say(error.message, true)), 250); }

async function countAll() {
  const found = await api("facets", { filter: view.filter });
  $("list-count").textContent = found.terms === total ? count(total) : `${count(found.terms)} of ${count(total)}`;
  $("progress-text").textContent = `${count(found.decided)} of ${count(total)} decided`;
  $("progress-bar").style.width = `${total ? (100 * found.decided) / total : 0}%`;
  const focused = document.activeElement?.dataset?.facet;
  $("facets").replaceChildren(...Object.entries(FACETS).map(([name, [title, label]]) => facet(name, title, label, found.facets[name])).filter(Boolean));
  if (focused) [...document.querySelectorAll("[data-facet]")].find((each) => each.dataset.facet === focused)?.focus();
}

function facet(name, title, label, values) {
  const chosen = chosenOf(name);
  for (const value of chosen) if (!values.some(([each]) => each === value)) values.push([value, 0]);
  if (values.length < 2 && !chosen.length && name !== "statuses") return null;
  const shown = expanded.has(name) ? values : values.filter(([value], at) => at < FACET_VALUES || chosen.includes(value));
  const group = node("fieldset", {}, node("legend", { textContent: title }), ...shown.map(([raw, number]) => {
    const value = name === "confirmed" ? Boolean(raw) : raw;
    const check = node("input", { type: "checkbox", checked: chosen.includes(value) });
    check.dataset.facet = `${name} ${value}`;
    check.addEventListener("change", () => enqueue(() => choose(name, value, check.checked)));
    return node("label", { className: "facet" }, check, node("span", { textContent: label(value), title: label(value) }), node("span", { textContent: count(number) }));
  }));
  if (shown.length < values.length) {
    const more = node("button", { type: "button", className: "quiet", textContent: `${values.length - shown.length} more` });
    more.addEventListener("click", () => { expanded.add(name); countSoon(); });
    group.append(more);
  }
  return group;
}

function chosenOf(name) {
  if (name === "confirmed") return view.filter.confirmed === undefined ? [] : [view.filter.confirmed];
  if (name in BANDS) { const low = view.filter[`min_${name}`]; return BANDS[name].includes(low) && view.filter[`max_${name}`] === upper(name, low) ? [low] : []; }
  return view.filter[name] ?? [];
}

function upper(name, low) { const next = BANDS[name][BANDS[name].indexOf(low) + 1]; return next === undefined ? undefined : next - 1e-9; }

async function choose(name, value, on) {
  const filter = { ...view.filter };
  if (name === "confirmed") filter.confirmed = on ? value : undefined;
  else if (name in BANDS) { filter[`min_${name}`] = on ? value : undefined; filter[`max_${name}`] = on ? upper(name, value) : undefined; }
  else filter[name] = on ? [...(filter[name] ?? []), value] : (filter[name] ?? []).filter((each) => each !== value);
  await setFilter(filter);
}

async function setFilter(filter) {
  view.filter = Object.fromEntries(Object.entries(filter).filter(([, value]) => value !== undefined && value !== "" && value?.length !== 0));
  view.cursors = [null];
  showFilter();
  await loadPage();
  if (rows.length && !rows.some((row) => row.term === view.current)) await open(rows[0].term);
}

function showFilter() {
  $("filter-text").value = view.filter.text ?? "";
  for (const name of ["min", "max"]) { const value = view.filter[`${name}_confidence`]; $(`${name}-confidence`).value = value === undefined ? "" : Number(value.toFixed(3)); }
  $("filter-clear").hidden = Object.keys(view.filter).length === 0;
  $("sort").value = view.sort;
}

function remember() { history.replaceState(null, "", `#${encodeURIComponent(JSON.stringify(view))}`); }

// An action on a whole filter

async function bulkEffect(doIt = false) {
  const status = $("bulk-status").value, wanted = $("bulk-confidence").value, approve = status === "approved";
  $("bulk-confidence-field").hidden = !approve;
  const body = { filter: view.filter, status, min_confidence: approve && wanted !== "" ? Number(wanted) : null, rows: doIt ? Number($("bulk-do").dataset.rows) : null };
  const effect = await api("bulk", body);
  if (doIt && effect.done) { await loadPage(); if (detail) await open(detail.term); return say(`${count(effect.rows)} terms: ${STATUS[status]}. u undoes all of it.`); }
  if (doIt) { say("The terms of this filter changed meanwhile; nothing was saved. Look at the new number.", true); $("bulk").showModal(); }
  const wrong = effect.expected_wrong;
  const lines = [node("div", {}, node("b", { textContent: count(effect.rows) }), ` of ${count(effect.rows + effect.skipped)} terms of this filter would be changed.`)];
  if (approve && effect.rows) lines.push(wrong === null ? node("div", { textContent: "How many of them are wrong is not known: they have no calibrated confidence." }) : node("div", {}, "About ", node("b", { textContent: wrong < 10 ? fixed(wrong, 1) : count(Math.round(wrong)) }), ` of them are expected to be wrong (${fixed((100 * wrong) / effect.rows, 1)} %), by the calibration of the index.`));
  lines.push(node("div", { className: "muted", textContent: status === "unreviewed" ? "Only decisions are taken back; notes stay." : "Terms on which a person decided stay as they are." }));
  $("bulk-effect").replaceChildren(...lines);
  $("bulk-do").dataset.rows = effect.rows;
  $("bulk-do").disabled = effect.rows === 0;
  $("bulk-do").textContent = { approved: "Approve", no_match: "No concept for", flagged: "Flag", unreviewed: "Take back" }[status] + ` ${count(effect.rows)}`;
}

// Keys and events

function typing(on) { return on instanceof HTMLElement && (on.matches("textarea, select") || on.matches("input:not([type=checkbox])")); }

const ACTIONS = { a: "approve", 0: "no_match", r: "rejected", f: "flagged", s: "skip", c: "confirm" };
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const on = event.target, key = event.key;
  if (typing(on)) {
    if (key === "Escape" || (key === "Enter" && on.id === "equivalence")) { event.preventDefault(); focusCurrent(); }
    return;
  }
  if (key === "Escape") return focusCurrent();
  if (key === "Enter" && on.matches("button:not(.term), a, input")) return;
  if (!$("keys-on").checked && key.length === 1 && key !== "?") return;
  const candidate = detail?.candidates[Number(key) - 1];
  let task = null;
  if (key === "ArrowDown" || key === "j") task = () => move(1);
  else if (key === "ArrowUp" || key === "k") task = () => move(-1);
  else if (event.repeat) return;
  else if (key === "Enter") task = () => act("approve");
  else if (key in ACTIONS) task = () => act(ACTIONS[key]);
  else if (/^[1-9]$/.test(key)) task = () => { const chosen = detail?.candidates[Number(key) - 1]; return chosen ? decide({ targets: [concept(chosen)], status: "approved" }) : say(`There is no candidate ${key}.`, true); };
  else if (key === "u") task = undo;
  else if (key === "x") task = () => { const row = rows.find((each) => each.term === view.current); if (row) select(row, !selected.has(row.term), false); };
  else if (key === "?") task = () => $("help").showModal();
  else if (["e", "n", "/"].includes(key)) task = () => { const field = $({ e: "equivalence", n: "note", "/": "search-text" }[key]); if (detail && !field.disabled) field.focus(); };
  if (task) { event.preventDefault(); enqueue(task); }
}

function listen() {
  document.addEventListener("keydown", onKey);
  for (const button of document.querySelectorAll("[data-act]")) button.addEventListener("click", () => enqueue(() => act(button.dataset.act)));
  for (const button of document.querySelectorAll("[data-many]")) button.addEventListener("click", () => enqueue(() => decideSelected({ status: button.dataset.many })));
  $("undo").addEventListener("click", () => enqueue(undo));
  $("help-open").addEventListener("click", () => $("help").showModal());
  $("selection-clear").addEventListener("click", () => { selected.clear(); showSelection(); });
  $("page-next").addEventListener("click", () => enqueue(async () => { view.cursors.push(following); await loadPage(); await open(rows[0].term); }));
  $("page-before").addEventListener("click", () => enqueue(async () => { view.cursors.pop(); await loadPage(); await open(rows[0].term); }));
  $("sort").addEventListener("change", () => enqueue(async () => { view.sort = $("sort").value; view.cursors = [null]; await loadPage(); if (rows.length) await open(rows[0].term); }));
  $("filter-clear").addEventListener("click", () => enqueue(() => setFilter({})));
  $("filter-text").addEventListener("change", () => enqueue(() => setFilter({ ...view.filter, text: $("filter-text").value })));
  for (const name of ["min", "max"]) $(`${name}-confidence`).addEventListener("change", (event) => enqueue(() => setFilter({ ...view.filter, [`${name}_confidence`]: event.target.value === "" ? undefined : Number(event.target.value) })));
  $("search").addEventListener("submit", (event) => { event.preventDefault(); enqueue(() => search($("search-text").value)); });
  $("equivalence").addEventListener("blur", () => { const value = $("equivalence").value, on = detail; if (on && value !== shownEquivalence()) { if (on.status === "unreviewed") pendingEquivalence = value; else enqueue(() => decide({ equivalence: value }, false, on)); } });
  $("note").addEventListener("blur", () => { const comment = $("note").value, on = detail; if (on && comment !== on.comment) enqueue(() => decide({ comment }, false, on)); });
  window.addEventListener("beforeunload", (event) => { if (detail && $("note").value !== detail.comment) event.preventDefault(); });
  $("bulk-open").addEventListener("click", () => enqueue(async () => { $("bulk").showModal(); await bulkEffect(); }));
  for (const id of ["bulk-status", "bulk-confidence"]) $(id).addEventListener("input", () => { $("bulk-do").disabled = true; enqueue(() => bulkEffect()); });
  $("bulk").addEventListener("close", () => { if ($("bulk").returnValue === "do") enqueue(() => bulkEffect(true)); $("bulk").returnValue = ""; });
}

async function start() {
  $("keys").append(...KEYS.flatMap(([key, what]) => [node("dt", {}, node("kbd", { textContent: key })), node("dd", { textContent: what })]));
  listen();
  try { Object.assign(view, JSON.parse(decodeURIComponent(location.hash.slice(1)))); } catch { /* the first visit, or an address that somebody changed */ }
  const about = await api("about");
  reviewer = about.reviewer;
  total = about.terms;
  $("reviewer").textContent = reviewer;
  $("title").textContent = about.title;
  document.title = `${about.title} – xsap review`;
  showFilter();
  await loadPage();
  const wanted = view.current ?? rows[0]?.term;
  if (wanted !== undefined) await open(wanted);
}

enqueue(start);
