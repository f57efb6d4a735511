// What a person sees of the dashboard, against what the commands say of the same mesh. `run` beside it starts everything.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";

import { edges, failing, pods, series } from "./fixture.mjs";

const app = new URL("../app/", import.meta.url);
const { chromium } = createRequire(app)("playwright-core");
const AXE = readFileSync(createRequire(app).resolve("axe-core/axe.min.js"), "utf8");

const { CONDUIT, SHOTS, URL_FILE } = process.env;
const run = promisify(execFile);

/** The first counts need a request, a report and a question; the machine may be busy. */
const SOON = 45_000;
/** More than this, and the page is slow to load by a telephone. */
const BUNDLE_GZIP_MAX = 250_000;
/** A window passes on between the command's question and the page's. */
const RPS_TOLERANCE = 0.25;
/** Of a hundred: a few failures of a minute in which there are some fifty requests. */
const SUCCESS_TOLERANCE = 8;
/** The slowest of a few requests may be another one. */
const LATENCY_RATIO = 3;

const PAGES = ["", "namespaces", "deployments", "pods", "authorities", "routes", "tap", "control-plane", "events", "docs", "deployment/emojivoto/web", "namespace/emojivoto"];
const KINDS = { namespaces: "namespace", deployments: "deployment", pods: "pod", authorities: "authority" };

let browser, url, root;
const wrong = [];
const children = [];

const conduit = async (args) => (await run(CONDUIT, args.split(" "))).stdout;
const json = async (args) => JSON.parse(await conduit(args));

async function eventually(what, check, patience = SOON) {
  const until = Date.now() + patience;
  for (;;) {
    const value = await check().catch((error) => (Date.now() > until ? Promise.reject(error) : undefined));
    if (value) return value;
    if (Date.now() > until) assert.fail(`not within ${patience} ms: ${what}`);
    await sleep(250);
  }
}

/** A page on which nothing may go wrong unseen. */
async function open(hash = "", options = {}) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, ...options });
  const page = await context.newPage();
  page.on("console", (message) => message.type() === "error" && wrong.push(`${hash}: ${message.text()}`));
  page.on("pageerror", (error) => wrong.push(`${hash}: ${error}`));
  await page.goto(`${options.base ?? url}#/${hash}`);
  await page.waitForSelector("h1");
  return page;
}

/** The rows of a table, by its caption. */
const rows = (page, caption) =>
  page.evaluate((caption) => {
    const table = document.querySelector(`[role=region][aria-label="${caption}"] table`);
    if (!table) return [];
    const text = (cell) => cell.textContent.replace(/[▾▴]/g, "").trim();
    const titles = [...table.querySelectorAll("th")].map(text);
    return [...table.querySelectorAll("tbody tr")].map((row) => Object.fromEntries([...row.cells].map((cell, i) => [titles[i], text(cell)])));
  }, caption);

const settled = (page) => eventually("the page has loaded", () => page.evaluate(() => !document.body.innerText.includes("Loading ")));

