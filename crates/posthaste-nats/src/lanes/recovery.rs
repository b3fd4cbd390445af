//! Taking over a lane, or finding it again after a disconnect, without breaking the order.
//!
//! The server may have handed out messages that nobody has any more: of an owner that died, or
//! lost with a connection. They come again late, while what follows them would come at once. So
//! nothing is handed out until everything up to the boundary, the last place the server had
//! delivered, is collected: what is outstanding there is made to come again at once, a sweep of
//! requests fetches it, and the first message from beyond the boundary, or the end of a request
//! without one, tells that nothing is left. Then it goes out in the stream's order.

use std::collections::BTreeMap;

/// What is being collected.
#[derive(Debug)]
pub(crate) struct Recovery<T> {
    boundary: u64,
    /// Up to which place everything outstanding was asked to come again; with many outstanding,
    /// one window after the other.
    window: u64,
    old: BTreeMap<u64, T>,
    newer: BTreeMap<u64, T>,
    exhausted: bool,
}

/// What becomes of a collected message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Collected<T> {
    /// It is kept until its turn. What it replaces is an earlier delivery of the same message.
    Kept(Option<T>),
    /// There is no room for what lies beyond the window: it goes back for now.
    GiveBack(T),
}

impl<T> Recovery<T> {
    /// Collects up to the boundary, beginning with the window.
    pub(crate) fn new(boundary: u64, window: u64) -> Self {
        Self {
            boundary,
            window: window.min(boundary),
            old: BTreeMap::new(),
            newer: BTreeMap::new(),
            exhausted: false,
        }
    }

    /// How many messages are kept.
    pub(crate) fn len(&self) -> usize {
        self.old.len() + self.newer.len()
    }

    pub(crate) const fn boundary(&self) -> u64 {
        self.boundary
    }

    /// A message that came before the sweep, which tells nothing of what is outstanding.
    pub(crate) fn keep(&mut self, place: u64, message: T) {
        let part = if place > self.boundary { &mut self.newer } else { &mut self.old };
        part.insert(place, message);
    }

    /// A message came.
    pub(crate) fn collect(&mut self, place: u64, message: T, room: usize) -> Collected<T> {
        if place > self.boundary {
            // The server delivers what has to come again before what is new.
            self.exhausted = true;
            return Collected::Kept(self.newer.insert(place, message));
        }
        let crowded = self.len() >= room;
        if place > self.window && crowded && !self.old.contains_key(&place) {
            return Collected::GiveBack(message);
        }
        Collected::Kept(self.old.insert(place, message))
    }

    /// A request of the sweep ended before it was filled.
    pub(crate) const fn request_ended(&mut self) {
        self.exhausted = true;
    }

    /// Whether everything of the window is here.
    pub(crate) const fn is_swept(&self) -> bool {
        self.exhausted
    }

    /// What may go out now, in order. The second part tells whether that was all: then what is
    /// beyond the boundary goes out too, and the lane runs as usual.
    pub(crate) fn release(&mut self) -> (Vec<(u64, T)>, bool) {
        let rest = self.old.split_off(&(self.window + 1));
        let mut out: Vec<_> = std::mem::replace(&mut self.old, rest).into_iter().collect();
        let is_done = self.window >= self.boundary;
        if is_done {
            out.extend(std::mem::take(&mut self.newer));
        }
        (out, is_done)
    }

    /// Goes on with the next window.
    pub(crate) fn next_window(&mut self, window: u64) {
        self.window = window.min(self.boundary);
        self.exhausted = false;
    }

    /// What is kept, when the recovery is given up.
    pub(crate) fn abandon(self) -> impl Iterator<Item = T> {
        self.old.into_values().chain(self.newer.into_values())
    }
}

