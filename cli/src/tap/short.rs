//! `-o short`: a line for each request, when it has ended. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    time::SystemTime,
};

use conduit_api::{
    grpc,
    proto::{
        common::Direction,
        tap::{
            TapEvent,
            tap_event::{Kind, Peer, RequestInit, ResponseEnd, response_end},
        },
    },
};

use super::{
    RequestId,
    line::{short_resource, socket_address},
};
use crate::printable::printable;

/// Requests whose end has not come: streams may go on for days, and an end may be lost. Past it the oldest is forgotten.
const UNDER_WAY_MAX: usize = 4096;
/// What is not known.
const UNKNOWN: &str = "???";

/// Codes of RFC 9113 section 7, from 0.
const RESETS: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

/// Requests that are under way.
#[derive(Default)]
pub(super) struct Requests {
    by_id: HashMap<RequestId, (u64, Request)>,
    /// In the order in which they began.
    began: BTreeMap<u64, RequestId>,
    next: u64,
}

struct Request {
    init: Option<RequestInit>,
    status: Option<u32>,
}

impl Requests {
    /// What has become of a request that ends with `event`, without the end of the line.
    pub(super) fn line(&mut self, event: &TapEvent, now: SystemTime) -> Option<String> {
        match event.kind.as_ref()? {
            Kind::RequestInit(init) => {
                self.begin(RequestId::of(event), Request { init: Some(init.clone()), status: None })
            }
            Kind::ResponseInit(response) => {
                let id = RequestId::of(event);
                match self.by_id.get_mut(&id) {
                    Some((_, request)) => request.status = Some(response.http_status),
                    // Its beginning was lost.
                    None => self.begin(id, Request { init: None, status: Some(response.http_status) }),
                }
            }
            Kind::ResponseEnd(end) => {
                let request = self.end(&RequestId::of(event)).unwrap_or(Request { init: None, status: None });
                return Some(printable(&line(event, &request, end, now)).into_owned());
            }
            Kind::Message(_) | Kind::Schema(_) | Kind::PayloadsDisabled(_) => {}
        }
        None
    }

    fn begin(&mut self, id: RequestId, request: Request) {
        self.end(&id);
        if self.by_id.len() >= UNDER_WAY_MAX
            && let Some((_, oldest)) = self.began.pop_first()
        {
            self.by_id.remove(&oldest);
        }
        self.began.insert(self.next, id);
        self.by_id.insert(id, (self.next, request));
        self.next += 1;
    }

    fn end(&mut self, id: &RequestId) -> Option<Request> {
        let (number, request) = self.by_id.remove(id)?;
        self.began.remove(&number);
        Some(request)
    }
}

fn line(event: &TapEvent, request: &Request, end: &ResponseEnd, now: SystemTime) -> String {
    let what = request.init.as_ref().map_or_else(
        || format!("{UNKNOWN} {UNKNOWN}"),
        |init| format!("{} {}{}", init.method, init.authority, init.path),
    );
    let status = request.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
    let how = match end.end {
        Some(response_end::End::GrpcStatus(code)) => format!(" {}", grpc::status_name(code)),
        Some(response_end::End::ResetError(code)) => match RESETS.get(code as usize) {
            Some(name) => format!(" reset={name}"),
            None => format!(" reset={code}"),
        },
        None => String::new(),
    };
    let way = match event.direction() {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
        Direction::Unspecified => UNKNOWN,
    };
    let (time, latency) = (humantime::format_rfc3339_millis(now).to_string(), end.since_request_init_us);
    // Of the time only what changes while somebody watches.
    let time = time.trim_end_matches('Z').rsplit('T').next().unwrap_or_default();
    let (source, destination) = (name(event.source.as_ref()), name(event.destination.as_ref()));
    format!("{time} {way:<3} {what} {status}{how} {latency}µs {source} -> {destination}")
}

