// Where the nodes of a graph stand: callers left of callees, in layers, with as few crossings as a few sweeps bring. Pure.

export interface Laid<N> {
  node: N;
  layer: number;
  /** From the top of its layer. */
  at: number;
}

const SWEEPS = 6;

/** `edges` are pairs of keys. Cycles are broken where a walk from the callers meets itself. */
export function layered<N>(nodes: Map<string, N>, edges: [string, string][]): Laid<N>[][] {
  const keys = [...nodes.keys()].sort();
  const callees = new Map<string, string[]>(keys.map((key) => [key, []]));
  const callers = new Map<string, string[]>(keys.map((key) => [key, []]));
  for (const [from, to] of edges) {
    if (from === to || !nodes.has(from) || !nodes.has(to)) continue;
    callees.get(from)?.push(to);
    callers.get(to)?.push(from);
  }
  const forward = withoutCycles(keys, callees, callers);
  const layers = inLayers(keys, forward);
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    const down = sweep % 2 === 0;
    const order = down ? layers : [...layers].reverse();
    order.forEach((layer, i) => {
      const before = order[i - 1];
      if (before) sortByNeighbours(layer, before, down ? callers : callees);
    });
  }
  return layers.map((layer, index) =>
    layer.map((key, at) => ({ node: nodes.get(key) as N, layer: index, at })),
  );
}

function withoutCycles(
  keys: string[],
  callees: Map<string, string[]>,
  callers: Map<string, string[]>,
): Map<string, string[]> {
  const forward = new Map<string, string[]>(keys.map((key) => [key, []]));
  const state = new Map<string, "open" | "done">();
  const visit = (key: string) => {
    state.set(key, "open");
    for (const next of callees.get(key) ?? []) {
      if (state.get(next) === "open") continue;
      forward.get(key)?.push(next);
      if (!state.has(next)) visit(next);
    }
    state.set(key, "done");
  };
  const roots = keys.filter((key) => callers.get(key)?.length === 0);
  for (const key of [...roots, ...keys]) if (!state.has(key)) visit(key);
  return forward;
}

/** Each as far right as the longest way to it. */
function inLayers(keys: string[], forward: Map<string, string[]>): string[][] {
  const depth = new Map<string, number>(keys.map((key) => [key, 0]));
  const waiting = new Map<string, number>(keys.map((key) => [key, 0]));
  for (const nexts of forward.values()) for (const next of nexts) waiting.set(next, (waiting.get(next) ?? 0) + 1);
  const ready = keys.filter((key) => waiting.get(key) === 0);
  for (let key = ready.shift(); key !== undefined; key = ready.shift()) {
    for (const next of forward.get(key) ?? []) {
      depth.set(next, Math.max(depth.get(next) ?? 0, (depth.get(key) ?? 0) + 1));
      const left = (waiting.get(next) ?? 1) - 1;
      waiting.set(next, left);
      if (left === 0) ready.push(next);
    }
  }
  const layers: string[][] = [];
  for (const key of keys) (layers[depth.get(key) ?? 0] ??= []).push(key);
  return Array.from(layers, (layer) => layer ?? []);
}

function sortByNeighbours(layer: string[], before: string[], neighbours: Map<string, string[]>): void {
  const place = new Map(before.map((key, at) => [key, at]));
  const weight = new Map(
    layer.map((key, at) => {
      const places = (neighbours.get(key) ?? []).flatMap((other) => place.get(other) ?? []);
      return [key, places.length ? places.reduce((a, b) => a + b, 0) / places.length : at];
    }),
  );
  layer.sort((a, b) => (weight.get(a) ?? 0) - (weight.get(b) ?? 0) || a.localeCompare(b));
}
