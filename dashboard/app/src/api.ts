// Methods of the public API, by `POST api/v1/METHOD`; or, where the page comes through the API server of a cluster, by what they are called there.

import type { Failure } from "./wire";

export class ApiError extends Error {
  constructor(readonly failure: Failure) {
    super(failure.message);
  }
}

/** The page says where it asks: its server puts that in. */
const BASE = document.querySelector<HTMLMetaElement>('meta[name="conduit-api"]')?.content ?? "api/v1/";
/** Rules of Kubernetes name what may be asked for, in small letters. */
const IN_CLUSTER = BASE.includes("/apis/");

/** Where a method is asked, about everything, or about what is in a namespace. */
export function pathOf(method: string, namespace = ""): string {
  if (!IN_CLUSTER) return BASE + method;
  return `${BASE}${namespace && `namespaces/${encodeURIComponent(namespace)}/`}${method.toLowerCase()}`;
}

/** Whom to look at when nothing answers. */
export const SERVED_BY = IN_CLUSTER ? "kubectl proxy" : "conduit dashboard";

function post(path: string, request: unknown, signal?: AbortSignal): Promise<Response> {
  const body = JSON.stringify(request);
  return fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body, signal });
}

export async function checked(response: Response): Promise<Response> {
  if (response.ok) return response;
  // An API server that refuses says why in a `Status`, whose code is a number.
  const said = (await response.json().catch(() => null)) as Partial<Failure> | null;
  const code = typeof said?.code === "string" ? said.code : (CODES[response.status] ?? "UNKNOWN");
  throw new ApiError({ code, message: said?.message ?? `the server answered with ${response.status}` });
}

const CODES: Record<number, string> = { 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 503: "UNAVAILABLE" };

export async function ask<T>(method: string, request: unknown): Promise<T> {
  return (await (await checked(await post(pathOf(method), request))).json()) as T;
}

/** Each answer of a stream about what is in `namespace`, or about everything; throws when it breaks. */
export async function* stream<T>(method: string, namespace: string, request: unknown, signal: AbortSignal): AsyncGenerator<T, void, undefined> {
  const response = await checked(await post(pathOf(method, namespace), request, signal));
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      const answer = JSON.parse(line) as T & { error?: Failure };
      if (answer.error) throw new ApiError(answer.error);
      yield answer as Awaited<T>;
    }
  }
}
