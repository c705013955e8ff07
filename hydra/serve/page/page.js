// SPDX-License-Identifier: Apache-2.0
// The chat page: conversations that live in the browser, answers as they are written, the settings of a request. What
// a model says goes into text nodes only. Not here: Markdown (markdown.js), the X-ray of an answer (xray.js).
'use strict';
const $ = id => document.getElementById(id);

function add(parent, tag, text, name) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (name) node.className = name;
  parent.appendChild(node);
  return node;
}

// ---- What the browser keeps ----

const store = {
  get(key, fallback) {
    try {
      const text = localStorage.getItem('hydralm.' + key);
      return text === null ? fallback : JSON.parse(text);
    } catch { return fallback; }
  },
  set(key, value) {
    try {
      localStorage.setItem('hydralm.' + key, JSON.stringify(value));
    } catch { say('This browser keeps nothing more.'); }
  },
};

const newId = () => Date.now().toString(36) + Math.random().toString(36).slice(2, 8);
let conversations = store.get('conversations', []);
let settings = Object.assign({ sampling: {}, controls: {}, trace: false, speculation: true, packs: null, key: '' },
    store.get('settings', {}));
let current = null;       // the conversation shown
let props = null;         // of the server
let locked = false;       // it wants another key
let writing = null;       // the answer that is being written: {controller, message}
const traces = new Map(); // of answers of this visit, by the id of the message: they are too large to keep

const save = () => store.set('conversations', conversations);
const saveSettings = () => store.set('settings', settings);

// ---- The server ----

function headers() {
  const all = { 'Content-Type': 'application/json' };
  if (settings.key) all.Authorization = 'Bearer ' + settings.key;
  return all;
}

async function errorOf(response) {
  try {
    const body = await response.json();
    return body.error && body.error.message || 'status ' + response.status;
  } catch { return 'status ' + response.status; }
}

async function loadProps() {
  try {
    const response = await fetch('props', { headers: headers() });
    locked = response.status === 401;
    if (locked) {
      props = null;
      health('The server needs an API key');
      openSettings(true);
      $('key').focus();
      return;
    }
    if (!response.ok) throw new Error(await errorOf(response));
    props = await response.json();
    health('');
    showModel();
  } catch (error) {
    props = null;
    health(error instanceof TypeError ? 'The server cannot be reached' : String(error.message));
  }
}

function health(text) { $('health').textContent = text; }
function say(text) { $('status').textContent = text; }

// While the server is away or loads, it is asked again and again.
setInterval(() => { if (!props && !locked && !document.hidden) loadProps(); }, 2000);

function showModel() {
  $('name').textContent = props.model;
  $('about').textContent = props.description;
  document.title = props.model + ' - hydralm';
  showSampling();
  showControls();
  showUse();
}

// ---- Conversations ----

const newConversation = () => ({ id: newId(), title: '', system: '', messages: [], used: 0 });

function open(conversation) {
  if (writing) stop();
  current = conversation;
  store.set('current', current.id);
  $('system').value = current.system;
  showList();
  showMessages();
  showUse();
}

function begin() {
  const empty = conversations.find(c => c.messages.length === 0);
  const conversation = empty || newConversation();
  if (!empty) conversations.unshift(conversation);
  save();
  open(conversation);
  $('list').classList.remove('open');
  $('text').focus();
}

function showList() {
  const list = $('conversations');
  list.textContent = '';
  for (const conversation of conversations) {
    const button = add(add(list, 'li'), 'button', conversation.title || 'New conversation');
    if (conversation === current) button.setAttribute('aria-current', 'true');
    button.onclick = () => { open(conversation); $('list').classList.remove('open'); };
  }
}

function showUse() {
  if (!props || !current) return;
  const used = current.used.toLocaleString('en'), all = props.context.toLocaleString('en');
  // A state that does not grow has room for any text.
  if (props.context >= 2 ** 30) say(`context ${used} tokens`);
  else say(current.used ? `context ${used} of ${all} tokens` : `context ${all} tokens`);
}