before(async () => {
  url = await eventually("the command says where", async () => readFileSync(URL_FILE, "utf8").match(/http:\S+\/web:http\/proxy\//)?.[0]);
  root = `${new URL(url).origin}/`;
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
  await eventually("the demo has traffic", async () => {
    const { rows } = await json("-n emojivoto stat deploy -o json");
    return ["emoji", "voting", "web"].every((name) => rows.some((row) => row.name === name && row.rps > 0));
  });
});

after(async () => {
  for (const child of children) child.kill();
  await browser?.close();
});

test("the command says where it is", () => {
  const grafana = url.replace("/web:", "/grafana:");
  assert.equal(readFileSync(URL_FILE, "utf8"), `Conduit dashboard available at:\n${url}\nGrafana dashboard available at:\n${grafana}\n`);
  assert.match(url, /^http:\/\/127\.0\.0\.1:\d+\/api\/v1\/namespaces\/conduit\/services\/web:http\/proxy\/$/);
});

test("it is small", () => {
  const assets = new URL("dist/assets/", app);
  const bytes = readdirSync(assets).map((name) => gzipSync(readFileSync(new URL(name, assets))).length);
  const total = bytes.reduce((a, b) => a + b, 0);
  assert.ok(total <= BUNDLE_GZIP_MAX, `${total} bytes`);
});

test("the overview", async () => {
  for (const base of [url, root]) {
    const page = await open("", { base });
    await eventually("deployments are detected", async () => /4 deployments detected/.test(await page.innerText("main")));
    const text = await page.innerText("body");
    for (const says of [
      "Service mesh overview",
      "The service mesh was successfully installed",
      "Controller successfully installed",
      "Add one or more deployments to the deployment.yml file",
      "conduit inject deployment.yml | kubectl apply -f -",
      "Components: 7",
      "Controller public-api",
      "Web UI",
    ]) {
      assert.ok(text.includes(says), `${says}\n${text}`);
    }
    for (const link of ["Service mesh", "Deployments", "Routes", "Docs"]) assert.equal(await page.getByRole("link", { name: link, exact: true }).count(), 1, link);
    const { members } = await json("raft status -o json");
    assert.equal(await page.locator(`[role=img][aria-label^="controller-"]`).count(), 6 * members.length);
    const details = await page.locator("section", { hasText: "Service mesh details" }).last().innerText();
    for (const row of ["Conduit version\tv0.1.0", "Added deployments\t4", "Unadded deployments\t0", "Data plane proxies\t4"]) assert.ok(details.includes(row), details);
    await page.context().close();
  }
});

/** What a command says of a row and what a page shows of it; a window has passed on in between. */
function sameFigures(name, said, shown) {
  if (said.rps === null) return assert.equal(shown.RPS, "–");
  assert.ok(Math.abs(Number(shown.RPS) - said.rps) <= Math.max(0.3, said.rps * RPS_TOLERANCE), `${name}: ${shown.RPS}, ${said.rps}`);
  assert.ok(Math.abs(Number.parseFloat(shown.SR) - said.success * 100) <= SUCCESS_TOLERANCE, `${name}: ${shown.SR}, ${said.success}`);
  for (const [title, field] of [["P50", "latency_ms_p50"], ["P99", "latency_ms_p99"]]) {
    const [value, unit] = shown[title].match(/([\d.]+)\s*(\D+)/).slice(1);
    const ms = Number(value) * { µs: 0.001, ms: 1, s: 1000 }[unit.trim()];
    const ratio = ms / said[field];
    assert.ok(ratio < LATENCY_RATIO && ratio > 1 / LATENCY_RATIO, `${name} ${title}: ${shown[title]}, ${said[field]} ms`);
  }
}

for (const [name, kind] of Object.entries(KINDS)) {
  test(`${name} are those of conduit stat`, async () => {
    const page = await open(name);
    const caption = name[0].toUpperCase() + name.slice(1);
    await eventually(`${name} are the command's`, async () => {
      const [said, shown] = [await json(`stat ${kind} -A -o json`), await rows(page, caption)];
      const key = (row) => `${row.namespace ?? row.NAMESPACE ?? ""}/${row.name ?? row.NAME}`.replace(/^\//, "");
      const sorted = (list) => list.map(key).sort();
      assert.deepEqual(sorted(shown), sorted(said.rows));
      for (const row of said.rows) {
        const same = shown.find((other) => key(other) === key(row));
        if (row.meshed) assert.equal(same.MESHED, row.meshed);
        sameFigures(key(row), row, same);
        if (row.tls === 1) assert.equal(same.TLS, "100%");
      }
      return true;
    });
    await page.context().close();
  });
}

test("objectives are those of conduit slo list", async () => {
  const page = await open();
  await eventually("none are said to be there", async () => /There are none\. conduit slo set/.test(await page.innerText("main")));
  try {
    await conduit("-n emojivoto slo set deploy/voting --success 99.9 --p99 100ms");
    await conduit("-n emojivoto slo set deploy/emoji --success 50");
    await eventually("what is promised, and how it is kept, is the command's", async () => {
      const [{ objectives }, shown] = [await json("slo list -A -o json"), await rows(page, "Objectives")];
      const said = objectives.flatMap(({ resource, objectives }) => objectives.map((one) => ({ name: `${resource.namespace}/${resource.name}`, ...one })));
      assert.equal(said.length, 3);
      const pick = (list, ...keys) => list.map((row) => keys.map((key) => row[key]).join(" ")).sort();
      assert.deepEqual(pick(shown, "NAME", "OBJECTIVE", "STATE"), pick(said, "name", "objective", "state"));
      for (const one of said) {
        const row = shown.find((row) => row.NAME === one.name && row.OBJECTIVE === one.objective);
        const [{ burn_rate: burns }] = one.windows;
        if (burns === null) return false;
        const near = Math.abs(Number.parseFloat(row["BURN 5m"]) - burns) <= Math.max(0.2, burns * RPS_TOLERANCE);
        assert.ok(near, `${one.name}: ${row["BURN 5m"]}, ${burns}`);
      }
      return true;
    });
    await accessible(page, "overview with objectives");
    await shot(page, "overview-objectives");
  } finally {
    for (const name of ["voting", "emoji"]) await conduit(`-n emojivoto slo remove deploy/${name}`);
  }
  await page.context().close();
});

test("tables are sorted and filtered by keyboard", async () => {
  const page = await open("deployments");
  await eventually("deployments are there", async () => (await rows(page, "Deployments")).length === 4);
  await page.getByRole("button", { name: "RPS" }).focus();
  await page.keyboard.press("Enter");
  const rates = (await rows(page, "Deployments")).map((row) => (row.RPS === "–" ? -1 : Number(row.RPS)));
  assert.deepEqual(rates, [...rates].sort((a, b) => b - a));
  assert.equal(await page.locator("th[aria-sort=descending]").innerText(), "RPS▾");
  await page.getByRole("searchbox").fill("emojivoto voti");
  await eventually("one is left", async () => (await rows(page, "Deployments")).length === 1);
  await page.getByRole("link", { name: "voting" }).focus();
  await page.keyboard.press("Enter");
  await page.waitForSelector("h1:text-is('voting')");
  await page.context().close();
});

test("routes have the traffic that conduit routes says", async () => {
  const page = await open("routes");
  await eventually("the same services", async () => {
    const [{ rows: said }, shown] = [await json("routes svc -A -o json"), await rows(page, "Traffic of routes")];
    const asked = said.filter((row) => row.rps !== null);
    assert.deepEqual(shown.map((row) => row.SERVICE).sort(), asked.map((row) => row.service).sort());
    for (const row of asked) sameFigures(row.service, row, shown.find((other) => other.SERVICE === row.service));
    return asked.length > 2;
  });
  await page.context().close();
});

test("a pod has its callers, which are pods", async () => {
  const page = await open("pod/emojivoto/web-0");
  await eventually("they are the command's", async () => {
    const said = (await json("stat po -A --to po/web-0 --to-namespace emojivoto -o json")).rows.filter((row) => row.rps);
    const shown = await rows(page, "Callers");
    assert.deepEqual(shown.map((row) => row.NAME), said.map((row) => `${row.namespace}/${row.name}`));
    for (const row of said) sameFigures(row.name, row, shown[0]);
    return said.length === 1;
  });
  await page.context().close();
});

test("who looks at one namespace sees nothing else", async () => {
  const page = await open("deployments");
  const names = async () => (await rows(page, "Deployments")).map((row) => row.NAME).sort();
  const choose = async (namespace) => {
    await page.getByLabel("Namespace", { exact: true }).fill(namespace);
    await page.keyboard.press("Enter");
  };
  await choose("emojivoto");
  await eventually("all are there", async () => (await names()).join() === "emoji,vote-bot,voting,web");
  await choose("elsewhere");
  await eventually("none is there", async () => (await names()).length === 0);
  await page.goto(`${url}#/control-plane`);
  await eventually("it is said what is not shown", async () => /Within the namespace elsewhere there is nothing to say of replicas/.test(await page.innerText("main")));
  await accessible(page, "control plane within a namespace");
  await choose("");
  await eventually("replicas are there again", async () => (await rows(page, "Replicas")).length === 3);
  await page.context().close();
});

test("a resource has its callers and callees", async () => {
  const page = await open("deployment/emojivoto/web");
  const names = async (args) => (await json(args)).rows.filter((row) => row.rps).map((row) => `${row.namespace}/${row.name}`).sort();
  await eventually("callers and callees are the command's", async () => {
    const shown = async (caption) => (await rows(page, caption)).map((row) => row.NAME).sort();
    assert.deepEqual(await shown("Callers"), await names("stat deploy -A --to deploy/web --to-namespace emojivoto -o json"));
    const callees = await names("stat deploy -A --from deploy/web --from-namespace emojivoto -o json");
    assert.deepEqual(await shown("Callees"), callees);
    return callees.includes("emojivoto/voting");
  });
  assert.deepEqual((await rows(page, "Pods of it")).map((row) => row.STATUS), ["ready"]);
  await page.context().close();
});

test("the control plane is that of conduit raft status and ca status", async () => {
  const page = await open("control-plane");
  await eventually("replicas are there", async () => {
    const [raft, ca] = [await json("raft status -o json"), await json("ca status -o json")];
    const shown = await rows(page, "Replicas");
    const pick = (list, ...keys) => list.map((row) => keys.map((key) => String(row[key])).join(" ")).sort();
    assert.deepEqual(pick(shown, "NAME", "ROLE", "ID"), pick(raft.members, "name", "role", "id"));
    const { pods } = await json("pods -A -o json");
    const acked = (await rows(page, "Acknowledged revisions")).map((row) => [row.REVISION, row.PROXIES].join()).sort();
    const counts = new Map();
    for (const pod of pods.filter((pod) => pod.connected)) counts.set(pod.acked_revision, (counts.get(pod.acked_revision) ?? 0) + 1);
    assert.deepEqual(acked, [...counts].map((pair) => pair.join()).sort());
    assert.equal((await rows(page, "Issuers")).length, raft.members.length);
    assert.equal((await rows(page, "Roots")).length, ca.roots.length);
    return (await page.innerText("main")).includes(ca.trustDomain);
  });
  await eventually("it has checked itself", async () => (await page.locator(".checks li").count()) > 3);
  assert.equal(await page.locator(".checks .dot.bad").count(), 0);
  await page.context().close();
});

test("events are those of conduit history", async () => {
  const page = await open("events");
  await eventually("the same changes", async () => {
    const changes = await json("history --limit 5 -o json");
    const shown = await rows(page, "Changes");
    assert.deepEqual(shown.slice(0, 5).map((row) => row.CHANGE), changes.map((change) => change.what));
    return changes.length === 5;
  });
  await page.context().close();
});

test("requests are tapped, and paused", async () => {
  const page = await open("tap/deployment/emojivoto/voting");
  assert.equal(await page.getByLabel("Name", { exact: true }).inputValue(), "voting");
  await page.getByRole("button", { name: "Start" }).click();
  const requests = () => rows(page, "Requests, newest first");
  const ended = await eventually("a request that ended", async () => (await requests()).find((row) => /200 grpc \d/.test(row.STATUS)));
  assert.match(ended.PATH, /^\/emojivoto\.v1\.VotingService\//);
  assert.equal(ended.TLS, "√");
  await shot(page, "tap");
  await page.getByRole("button", { name: "Pause" }).click();
  await sleep(500);
  const before = await requests();
  await sleep(1500);
  assert.deepEqual(await requests(), before);
  await page.getByRole("button", { name: "Stop" }).click();
  await page.context().close();
});

test("a tap of nothing says so", async () => {
  const page = await open("tap/deployment/emojivoto/nobody");
  await page.getByRole("button", { name: "Start" }).click();
  await eventually("it says why", async () => /Nothing can be watched: .*nobody/.test(await page.innerText("main")));
  // The browser tells of the answer 404 by itself.
  assert.equal(wrong.splice(0).filter((line) => !line.includes("404")).length, 0);
  await page.context().close();
});

const shot = (page, name) => page.screenshot({ path: join(SHOTS, `${name}.png`), fullPage: true });

/** Has every event of a page changed before the page gets it. */
const change = (page, how, given) =>
  page.addInitScript(
    ([how, given]) => {
      const Real = EventSource;
      window.EventSource = class extends Real {
        set onmessage(take) {
          super.onmessage = (event) => {
            const said = JSON.parse(event.data);
            if (how === "add") Object.assign(said, { errors: {}, parts: { ...said.parts, ...given } });
            else if (how === "extend") for (const part in given) Object.assign(said.parts[part] ?? {}, given[part]);
            else if (window.failing) Object.assign(said, { errors: given, parts: {} });
            take(new MessageEvent("message", { data: JSON.stringify(said) }));
          };
        }
      };
    },
    [how, given],
  );

test("a page says what it cannot know, and keeps what it knew", async () => {
  const context = await browser.newContext();
  const page = await context.newPage();
  const away = { code: "UNAVAILABLE", message: "none of 3 replicas of the control plane answers" };
  await change(page, "fail", { stat: away, pods: away, edges: { code: "UNIMPLEMENTED", message: "" } });
  await page.goto(`${url}#/`);
  await eventually("deployments are there", async () => (await rows(page, "Deployments at a glance")).length === 4);
  await page.evaluate(() => (window.failing = true));
  await page.getByText("The control plane does not answer all questions.").waitFor();
  assert.match(await page.locator(".banner").innerText(), /none of 3 replicas.*conduit check/s);
  assert.equal((await rows(page, "Deployments at a glance")).length, 4);
  await page.getByText("The control plane is older than this page and does not know edges.").waitFor();
  await page.evaluate(() => (window.failing = false));
  await page.locator(".banner").waitFor({ state: "detached" });
  await context.close();
});

test("edges and curves are drawn, where there are any", async () => {
  for (const [hash, scheme] of [["deployment/emojivoto/web", "light"], ["", "dark"]]) {
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, colorScheme: scheme });
    const page = await context.newPage();
    page.on("pageerror", (error) => wrong.push(`${hash}: ${error}`));
    // What a demo cannot show is put into what it does show.
    await change(page, "add", { edges, series: series(Date.now()) });
    await page.goto(`${url}#/${hash}`);
    await page.waitForSelector(".picture svg");
    assert.equal(await page.locator(".picture .box").count(), 5);
    assert.equal(await page.locator(".picture .padlock").count(), 3);
    assert.equal((await rows(page, "Edges")).length, hash ? 4 : 5);
    if (hash) assert.equal(await page.locator(".uplot").count(), 2);
    await accessible(page, `${hash} with edges`);
    await shot(page, hash ? "resource-edges" : "overview-edges-dark");
    // Each node can be reached, and followed, by keyboard.
    await page.locator(".picture a").first().focus();
    await page.keyboard.press("Enter");
    await page.waitForSelector(".crumbs");
    await context.close();
  }
});

test("a pod that fails says why", async () => {
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 } });
  const page = await context.newPage();
  page.on("pageerror", (error) => wrong.push(`failing: ${error}`));
  // No demo fails, and a machine without a cluster has no images to pull.
  await change(page, "extend", { pods: { failing, moreFailing: true } });
  const columns = (row) => [row.POD, row.CONTAINER, row.IMAGE, row.REASON, row.MESSAGE];
  const [crashing, unscheduled] = [
    ["web-1", "conduit-proxy", "ghcr.io/conduit/proxy:0.1.0", "CrashLoopBackOff", "back-off 5m0s restarting failed container; it ended with exit code 137: OOMKilled"],
    ["ledger-0", "–", "–", "Unschedulable", "0/3 nodes are available: 3 Insufficient memory."],
  ];
  for (const [hash, expected] of [["", [unscheduled, crashing]], ["deployment/emojivoto/web", [crashing]], ["deployment/emojivoto/emoji", []]]) {
    await page.goto(`${url}#/${hash}`);
    await settled(page);
    await eventually("they are told", async () => (await rows(page, "Failing pods")).length === expected.length);
    const told = (await rows(page, "Failing pods")).map(columns);
    assert.deepEqual(told.sort(), [...expected].sort());
  }
  await page.goto(`${url}#/`);
  await page.getByText("More pods fail than are shown.").waitFor();
  await accessible(page, "failing pods");
  await shot(page, "overview-failing");
  await context.close();
});

