//! What a user may not do: a login that has the rights an application needs, and no others.

use std::collections::BTreeSet;
use std::time::Duration;

use posthaste_core::TopicConfig;
use posthaste_core::broker::Broker as _;
use posthaste_nats::NatsBroker;
use tokio::time::Instant;

use crate::drive::{Reader, ensure, fresh, publish_numbers, request};
use crate::server::{Private, Server};
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    for id in ["nats", "nats@2.9"] {
        suite.on_program(id, "a_user_who_may_not_publish_to_inboxes_loses_nothing", no_inboxes);
    }
}

const LEASE: Duration = Duration::from_secs(30);

/// The user may ask and acknowledge, but send nothing to an inbox. So a member that stops gets no
/// marks behind what is on its way; it waits a second for them, and nothing is lost by that.
async fn no_inboxes(server: Server) {
    let config = "authorization { users: [ { user: app, password: secret, permissions: {
        publish: [ \"it.>\", \"$JS.>\" ], subscribe: [ \"_INBOX.>\" ]
    } } ] }";
    let private = Private::configured(&server, Some(config.to_owned())).await;
    let server = private.server();
    let connect = || async {
        let config = server.config().login("app", "secret");
        NatsBroker::connect(config).await.expect("the login is right")
    };
    let (broker, other) = (connect().await, connect().await);
    let name = fresh("rights");
    let to = ensure(&broker, TopicConfig::new(&name).group("g")).await;
    // Servers before 2.10.15 may give one to a request that ends just then: it comes again with
    // the end of its lease, which is long where that must not happen.
    let is_exact = broker.capabilities(None).exact_attempts;
    let lease = if is_exact { LEASE } else { LEASE / 10 };
    let reader = || {
        let mut reader = request(&[&name], Some("g"));
        reader.lease = lease;
        reader
    };
    let mut one = Reader::start(&broker, reader()).await;
    publish_numbers(&broker, &to, 0..300).await;
    let mut got = one.drain(100).await;
    let start = Instant::now();
    one.stop().await;
    assert!(start.elapsed() < Duration::from_secs(5), "a stop took {:?}", start.elapsed());
    let mut two = Reader::start(&other, reader()).await;
    let mut all: BTreeSet<String> = got.iter().cloned().collect();
    while all.len() < 300 {
        let more = two.drain(1).await;
        all.extend(more.iter().cloned());
        got.extend(more);
    }
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    // Servers that do not count exactly may send one more than once.
    if is_exact {
        assert_eq!(got.len(), 300);
        assert!(two.is_quiet(Duration::from_millis(300)).await);
    }
}
