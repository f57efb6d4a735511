// Edges and series as a control plane says them, for what a demo cannot show: a failing edge, one in plaintext, a time series with a gap.

const deployment = (name, namespace = "emojivoto") => ({ kind: "deployment", namespace, name });

const stats = (success, failure, p99) => ({
  successCount: String(success),
  failureCount: String(failure),
  windowMs: 60_000,
  latencyP50Us: String(p99 / 4),
  latencyP95Us: String(p99 / 2),
  latencyP99Us: String(p99),
  tlsCount: String(success + failure),
});

const edge = (source, destination, counted, reason = "") => ({
  source,
  destination,
  clientId: reason ? "" : `spiffe://local.conduit/ns/${source.namespace}/sa/${source.name}`,
  serverId: reason ? "" : `spiffe://local.conduit/ns/${destination.namespace}/sa/${destination.name}`,
  secured: reason === "",
  noTlsReason: reason,
  stats: counted,
  readBytes: "1024",
  writeBytes: "4096",
  tcpOpen: 1,
});

export const edges = {
  edges: [
    edge(deployment("vote-bot"), deployment("web"), stats(117, 3, 9000)),
    edge(deployment("web"), deployment("voting"), stats(56, 4, 1800)),
    edge(deployment("web"), deployment("emoji"), stats(1200, 0, 1400)),
    edge(deployment("voting"), deployment("ledger", "shop"), null, "no identity provided by remote"),
    // Back to where it came from: a cycle.
    edge(deployment("ledger", "shop"), deployment("web"), stats(30, 0, 700), "opaque TLS of the application"),
  ],
  replicasAnswered: 3,
  replicasTotal: 3,
};

const pod = (name, workload, ready) => ({ ...workload, name, ip: "10.244.0.9", workload, ready, meshed: false, connected: false, ackedRevision: "0" });

export const pods = [
  pod("controller-0", { kind: "statefulset", namespace: "apps", name: "controller" }, true),
  ...[0, 1, 2].map((number) => pod(`controller-${number}`, { kind: "statefulset", namespace: "conduit", name: "controller" }, true)),
  pod("prometheus-1a", deployment("prometheus", "apps"), true),
  pod("prometheus-5d", deployment("prometheus", "conduit"), true),
  pod("grafana-7f", deployment("grafana", "conduit"), false),
  pod("prometheus-6c", deployment("prometheus", "monitoring"), true),
];

const container = (name, image, reason, message) => ({ name, image, reason, message });

export const failing = [
  {
    namespace: "emojivoto",
    name: "web-1",
    workload: deployment("web"),
    containers: [
      container(
        "conduit-proxy",
        "ghcr.io/conduit/proxy:0.1.0",
        "CrashLoopBackOff",
        "back-off 5m0s restarting failed container; it ended with exit code 137: OOMKilled",
      ),
    ],
  },
  {
    namespace: "shop",
    name: "ledger-0",
    workload: deployment("ledger", "shop"),
    containers: [container("", "", "Unschedulable", "0/3 nodes are available: 3 Insufficient memory.")],
  },
];

const POINTS = 60;
const STEP_MS = 5000;

export function series(now) {
  const first = now - (now % STEP_MS) - POINTS * STEP_MS;
  const points = Array.from({ length: POINTS }, (_, i) => {
    const isGap = i > 20 && i < 26;
    const wave = isGap ? 0 : Math.round(20 + 8 * Math.sin(i / 5));
    return {
      startMs: String(first + i * STEP_MS),
      successCount: String(wave),
      failureCount: String(isGap ? 0 : i % 7 === 0 ? 4 : 1),
      latencyP50Us: String(900 + 40 * wave),
      latencyP95Us: String(2200 + 90 * wave),
      latencyP99Us: String(4000 + 200 * wave),
      tlsCount: String(wave),
    };
  });
  return { points, replicasAnswered: 3, replicasTotal: 3 };
}
