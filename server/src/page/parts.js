// What the chat page needs and what knows nothing of a conversation. Text reaches the page through
// textContent and append only, so nothing a model writes can become markup.

export function el(tag, props = {}, ...inner) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (/[-]|^role$/.test(name)) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...inner);
  return node;
}

export const button = (text, className, onclick) =>
  el("button", { type: "button", textContent: text, className, onclick });

export async function copyText(text, by) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Over plain HTTP from another machine a browser has no clipboard but this old one.
    const box = el("textarea", { value: text, className: "unseen" });
    document.body.append(box);
    box.select();
    document.execCommand("copy");
    box.remove();
    by.focus();
  }
  const label = (by.label ??= by.textContent);
  by.textContent = "Copied";
  setTimeout(() => { by.textContent = label; }, 1500);
}

export function sendsOnEnter(box, form) {
  box.addEventListener("keydown", (event) => {
    // Enter that ends an input method's word is not meant to send.
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key !== "Enter" || event.shiftKey) return;
    event.preventDefault();
    form.requestSubmit();
  });
}

// A browser may refuse storage altogether; the page then works without it.
export function load(area, key, otherwise) {
  try { return JSON.parse(window[area].getItem(key)) ?? otherwise; } catch { return otherwise; }
}
export function keep(area, key, value) {
  try { window[area].setItem(key, JSON.stringify(value)); return true; } catch { return false; }
}
export function parsed(text) {
  try { return JSON.parse(text); } catch { return undefined; }
}

// The data of each server-sent event. Comments, which keep the connection open, are passed over.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const data = [];
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      const lines = (rest + (done ? "\n\n" : value)).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(5));
        else if (!line && data.length) yield data.splice(0).join("\n").trim();
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

export const seconds = (ms) => `${(ms / 1000).toFixed(ms < 995 ? 2 : 1)} s`;
const whole = (n) => n.toLocaleString("en");

export function figures({ end, stats: s }) {
  const parts = [end, s?.rate && `${s.rate.toFixed(1)} tokens/s`];
  if (s?.tokens !== undefined) parts.push(`${whole(s.tokens)} token${s.tokens === 1 ? "" : "s"}`);
  if (s?.prompt !== undefined) {
    parts.push(`prompt ${whole(s.prompt)} (${whole(s.cached ?? 0)} cached)`);
  }
  if (s?.first) parts.push(`first token ${seconds(s.first)}`);
  if (s && s.tokens === undefined) parts.push(`${seconds(s.total)} in all`);
  return parts.filter(Boolean).join(" · ");
}

// A call that broke off halfway is shown, but neither answered nor sent back.
export const usable = (message) => (message.tool_calls ?? []).filter((call) =>
  call?.name && parsed(call.arguments || (message.end ? "" : "{}")) !== undefined);

export function toolsProblem(text) {
  if (!text.trim()) return "";
  let list;
  try { list = JSON.parse(text); } catch (error) { return `Not JSON: ${error.message}`; }
  if (!Array.isArray(list)) return "The tools must be a JSON list.";
  const good = list.every((tool) => tool?.type === "function" && tool.function?.name);
  return good ? "" : 'Each tool needs "type": "function" and a function with a name.';
}

// ---- Markdown ----

const FENCE = /^ *(`{3,}|~{3,}) *([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6}) +(.*?)(?: +#+)? *$/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|(\d{1,9})[.)])(?: +|$)(.*)$/;
const COLUMNS = /^ *\|? *:?-+:? *(\| *:?-+:? *)*\|? *$/;
const DEEPEST = 8; // Deeper nesting is shown as it was written.

const indent = (line) => line.length - line.trimStart().length;
const cells = (line) => line.trim().replace(/^\||(?<!\\)\|$/g, "").split(/(?<!\\)\|/)
  .map((cell) => cell.trim().replaceAll("\\|", "|"));
const isTable = (lines, i) => lines[i].includes("|") && COLUMNS.test(lines[i + 1] ?? "")
  && cells(lines[i]).length === cells(lines[i + 1]).length;
const breaksParagraph = (lines, i) => /^ *(```|~~~)/.test(lines[i]) || HEADING.test(lines[i])
  || RULE.test(lines[i]) || QUOTE.test(lines[i]) || /^ *([-*+]|1[.)]) +\S/.test(lines[i])
  || isTable(lines, i);

