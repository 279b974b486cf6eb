// The page in headless Chromium, against a server of the built-in model:
//   node page.mjs URL BROWSER [SCREENSHOT.png]
// It speaks the DevTools protocol over the browser's own pipe, so that it takes no package.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const [url, browser, screenshot] = process.argv.slice(2);
const profile = mkdtempSync(join(tmpdir(), "glm-page-"));
const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
  "--no-first-run", "--disable-dev-shm-usage", `--user-data-dir=${profile}`, "about:blank"];
const chromium = spawn(browser, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });

let count = 0, rest = "", sessionId;
const open = new Map();
const problems = [];
const elsewhere = new Set();
chromium.stdio[4].setEncoding("utf8").on("data", (text) => {
  const messages = (rest + text).split("\0");
  rest = messages.pop();
  for (const message of messages) {
    const { id, result, error, method, params } = JSON.parse(message);
    if (id) open.get(id)[error ? 1 : 0](error ? new Error(error.message) : result);
    if (method === "Runtime.exceptionThrown") problems.push(params.exceptionDetails.text);
    if (method === "Log.entryAdded" && params.entry.level === "error") problems.push(params.entry.text);
    if (method === "Network.requestWillBeSent" && /^https?:/.test(params.request.url)
        && !params.request.url.startsWith(url)) elsewhere.add(params.request.url);
  }
});
const send = (method, params = {}) => new Promise((...settle) => {
  open.set(++count, settle);
  const message = { id: count, method, params, ...(sessionId && { sessionId }) };
  chromium.stdio[3].write(`${JSON.stringify(message)}\0`);
});
async function page(expression) {
  const options = { expression, awaitPromise: true, returnByValue: true };
  const { result, exceptionDetails } = await send("Runtime.evaluate", options);
  if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description}`);
  return result.value;
}
async function until(expression) {
  const frames = "new Promise((done) => requestAnimationFrame(done))";
  for (const end = Date.now() + 60000; Date.now() < end; await page(frames)) {
    if (await page(`Boolean(${expression})`)) return;
  }
  throw new Error(`never came true: ${expression}; the page: ${await page("document.body.innerText")}`);
}
function check(truth, what) {
  if (!truth) throw new Error(`not so: ${what}`);
  console.log(`ok ${what}`);
}

let failed = false;
try {
  const { targetInfos } = await send("Target.getTargets");
  const { targetId } = targetInfos.find((target) => target.type === "page");
  ({ sessionId } = await send("Target.attachToTarget", { targetId, flatten: true }));
  for (const domain of ["Page", "Runtime", "Log", "Network"]) await send(`${domain}.enable`);
  await send("Emulation.setDeviceMetricsOverride", { width: 900, height: 700, deviceScaleFactor: 1, mobile: false });
  await send("Page.navigate", { url });
  await until("document.querySelector('#prompt') && document.readyState === 'complete'");
  await page("document.querySelector('#prompt').focus()");
  await send("Input.insertText", { text: "What is 7 + 5?" });
  const enter = { key: "Enter", code: "Enter", windowsVirtualKeyCode: 13, text: "\r" };
  await send("Input.dispatchKeyEvent", { type: "keyDown", ...enter });
  await send("Input.dispatchKeyEvent", { type: "keyUp", ...enter });
  const answer = "document.querySelector('article.message[data-role=assistant]')";
  await until(`${answer}?.querySelector('.speed')?.textContent.includes('tokens/s')`);
  check((await page(`${answer}.querySelector('.content').innerText`)).includes("12"), "an answer streams in");
  check((await page(`${answer}.querySelector('.thinking').textContent`)).includes("Thought for"), "its thought is folded above");
  if (screenshot) {
    const { data } = await send("Page.captureScreenshot");
    writeFileSync(screenshot, Buffer.from(data, "base64"));
  }
  await send("Page.reload");
  await until(`${answer}?.querySelector('.content').innerText.includes('12')`);
  check(true, "a reload keeps the conversation");
  check(problems.length === 0, `nothing is refused or fails ${problems.join("; ")}`);
  check(elsewhere.size === 0, `nothing is asked of others ${[...elsewhere].join(" ")}`);
} catch (error) {
  failed = true;
  console.error(error.stack);
} finally {
  chromium.kill();
  chromium.once("exit", () => {
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
    process.exit(failed ? 1 : 0);
  });
}