// ---- Messages ----

function showMessages() {
  const box = $('messages');
  box.textContent = '';
  if (current.messages.length === 0) add(box, 'p', 'Say something.', 'empty');
  current.messages.forEach(message => showMessage(message));
  box.scrollTop = box.scrollHeight;
}

function showMessage(message) {
  const box = $('messages');
  const empty = box.querySelector('.empty');
  if (empty) empty.remove();
  const article = add(box, 'article', undefined, message.role);
  article.id = 'm-' + message.id;
  fill(article, message);
  return article;
}

function fill(article, message) {
  article.textContent = '';
  article.className = message.role + (writing && writing.message === message ? ' writing' : '');
  add(article, 'div', message.role === 'user' ? 'You' : message.role === 'error' ? 'Error' : message.model || 'Model',
      'who');
  const body = add(article, 'div', undefined, 'body');
  if (message.role === 'assistant') renderMarkdown(message.content, body);
  else body.textContent = message.content;
  if (writing && writing.message === message) return;
  const foot = add(article, 'div', undefined, 'foot');
  const button = (text, f) => { add(foot, 'button', text, 'small').onclick = f; };
  if (message.role === 'user') button('Edit', () => edit(article, message));
  if (message.role === 'assistant')
    button('Copy', () => navigator.clipboard && navigator.clipboard.writeText(message.content));
  if (message.role !== 'user' && message === current.messages.at(-1)) button('Write again', () => resend());
  if (traces.has(message.id)) button('X-ray', () => toggleXray(article, message));
  if (message.stats) add(foot, 'span', message.stats);
}

function toggleXray(article, message) {
  const shown = article.querySelector('.xray');
  if (shown) shown.remove();
  else showXray(add(article, 'div', undefined, 'xray'), traces.get(message.id), props);
}

// A message is changed where it stands; what came behind it is forgotten.
function edit(article, message) {
  if (writing) return;
  const body = article.querySelector('.body');
  body.textContent = '';
  const area = add(body, 'textarea');
  area.value = message.content;
  const foot = article.querySelector('.foot');
  foot.textContent = '';
  const send = () => {
    if (!area.value.trim()) return;
    const at = current.messages.indexOf(message);
    current.messages.length = at + 1;
    message.content = area.value;
    save();
    showMessages();
    answer();
  };
  const cancel = () => fill(article, message);
  add(foot, 'button', 'Send', 'small').onclick = send;
  add(foot, 'button', 'Cancel', 'small').onclick = cancel;
  area.onkeydown = event => {
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
    if (event.key === 'Escape') { event.stopPropagation(); cancel(); }
  };
  area.focus();
}

function resend() {
  while (current.messages.length && current.messages.at(-1).role !== 'user') current.messages.pop();
  if (!current.messages.length) return;
  save();
  showMessages();
  answer();
}

function submit() {
  const text = $('text').value;
  if (!text.trim() || writing) return;
  if (!current.title) current.title = text.trim().slice(0, 60);
  if (current.messages.length && current.messages.at(-1).role === 'error') current.messages.pop();
  current.messages.push({ id: newId(), role: 'user', content: text });
  $('text').value = '';
  grow();
  save();
  showList();
  showMessages();
  answer();
}

// ---- An answer ----

function requestBody() {
  const messages = current.messages.filter(m => m.role !== 'error').map(m => ({ role: m.role, content: m.content }));
  if (current.system.trim()) messages.unshift({ role: 'system', content: current.system });
  const own = { trace: settings.trace, speculation: settings.speculation };
  if (Object.keys(settings.controls).length) own.controls = settings.controls;
  if (settings.packs) own.memory = settings.packs;
  return { messages, stream: true, stream_options: { include_usage: true }, hydralm: own, ...settings.sampling };
}

