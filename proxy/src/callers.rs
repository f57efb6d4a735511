//! Who is waited for: which clients of this pod are other proxies, as they have shown before.
//!
//! A proxy begins with a ClientHello, at once, unless it is short of processor time: a container that is throttled stands still for a
//! tenth of a second. A client without one may wait for the server to speak first, and is to wait no longer than that takes. Nothing
//! tells the two apart while they are silent, but that clients are today what they were yesterday. Whoever is taken for the wrong one is
//! greeted in the middle of a handshake, and begins again (`outbound.rs`).

use std::{cell::RefCell, collections::HashSet, net::IpAddr, time::Duration};

/// For somebody who has never come, or who was no proxy.
const ANYBODY: Duration = Duration::from_millis(30);
/// For a proxy: half of what it has for its handshake.
const PROXY: Duration = Duration::from_secs(1);
/// Remembered by one thread, in 24 kB. Beyond it somebody is forgotten, and is anybody then.
const REMEMBERED_MAX: usize = 1024;

/// Proxies that have come, by their address and by the port of the application: a pod may be told to leave a port of others alone.
#[derive(Default)]
pub struct Callers(RefCell<HashSet<(IpAddr, u16)>>);

impl Callers {
    /// How long `caller` may be silent before the application is asked whether it speaks first.
    pub fn patience(&self, caller: (IpAddr, u16)) -> Duration {
        if self.0.borrow().contains(&caller) { PROXY } else { ANYBODY }
    }

    /// What `caller` has turned out to be.
    pub fn came(&self, caller: (IpAddr, u16), is_proxy: bool) {
        let mut proxies = self.0.borrow_mut();
        if !is_proxy {
            proxies.remove(&caller);
        } else if !proxies.contains(&caller) {
            if proxies.len() >= REMEMBERED_MAX
                && let Some(somebody) = proxies.iter().next().copied()
            {
                proxies.remove(&somebody);
            }
            proxies.insert(caller);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_come_as_a_proxy_is_waited_for_until_it_comes_as_something_else() {
        let (callers, caller) = (Callers::default(), (IpAddr::from([10, 0, 0, 1]), 3306));
        assert_eq!(callers.patience(caller), ANYBODY);
        callers.came(caller, true);
        assert_eq!(callers.patience(caller), PROXY);
        assert_eq!(callers.patience((caller.0, 25)), ANYBODY, "a port of which it may be told to keep away");
        callers.came(caller, false);
        assert_eq!(callers.patience(caller), ANYBODY);
    }

    #[test]
    fn not_everybody_is_remembered() {
        let callers = Callers::default();
        for number in 0..2 * REMEMBERED_MAX as u32 {
            callers.came((IpAddr::from(number.to_be_bytes()), 80), true);
        }
        assert_eq!(callers.0.borrow().len(), REMEMBERED_MAX);
    }
}
