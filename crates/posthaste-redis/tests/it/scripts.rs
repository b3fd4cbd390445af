//! Each script by itself, on each server: what it does, and whom it does not touch.

use redis::Value;

use crate::adapter::name;
use crate::raw::{Raw, flat};
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.each("ensure_makes_a_topic_once", ensure);
    suite.each("a_group_starts_where_it_is_told", starts);
    suite.each("publish_remembers_ids_and_keeps_a_number", publishes);
    suite.each("release_gives_back_only_what_is_ours", releases);
    suite.each("later_copies_and_tick_moves", waits);
    suite.each("a_letter_is_stored_and_replayed_once", letters);
    suite.each("extend_says_what_is_lost", extends);
    suite.each("take_keeps_within_its_credit", takes);
    suite.each("sweep_takes_everything_in_order", sweeps);
    suite.each("fetch_keeps_within_its_credit", fetches);
    suite.each("what_nobody_holds_is_given_back", gives_back);
    suite.each("lanes_are_divided_and_only_what_must_move_moves", divides);
    suite.each("a_lane_is_freed_when_nothing_is_held", frees);
    suite.each("tidy_removes_nothing_that_is_unsettled", tidies);
    suite.each("lag_seek_and_purge_count", counts);
    suite.each("what_leaves_takes_nothing_with_it", leaves);
}

/// A stream with a group, and keys of a group beside it.
struct Stage {
    raw: Raw,
    base: String,
}

impl Stage {
    async fn new(server: &Server, part: &str) -> Self {
        let base = format!("ph:{{{}}}", name(part));
        let mut stage = Self { raw: server.raw().await, base };
        let (record, stream) = (stage.key(""), stage.key(":s"));
        let keys = [record.as_str(), stream.as_str()];
        stage.raw.script("ensure", &keys, &["plain", "layout", "plain", "queue", "0"]).await;
        let private = stage.key(":g:g:r");
        let keys = [record.as_str(), private.as_str(), stream.as_str()];
        let made = stage.raw.script("group", &keys, &["g", "1", "30000", "created"]).await;
        assert_eq!(made, Value::Int(30_000));
        stage
    }

    fn key(&self, role: &str) -> String {
        format!("{}{role}", self.base)
    }

    async fn add(&mut self, count: usize) -> Vec<String> {
        let stream = self.key(":s");
        let mut ids = Vec::new();
        for number in 0..count {
            let number = number.to_string();
            ids.extend(flat(&self.raw.run(&["XADD", &stream, "*", "h", "{}", "b", &number]).await));
        }
        ids
    }

    async fn read(&mut self, consumer: &str, count: usize) {
        let (stream, count) = (self.key(":s"), count.to_string());
        let words =
            ["XREADGROUP", "GROUP", "g", consumer, "COUNT", &count, "STREAMS", &stream, ">"];
        self.raw.run(&words).await;
    }

    /// Who holds what, and how often it was delivered.
    async fn pending(&mut self) -> Vec<(String, String, i64)> {
        let stream = self.key(":s");
        let Value::Array(entries) =
            self.raw.run(&["XPENDING", &stream, "g", "-", "+", "100"]).await
        else {
            return Vec::new();
        };
        let entry = |entry: &Value| {
            let parts = flat(entry);
            (parts[0].clone(), parts[1].clone(), parts[3].parse().expect("a number"))
        };
        entries.iter().map(entry).collect()
    }

    async fn script(&mut self, name: &str, roles: &[&str], args: &[&str]) -> Value {
        let keys: Vec<String> = roles.iter().map(|role| self.key(role)).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        self.raw.script(name, &keys, args).await
    }

    async fn tick(&mut self, member: &str) -> Value {
        let roles = ["", ":g:g:m", ":g:g:z", ":g:g:h", ":g:g:r", ":z", ":h", ":s"];
        self.script("tick", &roles, &["g", member, "5000", "30000", "100"]).await
    }
}

async fn ensure(server: Server) {
    let mut stage = Stage::new(&server, "ensure").await;
    let asked = ["of4", "layout", "of4", "queue", "0"];
    let found = flat(&stage.script("ensure", &["", ":p0of4"], &asked).await);
    assert!(found.windows(2).any(|pair| pair == ["layout", "plain"]), "{found:?}");
    let other = stage.key(":p0of4");
    assert_eq!(stage.raw.number(&["EXISTS", &other]).await, 0);
}

