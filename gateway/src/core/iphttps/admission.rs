//! Who gives way when as many connections are being set up as are allowed.
//!
//! Connections that wait outside cost nothing but a place in the kernel's queue, so a full house is no reason to refuse
//! anybody; only those who hold a place without using it lose it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::SessionId;
use crate::core::time::Now;

/// A connection that has said nothing gives way to another source after so long.
const SILENT: Duration = Duration::from_secs(1);
/// And to its own source after so long: at an office that starts all its computers at once, or a starved machine with
/// many clients, a second of silence before a ClientHello is not an attack.
const SILENT_OWN: Duration = Duration::from_secs(3);
/// One that began a handshake keeps its place longer: at a client that shares its processor with hundreds of others
/// seconds pass between two messages, and a client that is turned away stays away for half a minute
/// (\[MS-IPHTTPS\] 3.1.2.1).
const SLOW: Duration = Duration::from_secs(5);
/// And it keeps it while it takes no longer than so many times what others take: when thousands return at once over one
/// narrow line, everybody is slow, and who is half-way must not begin anew.
const SLOWER_THAN_OTHERS: u32 = 4;

/// A connection that is not up yet.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub id: SessionId,
    pub peer: IpAddr,
    /// When it came, and later by as much as it has waited for us since.
    pub began: Now,
    /// Whether TLS has accepted anything from it.
    pub has_spoken: bool,
    /// Whether the next step is ours: its request was handed up, or what it sent is not read yet.
    pub waits_for_us: bool,
}

/// The connection that loses its place to a newcomer, if any has to.
///
/// First anybody silent, the oldest first. Then, of those who take too long, one of the source (an IPv4 address, an
/// IPv6 /64) that holds the most places, if these are several and twice those of the newcomer's source: many slow
/// connections from one place cost the others nothing, and an office that starts all its computers at once waits for
/// itself. `typical` is what it took those lately who got through.
pub fn gives_way(
    now: Now,
    newcomer: IpAddr,
    typical: Duration,
    places: impl Iterator<Item = Place> + Clone,
) -> Option<SessionId> {
    let slow = SLOW.max(typical * SLOWER_THAN_OTHERS);
    let idle = |place: &Place, patience| !place.waits_for_us && now.since(place.began) > patience;
    let own = source(newcomer);
    let silent = places
        .clone()
        .filter(|place| !place.has_spoken && idle(place, if source(place.peer) == own { SILENT_OWN } else { SILENT }));
    if let Some(place) = silent.min_by_key(|place| (place.began, place.id)) {
        return Some(place.id);
    }
    let mut held: HashMap<u128, usize> = HashMap::new();
    for place in places.clone() {
        *held.entry(source(place.peer)).or_default() += 1;
    }
    let of_newcomer = held.get(&own).copied().unwrap_or(0);
    let crowded = (2 * of_newcomer).max(2);
    places
        .filter(|place| idle(place, slow) && source(place.peer) != own && held[&source(place.peer)] >= crowded)
        .min_by_key(|place| (usize::MAX - held[&source(place.peer)], place.began, place.id))
        .map(|place| place.id)
}

fn source(peer: IpAddr) -> u128 {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() & !u128::from(u64::MAX) | Ipv6Addr::LOCALHOST.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEWCOMER: &str = "198.51.100.1";

    fn place(id: u64, peer: &str, began: u64) -> Place {
        let peer = peer.parse().expect("an address");
        Place { id: SessionId(id), peer, began: Now::from_secs(began), has_spoken: true, waits_for_us: false }
    }

    fn silent(id: u64, began: u64) -> Place {
        Place { has_spoken: false, ..place(id, "192.0.2.9", began) }
    }

    fn at(seconds: u64, places: &[Place]) -> Option<u64> {
        after(seconds, Duration::ZERO, places)
    }

    fn after(seconds: u64, typical: Duration, places: &[Place]) -> Option<u64> {
        let newcomer = NEWCOMER.parse().expect("an address");
        gives_way(Now::from_secs(seconds), newcomer, typical, places.iter().copied()).map(|id| id.0)
    }

    #[test]
    fn nobody_gives_way_who_has_just_come() {
        assert_eq!(at(10, &[silent(1, 9), place(2, "192.0.2.1", 5), place(3, "192.0.2.1", 9)]), None);
    }

    #[test]
    fn the_silent_go_first_and_of_them_the_oldest() {
        assert_eq!(at(10, &[place(1, "192.0.2.1", 0), silent(2, 8), silent(3, 7)]), Some(3));
    }

    #[test]
    fn the_slow_of_the_crowded_source_go_before_others_who_are_slower() {
        let places = [
            place(1, "192.0.2.1", 0),
            place(2, "2001:db8::1", 3),
            place(3, "2001:db8::2", 2),
            place(4, "2001:db8::3", 9),
        ];
        assert_eq!(at(10, &places), Some(3), "three from one /64; the oldest of its slow ones");
    }

    #[test]
    fn the_silent_of_the_newcomers_source_are_given_more_time() {
        let silent = Place { has_spoken: false, ..place(1, NEWCOMER, 8) };
        assert_eq!((at(11, &[silent]), at(12, &[silent])), (None, Some(1)));
    }

    #[test]
    fn a_source_does_not_displace_itself_nor_one_that_holds_as_little() {
        assert_eq!(at(10, &[place(1, NEWCOMER, 0), place(2, NEWCOMER, 0)]), None);
        assert_eq!(at(10, &[place(1, NEWCOMER, 0), place(2, "192.0.2.1", 0)]), None);
        assert_eq!(at(10, &[place(1, NEWCOMER, 0), place(2, "192.0.2.1", 0), place(3, "192.0.2.1", 9)]), Some(2));
    }

    #[test]
    fn who_is_as_slow_as_others_keeps_its_place() {
        let places = [place(1, "192.0.2.1", 0), place(2, "192.0.2.1", 0)];
        assert_eq!(after(10, Duration::from_secs(3), &places), None);
        assert_eq!(after(13, Duration::from_secs(3), &places), Some(1));
    }

    #[test]
    fn a_source_with_a_few_more_places_than_others_is_no_crowd() {
        let places: Vec<_> = (0..100).map(|host| place(host, &format!("192.0.2.{host}"), 0)).collect();
        assert_eq!(at(14, &places), None, "each source has one place, and the newcomer's none");
        let office: Vec<_> = (0..3).map(|id| place(id, NEWCOMER, 0)).collect();
        let other: Vec<_> = (10..15).map(|id| place(id, "192.0.2.1", 0)).collect();
        assert_eq!(at(14, &[office.clone(), other.clone()].concat()), None, "five are less than twice three");
        assert_eq!(at(14, &[&office[..2], &other[..]].concat()), Some(10));
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let places = [place(1, "::ffff:192.0.2.1", 1), place(2, "::ffff:192.0.2.2", 0), place(3, "192.0.2.1", 1)];
        assert_eq!(at(10, &places), Some(1), "two of 192.0.2.1, and the second source is not the same /64");
    }

    #[test]
    fn who_waits_for_us_keeps_its_place() {
        let waiting = Place { waits_for_us: true, ..place(1, "192.0.2.1", 0) };
        assert_eq!(at(60, &[waiting]), None);
    }
}
