//! URLs, bounds and the handle: P27, P34.

use posthaste_core::broker::{Broker, Publish, SendOptions};
use posthaste_core::{ErrorKind, Promise, Support};
use posthaste_memory::{MemoryBroker, MemoryConfig};
use proptest::prelude::*;

use crate::support::*;

fn invalid(url: &str) -> String {
    let error = MemoryConfig::from_url(url).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{url}");
    error.to_string()
}

#[test]
fn urls_are_read() {
    let config = MemoryConfig::from_url("memory://").unwrap();
    assert_eq!(config, MemoryConfig::new());
    let url = "memory://tests?max_messages=10&max_bytes=1000&max_message_bytes=100\
               &deduplication_window=60";
    let config = MemoryConfig::from_url(url).unwrap();
    let same = MemoryConfig::new()
        .name("tests")
        .max_messages(10)
        .max_bytes(1_000)
        .max_message_bytes(100)
        .deduplication_window(secs(60));
    assert_eq!(config, same);
}

#[test]
fn wrong_urls_are_named() {
    assert!(invalid("kafka://host").contains("kafka"));
    assert!(invalid("not a url").contains("malformed"));
    assert!(invalid("memory://x?max_mesages=3").contains("max_mesages"));
    assert!(invalid("memory://x?max_messages=many").contains("many"));
    assert!(invalid("memory://x?max_messages=0").contains("max_messages"));
    assert!(!invalid("memory://user:secret@x").contains("secret"));
    let zero = MemoryBroker::with_config(MemoryConfig::new().max_bytes(0)).unwrap_err();
    assert_eq!(zero.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_url_is_a_private_broker_and_a_clone_is_not() {
    let open = || MemoryBroker::with_config(MemoryConfig::from_url("memory://same").unwrap());
    let (one, other) = (open().unwrap(), open().unwrap());
    let to = plain(&one).await;
    assert_eq!(kinds(&send(&other, &to, [message(1)]).await), [Some(ErrorKind::NotFound)]);
    let clone = one.clone();
    put(&clone, &to, [1]).await;
    assert_eq!(ids(&Sub::group(&one).await.take(1).await), ["1"]);
}

#[tokio::test]
async fn closing_one_connection_leaves_the_others() {
    let broker = MemoryBroker::new();
    let to = plain(&broker).await;
    let clone = broker.clone();
    let mut sub = Sub::group(&clone).await;
    let mut waiting = Box::pin(async move { sub.next(1).await.map(|_| ()) });
    assert!(poll_once(waiting.as_mut()).is_pending());
    clone.close(tokio::time::Instant::now()).await.unwrap();
    clone.close(tokio::time::Instant::now()).await.unwrap();
    assert_eq!(waiting.await.unwrap_err().kind(), ErrorKind::Closed);

    let published = clone.publish(&to, &mut [message(1)], &SendOptions::default()).await;
    assert_eq!(published.unwrap_err().kind(), ErrorKind::Closed);
    let subscribed = clone.subscribe(request(Some(GROUP))).await;
    assert_eq!(subscribed.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(clone.health().await.unwrap_err().kind(), ErrorKind::Closed);
    let described = clone.admin().describe(&topic_name()).await;
    assert_eq!(described.unwrap_err().kind(), ErrorKind::Closed);

    put(&broker, &to, [1]).await;
    assert!(broker.health().await.unwrap().is_live());
}

#[tokio::test]
async fn the_native_client_is_in_reach_and_binding_is_refused() {
    let broker = MemoryBroker::new();
    let native = Broker::native(&broker).and_then(|any| any.downcast_ref::<MemoryBroker>());
    assert!(native.is_some());
    let capabilities = broker.capabilities(None);
    assert_eq!(capabilities.broker, "memory");
    assert!(matches!(capabilities.promise(Promise::P34), Support::Refused(_)));
    let refused = Promise::ALL.iter().filter(|promise| !capabilities.promise(**promise).is_kept());
    assert_eq!(refused.count(), 1, "everything else is kept");
}

proptest! {
    #[test]
    fn any_url_is_read_or_refused(text in "(memory://)?[a-z]{0,4}(\\?)?\\PC{0,30}") {
        if let Err(error) = MemoryConfig::from_url(&text) {
            prop_assert_eq!(error.kind(), ErrorKind::Invalid);
            prop_assert!(!error.to_string().contains('\n'));
        }
    }
}
