// The chat page. It speaks to the server that sent it, and to nothing else.

import {
  button, copyText, el, events, figures, keep, load, markdown, parsed, seconds, sendsOnEnter,
  toolsProblem, usable,
} from "./parts.js";

const $ = (id) => document.getElementById(id);

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"];
const LABELS = { user: "You", assistant: "Answer", tool: "Tool result" };

const said = (m) => m?.role !== "assistant" || m.content || m.reasoning_content || m.tool_calls;
let chat = [load("localStorage", "glm.chat", [])].flat().filter((m) => m?.role && said(m));
let settings = load("localStorage", "glm.settings", {});
let key = load("sessionStorage", "glm.key", "");
let models = [];
let run = null; // The answer now streaming, with its AbortController and its times.
const views = new Map(); // The nodes of each message.

function save() {
  if (!keep("localStorage", "glm.chat", chat)) notice("No room to keep this chat over a reload.");
}

function unanswered() {
  const at = chat.findLastIndex((message) => message.role === "assistant");
  const answered = new Set(chat.slice(at + 1).map((message) => message.tool_call_id));
  return at < 0 ? [] : usable(chat[at]).filter((call) => !answered.has(call.id));
}

// ---- The server ----

async function call(path, options) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { headers, ...options });
  if (response.ok) return response;
  const message = parsed(await response.text().catch(() => ""))?.error?.message
    ?? `The server answered ${response.status} ${response.statusText}.`;
  throw Object.assign(new Error(message), { status: response.status });
}

const chosenModel = () => (models.includes(settings.model) ? settings.model : models[0]);

function requestBody(history) {
  const messages = history.map((message) => {
    const { role, content, reasoning_content, tool_call_id } = message;
    const tool_calls = usable(message).map(({ id, name, arguments: text }) =>
      ({ id, type: "function", function: { name, arguments: text || "{}" } }));
    const calls = tool_calls.length ? { tool_calls } : {};
    return { role, content, reasoning_content, tool_call_id, ...calls };
  });
  if (settings.system) messages.unshift({ role: "system", content: settings.system });
  const out = { model: chosenModel(), messages };
  for (const name of NUMBERS) if (settings[name]) out[name] = Number(settings[name]);
  if (settings.tools) out.tools = parsed(settings.tools);
  if (settings.thinking) out.chat_template_kwargs = { enable_thinking: settings.thinking === "on" };
  return JSON.stringify({ ...out, stream: true, stream_options: { include_usage: true } });
}

function receive(chunk) {
  if (chunk.error) throw Object.assign(new Error(chunk.error.message), { status: 500 });
  const { answer } = run;
  const { delta = {}, finish_reason } = chunk.choices?.[0] ?? {};
  const now = performance.now();
  const spoke = Boolean(delta.content || delta.tool_calls?.length);
  if (spoke || delta.reasoning_content) {
    run.first ??= now;
    run.last = now;
  }
  if (delta.reasoning_content) {
    answer.reasoning_content = (answer.reasoning_content ?? "") + delta.reasoning_content;
    run.thinking ??= now;
  }
  if (run.thinking && !run.spoke) answer.thought = now - run.thinking;
  run.spoke ||= spoke;
  answer.content += delta.content ?? "";
  for (const { index = 0, id, function: part = {} } of delta.tool_calls ?? []) {
    const calls = (answer.tool_calls ??= []);
    const at = (calls[index] ??= { id: `call_${chat.length}_${index}`, name: "", arguments: "" });
    if (id) at.id = id;
    at.name ||= part.name ?? "";
    at.arguments += part.arguments ?? "";
  }
  run.finish = finish_reason ?? run.finish;
  run.usage = chunk.usage ?? run.usage;
}

// `before` is the answer this one replaces; it comes back when nothing came in its place.
async function ask(before) {
  if (run) return;
  const mine = chat;
  // Until it is whole an answer counts as broken off, so one saved halfway says so after a reload.
  const answer = { role: "assistant", content: "", end: "Broken off" };
  run = { answer, control: new AbortController(), start: performance.now() };
  const { signal } = run.control;
  chat.push(answer);
  notice("");
  sync();
  $("messages").scrollTop = $("messages").scrollHeight;
  if (document.activeElement !== $("prompt")) $("stop").focus();
  const clock = setInterval(draw, 200);
  try {
    if (!models.length) await loadModels();
    const body = requestBody(mine.slice(0, -1));
    const response = await call("/v1/chat/completions", { method: "POST", body, signal });
    run.open = true;
    for await (const data of events(response)) {
      if (data === "[DONE]") {
        run.finish ??= "stop";
        break;
      }
      receive(JSON.parse(data));
      draw();
    }
    if (!run.finish) throw new TypeError("The stream ended early");
    answer.end = run.finish === "length" ? "Reached the token limit" : undefined;
    if (run.first === undefined) notice("The model answered with nothing.");
  } catch (error) {
    if (signal.aborted) answer.end = "Stopped";
    else complain(error, run.open);
  }
  clearInterval(clock);
  answer.stats = stats();
  if (run.first === undefined) mine.splice(mine.indexOf(answer), 1, ...(before ? [before] : []));
  const held = document.activeElement === $("stop");
  run = null;
  save();
  following(sync);
  if (held) $("send").focus();
  $("status").textContent = answer.end ?? "The answer is whole";
}