/// The end of the next window over outstanding places, which are in order: as many as there is
/// room for.
pub(crate) fn window_end(outstanding: &[u64], room: usize, boundary: u64) -> u64 {
    match outstanding.get(room.max(1) - 1) {
        Some(last) if outstanding.len() > room.max(1) => *last,
        _ => boundary,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_newer_goes_out_before_what_is_old() {
        let mut recovery = Recovery::new(10, 10);
        recovery.collect(9, "b", 8);
        recovery.collect(4, "a", 8);
        assert!(!recovery.is_swept());
        recovery.collect(12, "c", 8);
        assert!(recovery.is_swept());
        assert_eq!(recovery.release(), (vec![(4, "a"), (9, "b"), (12, "c")], true));
    }

    #[test]
    fn a_second_delivery_replaces_the_first() {
        let mut recovery = Recovery::new(10, 10);
        assert_eq!(recovery.collect(4, 1, 8), Collected::Kept(None));
        assert_eq!(recovery.collect(4, 2, 8), Collected::Kept(Some(1)));
        recovery.request_ended();
        assert_eq!(recovery.release(), (vec![(4, 2)], true));
    }

    #[test]
    fn windows_end_where_the_room_ends() {
        assert_eq!(window_end(&[2, 4, 6], 2, 9), 4);
        assert_eq!(window_end(&[2, 4, 6], 3, 9), 9);
        assert_eq!(window_end(&[], 3, 9), 9);
        assert_eq!(window_end(&[2, 4], 0, 9), 2);
    }

    /// A server with messages delivered to somebody who is gone. Some come again by themselves,
    /// in any order; those that are nudged come again before anything new.
    struct Server {
        outstanding: BTreeSet<u64>,
        again: VecDeque<u64>,
        new: VecDeque<u64>,
    }

    impl Server {
        fn come_again(&mut self, place: u64) {
            if self.outstanding.contains(&place) && !self.again.contains(&place) {
                self.again.push_back(place);
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_first_goes_out_in_order_and_once(
            places in prop::collection::btree_set(1_u64..60, 1..30),
            split in 0_usize..30,
            settled in prop::collection::vec(any::<bool>(), 30),
            early in prop::collection::vec(0_usize..30, 0..8),
            room in 1_usize..12,
            batch in 1_usize..6,
        ) {
            let places: Vec<_> = places.into_iter().collect();
            let split = split.min(places.len());
            let boundary = places[..split].last().copied().unwrap_or(0);
            let mut server = Server {
                outstanding: places[..split]
                    .iter()
                    .zip(&settled)
                    .filter(|(_, settled)| !**settled)
                    .map(|(place, _)| *place)
                    .collect(),
                again: VecDeque::new(),
                new: places[split..].iter().copied().collect(),
            };
            let expected: Vec<_> =
                server.outstanding.iter().copied().chain(server.new.iter().copied()).collect();
            // Leases of the dead end when they end.
            for at in early {
                if let Some(place) = places.get(at) {
                    server.come_again(*place);
                }
            }
            let mut got = Vec::new();
            let mut rest: Vec<_> = places[..split].to_vec();
            let mut window = window_end(&rest, room, boundary);
            let mut recovery = Recovery::new(boundary, window);
            let mut requests = 0;
            'windows: loop {
                rest.iter().filter(|place| **place <= window).for_each(|p| server.come_again(*p));
                while !recovery.is_swept() {
                    requests += 1;
                    prop_assert!(requests < 500, "it does not end");
                    for _ in 0..batch {
                        let again = server.again.pop_front();
                        let Some(place) = again.or_else(|| server.new.pop_front()) else {
                            recovery.request_ended();
                            break;
                        };
                        if place <= boundary {
                            server.outstanding.remove(&place);
                        }
                        if let Collected::GiveBack(place) = recovery.collect(place, place, room) {
                            // With a delay: not before the sweep of this window has ended.
                            server.outstanding.insert(place);
                        }
                    }
                }
                let (out, is_done) = recovery.release();
                got.extend(out.into_iter().map(|(place, _)| place));
                if is_done {
                    break 'windows;
                }
                rest.retain(|place| *place > window);
                window = window_end(&rest, room, boundary);
                recovery.next_window(window);
            }
            got.extend(server.new);
            prop_assert_eq!(got, expected);
        }
    }
}