/// Who it is: by its workload, or else its pod or its address.
fn name(peer: Option<&Peer>) -> String {
    let resource = peer.and_then(|peer| peer.workload.as_ref().or(peer.pod.as_ref())).map(short_resource);
    let address = || socket_address(peer?.address.as_ref()).map(|address| address.to_string());
    resource.or_else(address).unwrap_or_else(|| UNKNOWN.to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use conduit_api::proto::tap::tap_event::ResponseInit;
    use expect_test::expect;

    use super::{super::samples, *};

    const NOW: SystemTime = UNIX_EPOCH;

    fn lines(events: &[TapEvent]) -> String {
        let (mut requests, now) = (Requests::default(), NOW + Duration::from_millis(1_525_000_000_123));
        events.iter().filter_map(|event| requests.line(event, now)).map(|line| line + "\n").collect()
    }

    fn ended(end: Option<response_end::End>) -> Vec<TapEvent> {
        let [request, response, mut last] = samples::exchange();
        let Some(Kind::ResponseEnd(ended)) = &mut last.kind else { panic!("it is the end") };
        ended.end = end;
        vec![request, response, last]
    }

    #[test]
    fn one_line_for_each_request() {
        let [request, response, _] = samples::exchange();
        let unanswered = [request.clone(), ended(Some(response_end::End::ResetError(7))).remove(2)];
        let other = TapEvent { direction: Direction::Outbound.into(), ..request.clone() };
        let events = [
            vec![request, other, response],
            ended(Some(response_end::End::GrpcStatus(0))),
            ended(Some(response_end::End::GrpcStatus(2))),
            ended(Some(response_end::End::ResetError(8))),
            unanswered.to_vec(),
            ended(Some(response_end::End::ResetError(99))),
            ended(None),
            vec![ended(None).remove(2)],
        ];
        expect![[r"
            11:06:40.123 in  POST voting-svc.emojivoto:8080/emojivoto.v1.VotingService/VoteDoughnut 200 OK 485µs deploy/web -> deploy/voting
            11:06:40.123 in  POST voting-svc.emojivoto:8080/emojivoto.v1.VotingService/VoteDoughnut 200 Unknown 485µs deploy/web -> deploy/voting
            11:06:40.123 in  POST voting-svc.emojivoto:8080/emojivoto.v1.VotingService/VoteDoughnut 200 reset=CANCEL 485µs deploy/web -> deploy/voting
            11:06:40.123 in  POST voting-svc.emojivoto:8080/emojivoto.v1.VotingService/VoteDoughnut - reset=REFUSED_STREAM 485µs deploy/web -> deploy/voting
            11:06:40.123 in  POST voting-svc.emojivoto:8080/emojivoto.v1.VotingService/VoteDoughnut 200 reset=99 485µs deploy/web -> deploy/voting
            11:06:40.123 in  POST voting-svc.emojivoto:8080/emojivoto.v1.VotingService/VoteDoughnut 200 485µs deploy/web -> deploy/voting
            11:06:40.123 in  ??? ??? - 485µs deploy/web -> deploy/voting
        "]]
        .assert_eq(&lines(&events.concat()));
    }

    #[test]
    fn a_path_cannot_forge_a_line() {
        let mut events = ended(None);
        let Some(Kind::RequestInit(init)) = &mut events[0].kind else { panic!("it is a request") };
        init.path = "/\n\x1b[1A".into();
        assert_eq!(lines(&events).trim_end().lines().count(), 1);
    }

    #[test]
    fn requests_that_never_end_are_forgotten() {
        let mut requests = Requests::default();
        let event = |stream, kind| {
            let id = Some(conduit_api::proto::tap::tap_event::Id { base: 1, stream });
            TapEvent { id, kind: Some(kind), ..TapEvent::default() }
        };
        let many = UNDER_WAY_MAX as u64 + 10;
        for stream in 0..many {
            let init = RequestInit { path: format!("/{stream}"), ..RequestInit::default() };
            assert_eq!(requests.line(&event(stream, Kind::RequestInit(init)), NOW), None);
            requests.line(&event(stream, Kind::ResponseInit(ResponseInit::default())), NOW);
        }
        assert_eq!((requests.by_id.len(), requests.began.len()), (UNDER_WAY_MAX, UNDER_WAY_MAX));
        let mut end = |stream| requests.line(&event(stream, Kind::ResponseEnd(ResponseEnd::default())), NOW).unwrap();
        assert!(end(0).contains(" ??? ???"), "it is forgotten");
        assert!(end(many - 1).contains(&format!(" /{} ", many - 1)));
        assert_eq!((requests.by_id.len(), requests.began.len()), (UNDER_WAY_MAX - 1, UNDER_WAY_MAX - 1));
    }
}