function complain(error, open) {
  if (error.status === 401) {
    const why = `The server ${key ? "did not accept this" : "asks for an"} API key.`;
    notice(why, true);
    openSettings(why);
  } else if (error.status) notice(error.message || "The server failed.", true);
  else if (error instanceof SyntaxError) notice("The server sent something unreadable.", true);
  else if (open) notice("The connection broke before the answer was whole.", true);
  else notice("The server cannot be reached. What you wrote is kept.", true);
}

async function loadModels() {
  try {
    const list = await (await call("/v1/models")).json();
    models = (list.data ?? []).map((model) => model.id);
    notice("");
  } catch (error) {
    complain(error);
  }
  $("model").textContent = chosenModel() ?? "";
}

function stats() {
  const { start, first, last, usage } = run;
  const { completion_tokens: tokens, prompt_tokens: prompt } = usage ?? {};
  // The first token's time belongs to the prompt, so the rate counts those after it.
  const rate = tokens > 1 && last > first ? (tokens - 1) / ((last - first) / 1000) : undefined;
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  return { tokens, rate, prompt, cached, first: first - start, total: performance.now() - start };
}

// ---- Messages ----

function build(message) {
  const view = { content: el("div", { className: "content", dir: "auto" }), cards: [] };
  view.copy = button("Copy", "copy", () => copyText(message.content, view.copy));
  view.edit = button("Edit", "edit", () => edit(message, view));
  view.again = button("", "regenerate", () =>
    ask(message.role === "assistant" ? chat.pop() : undefined));
  view.actions = el("div", { className: "actions" }, view.copy, view.again);
  const named = { "data-role": message.role, "aria-label": LABELS[message.role] };
  view.article = el("article", { className: "message", ...named }, view.content);
  const { article, content, actions } = view;
  if (message.role === "assistant") {
    // While it is busy the live region waits, so a screen reader reads the answer once, whole.
    content.setAttribute("aria-live", "polite");
    view.summary = el("summary");
    view.thoughts = el("div", { dir: "auto" });
    view.thinking = el("details", { className: "thinking" }, view.summary, view.thoughts);
    view.tools = el("div");
    view.speed = el("p", { className: "speed" });
    article.prepend(view.thinking);
    article.append(view.tools, view.speed);
  } else {
    content.textContent = message.content;
    if (message.role === "user") view.copy.before(view.edit);
    else article.prepend(el("p", { className: "who", textContent: `Result of ${message.name}` }));
  }
  article.append(actions);
  return view;
}

function update(message) {
  const view = views.get(message);
  if (!view) return;
  const live = run?.answer === message;
  view.edit.hidden = Boolean(run);
  view.again.hidden = Boolean(run) || message !== chat.at(-1)
    || (message.role === "tool" && unanswered().length > 0);
  view.again.textContent = message.role === "assistant" ? "Regenerate" : "Try again";
  if (message.role !== "assistant") return;

  const thoughts = message.reasoning_content ?? "";
  const thinking = live && !run.spoke;
  view.thinking.hidden = !thoughts;
  view.thoughts.append(thoughts.slice(view.thoughts.textContent.length));
  const lasted = thinking ? performance.now() - run.thinking : message.thought ?? 0;
  view.summary.textContent = `${thinking ? "Thinking…" : "Thought for"} ${seconds(lasted)}`;
  view.content.setAttribute("aria-busy", live);
  markdown(view.content, message.content);
  (message.tool_calls ?? []).forEach((toolCall, i) => {
    if (!toolCall) return;
    view.cards[i] ??= buildCard(toolCall, view.tools);
    const { name, code, form } = view.cards[i];
    const value = parsed(toolCall.arguments);
    name.textContent = toolCall.name;
    code.textContent = value === undefined ? toolCall.arguments : JSON.stringify(value, null, 2);
    form.hidden = Boolean(run) || !unanswered().includes(toolCall);
  });
  view.copy.hidden = !message.content;
  view.actions.hidden = live;
  view.speed.textContent = figures(message);
  if (!live) return;
  const waiting = run.first === undefined && "Waiting for the first token";
  const doing = waiting || (thinking ? "Thinking" : "Answering");
  view.speed.textContent = `${doing}… ${seconds(performance.now() - run.start)}`;
  if ($("status").textContent !== doing) $("status").textContent = doing;
}

