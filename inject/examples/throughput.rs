//! How fast manifests are injected: `cargo run --release -p conduit-inject --example throughput`

use std::time::{Duration, Instant};

use conduit_inject::{Manifest, ManifestError, Namespaces, Settings};

/// As much as the largest clusters' repositories have.
const BYTES: usize = 10 * 1024 * 1024;
/// The best of these is what the machine can do when nobody disturbs it.
const ROUNDS: usize = 5;
/// Every kind, YAML in lines and in brackets, lists, comments, and documents that are not concerned.
const MIXED: [&str; 5] = [
    include_str!("../tests/manifests/emojivoto.yml"),
    include_str!("../tests/manifests/kinds.yml"),
    include_str!("../tests/manifests/list.yml"),
    include_str!("../tests/manifests/skipped.yml"),
    include_str!("../tests/manifests/annotated.yml"),
];

fn main() -> Result<(), ManifestError> {
    let texts = MIXED.iter().cycle().scan(0, |length, text| {
        *length += text.len();
        (*length <= BYTES).then(|| format!("---\n{text}"))
    });
    let text: String = texts.collect();
    let (injected, time) = best(|| {
        let manifest = Manifest::parse(&text)?;
        let mut namespaces = Namespaces::default();
        namespaces.add(&manifest);
        manifest.inject(&Settings::default(), &namespaces)
    })?;
    let changed = injected.reports.iter().filter(|report| report.outcome.is_change()).count();
    println!(
        "inject: {changed} of {} objects, {} out, {}",
        injected.reports.len(),
        megabytes(injected.text.len()),
        rate(text.len(), time)
    );
    let (uninjected, time) = best(|| Manifest::parse(&injected.text)?.uninject())?;
    println!(
        "uninject: {}, the bytes it was injected into: {}",
        rate(injected.text.len(), time),
        uninjected.text == text
    );
    Ok(())
}

fn best<T>(work: impl Fn() -> Result<T, ManifestError>) -> Result<(T, Duration), ManifestError> {
    let round = || {
        #[expect(clippy::disallowed_methods, reason = "nothing is simulated here")]
        let begin = Instant::now();
        let result = work()?;
        Ok((result, begin.elapsed()))
    };
    let mut best = round()?;
    for _ in 1..ROUNDS {
        let next = round()?;
        if next.1 < best.1 {
            best = next;
        }
    }
    Ok(best)
}

fn rate(bytes: usize, time: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "it is printed with one decimal")]
    let rate = bytes as f64 / time.as_secs_f64() / 1e6;
    format!("{} in {time:.0?}: {rate:.1} MB/s", megabytes(bytes))
}

fn megabytes(bytes: usize) -> String {
    format!("{} MB", bytes / 1_000_000)
}
