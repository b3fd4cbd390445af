//! Sharing a subscription's credit between its consumers.
//!
//! A subscription has several: its topics, their private channels, the lanes of an ordered topic.
//! Each needs a request at the server to hear of its messages, and a busy one needs large ones.
//! Together they must never ask for more than the subscription may have.

/// What one consumer has and wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Want {
    /// Messages that may still come of requests made before.
    pub(crate) outstanding: usize,
    /// Messages the server is known to have for it.
    pub(crate) waiting: u64,
    /// Nothing may be asked of it now.
    pub(crate) paused: bool,
    /// It is one of many.
    pub(crate) lane: bool,
}

/// What lanes without known messages are granted together, at most: a part of all.
const IDLE_SHARE: usize = 8;
/// What one such lane is granted at most.
const IDLE_MOST: usize = 32;

/// How many messages each consumer asks for now. `free` is what may be asked for in addition to
/// what is outstanding, `prefetch` what the whole subscription may have. `first` is served first.
pub(crate) fn share(
    wants: &[Want],
    free: usize,
    prefetch: usize,
    first: usize,
    out: &mut Vec<usize>,
) {
    out.clear();
    out.resize(wants.len(), 0);
    let mut free = free;
    let open = wants.iter().filter(|want| !want.paused);
    let busy = open.clone().filter(|want| want.waiting > 0).count();
    let idle = open.count() - busy;
    // Requests of those who have nothing keep credit from those who have. The only one there is
    // asks for all; of several, each asks for so little that much is left for whoever gets busy.
    let idle_size = match (busy, idle) {
        (0, 1) if !wants.iter().any(|want| want.lane) => prefetch,
        (0, _) if !wants.iter().any(|want| want.lane) => prefetch / 2 / idle.max(1),
        _ => (prefetch / IDLE_SHARE / idle.max(1)).min(IDLE_MOST),
    };
    let busy_size = (prefetch - (idle_size.max(1) * idle).min(prefetch)) / busy.max(1);
    let alone = wants.iter().filter(|want| !want.paused).count() == 1;
    // A request for more than there is keeps its credit from the others until it ends. The lanes
    // that are not open yet count as others.
    let size_of = |want: &Want| match want.waiting {
        0 => idle_size.max(1),
        _ if alone && !want.lane => busy_size.max(1),
        waiting => {
            let known = usize::try_from(waiting).unwrap_or(usize::MAX);
            busy_size.min(known.saturating_add(idle_size)).max(1)
        }
    };
    let order = (0..wants.len()).map(|at| (first + at) % wants.len());
    // Whoever has no request open at all hears nothing: one message for each comes first.
    for at in order.clone() {
        if free > 0 && !wants[at].paused && wants[at].outstanding == 0 {
            out[at] = 1;
            free -= 1;
        }
    }
    for at in order {
        let want = wants[at];
        let size = size_of(&want);
        let has = want.outstanding + out[at];
        // A request is worth its cost when it asks for half of the share, or there is none yet.
        let lacks = size.saturating_sub(has);
        if want.paused || (lacks < size.div_ceil(2) && out[at] == 0) {
            continue;
        }
        let grant = lacks.min(free);
        if out[at] == 0 && grant < size.div_ceil(2) {
            continue;
        }
        out[at] += grant;
        free -= grant;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn want(outstanding: usize, waiting: u64) -> Want {
        Want { outstanding, waiting, paused: false, lane: false }
    }

    fn shared(wants: &[Want], free: usize, prefetch: usize, first: usize) -> Vec<usize> {
        let mut out = Vec::new();
        share(wants, free, prefetch, first, &mut out);
        out
    }

    #[test]
    fn an_idle_subscription_asks_for_all_it_may_have() {
        assert_eq!(shared(&[want(0, 0)], 256, 256, 0), [256]);
        assert_eq!(shared(&[want(0, 0), want(0, 0)], 256, 256, 0), [64, 64]);
        let lane = Want { lane: true, ..want(0, 0) };
        assert_eq!(shared(&[lane; 4], 256, 256, 0), [8; 4]);
    }

    #[test]
    fn a_busy_consumer_gets_nearly_all() {
        assert_eq!(shared(&[want(0, 900), want(0, 0)], 256, 256, 0), [224, 32]);
        // The next request goes out when half of it came, not for each message.
        assert_eq!(shared(&[want(200, 900), want(32, 0)], 24, 256, 0), [0, 0]);
        assert_eq!(shared(&[want(110, 900), want(32, 0)], 114, 256, 0), [114, 0]);
    }

    /// The first lane that is open must not keep the credit of those that open after it.
    #[test]
    fn a_lane_asks_for_little_more_than_there_is() {
        let lane = |outstanding, waiting| Want { lane: true, ..want(outstanding, waiting) };
        assert_eq!(shared(&[lane(0, 5)], 256, 256, 0), [37]);
        assert_eq!(shared(&[lane(0, 900)], 256, 256, 0), [256]);
        assert_eq!(shared(&[want(0, 5), want(0, 0)], 256, 256, 0), [37, 32]);
        assert_eq!(shared(&[want(0, 5)], 256, 256, 0), [256]);
    }

    #[test]
    fn credit_that_comes_slowly_is_used_at_once_when_nothing_is_asked() {
        assert_eq!(shared(&[want(0, 900), want(1, 0)], 1, 2, 0), [1, 0]);
    }

    #[test]
    fn too_little_for_all_goes_round() {
        let wants = [want(0, 0), want(0, 0), want(0, 0)];
        assert_eq!(shared(&wants, 1, 1, 0), [1, 0, 0]);
        assert_eq!(shared(&wants, 1, 1, 2), [0, 0, 1]);
    }

    #[test]
    fn a_paused_consumer_gets_nothing() {
        let paused = Want { paused: true, ..want(0, 5) };
        assert_eq!(shared(&[paused, want(0, 5)], 10, 10, 0), [0, 10]);
    }

    proptest! {
        #[test]
        fn never_more_than_free_and_nobody_forgotten(
            wants in prop::collection::vec((0_usize..50, 0_u64..50, any::<bool>()), 1..9),
            free in 0_usize..300,
            prefetch in 1_usize..300,
            first in 0_usize..9,
        ) {
            let wants: Vec<_> = wants
                .into_iter()
                .map(|(outstanding, waiting, paused)| Want {
                    outstanding,
                    waiting,
                    paused,
                    lane: waiting % 3 == 0,
                })
                .collect();
            let out = shared(&wants, free, prefetch, first % wants.len());
            prop_assert!(out.iter().sum::<usize>() <= free);
            let silent = |(want, grant): (&Want, &usize)| {
                !want.paused && want.outstanding == 0 && *grant == 0
            };
            let forgotten = wants.iter().zip(&out).filter(|&pair| silent(pair)).count();
            prop_assert!(forgotten == 0 || out.iter().sum::<usize>() == free);
            for (want, grant) in wants.iter().zip(&out) {
                prop_assert!(!want.paused || *grant == 0);
            }
        }
    }
}
