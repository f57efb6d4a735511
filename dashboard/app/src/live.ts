// One stream of Server-Sent Events for what the page shows. It is opened again when it breaks, and closed while nobody looks.

import { useEffect, useState } from "preact/hooks";

import type { Failure, Parts } from "./wire";

export interface Live {
  parts: Parts;
  /** Parts that there is no answer to, by why. What they were before stays in `parts`. */
  errors: Partial<Record<keyof Parts, Failure>>;
  /** When the last event was made; 0 before the first. */
  at: number;
  /** Why nothing comes at the moment, and in how many seconds that is tried again. */
  lost?: { retryIn: number };
}

const NOTHING: Live = { parts: {}, errors: {}, at: 0 };

const RETRY_FIRST_S = 1;
const RETRY_MOST_S = 15;
/** The server sends something every 2 s, or says within 8 s of asking that it cannot. */
const SILENCE_MS = 20_000;

export function useLive(view: string, parameters: Record<string, string | number>): Live {
  const query = new URLSearchParams({ view });
  for (const [name, value] of Object.entries(parameters)) if (value !== "") query.set(name, String(value));
  const url = `api/v1/live?${query}`;
  // What belongs to another page is not shown on this one, not for a moment.
  const [state, setState] = useState<{ url: string; live: Live }>({ url, live: NOTHING });
  useEffect(() => {
    const set = (change: (live: Live) => Live) =>
      setState((old) => ({ url, live: change(old.url === url ? old.live : NOTHING) }));
    return listen(url, set);
  }, [url]);
  return state.url === url ? state.live : NOTHING;
}

function listen(url: string, set: (change: (live: Live) => Live) => void): () => void {
  let source: EventSource | undefined;
  let retry = RETRY_FIRST_S;
  let timer = 0;
  let silence = 0;

  const close = () => {
    source?.close();
    source = undefined;
    clearTimeout(timer);
    clearTimeout(silence);
  };
  const lose = () => {
    close();
    countDown(retry);
    retry = Math.min(retry * 2, RETRY_MOST_S);
  };
  const countDown = (left: number) => {
    if (left <= 0) return open();
    set((live) => ({ ...live, lost: { retryIn: left } }));
    timer = window.setTimeout(() => countDown(left - 1), 1000);
  };
  const open = () => {
    close();
    source = new EventSource(url);
    silence = window.setTimeout(lose, SILENCE_MS);
    source.onerror = lose;
    source.onmessage = (event: MessageEvent<string>) => {
      const said = JSON.parse(event.data) as { at: number; parts: Parts; errors: Live["errors"] };
      retry = RETRY_FIRST_S;
      clearTimeout(silence);
      silence = window.setTimeout(lose, SILENCE_MS);
      set((live) => ({ parts: { ...live.parts, ...said.parts }, errors: said.errors, at: said.at }));
    };
  };
  const seen = () => (document.hidden ? close() : open());

  seen();
  document.addEventListener("visibilitychange", seen);
  return () => {
    document.removeEventListener("visibilitychange", seen);
    close();
  };
}
