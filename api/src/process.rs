//! What a process uses, out of the kernel's own account (proc(5)). Whoever asks reads the files.

/// What the kernel counts processor time in towards programs (USER_HZ): 100 a second on every architecture that Conduit is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// A family of Prometheus with a single value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    /// By Prometheus' conventions: <https://prometheus.io/docs/instrumenting/writing_clientlibs/#process-metrics>.
    pub name: &'static str,
    /// Whether it only grows.
    pub is_counter: bool,
    /// A sentence.
    pub help: &'static str,
    /// Now.
    pub value: f64,
}

/// The account of one process. A file that could not be read is an empty one, and what it would have said is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Account<'a> {
    /// `/proc/PID/stat`
    pub stat: &'a str,
    /// `/proc/PID/status`
    pub status: &'a str,
    /// `/proc/PID/limits`
    pub limits: &'a str,
    /// How many entries `/proc/PID/fd` has.
    pub open_fds: Option<usize>,
    /// When it was started, since the Unix epoch.
    pub started_seconds: f64,
}

impl Account<'_> {
    /// What is known.
    pub fn measures(&self) -> Vec<Measure> {
        let gauge = |name, help, value: Option<f64>| Some(Measure { name, is_counter: false, help, value: value? });
        let cpu = Measure {
            name: "process_cpu_seconds_total",
            is_counter: true,
            help: "Processor time that this process has used, in seconds.",
            value: self.cpu_seconds().unwrap_or_default(),
        };
        let known = [
            self.cpu_seconds().map(|_| cpu),
            gauge("process_resident_memory_bytes", "Resident memory of this process.", self.bytes("VmRSS:")),
            gauge("process_virtual_memory_bytes", "Virtual memory of this process.", self.bytes("VmSize:")),
            gauge("process_threads", "Threads of this process.", self.status_of("Threads:")),
            gauge("process_open_fds", "Open file descriptors.", self.open_fds.map(|count| count as f64)),
            gauge("process_max_fds", "How many file descriptors may be open.", self.fds_max()),
            gauge(
                "process_start_time_seconds",
                "When this process was started, since the Unix epoch.",
                Some(self.started_seconds),
            ),
        ];
        known.into_iter().flatten().collect()
    }

    /// Fields 14 and 15, utime and stime. The second one is the program's name, which may have spaces and parentheses in it.
    fn cpu_seconds(&self) -> Option<f64> {
        let (_, rest) = self.stat.rsplit_once(") ")?;
        let mut fields = rest.split_ascii_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse::<f64>().ok();
        Some((ticks()? + ticks()?) / TICKS_PER_SECOND)
    }

    fn bytes(&self, key: &str) -> Option<f64> {
        self.status_of(key).map(|kilobytes| kilobytes * 1024.0)
    }

    fn status_of(&self, key: &str) -> Option<f64> {
        let value = self.status.lines().find_map(|line| line.strip_prefix(key))?;
        value.split_ascii_whitespace().next()?.parse().ok()
    }

    /// None where there is no limit.
    fn fds_max(&self) -> Option<f64> {
        let soft = self.limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
        soft.split_ascii_whitespace().next()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_account_is_read() {
        let account = Account {
            stat: "8119 (a) name) S 8115 1 1 0 -1 4194304 9 0 0 0 150 25 7 8 20 0 9 0 5 6 7",
            status: "Name:\tx\nVmSize:\t  2048 kB\nVmRSS:\t     10 kB\nThreads:\t3\n",
            limits: "Limit                     Soft Limit           Hard Limit           Units\n\
                     Max open files            1024                 524288               files\n",
            open_fds: Some(12),
            started_seconds: 1.5,
        };
        let measures = account.measures().into_iter().map(|measure| (measure.name, measure.value)).collect::<Vec<_>>();
        let expected = [
            ("process_cpu_seconds_total", 1.75),
            ("process_resident_memory_bytes", 10_240.0),
            ("process_virtual_memory_bytes", 2_097_152.0),
            ("process_threads", 3.0),
            ("process_open_fds", 12.0),
            ("process_max_fds", 1024.0),
            ("process_start_time_seconds", 1.5),
        ];
        assert_eq!(measures, expected);
    }

    #[test]
    fn what_is_not_there_is_not_zero() {
        let limits = "Max open files            unlimited            unlimited            files\n";
        for account in [Account::default(), Account { stat: "1 (x) S", status: "VmRSS:", limits, ..Account::default() }]
        {
            let names = account.measures().into_iter().map(|measure| measure.name).collect::<Vec<_>>();
            assert_eq!(names, ["process_start_time_seconds"]);
        }
    }
}
