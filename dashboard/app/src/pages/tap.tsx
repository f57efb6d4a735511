import { useEffect, useRef, useState } from "preact/hooks";

import { ApiError, SERVED_BY, stream } from "../api";
import { latency, NONE, timeOfDay } from "../figures";
import { decode, KINDS } from "../route";
import { add, failed, type Tapped } from "../tapped";
import type { TapEvent } from "../wire";

/** What a person looks through; older ones go. */
const ROWS_MAX = 300;
/** Events come by the hundred, and the eye takes a few pictures a second. */
const DRAW_MS = 250;
/** When the replica that collects them goes away, another one is asked. */
const AGAIN_MS = 1000;
/** So many times without an event. */
const TRIES = 30;
/** What a replica says that goes, or whoever it was reached through. */
const PASSING = ["UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "DATA_LOSS"];

interface Filters {
  kind: string;
  namespace: string;
  name: string;
  method: string;
  authority: string;
  path: string;
  maxRps: string;
}

type State = { is: "idle" } | { is: "running"; note?: string } | { is: "failed"; message: string };

/** `#/tap/KIND/NAMESPACE/NAME` fills the form in. */
function fromHash(): Filters {
  const [, kind = "", namespace = "", name = ""] = location.hash.replace(/^#\//, "").split("/").map(decode);
  return {
    kind: KINDS.includes(kind) ? kind : "namespace",
    namespace: namespace === "-" ? "" : namespace,
    name,
    method: "",
    authority: "",
    path: "",
    maxRps: "20",
  };
}

const requestOf = ({ kind, namespace, name, method, authority, path, maxRps }: Filters) => ({
  target: { kind, namespace: kind === "namespace" ? "" : namespace, name },
  match: { method: method.toUpperCase(), authority, pathPrefix: path },
  maxRps: Number(maxRps) || 0,
});

export function Tap() {
  const [filters, setFilters] = useState(fromHash);
  const [state, setState] = useState<State>({ is: "idle" });
  const [rows, setRows] = useState<Tapped[]>([]);
  const [paused, setPaused] = useState(false);
  const kept = useRef<Tapped[]>([]);
  const pausing = useRef(false);
  const running = useRef<AbortController | undefined>(undefined);

  const stop = () => {
    running.current?.abort();
    running.current = undefined;
    setState((state) => (state.is === "running" ? { is: "idle" } : state));
  };
  useEffect(() => stop, []);
  useEffect(() => {
    const timer = setInterval(() => setRows(kept.current), DRAW_MS);
    return () => clearInterval(timer);
  }, []);

  const start = (event: Event) => {
    event.preventDefault();
    stop();
    kept.current = [];
    pausing.current = false;
    setPaused(false);
    const controller = new AbortController();
    running.current = controller;
    void watch(requestOf(filters), controller.signal, setState, (event) => {
      if (!pausing.current) kept.current = add(kept.current, event, Date.now(), ROWS_MAX);
    });
  };
  const pause = () => {
    pausing.current = !pausing.current;
    setPaused(pausing.current);
  };
  const field = (key: keyof Filters, label: string, placeholder = "any", disabled = false) => (
    <label>
      {label}
      <input
        value={filters[key]}
        placeholder={placeholder}
        disabled={disabled}
        onInput={(event) => setFilters({ ...filters, [key]: event.currentTarget.value })}
      />
    </label>
  );
  return (
    <>
      <h1>Tap</h1>
      <form class="form" onSubmit={start} aria-label="What to watch">
        <label>
          Kind
          <select value={filters.kind} onChange={(event) => setFilters({ ...filters, kind: event.currentTarget.value })}>
            {KINDS.map((kind) => (
              <option key={kind} value={kind}>
                {kind}
              </option>
            ))}
          </select>
        </label>
        {field("namespace", "Namespace", "all", filters.kind === "namespace")}
        {field("name", "Name", "all")}
        {field("method", "Method")}
        {field("authority", "Authority")}
        {field("path", "Path begins with")}
        {field("maxRps", "At most per second", "100")}
        <div class="buttons">
          <button type="submit" class="primary">
            {state.is === "running" ? "Start again" : "Start"}
          </button>
          <button type="button" onClick={stop} disabled={state.is !== "running"}>
            Stop
          </button>
          <button type="button" onClick={pause} disabled={state.is !== "running"} aria-pressed={paused}>
            Pause
          </button>
        </div>
      </form>
      <Says state={state} paused={paused} rows={rows.length} />
      <Requests rows={rows} />
    </>
  );
}

async function watch(
  request: ReturnType<typeof requestOf>,
  signal: AbortSignal,
  set: (state: State) => void,
  take: (event: TapEvent) => void,
): Promise<void> {
  let seen = false;
  let tries = TRIES;
  set({ is: "running" });
  while (!signal.aborted) {
    let isGone = false;
    try {
      const { kind, namespace, name } = request.target;
      for await (const event of stream<TapEvent>("Tap", kind === "namespace" ? name : namespace, request, signal)) {
        if (!seen) set({ is: "running" });
        seen = true;
        tries = TRIES;
        take(event);
      }
    } catch (error) {
      if (signal.aborted) return;
      isGone = !(error instanceof ApiError);
      const passes = isGone || PASSING.includes((error as ApiError).failure.code);
      if (!passes || tries === 0) return set({ is: "failed", message: (error as Error).message });
    }
    if (signal.aborted) return;
    seen = false;
    tries -= 1;
    set({ is: "running", note: isGone ? `The connection is lost. Is \`${SERVED_BY}\` still running?` : "The controller went away; going on with another." });
    await new Promise((wake) => setTimeout(wake, AGAIN_MS));
  }
}

function Says({ state, paused, rows }: { state: State; paused: boolean; rows: number }) {
  if (state.is === "failed") {
    return (
      <p class="note bad" role="status">
        Nothing can be watched: {state.message}
      </p>
    );
  }
  const text =
    state.is === "idle"
      ? rows
        ? "Stopped."
        : "Start shows requests as they pass. They are watched in the proxies, and pass no slower for it."
      : (state.note ?? (paused ? "Paused: requests pass unseen." : rows ? "Watching." : "Watching. No request has passed yet."));
  return (
    <p class="note dim" role="status">
      {text}
    </p>
  );
}

function Requests({ rows }: { rows: Tapped[] }) {
  if (rows.length === 0) return null;
  const titles = ["TIME", "", "SOURCE", "DESTINATION", "TLS", "METHOD", "AUTHORITY", "PATH", "STATUS", "LATENCY"];
  return (
    <div class="scroll" role="region" aria-label="Requests, newest first" tabIndex={0}>
      <table class="tap">
        <thead>
          <tr>
            {titles.map((title) => (
              <th key={title} scope="col" class={title === "LATENCY" ? "number" : ""}>
                {title || <span class="hidden">Direction</span>}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={row.key + row.at} class={failed(row) ? "failed" : ""}>
              <td class="dim">{timeOfDay(row.at)}</td>
              <td class="dim">{row.direction}</td>
              <td>{row.source}</td>
              <td>{row.destination}</td>
              <td>{row.secured ? <span class="success good">√</span> : <span class="success fair">no</span>}</td>
              <td>{row.method}</td>
              <td>{row.authority}</td>
              <td class="wide">{row.path}</td>
              <td>{[row.status, row.outcome].filter((part) => part !== undefined).join(" ") || NONE}</td>
              <td class="number">{row.latencyUs === undefined ? NONE : latency(row.latencyUs)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