async fn starts(server: Server) {
    let mut stage = Stage::new(&server, "starts").await;
    stage.add(3).await;
    let roles = ["", ":g:late:r", ":s"];
    // A second group gets what comes from now on; one that is there keeps its lease.
    let late = stage.script("group", &roles, &["late", "1", "1000", "created"]).await;
    assert_eq!(late, Value::Int(1_000));
    let again = stage.script("group", &roles, &["late", "1", "9000", "created"]).await;
    assert_eq!(again, Value::Int(1_000));
    let lag = |lag: Value| flat(&lag)[0].clone();
    let roles = ["", ":g:late:r", ":g:late:z", ":z", ":s"];
    assert_eq!(lag(stage.script("lag", &roles, &["late"]).await), "0");
    let roles = ["", ":g:g:r", ":g:g:z", ":z", ":s"];
    assert_eq!(lag(stage.script("lag", &roles, &["g"]).await), "3");
    let missing = stage.script("group", &["", ":g:x:r", ":s"], &["x", "0", "", "created"]).await;
    assert_eq!(missing, Value::Int(-2));
    let missing = stage.script("group", &[":none", ":g:x:r", ":s"], &["x", "1", "", "$"]).await;
    assert_eq!(missing, Value::Int(-1));
}

async fn publishes(server: Server) {
    let mut stage = Stage::new(&server, "publish").await;
    let roles = [":s", "", ":i:7", ":z", ":h"];
    let first = flat(&stage.script("publish", &roles, &["60000", "", "", "h", "{}"]).await);
    let second = flat(&stage.script("publish", &roles, &["60000", "", "", "h", "{}"]).await);
    assert_eq!((&first[0], &first[1]), (&second[0], &"0".to_owned()));
    assert_eq!(second[1], "1");
    for _ in 0..5 {
        stage.script("publish", &roles, &["", "3", "", "h", "{}"]).await;
    }
    let (stream, record) = (stage.key(":s"), stage.key(""));
    assert_eq!(stage.raw.number(&["XLEN", &stream]).await, 3);
    // The group has read none of the six.
    assert_eq!(flat(&stage.raw.run(&["HGET", &record, "lost:g"]).await), ["3"]);
    let missing =
        stage.script("publish", &[":none", "", ":i:8", ":z", ":h"], &["", "", "", "h", ""]);
    assert_eq!(missing.await, Value::Nil);
}

async fn releases(server: Server) {
    let mut stage = Stage::new(&server, "release").await;
    let ids = stage.add(2).await;
    stage.read("me", 2).await;
    // Another's, one with another count, and ours.
    for (member, count, done) in [("you", "1", 0), ("me", "2", 0), ("me", "1", 1), ("me", "1", 0)] {
        let args = ["g", member, &ids[0], count, "7"];
        let released = stage.script("release", &[":s"], &args).await;
        assert_eq!(released, Value::Int(done), "{member} {count}");
    }
    let wanted = [(ids[0].clone(), "~free".to_owned(), 7), (ids[1].clone(), "me".to_owned(), 1)];
    assert_eq!(stage.pending().await, wanted);
}