test("what has come with the control plane is part of it", async () => {
  const context = await browser.newContext();
  const page = await context.newPage();
  await change(page, "extend", { pods: { pods } });
  await page.goto(`${url}#/`);
  await page.getByText("Components: 9").waitFor();
  assert.equal(await page.getByRole("row", { name: "Control plane components 9" }).count(), 1);
  for (const label of ["prometheus-5d: ready", "grafana-7f: not ready"]) assert.equal(await page.getByRole("img", { name: label }).count(), 1, label);
  assert.equal(await page.getByRole("img", { name: /prometheus-6c/ }).count(), 0, "it is somebody else's");
  assert.equal(await page.getByRole("img", { name: /prometheus-1a/ }).count(), 0, "this one too");
  await context.close();
});

async function accessible(page, where, runOnly) {
  // By the debugger, which the pages' policy does not bind.
  await page.evaluate(AXE);
  const { violations } = await page.evaluate((runOnly) => window.axe.run(document, { resultTypes: ["violations"], runOnly }), runOnly);
  const serious = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  const text = serious.map(({ id, nodes }) => `${id}: ${nodes.map((node) => `${node.html} ${node.failureSummary}`).join("\n")}`).join("\n");
  assert.equal(text, "", where);
}

test("every page is for everybody: screen readers, dark rooms, telephones and walls", async () => {
  const page = await open("", { colorScheme: "light" });
  const [width, height] = [1440, 900];
  for (const hash of PAGES) {
    const name = (hash || "overview").replaceAll("/", "-");
    await page.goto(`${url}#/${hash}`);
    await settled(page);
    await accessible(page, hash);
    await shot(page, `${name}-light`);
    await page.emulateMedia({ colorScheme: "dark" });
    // Of the same page in other colours, only the colours are new.
    await accessible(page, `${hash} dark`, ["color-contrast"]);
    await shot(page, `${name}-dark`);
    await page.emulateMedia({ colorScheme: "light" });
    for (const wide of [400, 3840]) {
      await page.setViewportSize({ width: wide, height });
      const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.ok(over <= 0, `${name} is ${over} pixels too wide for ${wide}`);
      if (["overview", "deployment-emojivoto-web"].includes(name)) await shot(page, `${name}-${wide}`);
    }
    await page.setViewportSize({ width, height });
  }
  await page.context().close();
});

