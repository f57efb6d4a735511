//! What a webhook is told, and how it knows that it is we who tell it. Pure.

use aws_lc_rs::hmac;
use conduit_api::TrustDomain;
use conduit_consensus::AlertEvent;
use serde_json::json;

/// Where the signature is.
pub const SIGNATURE: &str = "conduit-signature";

/// A message, as JSON. Its `id` is the same however often it is sent, so that whoever gets it twice can tell.
pub fn body(event: &AlertEvent, trust_domain: &TrustDomain) -> Vec<u8> {
    let AlertEvent { resource, indicator, goal, firing, severity, since_ms, time_ms, .. } = event;
    let is = if *firing { "is not kept" } else { "is kept again" };
    let message = json!({
        "version": 1,
        "id": id(event),
        "trust_domain": trust_domain.to_string(),
        "state": if *firing { "firing" } else { "resolved" },
        "severity": severity.as_str(),
        "resource": {"kind": resource.kind(), "namespace": resource.namespace(), "name": resource.name()},
        "indicator": indicator.to_string(),
        "objective": goal,
        "since_ms": since_ms,
        "time_ms": time_ms,
        "summary": format!("{}: {goal} {is}", resource.in_words()),
    });
    message.to_string().into_bytes()
}

/// Of an event, in the whole life of a control plane.
pub fn id(event: &AlertEvent) -> String {
    format!("{}-{}", event.id, event.indicator)
}

/// `t=SECONDS,v1=HEX`: HMAC-SHA256 of the time, a dot and the body. The time is in it, so that whoever has heard a message cannot tell it again
/// later.
pub fn signature(secret: &[u8], time_seconds: u64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signed = [format!("{time_seconds}.").as_bytes(), body].concat();
    let hex: String = hmac::sign(&key, &signed).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={time_seconds},v1={hex}")
}

#[cfg(test)]
mod tests {
    use conduit_api::{Indicator, ResourceName};
    use conduit_consensus::{Delivery, Severity};

    use super::*;

    #[test]
    fn a_message_says_what_is_the_matter_and_the_signature_that_it_is_ours() {
        let event = AlertEvent {
            id: 42.into(),
            resource: ResourceName::new("deployment", "emojivoto", "voting").unwrap(),
            indicator: Indicator::Success,
            goal: "success 99%".to_owned(),
            firing: true,
            severity: Severity::Critical,
            since_ms: 1_000,
            time_ms: 2_000,
            delivery: Delivery::Due,
        };
        let body = body(&event, &"cluster.local".parse().unwrap());
        let message: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            message,
            json!({
                "version": 1,
                "id": "42-success",
                "trust_domain": "cluster.local",
                "state": "firing",
                "severity": "critical",
                "resource": {"kind": "deployment", "namespace": "emojivoto", "name": "voting"},
                "indicator": "success",
                "objective": "success 99%",
                "since_ms": 1000,
                "time_ms": 2000,
                "summary": "deployment emojivoto/voting: success 99% is not kept",
            })
        );
        // By `printf '1700000000.{}' | openssl dgst -sha256 -hmac whsec`.
        let signed = signature(b"whsec", 1_700_000_000, b"{}");
        assert_eq!(signed, "t=1700000000,v1=7d44587dddbaf4c7f70fef20f48cd594834ffea1641e3ac227b84408298738af");
    }
}