async fn waits(server: Server) {
    let mut stage = Stage::new(&server, "later").await;
    let ids = stage.add(1).await;
    stage.read("me", 1).await;
    let roles = [":s", ":g:g:z", ":g:g:h", ":g:g:r"];
    let other = stage.script("later", &roles, &["g", "you", &ids[0], "1", "0", "4", "0"]).await;
    assert_eq!(other, Value::Int(0));
    let ours = stage.script("later", &roles, &["g", "me", &ids[0], "1", "0", "4", "0"]).await;
    assert_eq!(ours, Value::Int(1));
    assert!(stage.pending().await.is_empty());
    let ticked = flat(&stage.tick("me").await);
    assert_eq!(ticked, ["-1", "1", "0"], "nothing waits, something is to be taken");
    let private = stage.key(":g:g:r");
    let entry = flat(&stage.raw.run(&["XRANGE", &private, "-", "+"]).await);
    assert_eq!(entry[1..], ["h", "{}", "b", "0", "o", &ids[0], "a", "4"]);
    // Once more from there: it keeps where it was, and has one count.
    let words = ["XREADGROUP", "GROUP", "g", "me", "STREAMS", &private, ">"];
    stage.raw.run(&words).await;
    let roles = [":g:g:r", ":g:g:z", ":g:g:h", ":g:g:r"];
    let args = ["g", "me", &entry[0], "1", "60000", "5", "1"];
    assert_eq!(stage.script("later", &roles, &args).await, Value::Int(1));
    assert_eq!(stage.raw.number(&["XLEN", &private]).await, 0);
    let ticked = flat(&stage.tick("me").await);
    let due: i64 = ticked[0].parse().expect("a number");
    assert!((1..=60_000).contains(&due), "{ticked:?}");
    // An entry that is gone needs a copy.
    let ids = stage.add(1).await;
    stage.read("me", 1).await;
    let stream = stage.key(":s");
    stage.raw.run(&["XTRIM", &stream, "MAXLEN", "0"]).await;
    let roles = [":s", ":g:g:z", ":g:g:h", ":g:g:r"];
    let args = ["g", "me", &ids[0], "1", "0", "1", "0"];
    assert_eq!(stage.script("later", &roles, &args).await, Value::Int(-1));
    let args = ["g", "me", &ids[0], "1", "0", "1", "0", "h", "{}", "b", "9"];
    assert_eq!(stage.script("later", &roles, &args).await, Value::Int(1));
}

async fn letters(server: Server) {
    let mut stage = Stage::new(&server, "letter").await;
    let ids = stage.add(1).await;
    stage.read("me", 1).await;
    let (roles, fields) = ([":s", ":g:g:d"], ["h", "{}", "b", "0", "ph-dl-reason", "rejected"]);
    for (member, done) in [("you", 0), ("me", 1), ("me", 0)] {
        let mut args = vec!["g", member, &ids[0], "1", "0"];
        args.extend(fields);
        assert_eq!(stage.script("letter", &roles, &args).await, Value::Int(done), "{member}");
    }
    let letters = stage.key(":g:g:d");
    let id = flat(&stage.raw.run(&["XRANGE", &letters, "-", "+"]).await)[0].clone();
    let roles = [":g:g:d", ":g:g:r"];
    assert_eq!(stage.script("replay", &roles, &[&id, "none"]).await, Value::Int(-2));
    assert_eq!(stage.script("replay", &roles, &[&id, "g"]).await, Value::Int(0));
    assert_eq!(stage.script("replay", &roles, &[&id, "g"]).await, Value::Int(-1));
    assert_eq!(stage.script("discard", &[":g:g:d"], &[&id]).await, Value::Int(-1));
    let private = stage.key(":g:g:r");
    let entry = flat(&stage.raw.run(&["XRANGE", &private, "-", "+"]).await);
    assert_eq!(entry[1..], ["h", "{}", "b", "0"]);
}

async fn extends(server: Server) {
    let mut stage = Stage::new(&server, "extend").await;
    let ids = stage.add(3).await;
    stage.read("me", 2).await;
    stage.read("you", 1).await;
    let args = ["g", "me", &ids[0], "1", &ids[1], "9", &ids[2], "1"];
    assert_eq!(flat(&stage.script("extend", &[":s"], &args).await), ["1", "2"]);
    // Without a count more, and without taking what is another's.
    let owners: Vec<_> = stage.pending().await.into_iter().map(|(_, who, n)| (who, n)).collect();
    let wanted = [("me".to_owned(), 1), ("me".to_owned(), 1), ("you".to_owned(), 1)];
    assert_eq!(owners, wanted);
}