test("colours are what was chosen, also tomorrow", async () => {
  const page = await open("", { colorScheme: "light" });
  const ground = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  const light = await ground();
  await page.getByLabel("Colours").selectOption("dark");
  assert.notEqual(await ground(), light);
  await page.reload();
  await page.waitForSelector("h1");
  assert.notEqual(await ground(), light);
  await page.context().close();
});

const tile = (page, name) => page.locator(".tile", { hasText: name }).locator("dd");

test("a rotation of the root is followed as it goes", async () => {
  const page = await open("control-plane");
  const roots = async () => (await rows(page, "Roots")).map((row) => row.ID);
  const [before] = await eventually("there is a root", async () => ((await roots()).length === 1 ? roots() : undefined));
  await page.getByText("No rotation is in progress.").waitFor();
  // It waits for whoever takes nothing over.
  const { processes } = await json("local status -o json");
  const { pid } = processes.find((process) => process.name === "emoji-0/proxy");
  process.kill(pid, "SIGSTOP");
  try {
    await conduit("ca rotate");
    await page.getByText(/Next: \w+ .*, which waits for 1 of 4 proxies and the replicas: .*emoji-0/).waitFor();
    assert.equal((await roots()).length, 2, "both are trusted");
    await accessible(page, "a rotation");
    await shot(page, "rotation");
  } finally {
    process.kill(pid, "SIGCONT");
  }
  await eventually("only the new root is trusted", async () => {
    const now = await roots();
    return now.length === 1 && now[0] !== before;
  });
  await page.getByText("No rotation is in progress.").waitFor();
  const { roots: known } = await json("ca status -o json");
  const [now] = await roots();
  assert.ok(known.length === 1 && known[0].id.startsWith(now), JSON.stringify(known));
  await page.context().close();
});

