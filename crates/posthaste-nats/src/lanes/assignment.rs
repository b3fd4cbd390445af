//! Who shall have which lanes: decided by each member for itself, from what all can see.
//!
//! Shares differ by at most one. A member gives up only what it has too much, and takes only what
//! is free, so that a member that joins or leaves moves no more than its own share.

use std::collections::BTreeMap;

/// The lanes of a group and their owners, as one member sees them.
#[derive(Debug, Clone)]
pub(crate) struct View<'a> {
    /// The owner of each lane; `None` if it is free, or its owner is gone.
    pub(crate) owners: &'a [Option<&'a str>],
    /// The members that are there, each once.
    pub(crate) members: &'a [&'a str],
}

/// What a member does next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Moves {
    pub(crate) give_up: Vec<usize>,
    pub(crate) claim: Vec<usize>,
}

/// What `me` does next.
pub(crate) fn moves(view: &View<'_>, me: &str) -> Moves {
    let shares = shares(view);
    let Some(&share) = shares.get(me) else {
        // A member that leaves gives everything up.
        return Moves { give_up: owned(view, me), claim: Vec::new() };
    };
    let mut mine = owned(view, me);
    if mine.len() > share {
        return Moves { give_up: mine.split_off(share), claim: Vec::new() };
    }
    let mut free: Vec<_> =
        (0..view.owners.len()).filter(|lane| view.owners[*lane].is_none()).collect();
    // Each begins with other lanes, so that few claim the same one.
    free.sort_by_key(|lane| preference(me, *lane));
    free.truncate(share - mine.len());
    Moves { give_up: Vec::new(), claim: free }
}

fn owned(view: &View<'_>, member: &str) -> Vec<usize> {
    (0..view.owners.len()).filter(|lane| view.owners[*lane] == Some(member)).collect()
}

/// How many lanes each member shall have. Who has more already keeps the odd ones.
fn shares<'a>(view: &View<'a>) -> BTreeMap<&'a str, usize> {
    if view.members.is_empty() {
        return BTreeMap::new();
    }
    let mut members: Vec<_> =
        view.members.iter().map(|member| (owned(view, member).len(), *member)).collect();
    members.sort_by(|one, two| two.0.cmp(&one.0).then(one.1.cmp(two.1)));
    let (base, odd) = (view.owners.len() / members.len(), view.owners.len() % members.len());
    members
        .into_iter()
        .enumerate()
        .map(|(at, (_, member))| (member, base + usize::from(at < odd)))
        .collect()
}

/// FNV-1a: spreads, and is the same everywhere.
fn preference(member: &str, lane: usize) -> u64 {
    let bytes = member.bytes().chain(lane.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lets every member act on what it sees, in the given order, until nothing changes. Returns
    /// the owners and how many lanes changed their owner.
    fn settle(
        owners: &[Option<String>],
        members: &[String],
        order: &[usize],
    ) -> (Vec<Option<String>>, usize) {
        let mut now: Vec<_> = owners
            .iter()
            .map(|owner| owner.clone().filter(|owner| members.contains(owner)))
            .collect();
        for round in 0.. {
            assert!(round < 50, "it does not come to rest: {now:?}");
            let before = now.clone();
            for at in order {
                let me = &members[at % members.len()];
                let seen: Vec<_> = now.iter().map(Option::as_deref).collect();
                let names: Vec<_> = members.iter().map(String::as_str).collect();
                let moves = moves(&View { owners: &seen, members: &names }, me);
                moves.give_up.iter().for_each(|lane| now[*lane] = None);
                for lane in moves.claim {
                    assert!(now[lane].is_none(), "an owned lane was claimed");
                    now[lane] = Some(me.clone());
                }
            }
            if now == before {
                break;
            }
        }
        let moved = owners.iter().zip(&now).filter(|(before, now)| before != now).count();
        (now, moved)
    }

    fn names(n: usize) -> Vec<String> {
        (0..n).map(|at| format!("member-{at}")).collect()
    }

    fn counts(owners: &[Option<String>], members: &[String]) -> Vec<usize> {
        members
            .iter()
            .map(|member| owners.iter().filter(|owner| owner.as_ref() == Some(member)).count())
            .collect()
    }

    proptest! {
        #[test]
        fn members_come_and_go_and_only_what_must_move_moves(
            lanes in 1_usize..40,
            first in 1_usize..6,
            steps in prop::collection::vec(any::<bool>(), 1..6),
            order in prop::collection::vec(0_usize..8, 8..16),
        ) {
            let all = names(16);
            let mut members = all[..first].to_vec();
            let mut next = first;
            let everyone: Vec<usize> = order.iter().copied().chain(0..16).collect();
            let (mut owners, _) = settle(&vec![None; lanes], &members, &everyone);
            for joins in steps {
                let before = counts(&owners, &members);
                let must = if joins {
                    members.push(all[next].clone());
                    next += 1;
                    lanes / members.len()
                } else if members.len() > 1 {
                    members.remove(0);
                    before[0]
                } else {
                    continue;
                };
                let (now, moved) = settle(&owners, &members, &everyone);
                owners = now;
                prop_assert!(owners.iter().all(Option::is_some));
                let counts = counts(&owners, &members);
                let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                prop_assert!(most - least <= 1, "{counts:?}");
                prop_assert_eq!(moved, must, "{:?}", counts);
            }
        }
    }

    #[test]
    fn who_leaves_gives_everything_up() {
        let owners = [Some("a"), Some("b"), Some("a")];
        let view = View { owners: &owners, members: &["b"] };
        assert_eq!(moves(&view, "a").give_up, [0, 2]);
        assert_eq!(moves(&view, "b"), Moves::default());
    }
}