async function answer() {
  const conversation = current;
  const message = { id: newId(), role: 'assistant', content: '', model: props ? props.model : '' };
  const controller = new AbortController();
  writing = { controller, message };
  conversation.messages.push(message);
  const article = showMessage(message);
  busy(true);
  const run = { asked: performance.now(), first: 0, last: 0, chunks: 0, usage: null, timings: null };
  const kept = { prompt: [], tokens: [], trace: [] };
  let failed = '';
  try {
    const response = await fetch('v1/chat/completions',
        { method: 'POST', headers: headers(), body: JSON.stringify(requestBody()), signal: controller.signal });
    if (!response.ok) throw new Error(await errorOf(response));
    for await (const data of eventsOf(response)) {
      if (data.error) throw new Error(data.error.message);
      take(data, message, run, kept);
      redraw(article, message);
    }
  } catch (error) {
    if (error.name !== 'AbortError') {
      failed = error instanceof TypeError ? 'The server cannot be reached' : error.message;
    }
  }
  writing = null;
  busy(false);
  finish(conversation, message, run, kept, failed);
}

// The JSON of each event of a stream.
async function* eventsOf(response) {
  const reader = response.body.getReader(), decoder = new TextDecoder();
  let text = '', ended = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    text += decoder.decode(value, { stream: true });
    for (let end; (end = text.indexOf('\n\n')) >= 0; text = text.slice(end + 2)) {
      const event = text.slice(0, end);
      if (!event.startsWith('data: ')) continue;  // a sign of life
      if (event === 'data: [DONE]') { ended = true; continue; }
      yield JSON.parse(event.slice(6));
    }
  }
  if (!ended) throw new Error('The answer was cut off');
}

function take(data, message, run, kept) {
  const choice = data.choices && data.choices[0];
  if (choice && choice.delta && choice.delta.content) {
    run.last = performance.now();
    if (!run.first) run.first = run.last;
    ++run.chunks;
    message.content += choice.delta.content;
  }
  if (choice && choice.finish_reason) message.finish = choice.finish_reason;
  if (data.usage) run.usage = data.usage;
  const own = data.hydralm;
  if (!own) return;
  if (own.prompt) kept.prompt = own.prompt;
  if (own.tokens) kept.tokens.push(...own.tokens);
  if (own.trace) kept.trace.push(...own.trace);
  if (own.seed !== undefined) run.timings = own;
}

let drawn = 0;  // the frame in which the answer is drawn next
function redraw(article, message) {
  if (drawn) return;
  drawn = requestAnimationFrame(() => {
    drawn = 0;
    if (!writing || writing.message !== message) return;
    const box = $('messages'), follows = box.scrollHeight - box.scrollTop - box.clientHeight < 80;
    const body = article.querySelector('.body');
    body.textContent = '';
    renderMarkdown(message.content, body);
    if (follows) box.scrollTop = box.scrollHeight;
  });
}

function finish(conversation, message, run, kept, failed) {
  const tokens = run.usage ? run.usage.completion_tokens : run.chunks;
  const parts = [];
  if (run.first) {
    parts.push(`first token ${((run.first - run.asked) / 1000).toFixed(2)} s`);
    const took = run.timings ? run.timings.write_ms : run.last - run.first;  // chunks may come all at once
    if (tokens > 1 && took > 0) parts.push(`${(1000 * (tokens - 1) / took).toFixed(1)} tokens/s`);
    parts.push(`${tokens} tokens`);
  }
  if (run.usage) {
    conversation.used = run.usage.total_tokens;
    const cached = run.usage.prompt_tokens_details.cached_tokens;
    if (cached) parts.push(`${cached} of ${run.usage.prompt_tokens} read before`);
    const drafts = run.usage.completion_tokens_details;
    if (drafts) parts.push(`${drafts.accepted_prediction_tokens} guessed`);
  }
  if (message.finish === 'length') parts.push('cut off');
  if (!message.finish && !failed) parts.push('stopped');
  message.stats = parts.join(', ');
  if (kept.tokens.length) traces.set(message.id, kept);
  if (!message.content && (failed || !message.finish))
    conversation.messages.splice(conversation.messages.indexOf(message), 1);
  if (failed) conversation.messages.push({ id: newId(), role: 'error', content: failed });
  save();
  if (conversation === current) {
    const box = $('messages'), at = box.scrollTop, follows = box.scrollHeight - at - box.clientHeight < 80;
    showMessages();
    if (!follows) box.scrollTop = at;
    showUse();
  }
  if (failed) loadProps();
}