test("a leader that is killed is not noticed", async () => {
  const page = await open("control-plane");
  const first = await eventually("somebody leads", async () => {
    const name = (await tile(page, "Leader").innerText()).trim();
    return name !== "none" && name;
  });
  const { members } = await json("raft status -o json");
  const { pid } = members.find((member) => member.name === first);
  await page.evaluate(() => {
    window.losses = 0;
    const look = () => document.body.innerText.includes("The connection is lost") && (window.losses += 1);
    new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
  });
  process.kill(pid, "SIGKILL");
  await eventually("it is back, as another process", async () => {
    const row = (await rows(page, "Replicas")).find((row) => row.NAME === first);
    return row.ROLE !== "unreachable" && row.PID !== "–" && row.PID !== String(pid);
  });
  await eventually("nothing is missing", async () => (await page.locator(".banner").count()) === 0);
  assert.equal(await page.evaluate(() => window.losses), 0);
  await page.context().close();
});

// Late: who asks for this service is counted by another route for a while.
test("what becomes of a route's requests is said", async () => {
  const file = join(dirname(URL_FILE), "route.yml");
  const accepts = (path) => [{ path: { type: "Exact", value: path } }];
  const own = [{ name: "emoji-svc", port: 8080 }];
  const edits = { set: [{ name: "x-mesh", value: "conduit" }], remove: ["x-debug"] };
  const rules = [
    { matches: accepts("/moved"), filters: [{ type: "RequestRedirect", requestRedirect: { hostname: "example.org", statusCode: 301 } }] },
    { matches: [{ ...accepts("/slow")[0], queryParams: [{ name: "beta", value: "1" }] }], timeouts: { request: "2s", backendRequest: "500ms" }, backendRefs: own },
    { matches: accepts("/nowhere") },
    { filters: [{ type: "RequestHeaderModifier", requestHeaderModifier: edits }], backendRefs: own },
  ];
  const spec = { parentRefs: [{ group: "", kind: "Service", name: "emoji-svc", port: 8080 }], rules };
  const metadata = { name: "shown", namespace: "emojivoto" };
  writeFileSync(file, JSON.stringify({ apiVersion: "gateway.networking.k8s.io/v1", kind: "HTTPRoute", metadata, spec }));
  await conduit(`apply -f ${file} --wait`);
  const page = await open("routes");
  const said = await eventually("the route is there", async () => {
    const routes = await page.$$eval(".rules", (all) => all.map((rules) => [...rules.children].map((rule) => rule.innerText.split("\n"))));
    return routes.length > 0 && routes;
  });
  await page.context().close();
  await conduit("-n emojivoto delete httproute shown --wait");
  assert.deepEqual(said, [
    [
      ["= /moved → redirect 301: host example.org"],
      ["= /slow ?beta=1 → emoji-svc:8080", "504 after 2000 ms", "504 after 500 ms of an attempt"],
      ["= /nowhere → nowhere (500)"],
      ["every request → emoji-svc:8080", "request header x-mesh = conduit", "request without header x-debug"],
    ],
  ]);
});

