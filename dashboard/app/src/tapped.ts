// Events of a tap, put together to requests. Pure.

import { nameOf, socketAddress } from "./figures";
import type { Peer, TapEvent } from "./wire";

export interface Tapped {
  key: string;
  at: number;
  direction: "in" | "out";
  source: string;
  destination: string;
  secured: boolean;
  method: string;
  authority: string;
  path: string;
  status?: number;
  /** Of gRPC, or what reset it. */
  outcome?: string;
  latencyUs?: number;
}

/** Newest first, no more than `most`. An event whose request was not seen changes nothing. */
export function add(rows: Tapped[], event: TapEvent, at: number, most: number): Tapped[] {
  const key = keyOf(event);
  if (event.requestInit) {
    const { method, authority, path } = event.requestInit;
    const row: Tapped = {
      key,
      at,
      direction: event.direction === "DIRECTION_INBOUND" ? "in" : "out",
      source: peer(event.source),
      destination: peer(event.destination),
      secured: event.tls?.state === "STATE_MUTUAL",
      method,
      authority,
      path,
    };
    return [row, ...rows.slice(0, most - 1)];
  }
  const place = rows.findIndex((row) => row.key === key);
  const row = rows[place];
  if (!row) return rows;
  return rows.map((row, at) => (at === place ? { ...row, ...ending(event) } : row));
}

function ending({ responseInit, responseEnd }: TapEvent): { status?: number; latencyUs?: number; outcome?: string } {
  if (responseInit) return { status: responseInit.httpStatus, latencyUs: Number(responseInit.sinceRequestInitUs) };
  if (!responseEnd) return {};
  const latencyUs = Number(responseEnd.sinceRequestInitUs);
  if (typeof responseEnd.resetError === "number") return { latencyUs, outcome: `reset ${responseEnd.resetError}` };
  if (typeof responseEnd.grpcStatus === "number") return { latencyUs, outcome: `grpc ${responseEnd.grpcStatus}` };
  return { latencyUs };
}

/** Two proxies see the same request, each by a number of its own. */
const keyOf = ({ id, direction, source, destination }: TapEvent): string =>
  [id?.base, id?.stream, direction, socketAddress(source?.address), socketAddress(destination?.address)].join(" ");

function peer(peer: Peer | null | undefined): string {
  if (peer?.pod?.name) return nameOf(peer.pod);
  return socketAddress(peer?.address);
}

export const failed = (row: Tapped): boolean =>
  (row.status ?? 0) >= 500 || (row.outcome !== undefined && row.outcome !== "grpc 0");