function stop() {
  if (writing) writing.controller.abort();
}

function busy(is) {
  $('send').hidden = is;
  $('stop').hidden = !is;
}

// ---- Settings ----

function openSettings(shown) { $('settings').hidden = !shown; }

// name, step, what it is
const kSampling = [
  ['temperature', 0.05, 'temperature'], ['top_k', 1, 'top k'], ['top_p', 0.01, 'top p'], ['min_p', 0.01, 'min p'],
  ['repeat_penalty', 0.01, 'repeat penalty'], ['presence_penalty', 0.1, 'presence penalty'],
  ['frequency_penalty', 0.1, 'frequency penalty'], ['max_tokens', 1, 'tokens at most'], ['seed', 1, 'seed'],
];

function field(box, text, value, hint, change) {
  const id = 'f-' + text.replace(/\W/g, '-');
  add(box, 'span', text).id = id;
  const input = add(box, 'input');
  input.setAttribute('aria-labelledby', id);
  input.value = value === undefined ? '' : value;
  input.placeholder = hint === undefined ? '' : String(hint);
  input.onchange = () => change(input.value.trim(), input);
  return input;
}

function showSampling() {
  const box = $('sampling');
  box.textContent = '';
  for (const [name, step, text] of kSampling) {
    const hint = name === 'max_tokens' ? 'all' : name === 'seed' ? 'new' : props.default_sampling[name];
    const input = field(box, text, settings.sampling[name], hint, value => {
      if (value === '' || Number.isNaN(Number(value))) delete settings.sampling[name];
      else settings.sampling[name] = Number(value);
      saveSettings();
    });
    input.type = 'number';
    input.step = step;
    input.id = 's-' + name;
  }
}

// Numbers with commas between them.
const numbers = text => text.split(',').map(part => part.trim()).filter(part => part !== '').map(Number);

function showControls() {
  const box = $('controls');
  box.textContent = '';
  for (const name of Object.keys(settings.controls)) if (!props.controls.includes(name)) delete settings.controls[name];
  const set = (name, value) => {
    if (value === undefined) delete settings.controls[name];
    else settings.controls[name] = value;
    saveSettings();
  };
  const hints = { path_scale: '1,1,1', workspace_read: 1, pkm_read: 1, router_temperature: '', moe_top_k: '',
    force_experts: 'none', ban_experts: 'none', expert_bias: 'none', pins: 'none' };
  for (const name of props.controls) {
    const text = name.replaceAll('_', ' ');
    if (name === 'landmarks' || name === 'domain') {
      add(box, 'span', text);
      const select = add(box, 'select');
      const options = name === 'domain' ? ['', ...props.domains] : ['on', 'off'];
      for (const option of options) add(select, 'option', option);
      const now = settings.controls[name];
      select.value = name === 'domain' ? now || '' : now === false ? 'off' : 'on';
      select.onchange = () => set(name, name === 'domain' ? select.value || undefined
                                                          : select.value === 'off' ? false : undefined);
      continue;
    }
    const now = settings.controls[name];
    const single = ['workspace_read', 'pkm_read', 'router_temperature', 'moe_top_k'].includes(name);
    const input = field(box, text, now === undefined ? undefined : String(now), hints[name], value => {
      const list = numbers(value);
      if (list.some(Number.isNaN)) { input.value = ''; return set(name, undefined); }
      set(name, list.length === 0 ? undefined : single ? list[0] : list);
    });
  }
  showPacks();
  $('speculation-row').hidden = props.speculation === 'off';
  $('speculation').checked = settings.speculation;
  $('trace').checked = settings.trace;
  const kinds = [...new Set(props.spans.flat())];
  $('spans').textContent = kinds.length ? 'caches of keys and values: ' + kinds.join('; ') : '';
}

