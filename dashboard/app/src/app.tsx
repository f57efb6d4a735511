import { useContext, useEffect, useRef, useState } from "preact/hooks";

import { Freshness } from "./bits";
import { useLive } from "./live";
import { Control } from "./pages/control";
import { Docs } from "./pages/docs";
import { Events } from "./pages/events";
import { Overview } from "./pages/overview";
import { Resource } from "./pages/resource";
import { Resources } from "./pages/resources";
import { Routes } from "./pages/routes";
import { Tap } from "./pages/tap";
import { type Place, usePlace } from "./route";
import { Scope, storedScope, storeScope } from "./scope";
import { applyTheme, storedTheme, type Theme } from "./theme";

/** What the sidebar has, and the tables by their kinds. */
const PAGES: { page: string; title: string; kind?: string }[] = [
  { page: "overview", title: "Service mesh" },
  { page: "namespaces", title: "Namespaces", kind: "namespace" },
  { page: "deployments", title: "Deployments", kind: "deployment" },
  { page: "pods", title: "Pods", kind: "pod" },
  { page: "authorities", title: "Authorities", kind: "authority" },
  { page: "routes", title: "Routes" },
  { page: "tap", title: "Tap" },
  { page: "control-plane", title: "Control plane" },
  { page: "events", title: "Events" },
  { page: "docs", title: "Docs" },
];

const WINDOWS: [number, string][] = [
  [15_000, "15 s"],
  [60_000, "1 min"],
  [300_000, "5 min"],
  [900_000, "15 min"],
  [3_600_000, "1 h"],
  [21_600_000, "6 h"],
];

export function App() {
  const place = usePlace();
  const [windowMs, setWindow] = useState(60_000);
  const [scope, setScope] = useState(storedScope);
  const main = useRef<HTMLElement>(null);
  const key = Object.values(place).join("/");
  const shown = useRef(key);
  useEffect(() => {
    const title = place.name || PAGES.find((page) => page.page === place.page)?.title || "";
    document.title = `${title} · Conduit`;
    // Who follows a link by keyboard goes on reading there.
    if (shown.current !== key) main.current?.focus();
    shown.current = key;
  }, [key]);
  return (
    <Scope.Provider value={scope}>
      <a class="skip" href={location.hash || "#/"} onClick={(event) => (event.preventDefault(), main.current?.focus())}>
        Skip to content
      </a>
      <div class="layout">
        <Sidebar place={place} />
        <div class="body">
          <div class="tools">
            <label>
              Namespace{" "}
              <input
                class="scope"
                value={scope}
                placeholder="all"
                onChange={(event) => {
                  const namespace = event.currentTarget.value.trim();
                  storeScope(namespace);
                  setScope(namespace);
                }}
              />
            </label>
            {hasWindow(place) && (
              <label>
                Window{" "}
                <select value={windowMs} onChange={(event) => setWindow(Number(event.currentTarget.value))}>
                  {WINDOWS.map(([ms, name]) => (
                    <option key={ms} value={ms}>
                      {name}
                    </option>
                  ))}
                </select>
              </label>
            )}
            <ThemeChoice />
          </div>
          <main ref={main} tabIndex={-1}>
            <Page key={key} place={place} windowMs={windowMs} />
          </main>
        </div>
      </div>
    </Scope.Provider>
  );
}

/** Counts are of some time; what is configured is as it is now. */
const hasWindow = ({ page }: Place): boolean =>
  page === "overview" || page === "resource" || page === "routes" || PAGES.some((other) => other.page === page && other.kind !== undefined);

function Sidebar({ place }: { place: Place }) {
  const here = place.page === "resource" ? `${place.kind}s` : place.page;
  return (
    <header class="sidebar">
      <a class="logo" href="#/">
        <svg viewBox="0 0 24 24" width="24" height="24" aria-hidden="true">
          <path d="M4 8h7a4 4 0 0 1 4 4v0a4 4 0 0 0 4 4h1M4 16h4" />
          <circle cx="19" cy="8" r="2" />
        </svg>
        Conduit
      </a>
      <nav aria-label="Pages">
        <ul>
          {PAGES.map(({ page, title }) => (
            <li key={page}>
              <a href={page === "overview" ? "#/" : `#/${page}`} aria-current={page === here ? "page" : undefined}>
                {title}
              </a>
            </li>
          ))}
        </ul>
      </nav>
    </header>
  );
}

function Page({ place, windowMs }: { place: Place; windowMs: number }) {
  if (place.page === "tap") return <Tap />;
  if (place.page === "docs") return <Docs />;
  return <LivePage place={place} windowMs={windowMs} />;
}

function LivePage({ place, windowMs }: { place: Place; windowMs: number }) {
  const table = PAGES.find((page) => page.page === place.page)?.kind;
  const view = table ? "table" : place.page === "control-plane" ? "control" : place.page;
  const known = table !== undefined || ["overview", "resource", "routes", "control", "events"].includes(view);
  const live = useLive(known ? view : "routes", {
    kind: table ?? place.kind,
    namespace: place.namespace,
    name: place.name,
    within: useContext(Scope),
    windowMs: hasWindow(place) ? windowMs : "",
  });
  if (!known) {
    return (
      <>
        <h1>There is no such page</h1>
        <p>
          <a href="#/">Service mesh overview</a> shows everything at a glance.
        </p>
      </>
    );
  }
  return (
    <>
      <Freshness live={live} />
      <div class={live.lost && live.at ? "old" : ""}>
        {table && <Resources live={live} kind={table} />}
        {view === "overview" && <Overview live={live} />}
        {view === "resource" && <Resource live={live} place={place} />}
        {view === "routes" && <Routes live={live} />}
        {view === "control" && <Control live={live} />}
        {view === "events" && <Events live={live} />}
      </div>
    </>
  );
}

function ThemeChoice() {
  const [theme, set] = useState<Theme>(storedTheme);
  return (
    <label>
      Colours{" "}
      <select
        value={theme}
        onChange={(event) => {
          const chosen = event.currentTarget.value as Theme;
          applyTheme(chosen);
          set(chosen);
        }}
      >
        <option value="auto">system</option>
        <option value="light">light</option>
        <option value="dark">dark</option>
      </select>
    </label>
  );
}
