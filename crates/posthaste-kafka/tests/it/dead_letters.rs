//! Dead letters are listed, discarded and sent back. Another program writes them here.

use std::time::Duration;

use posthaste_core::broker::{DeadLetterPage, DeadLetterQuery, Destination, Start, StoredLetter};
use posthaste_core::{
    Cause, Envelope, ErrorKind, LetterId, Reason, Result, Timestamp, TopicConfig,
};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use uuid::Uuid;

use crate::adapter::{Adapter, failed, group, name, topic};
use crate::raw::{self, Raw};
use crate::server::Server;
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("a_letter_is_listed_with_all_that_was_recorded", recorded);
    suite.add("letters_are_listed_by_pages_without_the_removed_ones", pages);
    suite.add("a_discarded_letter_is_gone_and_the_others_stay", discarded);
    suite.add("a_replayed_letter_goes_to_its_group_and_is_gone", replayed);
    suite.add("a_letter_is_not_replayed_to_a_group_that_is_gone", nobody);
    suite.add("where_nobody_has_failed_there_are_no_letters", none);
    suite.add("what_is_no_letter_is_passed_over", not_letters);
    suite.add("an_id_is_not_that_of_a_letter_in_a_newer_topic", newer);
    suite.add("many_letters_are_listed_replayed_and_discarded", many);
}

/// A topic with the group `g`.
async fn made(server: &Server, part: &str) -> (Adapter, Destination) {
    let adapter = Adapter::connect(server.config()).await.expect("the broker is there");
    let to = adapter.ensure(TopicConfig::new(name(part)).group("g")).await;
    (adapter, to)
}

fn letters_of(to: &Destination) -> String {
    format!("{}__g__dlq", to.topic)
}

async fn made_letters(server: &Server, to: &Destination) {
    raw::create(server, &letters_of(to), 1, &[("cleanup.policy", "compact")]).await;
}

/// A record of another program.
struct Record {
    key: String,
    payload: Option<Vec<u8>>,
    headers: Vec<(&'static str, String)>,
}

impl Record {
    fn tombstone(key: &str) -> Self {
        Self { key: key.to_owned(), payload: None, headers: Vec::new() }
    }
}

/// A letter with a number as its message.
fn letter(to: &Destination, number: u32) -> Record {
    let header = |name, value: &str| (name, value.to_owned());
    Record {
        key: Uuid::now_v7().to_string(),
        payload: Some(number.to_string().into_bytes()),
        headers: vec![
            header("ce_specversion", "1.0"),
            header("ce_id", &format!("id-{number}")),
            header("ce_source", "/it"),
            header("ce_type", "test"),
            header("ce_time", "2026-01-02T03:04:05Z"),
            header("tenant", "acme"),
            header("ce_partitionkey", &format!("key-{number}")),
            header("ph-dl-reason", "rejected"),
            header("ph-dl-topic", to.topic.as_str()),
            header("ph-dl-group", "g"),
            header("ph-dl-attempts", "2"),
            header("ph-dl-failed", "2026-01-02T03:05:00Z"),
        ],
    }
}

/// Writes them in their order.
async fn write(server: &Server, name: &str, records: Vec<Record>) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", server.address());
    let name = name.to_owned();
    let writing = tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = config.create().expect("a client");
        for record in &records {
            let mut headers = OwnedHeaders::new();
            for (key, value) in &record.headers {
                headers = headers.insert(Header { key, value: Some(value) });
            }
            let mut sent = BaseRecord::to(&name).key(&record.key).headers(headers);
            if let Some(payload) = &record.payload {
                sent = sent.payload(payload);
            }
            producer.send(sent).map_err(|(error, _)| error).expect("sent");
        }
        producer.flush(Duration::from_secs(20)).expect("stored");
    });
    writing.await.expect("no panic");
}

async fn write_numbers(server: &Server, to: &Destination, numbers: std::ops::Range<u32>) {
    made_letters(server, to).await;
    let letters = numbers.map(|number| letter(to, number)).collect();
    write(server, &letters_of(to), letters).await;
}

async fn page(
    adapter: &Adapter,
    to: &Destination,
    after: Option<&LetterId>,
    limit: usize,
) -> Result<DeadLetterPage> {
    let mut query = DeadLetterQuery::first(limit);
    query.after = after.cloned();
    adapter.admin().dead_letters(&to.topic, &group("g"), &query).await
}

async fn all(adapter: &Adapter, to: &Destination) -> Vec<StoredLetter> {
    let page = page(adapter, to, None, 10_000).await.expect("a page");
    assert!(page.exact);
    page.letters
}

