// SPDX-License-Identifier: Apache-2.0
// The X-ray of an answer: its tokens, coloured by what they did, a map of all layers, and the details of the token that
// was clicked. It shows what the model has.
'use strict';

const kParts = ['ssm', 'sga', 'moe', 'workspace', 'pkm'];
const shown = text => text === '' ? '\u2205' : text.replace(/\n/g, '\u21b5\n').replace(/\t/g, '\u21e5');
const isNumber = value => typeof value === 'number' && Number.isFinite(value);
const short = value => !isNumber(value) ? '' : Math.abs(value) >= 1e6 ? (value / 1e6).toFixed(2) + ' M'
    : Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3);

// kept: {prompt: texts by position, tokens: [{id, position, text, guessed}], trace: [of tokens that were read]}
function showXray(box, kept, props) {
  const byPosition = new Map(kept.trace.map(t => [t.position, t]));
  const tokens = kept.tokens.map(t => ({ ...t, trace: byPosition.get(t.position) }));
  const texts = new Map(kept.prompt.map((text, position) => [position, text]));
  for (const token of tokens) texts.set(token.position, token.text);
  const has = part => props.layers.some(layer => layer.includes(part));
  const views = xrayViews(has, tokens);
  const top = add(box, 'label', 'show ');
  const select = add(top, 'select');
  for (const name of Object.keys(views)) add(select, 'option', name);
  const words = add(box, 'div', undefined, 'tokens');
  const scale = add(box, 'div', undefined, 'scale');
  const least = add(scale, 'span'), bar = add(scale, 'span', undefined, 'bar'), most = add(scale, 'span');
  const canvas = add(add(box, 'div', undefined, 'map'), 'canvas');
  const detail = add(box, 'div', undefined, 'detail');
  detail.tabIndex = -1;
  let chosen = tokens.findIndex(t => t.trace);
  const state = { grid: [], low: 0, high: 1 };

  const draw = () => {
    const view = views[select.value];
    state.grid = view.layer ? props.layers.map((_, y) => tokens.map(t => t.trace && view.layer(t.trace.layers[y], y)))
                            : [tokens.map(t => t.trace && view.token(t.trace))];
    const all = state.grid.flat().filter(isNumber);
    state.low = all.length ? Math.min(...all) : 0;
    state.high = all.length ? Math.max(...all) : 1;
    least.textContent = short(state.low);
    most.textContent = short(state.high);
    const at = value => xrayColour(value, state).background;
    bar.style.background =
        `linear-gradient(to right, ${at(state.low)}, ${at((state.low + state.high) / 2)}, ${at(state.high)})`;
    drawMap(canvas, state, chosen, Boolean(view.layer));
    [...words.children].forEach((button, x) => {
      const column = state.grid.map(row => row[x]).filter(isNumber);
      const mean = column.length ? column.reduce((a, b) => a + b, 0) / column.length : undefined;
      const colour = xrayColour(mean, state);
      button.style.background = colour.background;
      button.style.color = colour.text;
      button.classList.toggle('chosen', x === chosen);
    });
    showToken(detail, tokens[chosen], has, texts, props);
  };
  const choose = x => {
    chosen = Math.max(0, Math.min(tokens.length - 1, x));
    draw();
  };
  tokens.forEach((token, x) => {
    const button = add(words, 'button', shown(token.text), token.guessed ? 'guessed' : '');
    button.type = 'button';
    button.title = `token ${token.position}` + (token.guessed ? ', guessed' : '');
    button.onclick = () => choose(x);
  });
  words.onkeydown = event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    choose(chosen + step);
    words.children[chosen].focus();
  };
  listenToMap(canvas, tokens, state, choose);
  select.onchange = draw;
  draw();
}

// What can be shown: a value of a token, or of each layer of it.
function xrayViews(has, tokens) {
  const views = {};
  const traced = tokens.filter(t => t.trace);
  for (const [i, part] of kParts.entries())
    if (has(part)) views['size of what ' + part + ' adds'] = { layer: l => l.size[i] };
  for (const [i, part] of kParts.slice(0, 3).entries())
    if (has(part) && traced.some(t => t.trace.layers.some(l => l.gate[i])))
      views['gate of ' + part] = { layer: l => l.gate[i] };
  views['size of the stream'] = { layer: l => l.stream };
  if (traced.some(t => t.trace.layers.some(l => l.landmarks)))
    views['attention on landmarks'] = { layer: l => l.landmark_share };
  if (has('workspace')) views['read gate of the workspace'] = { layer: l => l.workspace_gate };
  if (has('pkm')) views['read gate of the product keys'] = { layer: l => l.pkm_gate };
  views['entropy behind the token'] = { token: t => t.entropy };
  views['time, ms'] = { token: t => t.ms };
  views['bytes moved'] = { token: t => t.bytes };
  return views;
}

