// SPDX-License-Identifier: Apache-2.0
// Markdown as models write it, made of elements and text nodes: nothing in it is ever read as HTML. Headings, lists,
// quotes, code, tables, emphasis, links to http and https.
'use strict';

const kDeepest = 6;  // lists and quotes within one another

function renderMarkdown(text, parent, depth = 0) {
  const lines = text.replace(/\r\n?/g, '\n').split('\n');
  for (let i = 0; i < lines.length;) i = renderBlock(lines, i, parent, depth);
}

const kItem = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const isFence = line => /^\s{0,3}(```|~~~)/.test(line);
const isHeading = line => /^#{1,6}\s/.test(line);
const isRule = line => /^\s{0,3}([-*_])(\s*\1){2,}\s*$/.test(line);
const isQuote = line => /^\s{0,3}>/.test(line);
const isTableRule = line => line !== undefined && line.includes('-') && /^[\s:|-]+$/.test(line);
const beginsBlock = (lines, i) => isFence(lines[i]) || isHeading(lines[i]) || isRule(lines[i]) || isQuote(lines[i]) ||
    kItem.test(lines[i]) || (lines[i].includes('|') && isTableRule(lines[i + 1]));

// Renders the block that begins at line i; returns the first line behind it.
function renderBlock(lines, i, parent, depth) {
  const line = lines[i];
  if (line.trim() === '') return i + 1;
  if (isFence(line)) return renderFence(lines, i, parent);
  if (isHeading(line)) {
    const marks = line.match(/^#+/)[0].length;
    renderInline(line.slice(marks).trim().replace(/\s#+$/, ''), add(parent, 'h' + Math.min(marks + 2, 6)));
    return i + 1;
  }
  if (isRule(line)) { add(parent, 'hr'); return i + 1; }
  if (depth < kDeepest && isQuote(line)) {
    const inner = [];
    for (; i < lines.length && isQuote(lines[i]); ++i) inner.push(lines[i].replace(/^\s{0,3}> ?/, ''));
    renderMarkdown(inner.join('\n'), add(parent, 'blockquote'), depth + 1);
    return i;
  }
  if (depth < kDeepest && kItem.test(line)) return renderList(lines, i, parent, depth);
  if (line.includes('|') && isTableRule(lines[i + 1])) return renderTable(lines, i, parent);
  const words = [line];
  for (++i; i < lines.length && lines[i].trim() !== '' && !beginsBlock(lines, i); ++i) words.push(lines[i]);
  const paragraph = add(parent, 'p');
  words.forEach((each, at) => {
    if (at > 0) add(paragraph, 'br');
    renderInline(each, paragraph);
  });
  return i;
}

function renderFence(lines, i, parent) {
  const mark = lines[i].trim().slice(0, 3), code = [];
  for (++i; i < lines.length && !lines[i].trim().startsWith(mark); ++i) code.push(lines[i]);
  add(add(parent, 'pre'), 'code', code.join('\n'));
  return i + 1;
}

function renderList(lines, i, parent, depth) {
  const first = lines[i].match(kItem), indent = first[1].length, ordered = /\d/.test(first[2]);
  const list = add(parent, ordered ? 'ol' : 'ul');
  if (ordered) list.start = parseInt(first[2], 10);
  while (i < lines.length) {
    const item = lines[i].match(kItem);
    if (!item || item[1].length < indent || item[1].length > indent + 1 || /\d/.test(item[2]) !== ordered) break;
    const inner = [item[3]], within = item[1].length + 1;
    for (++i; i < lines.length; ++i) {
      const deeper = lines[i].search(/\S/);
      if (deeper >= 0 && deeper < within && (kItem.test(lines[i]) || lines[i - 1].trim() === '')) break;
      if (deeper < 0 && (lines[i + 1] === undefined || lines[i + 1].search(/\S/) < within)) break;
      inner.push(lines[i].slice(Math.min(Math.max(deeper, 0), within + 1)));
    }
    while (i < lines.length && lines[i].trim() === '' && kItem.test(lines[i + 1] || '')) ++i;
    const element = add(list, 'li');
    if (inner.length === 1) renderInline(inner[0], element);
    else renderMarkdown(inner.join('\n'), element, depth + 1);
  }
  return i;
}

function renderTable(lines, i, parent) {
  const cells = line => line.trim().replace(/^\||\|$/g, '').split('|').map(cell => cell.trim());
  const table = add(parent, 'table'), head = add(table, 'tr');
  for (const cell of cells(lines[i])) renderInline(cell, add(head, 'th'));
  for (i += 2; i < lines.length && lines[i].includes('|'); ++i) {
    const row = add(table, 'tr');
    for (const cell of cells(lines[i])) renderInline(cell, add(row, 'td'));
  }
  return i;
}

// Marks of one line, the longest first; what is between two of them is rendered likewise.
const kMarks = [['**', 'strong'], ['__', 'strong'], ['~~', 's'], ['*', 'em'], ['_', 'em']];

function renderInline(text, parent, depth = 0) {
  let plain = '';
  const flush = () => {
    if (plain) parent.append(plain);  // a text node
    plain = '';
  };
  for (let i = 0; i < text.length;) {
    if (text[i] === '\\' && /[\\`*_{}[\]()#+.!|~>-]/.test(text[i + 1] || '')) {
      plain += text[i + 1];
      i += 2;
      continue;
    }
    if (text[i] === '`') {
      const ticks = text.slice(i).match(/^`+/)[0], end = text.indexOf(ticks, i + ticks.length);
      if (end > 0) {
        flush();
        add(parent, 'code', text.slice(i + ticks.length, end).trim());
        i = end + ticks.length;
        continue;
      }
      plain += ticks;
      i += ticks.length;
      continue;
    }
    const link = text[i] === '[' ? linkAt(text, i) : null;
    if (link) {
      flush();
      const element = add(parent, 'a', link.text);
      element.href = link.url;
      element.rel = 'noopener noreferrer nofollow';
      element.target = '_blank';
      i = link.end;
      continue;
    }
    const mark = depth < kDeepest ? kMarks.find(([sign]) => text.startsWith(sign, i)) : undefined;
    const end = mark ? closing(text, i, mark[0]) : -1;
    if (end > 0) {
      flush();
      renderInline(text.slice(i + mark[0].length, end), add(parent, mark[1]), depth + 1);
      i = end + mark[0].length;
      continue;
    }
    const step = mark ? mark[0].length : 1;
    plain += text.slice(i, i + step);
    i += step;
  }
  flush();
}

// Where the mark at i is closed; -1: it is a sign like any other. Marks stand at words, _ not within one.
function closing(text, i, sign) {
  const inside = text[i + sign.length];
  if (inside === undefined || /\s/.test(inside)) return -1;
  if (sign[0] === '_' && i > 0 && /\w/.test(text[i - 1])) return -1;
  for (let end = text.indexOf(sign, i + sign.length + 1); end > 0; end = text.indexOf(sign, end + 1)) {
    if (/\s/.test(text[end - 1])) continue;
    if (sign[0] === '_' && /\w/.test(text[end + sign.length] || '')) continue;
    if (sign.length === 1 && text[end + 1] === sign) { ++end; continue; }
    return end;
  }
  return -1;
}

function linkAt(text, i) {
  const close = text.indexOf('](', i), end = close > 0 ? text.indexOf(')', close) : -1;
  if (end < 0 || text.slice(i + 1, close).includes('[')) return null;
  const url = text.slice(close + 2, end).trim();
  if (!/^https?:\/\/[^\s<>"']+$/.test(url)) return null;
  return { text: text.slice(i + 1, close), url, end: end + 1 };
}
