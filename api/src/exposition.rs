//! In which of two texts proxies and controllers tell their metrics. Pure.

use tonic::codegen::http::{HeaderMap, header::ACCEPT};

/// What a scraper reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// <https://prometheus.io/docs/instrumenting/exposition_formats/>, text format 0.0.4: what everybody reads.
    Text,
    /// <https://prometheus.io/docs/specs/om/open_metrics_spec/>, for whoever asks for it.
    OpenMetrics,
}

impl Format {
    /// What the sender of a request with `headers` reads. Whoever reads OpenMetrics at all gets it: it says more, and nobody who knows
    /// it likes it less.
    pub fn accepted(headers: &HeaderMap) -> Self {
        let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let is_open_metrics = |media: &str| {
            let (name, parameters) = media.split_once(';').unwrap_or((media, ""));
            let refused = parameters.split(';').any(|parameter| matches!(parameter.trim(), "q=0" | "q=0.0"));
            name.trim().eq_ignore_ascii_case("application/openmetrics-text") && !refused
        };
        match accepted.any(|value| value.split(',').any(is_open_metrics)) {
            true => Self::OpenMetrics,
            false => Self::Text,
        }
    }

    /// What it is called. Prometheus 3 takes nothing that does not say what it is.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrapers_get_what_they_read() {
        for (accept, format) in [
            (None, Format::Text),
            (Some("*/*"), Format::Text),
            (Some("text/plain;version=0.0.4"), Format::Text),
            (Some("application/openmetrics-text;version=1.0.0;q=0"), Format::Text),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (
                Some(
                    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,*/*;q=0.1",
                ),
                Format::OpenMetrics,
            ),
        ] {
            let headers = accept.map(|accept| (ACCEPT, accept.parse().unwrap())).into_iter().collect();
            assert_eq!(Format::accepted(&headers), format, "{accept:?}");
        }
    }
}