function xrayColour(value, state) {
  if (!isNumber(value)) return { background: 'transparent', text: '' };
  const style = getComputedStyle(document.documentElement);
  const number = name => parseFloat(style.getPropertyValue(name));
  const share = state.high > state.low ? (value - state.low) / (state.high - state.low) : 0;
  const light = number('--low') + (number('--high') - number('--low')) * share;
  return { background: `hsl(${number('--hue')} ${(20 + 55 * share).toFixed(0)}% ${light.toFixed(1)}%)`,
    text: light > 55 ? '#16181c' : '#f6f5f2' };
}

const kLeft = 26, kRow = 18;
const cellWidth = tokens => Math.max(6, Math.min(22, Math.floor(1400 / Math.max(tokens, 1))));

function drawMap(canvas, state, chosen, layers) {
  const columns = state.grid[0].length, width = cellWidth(columns), sharp = window.devicePixelRatio || 1;
  const w = kLeft + columns * width, h = state.grid.length * kRow;
  canvas.width = w * sharp;
  canvas.height = h * sharp;
  canvas.style.width = w + 'px';
  canvas.style.height = h + 'px';
  const style = getComputedStyle(document.documentElement), g = canvas.getContext('2d');
  g.scale(sharp, sharp);
  g.font = '11px system-ui, sans-serif';
  g.textBaseline = 'middle';
  state.grid.forEach((row, y) => {
    g.fillStyle = style.getPropertyValue('--dim');
    if (layers) g.fillText(String(y), 4, y * kRow + kRow / 2);
    row.forEach((value, x) => {
      g.fillStyle = xrayColour(value, state).background;
      g.fillRect(kLeft + x * width, y * kRow, width - 1, kRow - 1);
    });
  });
  if (chosen < 0) return;
  g.strokeStyle = style.getPropertyValue('--mark');
  g.lineWidth = 2;
  g.strokeRect(kLeft + chosen * width, 1, width - 1, h - 2);
}

function listenToMap(canvas, tokens, state, choose) {
  const tip = $('tip');
  const cell = event => {
    const box = canvas.getBoundingClientRect();
    return [Math.floor((event.clientX - box.left - kLeft) / cellWidth(tokens.length)),
      Math.floor((event.clientY - box.top) / kRow)];
  };
  canvas.onmousemove = event => {
    const [x, y] = cell(event);
    tip.hidden = x < 0 || x >= tokens.length || y < 0 || y >= state.grid.length;
    if (tip.hidden) return;
    tip.textContent = `"${shown(tokens[x].text)}" (${tokens[x].position})` +
        (state.grid.length > 1 ? `, layer ${y}` : '') + `: ${short(state.grid[y][x]) || 'not there'}`;
    tip.style.left = Math.min(event.clientX + 12, window.innerWidth - tip.offsetWidth - 8) + 'px';
    tip.style.top = event.clientY + 14 + 'px';
  };
  canvas.onmouseleave = () => { tip.hidden = true; };
  canvas.onclick = event => {
    const [x] = cell(event);
    if (x >= 0 && x < tokens.length) choose(x);
  };
}

function showToken(box, token, has, texts, props) {
  box.textContent = '';
  if (!token) return;
  const t = token.trace;
  add(box, 'p', `token ${token.position}: "${shown(token.text)}" (id ${token.id}${token.guessed ? ', guessed' : ''})` +
      (t ? (isNumber(t.entropy) ? `, entropy ${short(t.entropy)} nats` : '') +
          `, ${short(t.bytes)} bytes moved, ${short(t.ms)} ms` : ': the last one was not read by the model'), 'dim');
  if (!t) return;
  const on = kParts.filter(has), number = part => kParts.indexOf(part);
  const gated = on.filter(part => number(part) < 3 && t.layers.some(l => l.gate[number(part)]));
  const lists = [['experts', 'experts', id => '#' + id],
    ['landmarks', 'landmarks read', p => `${p} "${texts.has(p) ? shown(texts.get(p)) : '?'}"`],
    ['slots_read', 'slots read', id => 'slot ' + id], ['slots_written', 'slots written', id => 'slot ' + id],
    ['rows', 'rows read', id => 'row ' + id]].filter(([key]) => t.layers.some(l => l[key]));
  const spans = props.spans.some(list => list.length);
  const table = add(box, 'table'), head = add(table, 'tr');
  const names = ['layer', ...gated.map(p => 'gate ' + p), ...on.map(p => 'size ' + p), ...lists.map(([, name]) => name)];
  for (const name of spans ? [...names, 'keys kept'] : names) add(head, 'th', name);
  t.layers.forEach((layer, i) => {
    const row = add(table, 'tr'), there = props.layers[i];
    add(row, 'td', String(i), 'number');
    for (const part of gated) add(row, 'td', there.includes(part) ? short(layer.gate[number(part)]) : '', 'number');
    for (const part of on) add(row, 'td', there.includes(part) ? short(layer.size[number(part)]) : '', 'number');
    for (const [key, , word] of lists) {
      const entries = (layer[key] || []).slice(0, 8).map(([id, weight]) => word(id) + ' ' + short(weight));
      add(row, 'td', entries.join('\n'), 'list');
    }
    if (spans) add(row, 'td', props.spans[i].join('; '));
  });
}