function blocks(lines, depth = 0) {
  const out = [];
  for (let i = 0; i < lines.length;) {
    const line = lines[i];
    let m;
    if (!line.trim()) {
      i++;
    } else if ((m = FENCE.exec(line))) {
      // A fence that is still open runs to the end: that is how it looks while it streams.
      const end = new RegExp(`^ *${m[1][0]}{${m[1].length},} *$`);
      const text = [];
      for (i++; i < lines.length && !end.test(lines[i]); i++) {
        text.push(lines[i].slice(Math.min(indent(lines[i]), indent(line))));
      }
      i++;
      out.push({ kind: "code", lang: m[2], text: text.join("\n") });
    } else if ((m = HEADING.exec(line))) {
      i++;
      out.push({ kind: "heading", level: m[1].length, text: m[2] });
    } else if (RULE.test(line)) {
      i++;
      out.push({ kind: "rule" });
    } else if (depth < DEEPEST && QUOTE.test(line)) {
      const from = i;
      while (i < lines.length && QUOTE.test(lines[i])) i++;
      const inner = lines.slice(from, i).map((quoted) => quoted.replace(QUOTE, ""));
      out.push({ kind: "quote", blocks: blocks(inner, depth + 1) });
    } else if (depth < DEEPEST && ITEM.test(line)) {
      const list = readList(lines, i, depth);
      i = list.next;
      out.push(list.block);
    } else if (isTable(lines, i)) {
      const align = cells(lines[i + 1]).map((c) => (c.endsWith(":")
        ? (c.startsWith(":") ? "center" : "right") : ""));
      const rows = [cells(line)];
      for (i += 2; i < lines.length && lines[i].includes("|"); i++) rows.push(cells(lines[i]));
      out.push({ kind: "table", align, rows });
    } else {
      const from = i++;
      while (i < lines.length && lines[i].trim() && !breaksParagraph(lines, i)) i++;
      out.push({ kind: "text", text: lines.slice(from, i).map((l) => l.trim()).join("\n") });
    }
  }
  return out;
}

function readList(lines, i, depth) {
  const first = ITEM.exec(lines[i]);
  const ordered = first[3] !== undefined;
  const items = [];
  let base = 0, loose = false, blank = false;
  for (; i < lines.length; i++) {
    const line = lines[i];
    const m = ITEM.exec(line);
    if (!line.trim()) {
      blank = true;
      continue;
    }
    // Models indent what belongs to an item by two spaces at least, whatever the marker's width.
    if (items.length && indent(line) >= base + 2) {
      if (blank) items.at(-1).push("");
      items.at(-1).push(line.slice(base + 2));
    } else if (m && (m[3] !== undefined) === ordered && !RULE.test(line)) {
      base = m[1].length;
      items.push([m[4]]);
    } else if (!blank && !m && !breaksParagraph(lines, i)) {
      items.at(-1).push(line.trim());
    } else {
      break;
    }
    loose ||= blank;
    blank = false;
  }
  const inner = items.map((item) => blocks(item, depth + 1));
  return { next: i, block: { kind: "list", start: first[3], loose, items: inner } };
}

// What a bare address neither holds nor ends with, so the sentence around it stays outside.
const OUTSIDE = "\\s<>\"'`()*、。，；：！？）」】》";
const ROUND = "\\([^\\s()]*\\)";
const LABEL = "(?:[^[\\]\\\\]|\\\\.|\\[[^\\]]{0,200}\\]){0,500}";

