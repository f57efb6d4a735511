//! What is written in OpenMetrics, for those who read the older text. Pure.

use conduit_api::exposition::Format;

/// Text in OpenMetrics, in `format`. A counter's family is called like its samples in the older one, which has no units and no
/// end.
pub fn in_format(format: Format, open_metrics: String) -> String {
    if format == Format::OpenMetrics {
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

/// The name of the counters that a line begins, if it does.
fn counter(line: &str) -> Option<&str> {
    line.strip_prefix("# TYPE ")?.strip_suffix(" counter")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_called_like_their_samples() {
        let open_metrics = "# HELP a_issued Issued, of a_issued.\n# TYPE a_issued counter\na_issued_total{reason=\"# TYPE\"} 2\n\
                            # HELP a_seconds Time.\n# TYPE a_seconds histogram\n# UNIT a_seconds seconds\na_seconds_sum 1.0\n# EOF\n";
        let text = "# HELP a_issued_total Issued, of a_issued.\n# TYPE a_issued_total counter\na_issued_total{reason=\"# TYPE\"} 2\n\
                    # HELP a_seconds Time.\n# TYPE a_seconds histogram\na_seconds_sum 1.0\n";
        assert_eq!(in_format(Format::Text, open_metrics.to_owned()), text);
        assert_eq!(in_format(Format::OpenMetrics, open_metrics.to_owned()), open_metrics);
    }
}