async fn takes(server: Server) {
    let mut stage = Stage::new(&server, "take").await;
    let ids = stage.add(6).await;
    stage.read("me", 6).await;
    for id in &ids[..4] {
        stage.script("release", &[":s"], &["g", "me", id, "1", "1"]).await;
    }
    let private = stage.key(":g:g:r");
    stage.raw.run(&["XADD", &private, "*", "h", "{}", "b", "private"]).await;
    let roles = [":g:g:l", ":s", ":g:g:r"];
    let Value::Array(taken) = stage.script("take", &roles, &["g", "you", "30000", "3", "0"]).await
    else {
        unreachable!("an array");
    };
    let taken: Vec<String> = flat(&taken[0]);
    assert_eq!(taken.iter().filter(|part| ids.contains(part)).count(), 3, "{taken:?}");
    // The fourth, the private one, and what is held for longer than nothing.
    let rest = flat(&stage.script("take", &roles, &["g", "you", "30000", "9", "0"]).await);
    assert!(rest.contains(&ids[3]) && rest.contains(&"private".to_owned()), "{rest:?}");
    let held: Vec<_> = stage.pending().await.into_iter().map(|(_, who, n)| (who, n)).collect();
    assert_eq!(held.iter().filter(|held| **held == ("you".to_owned(), 2)).count(), 4, "{held:?}");
    assert_eq!(held.iter().filter(|held| **held == ("me".to_owned(), 1)).count(), 2, "{held:?}");
    let ended = flat(&stage.script("take", &roles, &["g", "you", "0", "9", "0"]).await);
    assert!(ids.iter().all(|id| ended.contains(id)), "leases have ended: {ended:?}");
    // What is trimmed away is counted.
    let stream = stage.key(":s");
    stage.raw.run(&["XTRIM", &stream, "MAXLEN", "0"]).await;
    let Value::Array(gone) = stage.script("take", &roles, &["g", "you", "0", "9", "0"]).await
    else {
        unreachable!("an array");
    };
    assert_eq!(flat(&gone[0]), ["6"]);
}

async fn sweeps(server: Server) {
    let mut stage = Stage::new(&server, "sweep").await;
    let ids = stage.add(4).await;
    stage.read("gone", 2).await;
    stage.read("other", 2).await;
    stage.script("release", &[":s"], &["g", "gone", &ids[0], "1", "0"]).await;
    // Not of a lane that is another's.
    let args = ["g", "me", "-", "3", "0", "0"];
    assert_eq!(flat(&stage.script("sweep", &[":s", ":g:g:l"], &args).await), ["0", ""]);
    let lanes = stage.key(":g:g:l");
    stage.raw.run(&["HSET", &lanes, "0", "me"]).await;
    let mut swept = Vec::new();
    let mut after = "-".to_owned();
    loop {
        let answer = flat(
            &stage.script("sweep", &[":s", ":g:g:l"], &["g", "me", &after, "3", "0", "0"]).await,
        );
        swept.extend(answer.iter().filter(|part| ids.contains(part)).cloned());
        match answer.last() {
            Some(last) if !last.is_empty() => {
                swept.pop();
                after = format!("({last}");
            }
            _ => break,
        }
    }
    assert_eq!(swept, ids);
    let counts: Vec<i64> = stage.pending().await.into_iter().map(|(_, _, count)| count).collect();
    assert_eq!(counts, [1, 2, 2, 2]);
}

async fn fetches(server: Server) {
    let mut stage = Stage::new(&server, "fetch").await;
    let ids = stage.add(3).await;
    let roles = [":s", ":g:g:l"];
    let first = flat(&stage.script("fetch", &roles, &["g", "me", "2", "0", "", "0"]).await);
    assert!(first[0] == "1" && first.contains(&ids[1]) && !first.contains(&ids[2]), "{first:?}");
    // A lane of somebody else is not read, and a lane not before what was given back.
    let args = ["g", "me", "2", "1", "0", "1"];
    let other = flat(&stage.script("fetch", &roles, &args).await);
    assert_eq!(other, ["0".to_owned(), ids[1].clone()]);
    let lanes = stage.key(":g:g:l");
    stage.raw.run(&["HSET", &lanes, "0", "me"]).await;
    stage.script("release", &[":s"], &["g", "me", &ids[0], "1", "1"]).await;
    assert_eq!(flat(&stage.script("fetch", &roles, &args).await), ["2", "0"]);
    let take = [":g:g:l", ":s", ":g:g:r"];
    stage.script("take", &take, &["g", "me", "30000", "9", "0", "0", ""]).await;
    let args = ["g", "me", "2", "1", "0", "2"];
    stage.script("fetch", &roles, &args).await;
    assert_eq!(stage.pending().await.len(), 2, "the third was settled by that");
    let none = flat(&stage.script("fetch", &roles, &args).await);
    assert_eq!(none, ["0".to_owned(), ids[2].clone()]);
}

