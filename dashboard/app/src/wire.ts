// The public API's messages, as proto3's JSON mapping writes them: 64-bit numbers are strings.

export interface Ref {
  kind: string;
  namespace: string;
  name: string;
}

export interface Stats {
  successCount: string;
  failureCount: string;
  windowMs: number;
  latencyP50Us: string;
  latencyP95Us: string;
  latencyP99Us: string;
  tlsCount: string;
}

export interface StatRow {
  resource: Ref;
  /** What was asked to tell rows apart by. */
  group?: { route: string; service: string } | null;
  meshedPods: number;
  runningPods: number;
  stats?: Stats | null;
}

export interface Answered {
  replicasAnswered: number;
  replicasTotal: number;
  replicasOutdated: number;
  coveredMs: number;
  windowMs: number;
  /** That percentiles are of; nothing or 0 is all of the window. */
  latencyWindowMs?: number;
  /** Nobody has been counting for longer. */
  sinceStart?: boolean;
  truncated?: boolean;
}

export interface Stat extends Answered {
  rows: StatRow[];
}

export interface Edge {
  source: Ref;
  destination: Ref;
  clientId: string;
  serverId: string;
  secured: boolean;
  noTlsReason: string;
  stats?: Stats | null;
  readBytes: string;
  writeBytes: string;
  tcpOpen: number;
}

export interface Edges extends Answered {
  edges: Edge[];
}

export interface Point {
  startMs: string;
  successCount: string;
  failureCount: string;
  latencyP50Us: string;
  latencyP95Us: string;
  latencyP99Us: string;
  tlsCount: string;
}

export interface Series extends Answered {
  points: Point[];
}

export interface Pod {
  namespace: string;
  name: string;
  ip: string;
  workload?: Ref | null;
  ready: boolean;
  meshed: boolean;
  connected: boolean;
  ackedRevision: string;
}

export interface FailingPod {
  namespace: string;
  name: string;
  workload?: Ref | null;
  /** One without a name is the pod itself, which has no place to run. */
  containers: { name: string; image: string; reason: string; message: string }[];
}

export interface Pods {
  pods: Pod[];
  revision: string;
  failing?: FailingPod[];
  /** There are more than are told of. */
  moreFailing?: boolean;
}

export interface Member {
  name: string;
  id: string;
  role: string;
  address: string;
  term: string;
  appliedIndex: string;
  lag?: string | null;
  pid?: number | null;
  voter: boolean;
}

export interface Raft {
  leaderId: string;
  term: string;
  revision: string;
  members: Member[];
  answeredBy: string;
}

export interface Ca {
  trustDomain: string;
  roots: { id: string; state: string; sinceMs: string; notAfterMs: string; imported: boolean; issuesUntilMs: string }[];
  issuers: {
    replica: string;
    id: string;
    root: string;
    notAfterMs: string;
    reachable: boolean;
    clockOffsetMs: string;
  }[];
  rotation?: { step: string; root: string; waitingFor: number; examples: string[] } | null;
  denied: { spiffeId: string; dropConnections: boolean; sinceMs: string }[];
  revoked: number;
  rotatesAtMs: string;
  clockSkewMs: string;
  proxies: number;
  firstProxyExpiresMs: string;
  federated: { trustDomain: string; roots: number; jwtKeys: number; firstRootExpiresMs: string }[];
}

export interface Change {
  index: string;
  timeMs: string;
  proposer: string;
  summary: string;
}

export interface Check {
  subsystem: string;
  description: string;
  status: "STATUS_UNSPECIFIED" | "STATUS_OK" | "STATUS_FAIL" | "STATUS_ERROR";
  message: string;
}

interface Header {
  name: string;
  value: string;
}

export interface HeaderEdits {
  set: Header[];
  add: Header[];
  remove: string[];
}

export interface RouteRule {
  matches: { exact?: string; prefix?: string; method: string; headers: Header[]; query: Header[] }[];
  backends: { service: string; port: number; weight: number }[];
  /** One more weight: of requests that fail. */
  unresolved: number;
  timeouts?: { requestMs: string; backendRequestMs: string } | null;
  filters?: {
    requestHeaders?: HeaderEdits | null;
    responseHeaders?: HeaderEdits | null;
    redirect?: { scheme?: string | null; hostname?: string | null; port?: number | null; full?: string; prefix?: string; status: number } | null;
  } | null;
}

export interface HttpRoute {
  namespace: string;
  name: string;
  parents: { service: string; port?: number | null }[];
  rules: RouteRule[];
}

export interface Peer {
  address?: { ip: string; port: number } | null;
  pod?: Ref | null;
  workload?: Ref | null;
}

export interface TapEvent {
  id?: { base: number; stream: string } | null;
  direction: string;
  source?: Peer | null;
  destination?: Peer | null;
  tls?: { state: string; peerId: string } | null;
  requestInit?: { method: string; scheme: string; authority: string; path: string } | null;
  responseInit?: { httpStatus: number; sinceRequestInitUs: string } | null;
  responseEnd?: {
    sinceRequestInitUs: string;
    sinceResponseInitUs: string;
    responseBytes: string;
    grpcStatus?: number | null;
    resetError?: number | null;
  } | null;
}

export interface Failure {
  code: string;
  message: string;
}

/** How a promise is kept. */
export interface Assessment {
  indicator: string;
  goal: string;
  state: "STATE_UNSPECIFIED" | "STATE_UNKNOWN" | "STATE_MET" | "STATE_PENDING" | "STATE_FIRING";
  severity: string;
  sinceMs: string;
  burnRates: { windowMs: number; rate?: number | null; requests: string; bad: string; partial: boolean }[];
}

export interface Objectives {
  objectives: { resource: Ref; revision: string; assessments: Assessment[] }[];
  replicasAnswered: number;
  replicasTotal: number;
}

export interface Alerts {
  events: {
    id: string;
    resource: Ref;
    goal: string;
    firing: boolean;
    severity: string;
    timeMs: string;
    delivery: string;
  }[];
}

/** What the stream of a view may bring. */
export interface Parts {
  version?: { version: string };
  raft?: Raft;
  ca?: Ca;
  stat?: Stat;
  totals?: Stat;
  callers?: Stat;
  callees?: Stat;
  pods?: Pods;
  edges?: Edges;
  series?: Series;
  objectives?: Objectives;
  routes?: { revision: string; routes: HttpRoute[] };
  alerts?: Alerts;
  history?: { changes: Change[] };
}
