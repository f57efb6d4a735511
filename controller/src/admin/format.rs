//! In which of two texts metrics are told. Pure.

use http::{HeaderMap, header::ACCEPT};

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

    /// Text in OpenMetrics, in this format. A counter's family is called like its samples in the older one, which has no units and no
    /// end.
    pub fn of(self, open_metrics: String) -> String {
        if self == Self::OpenMetrics {
            return open_metrics;
        }
        let counters: Vec<&str> = open_metrics.lines().filter_map(counter).collect();
        let mut text = String::with_capacity(open_metrics.len());
        for line in open_metrics.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
            let named = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
            match named.and_then(|rest| rest.split_once(' ')) {
                Some((name, rest)) if counters.contains(&name) => {
                    let keyword = &line[..line.len() - name.len() - rest.len() - 1];
                    text.extend([keyword, name, "_total ", rest]);
                }
                _ => text.push_str(line),
            }
            text.push('\n');
        }
        text
    }
}

/// The name of the counters that a line begins, if it does.
fn counter(line: &str) -> Option<&str> {
    line.strip_prefix("# TYPE ")?.strip_suffix(" counter")
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

    #[test]
    fn counters_are_called_like_their_samples() {
        let open_metrics = "# HELP a_issued Issued, of a_issued.\n# TYPE a_issued counter\na_issued_total{reason=\"# TYPE\"} 2\n\
                            # HELP a_seconds Time.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\na_seconds_sum 1.0\n# EOF\n";
        let text = "# HELP a_issued_total Issued, of a_issued.\n# TYPE a_issued_total counter\na_issued_total{reason=\"# TYPE\"} 2\n\
                    # HELP a_seconds Time.\n# TYPE a_seconds histogram\na_seconds_sum 1.0\n";
        assert_eq!(Format::Text.of(open_metrics.to_owned()), text);
        assert_eq!(Format::OpenMetrics.of(open_metrics.to_owned()), open_metrics);
    }
}
