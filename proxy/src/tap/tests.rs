use super::*;

fn request<'a>(method: &'a str, path: &'a str) -> Request<'a> {
    let direction = common::Direction::Inbound;
    Request {
        direction,
        method,
        scheme: "http",
        authority: "web-svc:80",
        path,
        source: "10.0.0.1:40000".parse().unwrap(),
        destination: "10.0.0.2:8080".parse().unwrap(),
        workload: None,
        pod: None,
    }
}

fn address(ip: &[u8], port: u32) -> Option<common::SocketAddress> {
    Some(common::SocketAddress { ip: ip.to_vec(), port })
}

fn start(tap: u64, matches: Match, max_rps: f32) -> Start {
    Start { tap, r#match: Some(matches), max_rps, payloads: false, headers: false }
}

#[test]
fn all_that_is_asked_for_must_hold() {
    let outbound = i32::from(common::Direction::Outbound);
    let to = ResourceRef { kind: "deployment".into(), namespace: "ns".into(), name: "web".into() };
    for (matches, watched) in [
        (Match::default(), true),
        (Match { method: "get".into(), ..Match::default() }, true),
        (Match { method: "POST".into(), ..Match::default() }, false),
        (Match { path_prefix: "/api".into(), ..Match::default() }, true),
        (Match { path_prefix: "/api/x".into(), ..Match::default() }, false),
        (Match { authority: "web-svc:80".into(), ..Match::default() }, true),
        (Match { authority: "web-svc".into(), ..Match::default() }, false),
        (Match { scheme: "https".into(), ..Match::default() }, false),
        (Match { direction: outbound, ..Match::default() }, false),
        (Match { to: Some(to.clone()), ..Match::default() }, false),
        (Match { to_address: address(&[], 8080), ..Match::default() }, true),
        (Match { to_address: address(&[], 40000), ..Match::default() }, false),
        (Match { from_address: address(&[10, 0, 0, 1], 0), to_address: address(&[], 8080), ..Match::default() }, true),
        (Match { from_address: address(&[10, 0, 0, 2], 0), ..Match::default() }, false),
        (Match { from_address: address(&[10, 0], 0), ..Match::default() }, false),
    ] {
        let (taps, _events) = Taps::new(Payloads::default());
        assert!(taps.watching(&request("GET", "/api/vote")).is_empty());
        taps.start(start(1, matches.clone(), 100.0));
        assert_eq!(!taps.watching(&request("GET", "/api/vote")).is_empty(), watched, "{matches:?}");
    }
    let (taps, _events) = Taps::new(Payloads::default());
    taps.start(start(1, Match { to: Some(to.clone()), ..Match::default() }, 100.0));
    assert_eq!(taps.watching(&Request { workload: Some(&to), ..request("GET", "/") }).len(), 1);
}

#[test]
fn rates_are_kept_and_what_is_left_out_is_counted() {
    let tap = |max_rps| Tap {
        id: 1,
        matches: Match::default(),
        ends: Some(Ends::default()),
        max_rps,
        payloads: false,
        headers: false,
        second: AtomicU64::new(0),
        dropped: AtomicU64::new(0),
        ended: AtomicBool::new(false),
    };
    let ten = tap(10.0);
    let admitted = |tap: &Tap, second| (0..100).filter(|_| tap.admits(second)).count();
    assert_eq!((admitted(&ten, 0), admitted(&ten, 1)), (10, 10));
    assert_eq!(ten.dropped.load(Ordering::Relaxed), 180);
    let seldom = tap(0.5);
    assert_eq!((0..6).map(|second| admitted(&seldom, second)).collect::<Vec<_>>(), [1, 0, 1, 0, 1, 0]);
}

#[test]
fn a_full_queue_loses_events_and_says_so() {
    let (taps, mut events) = Taps::new(Payloads::default());
    taps.start(start(7, Match::default(), 1_000_000.0));
    let watching = taps.watching(&request("GET", "/"));
    for _ in 0..EVENTS_MAX + 5 {
        taps.observe(&watching, &TapEvent::default());
    }
    events.try_recv().unwrap();
    taps.observe(&watching, &TapEvent::default());
    let mut last = None;
    while let Ok(event) = events.try_recv() {
        last = Some(event);
    }
    let Some(attach_request::Kind::Event(observed)) = last.unwrap().kind else { panic!("not an event") };
    assert_eq!((observed.tap, observed.dropped), (7, 5));
}

#[test]
fn what_was_lost_is_told_when_nothing_follows() {
    let (taps, _events) = Taps::new(Payloads::default());
    taps.start(start(7, Match::default(), 1.0));
    assert_eq!(taps.lost(), []);
    for _ in 0..3 {
        taps.watching(&request("GET", "/"));
    }
    let lost = Observed { tap: 7, event: None, dropped: 2 };
    assert_eq!(taps.lost(), [AttachRequest { kind: Some(attach_request::Kind::Event(lost)) }]);
    assert_eq!(taps.lost(), []);
}

#[test]
fn messages_are_for_those_who_may_see_them_and_have_room_of_their_own() {
    let (taps, mut events) = Taps::new("enabled".parse().unwrap());
    taps.start(start(1, Match::default(), 1e6));
    taps.start(Start { payloads: true, ..start(2, Match::default(), 1e6) });
    let watching = taps.watching(&request("POST", "/"));
    let bytes = vec![0; PAYLOAD_BYTES_MAX / 2 + 1];
    let message = tap_event::Kind::Message(tap_event::Message { bytes, ..Default::default() });
    let message = TapEvent { kind: Some(message), ..TapEvent::default() };
    taps.observe(&watching, &message);
    taps.observe(&watching, &message);
    let mut seen = Vec::new();
    let mut take = |expected| {
        while let Ok(event) = events.try_recv() {
            taps.taken(&event);
            let Some(attach_request::Kind::Event(observed)) = event.kind else { panic!("not an event") };
            seen.push((observed.tap, observed.dropped));
        }
        assert_eq!(std::mem::take(&mut seen), expected);
    };
    take(vec![(2, 0)]);
    taps.observe(&watching, &message);
    take(vec![(2, 1)]);

    let (taps, _events) = Taps::new(Payloads::default());
    taps.start(Start { payloads: true, ..start(3, Match::default(), 1e6) });
    assert!(!taps.watching(&request("POST", "/"))[0].sees_payloads(), "its workload does not allow it");
}

#[test]
fn headers_are_for_those_who_asked_for_them_and_have_no_room_of_their_own() {
    let (taps, mut events) = Taps::new(Payloads::default());
    taps.start(start(1, Match::default(), 1e6));
    taps.start(Start { headers: true, ..start(2, Match::default(), 1e6) });
    let watching = taps.watching(&request("GET", "/"));
    let init = |value: &[u8]| {
        let headers = vec![tap_event::Header { name: "a".into(), value: value.to_vec(), redacted: false }];
        let kind = tap_event::Kind::RequestInit(tap_event::RequestInit { headers, ..Default::default() });
        TapEvent { kind: Some(kind), ..TapEvent::default() }
    };
    let mut seen = || {
        let mut seen = Vec::new();
        while let Ok(event) = events.try_recv() {
            taps.taken(&event);
            let Some(attach_request::Kind::Event(observed)) = event.kind else { panic!("not an event") };
            let Some(tap_event::Kind::RequestInit(init)) = observed.event.unwrap().kind else { panic!("no request") };
            seen.push((observed.tap, init.headers.len(), observed.dropped));
        }
        seen
    };
    taps.observe(&watching, &init(b"b"));
    assert_eq!(seen(), [(1, 0, 0), (2, 1, 0)]);
    // Those who did not ask for any have room for the request itself.
    let half = init(&vec![b'x'; PAYLOAD_BYTES_MAX / 2]);
    taps.observe(&watching, &half);
    taps.observe(&watching, &half);
    assert_eq!(seen(), [(1, 0, 0), (2, 1, 0), (1, 0, 0)]);
    taps.observe(&watching, &init(b"b"));
    assert_eq!(seen(), [(1, 0, 0), (2, 1, 1)]);
}

#[test]
fn what_is_not_whole_yet_has_a_bound_and_is_freed() {
    let (taps, _events) = Taps::new(Payloads::default());
    let (mut one, mut other) = (taps.partial(), taps.partial());
    assert!(one.hold(PARTIAL_BYTES_MAX - 10) && other.hold(10));
    assert!(!other.hold(11) && other.hold(5) && other.hold(10));
    drop(one);
    assert!(other.hold(PARTIAL_BYTES_MAX));
    drop(other);
    assert_eq!(taps.partial_bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn a_tap_that_has_ended_is_told_nothing_of_what_is_under_way() {
    let (taps, mut events) = Taps::new(Payloads::default());
    let ends: [fn(&Taps); 3] =
        [|taps| taps.stop(1), |taps| taps.stop_all(), |taps| taps.start(start(1, Match::default(), 1e6))];
    for end in ends {
        taps.start(start(1, Match::default(), 1e6));
        let watching = taps.watching(&request("GET", "/"));
        taps.observe(&watching, &TapEvent::default());
        assert!(events.try_recv().is_ok());
        end(&taps);
        taps.observe(&watching, &TapEvent::default());
        assert!(events.try_recv().is_err());
    }
}

#[test]
fn without_taps_there_is_nothing_to_do() {
    let (taps, _events) = Taps::new(Payloads::default());
    assert!(taps.is_idle());
    taps.start(start(1, Match::default(), 1.0));
    assert!(!taps.is_idle());
    taps.stop(1);
    assert!(taps.is_idle());
}
