"""The page of a blind test: one HTML file that shows slices in turn, keeps the answers in the browser and scores them.

The page loads nothing from elsewhere and sends nothing. The truth is in it, written so that nobody reads it by chance.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape

from CardiacLDMLib.results.report import NOTICE

_STYLE = """
:root { color-scheme: dark; }
body { font: 16px/1.45 system-ui, sans-serif; color: #e6e9ed; background: #14171b; margin: 0 auto; max-width: 44em;
  padding: 1em; text-align: center; }
h1 { font-size: 1.2em; font-weight: 600; } p { margin: .5em 0; } footer { color: #9aa4af; font-size: .85em; }
#slice { width: min(100%, 32em, max(12em, 100vh - 18em)); aspect-ratio: 1; background: #000; display: block;
  margin: .8em auto; }
button { font: inherit; color: inherit; background: #2b323a; border: 1px solid #56606b; border-radius: .4em;
  padding: .6em 1.1em; margin: .2em; cursor: pointer; }
button:hover, button:focus-visible { background: #3d4752; outline: 2px solid #7cb7ff; }
button.chosen { border-color: #7cb7ff; } kbd { color: #9aa4af; font: .8em monospace; }
progress { width: min(100%, 32em); } table { margin: 1em auto; border-collapse: collapse; }
th, td { padding: .3em .9em; border-bottom: 1px solid #3a424b; text-align: right; } th:first-child { text-align: left; }
[hidden] { display: none !important; }
"""

#: Counts answers; it is apart from the page so that it can be tried without a browser.
SCORE = """
function score(answers, truth, kinds) {
  const counts = {};
  for (const kind of kinds) { counts[kind] = Object.fromEntries(kinds.map((other) => [other, 0])); }
  let right = 0, said = 0;
  truth.forEach((kind, n) => {
    const answer = answers[n] && answers[n].answer;
    if (!answer) { return; }
    counts[kind][answer] += 1; said += 1; right += answer === kind ? 1 : 0;
  });
  return { counts, right, said };
}
function table(answers, truth) {
  const rows = truth.map((kind, n) => {
    const said = answers[n] || { answer: "", seconds: "" };
    return [n + 1, said.answer, kind, said.seconds].join(",");
  });
  return ["slice,answer,truth,seconds", ...rows].join("\\n") + "\\n";
}
"""

_PAGE = """
const data = JSON.parse(document.getElementById("data").textContent);
const truth = atob(data.key).split(" "), kinds = data.kinds, count = truth.length;
const store = "cardiacldm-blind-" + data.id;
const at = (name) => document.getElementById(name);
let answers = {}, shown = 0, since = Date.now();
try { answers = JSON.parse(localStorage.getItem(store)) || {}; } catch (error) { answers = {}; }
function keep() { try { localStorage.setItem(store, JSON.stringify(answers)); } catch (error) { } }
function firstOpen() { let n = 0; while (n < count && answers[n]) { n += 1; } return n; }
function show(n) {
  shown = Math.max(0, Math.min(n, count)); since = Date.now();
  const done = shown === count;
  at("test").hidden = done; at("end").hidden = !done;
  if (done) { showScore(); return; }
  at("slice").src = "data:image/png;base64," + data.slices[shown];
  at("place").textContent = "Slice " + (shown + 1) + " of " + count;
  at("bar").max = count; at("bar").value = Object.keys(answers).length;
  for (const kind of kinds) { at(kind).classList.toggle("chosen", (answers[shown] || {}).answer === kind); }
  at("back").disabled = shown === 0;
}
function say(kind) {
  if (shown >= count) { return; }
  answers[shown] = { answer: kind, seconds: Math.round((Date.now() - since) / 100) / 10 };
  keep(); show(shown + 1);
}
function showScore() {
  const found = score(answers, truth, kinds), body = at("score");
  body.textContent = "";
  at("sum").textContent = found.right + " of " + found.said + " right; by chance about " +
    Math.round(found.said / kinds.length) + ".";
  const head = body.insertRow();
  for (const text of ["it was", ...kinds.map((kind) => "you said " + kind)]) {
    const cell = document.createElement("th"); cell.textContent = text; head.appendChild(cell);
  }
  for (const kind of kinds) {
    const row = body.insertRow(), name = document.createElement("th");
    name.textContent = kind; row.appendChild(name);
    for (const other of kinds) { row.insertCell().textContent = found.counts[kind][other]; }
  }
}
function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table(answers, truth)], { type: "text/csv" }));
  link.download = "blind-answers.csv"; link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
for (const kind of kinds) { at(kind).addEventListener("click", () => say(kind)); }
at("back").addEventListener("click", () => show(shown - 1));
at("look").addEventListener("click", () => show(count - 1));
at("save").addEventListener("click", save);
at("again").addEventListener("click", () => {
  if (confirm("Forget all answers and start again?")) { answers = {}; keep(); show(0); }
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) { return; }
  const kind = kinds.find((name, n) => event.key === name[0] || event.key === String(n + 1));
  if (kind) { say(kind); } else if (event.key === "ArrowLeft") { show(shown - 1); }
});
show(firstOpen());
"""


def blind_page(slices: Sequence[bytes], truth: Sequence[str], kinds: Sequence[str], note: str) -> str:
    """Return the page in HTML: ``slices`` as PNG in the order of the test, the kind of each, and all ``kinds``.

    ``note`` says what the slices have in common. Every kind is one lower-case word; their first letters differ.
    """
    pictures = [base64.b64encode(data).decode("ascii") for data in slices]
    identity = hashlib.sha256("".join(pictures).encode()).hexdigest()[:16]
    key = base64.b64encode(" ".join(truth).encode()).decode("ascii")
    data = json.dumps({"id": identity, "key": key, "kinds": list(kinds), "slices": pictures})
    script = SCORE + _PAGE
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    rule = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    buttons = "\n".join(
        f'<button id="{kind}" type="button">{kind.capitalize()} <kbd>{kind[0]} or {n}</kbd></button>'
        for n, kind in enumerate(kinds, start=1)
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Blind test</title>
<meta http-equiv="Content-Security-Policy" content="{rule}">
<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>
<body>
<h1>Blind test: what is this slice?</h1>
<main id="test">
<p id="place" aria-live="polite"></p>
<progress id="bar" value="0" max="1" aria-label="Answers given"></progress>
<img id="slice" alt="The slice to judge">
<p>{buttons}</p>
<p><button id="back" type="button">Back <kbd>&larr;</kbd></button></p>
<p>{escape(note)} Answers stay in this browser; you may close the page and go on later.</p>
</main>
<main id="end" hidden>
<p id="sum" role="status"></p>
<table id="score"></table>
<p><button id="save" type="button">Save the answers as a table</button>
<button id="look" type="button">Look at the last slice</button>
<button id="again" type="button">Start again</button></p>
</main>
<noscript><p>This page needs JavaScript.</p></noscript>
<footer><p>{escape(NOTICE)}</p></footer>
<script id="data" type="application/json">{data}</script>
<script>{script}</script>
</body></html>
"""