fn numbers(letters: &[StoredLetter]) -> Vec<u32> {
    let text = |one: &StoredLetter| {
        std::str::from_utf8(one.letter.envelope.payload()).expect("a text").to_owned()
    };
    letters.iter().map(|one| text(one).parse().expect("a number")).collect()
}

fn ids(letters: &[StoredLetter]) -> Vec<LetterId> {
    letters.iter().map(|one| one.id.clone()).collect()
}

fn kinds(outcomes: &[Result<()>]) -> Vec<Option<ErrorKind>> {
    outcomes.iter().map(|one| one.as_ref().err().map(posthaste_core::Error::kind)).collect()
}

const GONE: Option<ErrorKind> = Some(ErrorKind::NotFound);

async fn discard(adapter: &Adapter, to: &Destination, ids: &[LetterId]) -> Vec<Option<ErrorKind>> {
    kinds(&adapter.admin().discard(&to.topic, &group("g"), ids).await.expect("outcomes"))
}

async fn replay(adapter: &Adapter, to: &Destination, ids: &[LetterId]) -> Vec<Option<ErrorKind>> {
    kinds(&adapter.admin().replay(&to.topic, &group("g"), ids).await.expect("outcomes"))
}

async fn recorded(server: Server) {
    let (adapter, to) = made(&server, "recorded").await;
    made_letters(&server, &to).await;
    let mut full = letter(&to, 7);
    full.payload = Some(b"\x00\xff".to_vec());
    for (name, value) in &mut full.headers {
        if *name == "ce_partitionkey" {
            // The bytes `k`, 0xff and a line feed.
            (*name, *value) = ("ce_partitionkeybase64", "a/8K".to_owned());
        }
    }
    full.headers.extend([
        ("ph-dl-first-failed", "2026-01-02T03:04:30Z".to_owned()),
        ("ph-dl-cause", r#"["no luck","none at all"]"#.to_owned()),
        ("ph-dl-handler", "charge".to_owned()),
    ]);
    let mut empty = letter(&to, 8);
    empty.payload = Some(Vec::new());
    write(&server, &letters_of(&to), vec![full, empty]).await;
    let found = all(&adapter, &to).await;
    assert_eq!(found.len(), 2);
    let time = |text: &str| text.parse::<Timestamp>().unwrap();
    let sent = Envelope::builder("test")
        .id("id-7")
        .source("/it")
        .time(time("2026-01-02T03:04:05Z"))
        .key(&b"k\xff\n"[..])
        .header("tenant", "acme")
        .payload(&b"\x00\xff"[..])
        .build()
        .unwrap();
    let letter = &found[0].letter;
    assert_eq!(letter.envelope, sent);
    assert_eq!((&letter.reason, letter.attempts), (&Reason::Rejected, 2));
    assert_eq!((letter.topic.clone(), letter.group.as_str()), (to.topic.clone(), "g"));
    assert_eq!(letter.first_failed_at, Some(time("2026-01-02T03:04:30Z")));
    assert_eq!(letter.failed_at, time("2026-01-02T03:05:00Z"));
    let chain = vec!["no luck".to_owned(), "none at all".to_owned()];
    assert_eq!(letter.cause, Some(Cause::from_chain(chain, Some("charge".to_owned()))));
    let other = &found[1].letter;
    assert_eq!((other.envelope.key(), other.envelope.payload().len()), (Some(&b"key-8"[..]), 0));
    assert_eq!((&other.cause, other.first_failed_at), (&None, None));
}

async fn pages(server: Server) {
    let (adapter, to) = made(&server, "pages").await;
    made_letters(&server, &to).await;
    let letters: Vec<_> = (0..10).map(|number| letter(&to, number)).collect();
    let gone: Vec<_> =
        [0, 4, 5, 9].iter().map(|at: &usize| Record::tombstone(&letters[*at].key)).collect();
    write(&server, &letters_of(&to), letters).await;
    let before = all(&adapter, &to).await;
    assert_eq!(numbers(&before), (0..10).collect::<Vec<_>>());
    write(&server, &letters_of(&to), gone).await;
    assert_eq!(numbers(&all(&adapter, &to).await), [1, 2, 3, 6, 7, 8]);
    let mut listed = Vec::new();
    let mut after = None;
    loop {
        let mut page = page(&adapter, &to, after.as_ref(), 4).await.unwrap().letters;
        let Some(last) = page.last() else { break };
        assert!(page.len() == 4 || page.len() == 2, "{}", page.len());
        after = Some(last.id.clone());
        listed.append(&mut page);
    }
    assert_eq!(numbers(&listed), [1, 2, 3, 6, 7, 8]);
    // Behind one that was removed since, too.
    let behind = page(&adapter, &to, Some(&before[4].id), 2).await.unwrap();
    assert_eq!(numbers(&behind.letters), [6, 7]);
    assert!(page(&adapter, &to, None, 0).await.unwrap().letters.is_empty());
    let unknown = LetterId::new("no-such-letter");
    failed(page(&adapter, &to, Some(&unknown), 1).await, ErrorKind::NotFound, &[unknown.as_str()]);
}

async fn discarded(server: Server) {
    let (adapter, to) = made(&server, "discarded").await;
    write_numbers(&server, &to, 0..6).await;
    let ids = ids(&all(&adapter, &to).await);
    let other = LetterId::new(format!("1.{}", Uuid::now_v7()));
    let asked = [&ids[3], &LetterId::new("7"), &ids[0], &ids[3], &other].map(Clone::clone);
    assert_eq!(discard(&adapter, &to, &asked).await, [None, GONE, None, GONE, GONE]);
    assert_eq!(numbers(&all(&adapter, &to).await), [1, 2, 4, 5]);
    assert_eq!(discard(&adapter, &to, &ids[2..4]).await, [None, GONE]);
    assert_eq!(discard(&adapter, &to, &[]).await, []);
    assert_eq!(numbers(&all(&adapter, &to).await), [1, 4, 5]);
    // What compaction needs: a record without a value under the same key.
    let records = raw::read_all(&server, &letters_of(&to)).await;
    let tombstones: Vec<_> = records.iter().filter(|raw| raw.payload.is_none()).collect();
    let keys: Vec<_> = tombstones.iter().map(|raw| raw.key.clone()).collect();
    assert_eq!(keys, [3, 0, 2].map(|at: usize| records[at].key.clone()));
    assert_eq!(discard(&adapter, &to, &ids).await, [GONE, None, GONE, GONE, None, None]);
    assert!(all(&adapter, &to).await.is_empty());
}

async fn replayed(server: Server) {
    let (adapter, to) = made(&server, "replayed").await;
    write_numbers(&server, &to, 0..4).await;
    let ids = ids(&all(&adapter, &to).await);
    // The oldest comes first, whoever is named first.
    let asked = [&ids[2], &ids[0], &ids[2], &LetterId::new("x")].map(Clone::clone);
    assert_eq!(replay(&adapter, &to, &asked).await, [None, None, GONE, GONE]);
    assert_eq!(numbers(&all(&adapter, &to).await), [1, 3]);
    let copies = raw::read_all(&server, &format!("{}__g__retry", to.topic)).await;
    assert_eq!(copies.iter().map(Raw::text).collect::<Vec<_>>(), ["0", "2"]);
    for (copy, number) in copies.iter().zip([0, 2]) {
        assert_eq!(copy.key.as_deref(), Some(format!("key-{number}").as_bytes()));
        assert_eq!(copy.header("ce_id"), Some(format!("id-{number}").as_bytes()));
        assert_eq!(copy.header("ce_time"), Some(&b"2026-01-02T03:04:05Z"[..]));
        assert_eq!(copy.header("tenant"), Some(&b"acme"[..]));
        assert_eq!(copy.header("ph-deliver-at"), None);
        let of_a_letter = |(name, _): &&(String, _)| {
            name.starts_with("ph-dl-") || name.starts_with("ce_partitionkey")
        };
        assert_eq!(copy.headers.iter().find(of_a_letter), None);
    }
    assert_eq!(replay(&adapter, &to, &ids).await, [GONE, None, GONE, None]);
    assert_eq!(replay(&adapter, &to, &ids).await, [GONE; 4]);
    assert_eq!(discard(&adapter, &to, &ids).await, [GONE; 4]);
    assert_eq!(raw::read_all(&server, &format!("{}__g__retry", to.topic)).await.len(), 4);
    // No other group gets it.
    let range = posthaste_core::broker::RangeQuery::new(Start::Earliest, 10);
    assert!(adapter.admin().range(&to.topic, &range).await.unwrap().is_empty());
}

async fn nobody(server: Server) {
    let (adapter, to) = made(&server, "nobody").await;
    write_numbers(&server, &to, 0..2).await;
    adapter.admin().delete_group(&to.topic, &group("g")).await.unwrap();
    let found = all(&adapter, &to).await;
    assert_eq!(numbers(&found), [0, 1], "the letters of a group that was deleted stay");
    assert_eq!(replay(&adapter, &to, &ids(&found)).await, [GONE; 2]);
    assert_eq!(numbers(&all(&adapter, &to).await), [0, 1]);
    assert!(!raw::topics(&server).await.contains(&format!("{}__g__retry", to.topic)));
    assert_eq!(discard(&adapter, &to, &ids(&found)).await, [None; 2]);
}

async fn none(server: Server) {
    let (adapter, to) = made(&server, "none").await;
    assert!(all(&adapter, &to).await.is_empty());
    let asked = [LetterId::new(format!("0.{}", Uuid::now_v7())), LetterId::new("")];
    assert_eq!(discard(&adapter, &to, &asked).await, [GONE; 2]);
    assert_eq!(replay(&adapter, &to, &asked).await, [GONE; 2]);
    let (admin, query) = (adapter.admin(), DeadLetterQuery::first(1));
    let other = admin.dead_letters(&to.topic, &group("other"), &query).await;
    failed(other, ErrorKind::NotFound, &["other"]);
    let nowhere = topic(&format!("{}.nowhere", to.topic));
    let of_nowhere = admin.dead_letters(&nowhere, &group("g"), &query).await;
    failed(of_nowhere, ErrorKind::NotFound, &["nowhere"]);
    assert!(!raw::topics(&server).await.contains(&letters_of(&to)), "asking makes no topic");
    // With their topic the letters are gone too.
    write_numbers(&server, &to, 0..3).await;
    let found = all(&adapter, &to).await;
    admin.delete_topic(&to.topic).await.unwrap();
    failed(page(&adapter, &to, None, 1).await, ErrorKind::NotFound, &[]);
    assert_eq!(discard(&adapter, &to, &ids(&found)).await, [GONE; 3]);
}

async fn not_letters(server: Server) {
    let (adapter, to) = made(&server, "not-letters").await;
    made_letters(&server, &to).await;
    let named = |key: &str, number| Record { key: key.to_owned(), ..letter(&to, number) };
    let uuid = Uuid::now_v7().to_string();
    let records = vec![
        Record { headers: Vec::new(), ..letter(&to, 100) },
        letter(&to, 0),
        named("order-7", 101),
        named(&uuid.to_uppercase(), 102),
        letter(&to, 1),
        Record::tombstone("order-8"),
        Record::tombstone(&uuid),
        letter(&to, 2),
    ];
    write(&server, &letters_of(&to), records).await;
    let first = page(&adapter, &to, None, 2).await.unwrap().letters;
    assert_eq!(numbers(&first), [0, 1]);
    assert_eq!(numbers(&all(&adapter, &to).await), [0, 1, 2]);
    // The record at that place, but no letter.
    let records = raw::read_all(&server, &letters_of(&to)).await;
    let key = String::from_utf8(records[0].key.clone().unwrap()).unwrap();
    assert_eq!(discard(&adapter, &to, &[LetterId::new(format!("0.{key}"))]).await, [GONE]);
}

async fn newer(server: Server) {
    let (adapter, to) = made(&server, "newer").await;
    write_numbers(&server, &to, 0..3).await;
    let old = ids(&all(&adapter, &to).await);
    raw::delete(&server, &letters_of(&to)).await;
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while raw::topics(&server).await.contains(&letters_of(&to)) {
        assert!(tokio::time::Instant::now() < until, "the topic does not go");
    }
    assert!(all(&adapter, &to).await.is_empty(), "as if there had been none");
    assert_eq!(discard(&adapter, &to, &old).await, [GONE; 3]);
    write_numbers(&server, &to, 10..13).await;
    assert_eq!(discard(&adapter, &to, &old).await, [GONE; 3]);
    assert_eq!(replay(&adapter, &to, &old).await, [GONE; 3]);
    assert_eq!(numbers(&all(&adapter, &to).await), [10, 11, 12]);
}

/// Each call is one of many letters, and ends by its deadline.
async fn many(server: Server) {
    let (adapter, to) = made(&server, "many").await;
    write_numbers(&server, &to, 0..1_000).await;
    let found = all(&adapter, &to).await;
    assert_eq!(numbers(&found), (0..1_000).collect::<Vec<_>>());
    let ids = ids(&found);
    let last = page(&adapter, &to, Some(&ids[989]), 100).await.unwrap();
    assert_eq!(numbers(&last.letters), (990..1_000).collect::<Vec<_>>());
    assert_eq!(replay(&adapter, &to, &ids[200..500]).await, [None; 300]);
    assert_eq!(discard(&adapter, &to, &ids[..200]).await, [None; 200]);
    assert_eq!(numbers(&all(&adapter, &to).await), (500..1_000).collect::<Vec<_>>());
    let copies = raw::read_all(&server, &format!("{}__g__retry", to.topic)).await;
    assert_eq!(copies.len(), 300);
}