function showPacks() {
  const box = $('packs');
  box.textContent = '';
  for (const name of props.memory_packs) {
    const label = add(box, 'label', undefined, 'check');
    const check = add(label, 'input');
    check.type = 'checkbox';
    check.checked = !settings.packs || settings.packs.includes(name);
    label.append(' memory pack ' + name);
    check.onchange = () => {
      const on = props.memory_packs.filter(each => each === name ? check.checked
                                                                  : !settings.packs || settings.packs.includes(each));
      settings.packs = on.length === props.memory_packs.length ? null : on;
      saveSettings();
    };
  }
}

// ---- Export ----

function download(name, type, text) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function exportAs(kind) {
  const name = (current.title || 'conversation').replace(/[^\w-]+/g, '-').slice(0, 40) || 'conversation';
  const messages = current.messages.filter(m => m.role !== 'error').map(m => ({ role: m.role, content: m.content }));
  if (current.system.trim()) messages.unshift({ role: 'system', content: current.system });
  if (kind === 'json') {
    download(name + '.json', 'application/json', JSON.stringify({ title: current.title, messages }, null, 2) + '\n');
  } else {
    const heads = { system: 'System', user: 'User', assistant: 'Assistant' };
    download(name + '.md', 'text/markdown', messages.map(m => `## ${heads[m.role]}\n\n${m.content}\n`).join('\n'));
  }
}

// ---- Keys and buttons ----

function grow() {
  const area = $('text');
  area.style.height = 'auto';
  area.style.height = area.scrollHeight + 2 + 'px';
}

$('composer').onsubmit = event => { event.preventDefault(); submit(); };
$('stop').onclick = stop;
$('new').onclick = begin;
$('text').oninput = grow;
$('text').onkeydown = event => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
  if (event.key === 'ArrowUp' && !$('text').value && !writing) {
    const last = current.messages.findLast(m => m.role === 'user');
    if (last) { event.preventDefault(); edit($('m-' + last.id), last); }
  }
};
$('show-list').onclick = () => $('list').classList.toggle('open');
$('show-settings').onclick = () => openSettings($('settings').hidden);
$('system').oninput = () => { current.system = $('system').value; save(); };
$('trace').onchange = () => { settings.trace = $('trace').checked; saveSettings(); };
$('speculation').onchange = () => { settings.speculation = $('speculation').checked; saveSettings(); };
$('key').value = settings.key;
$('key').onchange = () => { settings.key = $('key').value.trim(); saveSettings(); loadProps(); };
$('export-json').onclick = () => exportAs('json');
$('export-markdown').onclick = () => exportAs('markdown');
$('delete').onclick = () => {
  conversations = conversations.filter(c => c !== current);
  save();
  if (conversations.length) open(conversations[0]);
  else begin();
};
document.addEventListener('keydown', event => {
  if (event.key === 'Escape') {
    if (writing) stop();
    else { openSettings(false); $('list').classList.remove('open'); }
  }
  if (event.ctrlKey && event.shiftKey && event.key.toLowerCase() === 'o') { event.preventDefault(); begin(); }
  if (event.ctrlKey && event.key === ',') { event.preventDefault(); openSettings($('settings').hidden); }
});
window.addEventListener('storage', event => {  // another tab
  if (event.key !== 'hydralm.conversations' || writing) return;
  conversations = store.get('conversations', []);
  const same = conversations.find(c => c.id === current.id);
  if (same) open(same);
});

const before = conversations.find(c => c.id === store.get('current', ''));
if (before) open(before);
else begin();
loadProps();
