// SPDX-License-Identifier: Apache-2.0
// The page's text. Texts of tokens go in as JSON and are shown as text nodes, so that nothing in them is markup.
#include "hydra/cli/xray_page.h"

namespace hydra::cli {
namespace {

constexpr const char* kHead = R"html(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>hydralm X-ray</title>
<style>
:root { --back: #fbfaf8; --text: #22252a; --dim: #6b7078; --line: #dad7d1; --panel: #ffffff; --hue: 212; --low: 96%;
  --high: 38%; --mark: #c2410c; }
@media (prefers-color-scheme: dark) {
  :root { --back: #16181c; --text: #e6e4df; --dim: #9a9fa8; --line: #34383f; --panel: #1f2227; --low: 17%;
    --high: 66%; --mark: #fb923c; }
}
* { box-sizing: border-box; }
body { margin: 0; padding: 1.2rem; background: var(--back); color: var(--text); font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.15rem; margin: 0 0 .2rem; }
h2 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p { margin: .2rem 0; color: var(--dim); }
label { margin-right: 1rem; }
select { font: inherit; color: inherit; background: var(--panel); border: 1px solid var(--line);
  padding: .15rem .3rem; }
#text { background: var(--panel); border: 1px solid var(--line); padding: .6rem .7rem; margin: .6rem 0;
  max-height: 14rem; overflow: auto; white-space: pre-wrap; word-break: break-word; line-height: 1.9; }
#text button { font: inherit; color: inherit; border: 0; padding: .1rem 0; margin: 0; border-radius: 2px;
  cursor: pointer; white-space: pre-wrap; }
#text button.generated { text-decoration: underline; text-decoration-color: var(--mark); text-underline-offset: 3px; }
#text button.chosen { outline: 2px solid var(--mark); }
#map { overflow-x: auto; background: var(--panel); border: 1px solid var(--line); padding: .5rem; }
#map canvas { display: block; }
#scale { display: flex; align-items: center; gap: .5rem; color: var(--dim); font-size: .85rem; margin: .3rem 0; }
#scale span.bar { width: 10rem; height: .7rem; border: 1px solid var(--line); }
#tip { position: fixed; pointer-events: none; background: var(--panel); border: 1px solid var(--line);
  padding: .25rem .5rem; font-size: .85rem; display: none; max-width: 24rem; }
#detail { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; }
th, td { text-align: left; vertical-align: top; padding: .2rem .6rem; border-bottom: 1px solid var(--line); }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.list { min-width: 9rem; }
</style>
</head>
<body>
<h1>X-ray</h1>
<p id="about"></p>
<label>show <select id="what"></select></label>
<div id="text" aria-label="tokens"></div>
<div id="scale"><span id="least"></span><span class="bar"></span><span id="most"></span></div>
<div id="map"><canvas></canvas></div>
<h2 id="which"></h2>
<div id="detail"></div>
<div id="tip"></div>
<script type="application/json" id="data">)html";

constexpr const char* kTail = R"html(</script>
<script>
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const tokens = data.tokens, parts = ['ssm', 'sga', 'moe', 'workspace', 'pkm'];
const byPosition = new Map(tokens.map(t => [t.position, t]));
const $ = id => document.getElementById(id);
const root = getComputedStyle(document.documentElement);
const css = name => root.getPropertyValue(name).trim();
const has = part => data.layers.some(l => l.includes(part));
// What can be shown: name -> value of a layer of a token, or of a token alone.
const views = {};
for (const [i, part] of parts.entries()) if (has(part)) views['size of what ' + part + ' adds'] = l => l.size[i];
for (const [i, part] of parts.slice(0, 3).entries())
  if (has(part) && tokens.some(t => t.layers.some(l => l.gate[i]))) views['gate of ' + part] = l => l.gate[i];