async fn gives_back(server: Server) {
    let mut stage = Stage::new(&server, "give-back").await;
    let ids = stage.add(3).await;
    stage.script("fetch", &[":s", ":g:g:l"], &["g", "me", "3", "0", "", "0"]).await;
    let roles = [":s", ":g:g:l"];
    let args = ["g", "me", "0", "9", &ids[1]];
    // Only the owner of the lane may say that.
    assert_eq!(stage.script("give_back", &roles, &args).await, Value::Int(0));
    let lanes = stage.key(":g:g:l");
    stage.raw.run(&["HSET", &lanes, "0", "me"]).await;
    assert_eq!(stage.script("give_back", &roles, &args).await, Value::Int(2));
    let with: Vec<(String, i64)> =
        stage.pending().await.into_iter().map(|(_, member, count)| (member, count)).collect();
    let expected = [("~free", 1), ("me", 1), ("~free", 1)];
    assert_eq!(with, expected.map(|(member, count)| (member.to_owned(), count)));
    assert_eq!(stage.script("give_back", &roles, &args).await, Value::Int(0));
}

async fn divides(server: Server) {
    let mut stage = Stage::new(&server, "lanes").await;
    let roles = [":g:g:m", ":g:g:l"];
    let owned = |lanes: &Value| match lanes {
        Value::Array(parts) => (flat(&parts[0]), flat(&parts[1])),
        _ => unreachable!("an array"),
    };
    stage.tick("a").await;
    let alone = owned(&stage.script("lanes", &roles, &["a", "5"]).await);
    assert_eq!((alone.0.len(), alone.1.len()), (5, 0));
    stage.tick("b").await;
    let none = owned(&stage.script("lanes", &roles, &["b", "5"]).await);
    assert!(none.0.is_empty(), "nothing is free");
    let (all, going) = owned(&stage.script("lanes", &roles, &["a", "5"]).await);
    assert_eq!((all.len(), going.len()), (5, 2));
    for lane in &going {
        stage.script("free", &[":s", ":g:g:l"], &["g", "a", lane, "0"]).await;
    }
    let (theirs, _) = owned(&stage.script("lanes", &roles, &["b", "5"]).await);
    assert_eq!(theirs, going);
    let (ours, going) = owned(&stage.script("lanes", &roles, &["a", "5"]).await);
    assert_eq!((ours.len(), going.len()), (3, 0));
    // Who is gone leaves its own, and nothing else moves.
    let members = stage.key(":g:g:m");
    stage.raw.run(&["ZREM", &members, "b"]).await;
    let (again, _) = owned(&stage.script("lanes", &roles, &["a", "5"]).await);
    assert_eq!(again.len(), 5);
}

async fn frees(server: Server) {
    let mut stage = Stage::new(&server, "free").await;
    let ids = stage.add(1).await;
    stage.read("me", 1).await;
    let (lanes, stream) = (stage.key(":g:g:l"), stage.key(":s"));
    stage.raw.run(&["HSET", &lanes, "0", "me"]).await;
    let roles = [":s", ":g:g:l"];
    assert_eq!(stage.script("free", &roles, &["g", "me", "0", "0"]).await, Value::Int(0));
    stage.raw.run(&["XACK", &stream, "g", &ids[0]]).await;
    assert_eq!(stage.script("free", &roles, &["g", "you", "0", "0"]).await, Value::Int(1));
    assert_eq!(flat(&stage.raw.run(&["HGET", &lanes, "0"]).await), ["me"], "another's stays");
    assert_eq!(stage.script("free", &roles, &["g", "me", "0", "0"]).await, Value::Int(1));
    assert_eq!(stage.raw.number(&["EXISTS", &lanes]).await, 0);
}