const INLINE = new RegExp([
  String.raw`\\(?<plain>[\\\x60*_{}#+.!|<>~-])`,
  // What stands between maths signs is left as written, or its stars would turn to italics.
  String.raw`(?<maths>\\\([^]+?\\\)|\\\[[^]+?\\\]|\$\$[^]+?\$\$)`,
  /(?<!`)(?<tick>`+)(?!`)(?<code>[^]*?[^`])\k<tick>(?!`)/.source,
  `!?\\[(?<label>${LABEL})\\]\\( *<?(?<href>https?:(?:[^\\s<>()]|${ROUND})+)>?(?: +"[^"]*")? *\\)`,
  `<?(?<url>https?://(?:[^${OUTSIDE}]|${ROUND})*[^${OUTSIDE}.,;:!?\\]}_])>?`,
  /\*\*(?=\S)(?<bold>[^]*?\S)\*\*(?!\*)|(?<!\w)__(?=\S)(?<bold2>[^]*?\S)__(?!\w)/.source,
  /\*(?![\s*])(?<slant>[^]*?[^\s*])\*(?!\*)|(?<!\w)_(?![\s_])(?<slant2>[^]*?[^\s_])_(?!\w)/.source,
  /~~(?=\S)(?<gone>[^]*?\S)~~/.source,
].join("|"), "g");

function inline(node, text, depth = 0) {
  let at = 0;
  for (const m of depth < DEEPEST ? text.matchAll(INLINE) : []) {
    node.append(text.slice(at, m.index));
    at = m.index + m[0].length;
    const g = m.groups;
    const nested = (tag, inner) => node.append(inline(el(tag), inner, depth + 1));
    if (g.code !== undefined) {
      const code = g.code.replace(/^ (.*[^ ].*) $/s, "$1");
      node.append(el("code", { textContent: code }));
    } else if (g.href || g.url) {
      const link = { href: g.href ?? g.url, target: "_blank", rel: "noopener noreferrer" };
      // A label holds no link of its own: a link inside a link is no link at all.
      if (URL.canParse(link.href)) node.append(el("a", link, g.label || link.href));
      else node.append(m[0]);
    } else if (g.bold ?? g.bold2) nested("strong", g.bold ?? g.bold2);
    else if (g.slant ?? g.slant2) nested("em", g.slant ?? g.slant2);
    else if (g.gone) nested("del", g.gone);
    else node.append(g.plain ?? m[0]);
  }
  node.append(text.slice(at));
  return node;
}

function element(block) {
  switch (block.kind) {
    case "code": {
      const code = el("code", { textContent: block.text });
      const copy = button("Copy", "copy", () => copyText(code.textContent, copy));
      const head = el("div", {}, el("span", { textContent: block.lang || "text" }), copy);
      return el("div", { className: "code" }, head, el("pre", { tabIndex: 0 }, code));
    }
    case "heading": return inline(el(`h${Math.min(6, block.level + 2)}`), block.text);
    case "rule": return el("hr");
    case "quote": return el("blockquote", {}, ...block.blocks.map(element));
    case "list": {
      const list = block.start === undefined ? el("ul") : el("ol", { start: Number(block.start) });
      for (const item of block.items) {
        const tight = (b) => b.kind === "text" && !block.loose;
        list.append(el("li", {}, ...item.map((b) =>
          (tight(b) ? inline(document.createDocumentFragment(), b.text) : element(b)))));
      }
      return list;
    }
    case "table": {
      const row = (tag, texts) => el("tr", {}, ...block.align.map((className, i) =>
        inline(el(tag, { className }), texts[i] ?? "")));
      const [head, ...rest] = block.rows;
      const body = el("tbody", {}, ...rest.map((texts) => row("td", texts)));
      const table = el("table", {}, el("thead", {}, row("th", head)), body);
      return el("div", { className: "table", tabIndex: 0 }, table);
    }
    default: return inline(el("p"), block.text);
  }
}

// Only blocks that changed are built again, so a growing answer neither flickers nor loses
// what the reader has selected above.
const drawn = new WeakMap();
export function markdown(box, source) {
  const spaces = (margin) => margin.replaceAll("\t", "    ");
  const lines = source.split(/\r?\n/).map((line) => line.replace(/^[ \t]+/, spaces));
  const now = blocks(lines).map((block) => ({ block, text: JSON.stringify(block) }));
  const old = drawn.get(box) ?? [];
  drawn.set(box, now);
  now.forEach(({ block, text }, i) => {
    if (old[i]?.text === text) return;
    const was = old[i]?.block;
    if (was?.kind === "code" && block.kind === "code" && was.lang === block.lang) {
      box.children[i].querySelector("code").textContent = block.text;
    } else if (was) box.children[i].replaceWith(element(block));
    else box.append(element(block));
  });
  while (box.children.length > now.length) box.lastElementChild.remove();
}