views['size of the stream'] = l => l.stream;
if (has('sga')) views['attention on landmarks'] = l => l.landmark_share;
if (has('workspace')) views['read gate of the workspace'] = l => l.workspace_gate;
if (has('pkm')) views['read gate of the product keys'] = l => l.pkm_gate;
const alone = { 'entropy behind the token': t => t.entropy, 'time, ms': t => t.ms, 'bytes moved': t => t.bytes };
const shown = text => text === '' ? '\u2205' : text.replace(/\n/g, '\u21b5\n').replace(/\t/g, '\u21e5');
const short = number => number === null || number === undefined || Number.isNaN(number) ? '' :
    Math.abs(number) >= 1e6 ? (number / 1e6).toFixed(2) + ' M' :
    Math.abs(number) >= 100 ? number.toFixed(0) : number.toPrecision(3);
// What is on the page now.
  let chosen = 0, grid = null, least = 0, most = 1;
const W = Math.max(6, Math.min(22, Math.floor(1400 / tokens.length))), H = 20, LEFT = 26;

function color(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return 'transparent';
  const share = most > least ? (value - least) / (most - least) : 0;
  const low = parseFloat(css('--low')), high = parseFloat(css('--high'));
  return `hsl(${css('--hue')} ${(20 + 55 * share).toFixed(0)}% ${(low + (high - low) * share).toFixed(1)}%)`;
}

function readable(value) {
  const share = most > least && value !== null && value !== undefined ? (value - least) / (most - least) : 0;
  const low = parseFloat(css('--low')), high = parseFloat(css('--high'));
  return low + (high - low) * share > 55 ? '#16181c' : '#f6f5f2';
}

function show() {
  const name = $('what').value;
  const single = alone[name];
  grid = single ? [tokens.map(single)] : data.layers.map((_, i) => tokens.map(t => views[name](t.layers[i])));
  const all = grid.flat().filter(v => v !== null && v !== undefined && !Number.isNaN(v));
  least = all.length ? Math.min(...all) : 0;
  most = all.length ? Math.max(...all) : 1;
  $('least').textContent = short(least);
  $('most').textContent = short(most);
  document.querySelector('#scale .bar').style.background =
      `linear-gradient(to right, ${color(least)}, ${color((least + most) / 2)}, ${color(most)})`;
  const canvas = document.querySelector('#map canvas'), sharp = window.devicePixelRatio || 1;
  const width = LEFT + tokens.length * W, height = grid.length * H;
  canvas.width = width * sharp; canvas.height = height * sharp;
  canvas.style.width = width + 'px'; canvas.style.height = height + 'px';
  const g = canvas.getContext('2d');
  g.scale(sharp, sharp);
  g.font = '12px system-ui, sans-serif';
  g.fillStyle = css('--dim');
  g.textBaseline = 'middle';
  grid.forEach((row, y) => {
    g.fillStyle = css('--dim');
    if (!single) g.fillText(String(y), 4, y * H + H / 2);
    row.forEach((value, x) => { g.fillStyle = color(value); g.fillRect(LEFT + x * W, y * H, W - 1, H - 1); });
  });
  g.strokeStyle = css('--mark');
  g.lineWidth = 2;
  g.strokeRect(LEFT + chosen * W, 1, W - 1, height - 2);
  const mean = x => {
    const column = grid.map(r => r[x]).filter(v => v !== null && v !== undefined);
    return column.length ? column.reduce((a, b) => a + b, 0) / column.length : null;
  };
  [...$('text').children].forEach((button, x) => {
    const value = mean(x);
    button.style.background = color(value);
    button.style.color = value === null ? '' : readable(value);
    button.classList.toggle('chosen', x === chosen);
  });
  detail();
}

function add(parent, tag, text, name) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (name) node.className = name;
  parent.appendChild(node);
  return node;
}

