//! What requests have in common, looked up once and found again by what they name, by what they mean, and by who gets them. Pure.

use std::{collections::HashMap, net::SocketAddr, rc::Rc};

use foldhash::fast::RandomState;

use crate::telemetry::Meant;

/// Names that requests to one destination have, which clients make up; a service has two or three.
const AUTHORITIES_MAX: usize = 32;

/// By the address of who gets the request.
pub type ByAddress<T> = HashMap<SocketAddr, T, RandomState>;

/// Of one destination: what its requests have in common.
pub struct Alike<T>(Vec<Named<T>>);

struct Named<T> {
    authority: String,
    /// There are as many as routes that lead here: those that nobody else has any more are forgotten.
    same: Vec<Same<T>>,
}

struct Same<T> {
    meant: Option<Rc<Meant>>,
    by_address: ByAddress<T>,
}

impl<T> Default for Alike<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Alike<T> {
    /// Of requests for `authority` that mean `meant`: one and the same in memory, not only alike, since this is asked with every request.
    pub fn of(&mut self, authority: &str, meant: Option<&Rc<Meant>>) -> &mut ByAddress<T> {
        let known = self.0.iter().position(|named| named.authority == authority);
        let at = known.unwrap_or_else(|| {
            if self.0.len() >= AUTHORITIES_MAX {
                self.0.remove(0);
            }
            self.0.push(Named { authority: authority.to_owned(), same: Vec::new() });
            self.0.len() - 1
        });
        let same = &mut self.0[at].same;
        let is_same = |same: &Same<T>| same.meant.as_ref().map(Rc::as_ptr) == meant.map(Rc::as_ptr);
        let at = same.iter().position(is_same).unwrap_or_else(|| {
            same.retain(|same| same.meant.as_ref().is_none_or(|meant| Rc::strong_count(meant) > 1));
            same.push(Same { meant: meant.cloned(), by_address: HashMap::default() });
            same.len() - 1
        });
        &mut same[at].by_address
    }

    /// Forgets all of it.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 80));

    fn meant(route: usize) -> Rc<Meant> {
        Rc::new(Meant { route: format!("route-{route}"), ..Meant::default() })
    }

    #[test]
    fn what_many_routes_have_in_common_is_looked_up_once() {
        let mut alike = Alike::default();
        let routes: Vec<_> = (0..10 * AUTHORITIES_MAX).map(meant).collect();
        for round in 0..3 {
            for authority in ["web", "web.shop"] {
                for (number, route) in routes.iter().enumerate() {
                    let known = alike.of(authority, Some(route)).insert(ADDRESS, (authority, number));
                    assert_eq!(known, (round > 0).then_some((authority, number)));
                }
                assert_eq!(alike.of(authority, None).insert(ADDRESS, (authority, 0)).is_some(), round > 0);
            }
        }
    }

    #[test]
    fn what_nobody_asks_for_any_more_is_forgotten() {
        let mut alike = Alike::default();
        for route in 0..500 {
            alike.of("web", Some(&meant(route))).insert(ADDRESS, route);
        }
        assert_eq!(alike.0[0].same.len(), 1);
        for name in 0..500 {
            alike.of(&format!("made-up-{name}"), None).insert(ADDRESS, name);
        }
        assert_eq!(alike.0.len(), AUTHORITIES_MAX);
        assert!(alike.of("made-up-499", None).contains_key(&ADDRESS));
    }
}
