// The dashboard's pages as an API server hands them on: `node in_cluster.mjs BROWSER URL NAMESPACE TEXT...` opens URL, looks
// at that namespace, or at all of them if it is empty, and ends well when the page shows each text.
// Run by tests/tests/kubernetes.rs, in the cluster's network.

import { createRequire } from "node:module";

const { chromium } = createRequire(new URL("../app/", import.meta.url))("playwright-core");

/** The machine may be busy. */
const SOON = 60_000;

const [browserPath, url, namespace, ...texts] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath: browserPath, args: ["--no-sandbox"] });
const page = await browser.newPage();
try {
  await page.goto(url);
  if (namespace) {
    await page.getByLabel("Namespace", { exact: true }).fill(namespace);
    await page.keyboard.press("Enter");
  }
  for (const text of texts) await page.getByText(text).first().waitFor({ timeout: SOON });
} catch (error) {
  console.error(`${error}\n--- the page shows\n${await page.innerText("body").catch(() => "nothing")}`);
  process.exitCode = 1;
} finally {
  await browser.close();
}
