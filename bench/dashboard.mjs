// What bench/dashboard.sh measures, in the browser's own clock.

import { createRequire } from "node:module";

const { chromium } = createRequire(new URL("../dashboard/app/", import.meta.url))("playwright-core");

const { URL: url, ROUNDS = "5", DEPLOYMENTS = "1000", CHROMIUM = "/usr/bin/chromium" } = process.env;
const rounds = Number(ROUNDS);
const deployments = Number(DEPLOYMENTS);
/** Frames while somebody scrolls. */
const FRAMES = 120;

const sorted = (list) => [...list].sort((a, b) => a - b);
const middle = (list) => sorted(list)[Math.floor(list.length / 2)];
const say = (what, list, goal) =>
  console.log(`${what.padEnd(64)} median ${middle(list).toFixed(0).padStart(5)} ms   most ${Math.max(...list).toFixed(0).padStart(5)} ms   ${goal}`);

/** Rows as a control plane tells them, other ones each time. */
const rows = (count, time) =>
  Array.from({ length: count }, (_, i) => ({
    resource: { kind: "deployment", namespace: `team-${i % 40}`, name: `service-${i}` },
    meshedPods: 2,
    runningPods: 2,
    stats: {
      successCount: String(1000 + ((i * 37 + time) % 500)),
      failureCount: String((i + time) % 7),
      windowMs: 60_000,
      latencyP50Us: String(900 + (i % 50)),
      latencyP95Us: String(2000 + ((i * 3 + time) % 900)),
      latencyP99Us: String(4000 + (i % 900)),
      tlsCount: String(1000 + ((i * 37 + time) % 500)),
    },
  }));

const browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });

// First paint: a browser that knows nothing yet, each time.
const paints = [];
const contents = [];
for (let round = 0; round < rounds; round++) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  const page = await context.newPage();
  await page.goto(`${url}#/`);
  await page.waitForFunction(() => document.querySelectorAll("[role=region][aria-label='Deployments at a glance'] tbody tr").length > 0);
  contents.push(await page.evaluate(() => performance.now()));
  paints.push(await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime));
  await context.close();
}
say("first contentful paint of the overview", paints, "goal 1000 ms");
say("... until its deployments are there", contents, "");

// The page gets more deployments than the demo has.
const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
const page = await context.newPage();
await page.addInitScript(() => {
  const Real = EventSource;
  window.EventSource = class extends Real {
    set onmessage(take) {
      window.take = (parts) => take(new MessageEvent("message", { data: JSON.stringify({ errors: {}, parts }) }));
      super.onmessage = () => {};
    }
  };
});
await page.goto(`${url}#/deployments`);
await page.waitForFunction(() => window.take !== undefined);
/** From an event until what it says is painted: the frame after the one that it is drawn in has begun. */
const painted = (act, argument) =>
  page.evaluate(
    async ([act, argument]) => {
      const start = performance.now();
      await new Function("argument", `return (${act})(argument)`)(argument);
      await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
      return performance.now() - start;
    },
    [act.toString(), argument],
  );

const updates = [];
for (let round = 0; round < rounds * 2; round++) {
  const stat = { rows: rows(deployments, round), replicasAnswered: 3, replicasTotal: 3, replicasOutdated: 0, coveredMs: 60_000, windowMs: 60_000 };
  updates.push(await painted((parts) => window.take(parts), { stat }));
}
const shown = await page.locator("[role=region] tbody tr").count();
say(`${deployments} deployments: another second's figures (${shown} rows shown)`, updates.slice(1), "");

const sorts = [];
for (const title of ["RPS", "SR", "NAME", "P95", "RPS"]) sorts.push(await painted((title) => [...document.querySelectorAll("th button")].find((button) => button.textContent.startsWith(title)).click(), title));
say("... sorted by another column", sorts, "");

const filters = [];
for (const text of ["s", "se", "service-9", "service-99", ""]) {
  filters.push(
    await painted((text) => {
      const field = document.querySelector("input[type=search]");
      field.value = text;
      field.dispatchEvent(new Event("input", { bubbles: true }));
    }, text),
  );
}
say("... filtered by another letter", filters, "");

const frames = await page.evaluate(async (count) => {
  const times = [];
  let last = performance.now();
  for (let frame = 0; frame < count; frame++) {
    window.scrollBy(0, frame < count / 2 ? 300 : -300);
    await new Promise((done) => requestAnimationFrame(done));
    const now = performance.now();
    times.push(now - last);
    last = now;
  }
  return times;
}, FRAMES);
say("... a frame while it is scrolled", frames, "smooth: 17 ms");
await browser.close();