function detail() {
  const t = tokens[chosen];
  $('which').textContent = `token ${t.position}: "${shown(t.text)}" (id ${t.id}, ` +
      (t.generated ? 'generated)' : 'read)') + (t.entropy === null ? '' : `, entropy ${short(t.entropy)} nats`) +
      `, ${short(t.bytes)} bytes moved, ${short(t.ms)} ms`;
  const box = $('detail');
  box.textContent = '';
  const table = add(box, 'table'), head = add(table, 'tr');
  const on = parts.filter(has);
  ['layer', ...on.filter(p => parts.indexOf(p) < 3).map(p => 'gate ' + p), ...on.map(p => 'size ' + p),
    ...(has('moe') ? ['experts'] : []), ...(has('sga') ? ['landmarks read'] : []),
    ...(has('workspace') ? ['slots read', 'slots written'] : []), ...(has('pkm') ? ['rows read'] : [])]
      .forEach(name => add(head, 'th', name));
  const list = (row, values, word) => {
    const lines = (values || []).map(([id, w]) => word(id) + ' ' + short(w));
    add(row, 'td', lines.join('\n'), 'list').style.whiteSpace = 'pre';
  };
  t.layers.forEach((l, i) => {
    const row = add(table, 'tr');
    add(row, 'td', i, 'number');
    on.filter(p => parts.indexOf(p) < 3).forEach(
        p => add(row, 'td', data.layers[i].includes(p) ? short(l.gate[parts.indexOf(p)]) : '', 'number'));
    on.forEach(p => add(row, 'td', data.layers[i].includes(p) ? short(l.size[parts.indexOf(p)]) : '', 'number'));
    if (has('moe')) list(row, l.experts, id => '#' + id);
    if (has('sga')) list(row, l.landmarks, p => `${p} "${byPosition.has(p) ? shown(byPosition.get(p).text) : '?'}"`);
    if (has('workspace')) [l.slots_read, l.slots_written].forEach(slots => list(row, slots, id => 'slot ' + id));
    if (has('pkm')) list(row, (l.rows || []).slice(0, 8), id => 'row ' + id);
  });
}

$('about').textContent = `${data.model}: ${tokens.length} tokens, ${data.layers.length} layers. ` +
    'Underlined tokens were generated. A row of the map is a layer, a column a token; click one for its details.';
for (const name of [...Object.keys(views), ...Object.keys(alone)]) add($('what'), 'option', name);
tokens.forEach((t, x) => {
  const button = add($('text'), 'button', shown(t.text), t.generated ? 'generated' : '');
  button.title = `token ${t.position}`;
  button.onclick = () => { chosen = x; show(); };
});
const canvas = document.querySelector('#map canvas'), tip = $('tip');
const cell = event => {
  const box = canvas.getBoundingClientRect();
  return [Math.floor((event.clientX - box.left - LEFT) / W), Math.floor((event.clientY - box.top) / H)];
};
canvas.onmousemove = event => {
  const [x, y] = cell(event);
  if (x < 0 || x >= tokens.length || y < 0 || y >= grid.length) { tip.style.display = 'none'; return; }
  tip.textContent = `"${shown(tokens[x].text)}" (${tokens[x].position})` + (grid.length > 1 ? `, layer ${y}` : '') +
      `: ${short(grid[y][x]) || 'not there'}`;
  tip.style.display = 'block';
  tip.style.left = Math.min(event.clientX + 12, window.innerWidth - tip.offsetWidth - 8) + 'px';
  tip.style.top = event.clientY + 14 + 'px';
};
canvas.onmouseleave = () => { tip.style.display = 'none'; };
canvas.onclick = event => { const [x] = cell(event); if (x >= 0 && x < tokens.length) { chosen = x; show(); } };
window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', show);
document.addEventListener('keydown', event => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step || event.target.tagName === 'SELECT') return;
  chosen = Math.max(0, Math.min(tokens.length - 1, chosen + step));
  show();
});
show();
</script>
</body>
</html>
)html";

}  // namespace

std::string XrayPage(const Json& xray) {
  // "</script" inside the data would end it.
  std::string data = xray.dump(-1, ' ', false, Json::error_handler_t::replace);
  for (size_t at = 0; (at = data.find("</", at)) != std::string::npos; at += 3) data.replace(at, 2, "<\\/");
  return kHead + data + kTail;
}

}  // namespace hydra::cli
