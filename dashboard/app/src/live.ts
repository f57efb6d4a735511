// One stream of Server-Sent Events for what the page shows. It is opened again when it breaks, and closed while nobody looks.

import { useEffect, useState } from "preact/hooks";

import { ApiError, checked, pathOf } from "./api";
import type { Failure, Parts } from "./wire";

export interface Live {
  parts: Parts;
  /** Parts that there is no answer to, by why. What they were before stays in `parts`. */
  errors: Partial<Record<keyof Parts, Failure>>;
  /** When the last event was made; 0 before the first. */
  at: number;
  /** In how many seconds it is tried again, when nothing comes at the moment, and what whoever is there said to it. */
  lost?: { retryIn: number; refusal: Failure | undefined };
}

const NOTHING: Live = { parts: {}, errors: {}, at: 0 };

const RETRY_FIRST_S = 1;
const RETRY_MOST_S = 15;
/** The server sends something every 2 s, or says within 8 s of asking that it cannot. */
const SILENCE_MS = 20_000;
/** Whoever does not say by then why there is nothing, says nothing. */
const WHY_NOT_MS = 5_000;

export function useLive(view: string, parameters: Record<string, string | number>): Live {
  const query = new URLSearchParams({ view });
  for (const [name, value] of Object.entries(parameters)) if (value !== "") query.set(name, String(value));
  const url = `${pathOf("live", String(parameters.within ?? ""))}?${query}`;
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
  let isAnswered = false;
  let isClosed = false;
  let attempts = 0;
  let refusal: Failure | undefined;

  const close = () => {
    source?.close();
    source = undefined;
    clearTimeout(timer);
    clearTimeout(silence);
  };
  const lose = async () => {
    close();
    const attempt = ++attempts;
    refusal = isAnswered ? undefined : await whyNot(url);
    // Somebody may have gone on, or away, in the meantime.
    if (isClosed || attempt !== attempts || document.hidden) return;
    countDown(retry);
    retry = Math.min(retry * 2, RETRY_MOST_S);
  };
  const countDown = (left: number) => {
    if (left <= 0) return open();
    set((live) => ({ ...live, lost: { retryIn: left, refusal } }));
    timer = window.setTimeout(() => countDown(left - 1), 1000);
  };
  const open = () => {
    close();
    attempts += 1;
    isAnswered = false;
    source = new EventSource(url);
    silence = window.setTimeout(lose, SILENCE_MS);
    source.onerror = lose;
    source.onmessage = (event: MessageEvent<string>) => {
      const said = JSON.parse(event.data) as { at: number; parts: Parts; errors: Live["errors"] };
      retry = RETRY_FIRST_S;
      isAnswered = true;
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
    isClosed = true;
    close();
  };
}

/** What an EventSource does not tell of a stream that was not begun. */
async function whyNot(url: string): Promise<Failure | undefined> {
  const attempt = new AbortController();
  try {
    await checked(await fetch(url, { signal: AbortSignal.any([attempt.signal, AbortSignal.timeout(WHY_NOT_MS)]) }));
  } catch (error) {
    if (error instanceof ApiError) return error.failure;
  } finally {
    attempt.abort();
  }
  return undefined;
}