test("a dashboard that ends is told of, and found again", async () => {
  const serve = async (port) => {
    const child = spawn(CONDUIT, ["dashboard", "--show", "url", "-p", String(port)], { stdio: ["ignore", "pipe", "inherit"] });
    children.push(child);
    let says = "";
    child.stdout.on("data", (chunk) => (says += chunk));
    return { child, url: await eventually("it says where", async () => says.match(/http:\S+\/web:http\/proxy\/(?=\n)/)?.[0]) };
  };
  const first = await serve(0);
  const page = await open("deployments", { base: first.url });
  await eventually("deployments are there", async () => (await rows(page, "Deployments")).length === 4);
  first.child.kill();
  await once(first.child, "exit");
  await page.getByText("The connection is lost").waitFor();
  // What was seen is still there, and marked.
  assert.equal((await rows(page, "Deployments")).length, 4);
  assert.equal(await page.locator(".old").count(), 1);
  await shot(page, "lost");
  const second = await serve(new URL(first.url).port);
  await page.locator(".banner").waitFor({ state: "detached" });
  assert.equal(await page.locator(".old").count(), 0);
  await page.context().close();
  second.child.kill();
  // The browser tells of a server that is away by itself.
  assert.deepEqual(wrong.splice(0).filter((line) => !/ERR_(CONNECTION|INCOMPLETE|EMPTY)/.test(line)), []);
});

test("nothing went wrong unseen", () => {
  // Stream errors of the replica that was killed are the browser's own words.
  assert.deepEqual(wrong, []);
});