function sync() {
  for (const [message, view] of views) {
    if (chat.includes(message)) continue;
    view.article.remove();
    views.delete(message);
  }
  for (const message of chat) {
    if (!views.has(message)) {
      views.set(message, build(message));
      $("messages").append(views.get(message).article);
    }
    update(message);
  }
  $("empty").hidden = chat.length > 0;
  $("send").hidden = Boolean(run);
  $("stop").hidden = !run;
}

// Keeps the end in sight, unless the reader has scrolled away from it.
function following(work) {
  const box = $("messages");
  const near = box.scrollHeight - box.scrollTop - box.clientHeight < 60;
  work();
  if (near) box.scrollTop = box.scrollHeight;
}

let due = false;
function draw() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    if (run) following(() => update(run.answer));
  });
}

function buildCard(toolCall, into) {
  const [name, code] = [el("p", { className: "name" }), el("code")];
  const box = el("textarea", { className: "tool-result mono", rows: 1, spellcheck: false });
  const label = el("label", {}, "Its result, for the model to read", box);
  const send = el("button", { textContent: "Send result", className: "main" });
  const form = el("form", { hidden: true }, label, el("div", { className: "row" }, send));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (run || !unanswered().includes(toolCall)) return;
    const { id, name: of } = toolCall;
    chat.push({ role: "tool", tool_call_id: id, name: of, content: box.value });
    save();
    if (unanswered().length) sync();
    else ask();
  });
  sendsOnEnter(box, form);
  into.append(el("section", { className: "tool-call" }, name, el("pre", {}, code), form));
  return { name, code, form };
}

function edit(message, { article, content, actions, edit: opener }) {
  const box = el("textarea", { value: message.content, dir: "auto", "aria-label": "Your message" });
  const shut = () => {
    form.remove();
    content.hidden = actions.hidden = false;
    opener.focus();
  };
  const send = el("button", { textContent: "Send", className: "main" });
  const row = el("div", { className: "row" }, button("Cancel", "", shut), send);
  const form = el("form", { className: "editor" }, box, row);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (run || !box.value.trim()) return;
    content.textContent = message.content = box.value;
    chat.length = chat.indexOf(message) + 1;
    shut();
    save();
    ask();
  });
  sendsOnEnter(box, form);
  content.hidden = actions.hidden = true;
  article.append(form);
  box.focus();
}

// ---- The frame ----

function notice(text, bad = false, action = "", act = null) {
  following(() => { $("notice").hidden = !text; });
  $("notice").classList.toggle("bad", bad);
  $("notice-text").textContent = text;
  $("notice-action").hidden = !act;
  $("notice-action").textContent = action;
  $("notice-action").onclick = act;
}
$("notice-close").onclick = () => notice("");

sendsOnEnter($("prompt"), $("composer"));
$("prompt").value = load("localStorage", "glm.draft", "");
$("prompt").addEventListener("input", () => keep("localStorage", "glm.draft", $("prompt").value));
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const content = $("prompt").value;
  if (run || !content.trim()) return;
  if (unanswered().length) {
    notice("The model waits for a tool's result: write it in the card above first.");
    return;
  }
  chat.push({ role: "user", content });
  $("prompt").value = "";
  keep("localStorage", "glm.draft", "");
  save();
  ask();
});
$("stop").onclick = () => run?.control.abort();

$("new-chat").onclick = () => {
  const old = chat;
  run?.control.abort();
  chat = [];
  save();
  sync();
  $("prompt").focus();
  const undo = () => {
    chat = [...old, ...chat];
    notice("");
    save();
    sync();
  };
  if (old.length) notice("The conversation was cleared.", false, "Undo", undo);
};

const fields = $("settings-form").elements;

function checkTools() {
  $("tools-problem").textContent = toolsProblem(fields.tools.value);
  fields.tools.setCustomValidity($("tools-problem").textContent);
}
fields.tools.addEventListener("input", checkTools);

function openSettings(why = "") {
  $("settings-why").textContent = why;
  if ($("settings").open) return;
  const names = models.length ? models : [settings.model ?? ""];
  fields.model.replaceChildren(...names.map((id) => new Option(id || "The server's own", id)));
  for (const name of ["system", "thinking", "tools", ...NUMBERS]) {
    fields[name].value = settings[name] ?? "";
  }
  fields.model.value = chosenModel() ?? names[0];
  fields.key.value = key;
  checkTools();
  $("settings").showModal();
}
$("settings-open").onclick = () => openSettings();
$("settings-cancel").onclick = () => $("settings").close();
$("settings-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const { key: secret, ...rest } = Object.fromEntries(new FormData(event.target));
  settings = Object.fromEntries(Object.entries(rest).filter(([, value]) => value.trim()));
  keep("localStorage", "glm.settings", settings);
  key = secret.trim();
  keep("sessionStorage", "glm.key", key);
  $("settings").close();
  loadModels();
});

for (const name of ["visibilitychange", "pagehide"]) addEventListener(name, save);
sync();
$("messages").scrollTop = $("messages").scrollHeight;
loadModels();
