// Methods of the public API, by `POST api/v1/METHOD`.

import type { Failure } from "./wire";

export class ApiError extends Error {
  constructor(readonly failure: Failure) {
    super(failure.message);
  }
}

function post(method: string, request: unknown, signal?: AbortSignal): Promise<Response> {
  const body = JSON.stringify(request);
  return fetch(`api/v1/${method}`, { method: "POST", headers: { "content-type": "application/json" }, body, signal });
}

async function checked(response: Response): Promise<Response> {
  if (response.ok) return response;
  const failure = (await response.json().catch(() => null)) as Failure | null;
  throw new ApiError(failure ?? { code: "UNKNOWN", message: `the server answered with ${response.status}` });
}

export async function ask<T>(method: string, request: unknown): Promise<T> {
  return (await (await checked(await post(method, request))).json()) as T;
}

/** Each answer of a stream; throws when it breaks. */
export async function* stream<T>(method: string, request: unknown, signal: AbortSignal): AsyncGenerator<T, void, undefined> {
  const response = await checked(await post(method, request, signal));
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