async fn tidies(server: Server) {
    let mut stage = Stage::new(&server, "tidy").await;
    let (stream, base) = (stage.key(":s"), stage.key(":g:"));
    let ids = stage.add(350).await;
    let args = [base.as_str(), "0", "", "3600000"];
    stage.script("tidy", &["", ":s"], &args).await;
    assert_eq!(stage.raw.number(&["XLEN", &stream]).await, 350, "nothing was read");
    stage.read("me", 300).await;
    for id in ids[..300].iter().filter(|id| **id != ids[250]) {
        stage.raw.run(&["XACK", &stream, "g", id]).await;
    }
    stage.script("tidy", &["", ":s"], &args).await;
    let left = flat(&stage.raw.run(&["XRANGE", &stream, "-", "+"]).await);
    assert!(ids[250..].iter().all(|id| left.contains(id)), "what is unsettled stays");
    assert!(!left.contains(&ids[0]), "what is settled goes");
    // What is younger than it is kept stays, too.
    let before = stage.raw.number(&["XLEN", &stream]).await;
    stage.raw.run(&["XACK", &stream, "g", &ids[250]]).await;
    stage.script("tidy", &["", ":s"], &[&base, "600000", "", "3600000"]).await;
    assert_eq!(stage.raw.number(&["XLEN", &stream]).await, before);
    // A group without a name whose member is gone holds nothing back.
    stage.raw.run(&["XGROUP", "CREATE", &stream, "~gone", "0"]).await;
    stage.script("tidy", &["", ":s"], &args).await;
    let groups = flat(&stage.raw.run(&["XINFO", "GROUPS", &stream]).await);
    assert!(!groups.contains(&"~gone".to_owned()), "{groups:?}");
}

async fn counts(server: Server) {
    let mut stage = Stage::new(&server, "lag").await;
    stage.add(5).await;
    stage.read("me", 2).await;
    let roles = ["", ":g:g:r", ":g:g:z", ":z", ":s"];
    let lag = flat(&stage.script("lag", &roles, &["g"]).await);
    assert_eq!(
        (&lag[0], &lag[1], &lag[2], &lag[4]),
        (&"3".into(), &"2".into(), &"0".into(), &"1".into())
    );
    stage.tick("me").await;
    let seek = ["", ":g:g:m", ":g:g:r", ":g:g:z", ":g:g:h", ":s"];
    assert_eq!(flat(&stage.script("seek", &seek, &["g", "0"]).await), ["me"], "it has a member");
    let members = stage.key(":g:g:m");
    stage.raw.run(&["DEL", &members]).await;
    assert_eq!(stage.script("seek", &seek, &["g", "0"]).await, Value::Int(0));
    assert_eq!(flat(&stage.script("lag", &roles, &["g"]).await)[0], "5");
    let base = stage.key(":g:");
    let groups = flat(&stage.script("groups", &["", ":s"], &[&base]).await);
    assert_eq!((&groups[0], &groups[1], &groups[3]), (&"g".into(), &"0".into(), &"5".into()));
    let purge = ["", ":z", ":h", ":s"];
    assert_eq!(stage.script("purge", &purge, &[&base]).await, Value::Int(5));
    assert_eq!(flat(&stage.script("lag", &roles, &["g"]).await)[0], "0");
    assert_eq!(flat(&stage.tick("me").await), ["-1", "0", "5"], "the loss is told once");
    assert_eq!(flat(&stage.tick("me").await), ["-1", "0", "0"]);
}

async fn leaves(server: Server) {
    let mut stage = Stage::new(&server, "leave").await;
    stage.add(2).await;
    stage.read("me", 1).await;
    stage.tick("me").await;
    let roles = ["", ":g:g:m", ":g:g:l", ":g:g:z", ":g:g:h", ":g:g:r", ":s"];
    stage.script("leave", &roles, &["g", "me"]).await;
    assert_eq!(stage.pending().await.len(), 1, "what it held is still there");
    let delete = ["", ":g:g:m", ":g:g:l", ":g:g:r", ":g:g:z", ":g:g:h", ":g:g:d", ":s"];
    assert_eq!(stage.script("delete_group", &delete, &["g"]).await, Value::Int(0));
    assert_eq!(stage.script("delete_group", &delete, &["g"]).await, Value::Int(-2));
    let base = stage.key(":g:");
    stage.script("delete_topic", &["", ":z", ":h", ":s"], &[&base]).await;
    let (record, stream) = (stage.key(""), stage.key(":s"));
    assert_eq!(stage.raw.number(&["EXISTS", &record, &stream]).await, 0);
}
