//! A producer that fails for good: everything that waits is told, and the next one works.
//!
//! No broker of Kafka does that on request, so a stand-in of the client's is asked for it.

use std::time::Duration;

use posthaste_core::{ErrorKind, Health, Layout, Retry};
use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use tokio::time::Instant;

use crate::adapter::{Adapter, KafkaConfig, fresh, keyed, native};
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.alone("a_producer_that_fails_for_good_tells_all_and_is_made_anew", fatal);
}

async fn fatal() {
    let cluster = MockCluster::new(1).unwrap();
    let to = fresh("fatal", Layout::Plain);
    cluster.create_topic(&native(&to), 1, 1).unwrap();
    let adapter = Adapter::connect(KafkaConfig::new(cluster.bootstrap_servers())).await.unwrap();
    adapter.store(&to, &[keyed("k", "0")]).await;
    // Several requests are under way at once: the client puts the later ones back to send them
    // again, just after it has failed.
    cluster.broker_round_trip_time(1, Duration::from_millis(300)).unwrap();
    // The broker says that the producer has another one's place, to all that is under way.
    let fenced = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER; 20];
    cluster.request_errors(RDKafkaApiKey::Produce, &fenced);
    let flights = (1..6).map(|n: u32| {
        let (adapter, to) = (&adapter, &to);
        async move {
            tokio::time::sleep(Duration::from_millis(20) * n).await;
            adapter.publish(to, &[keyed("k", n.to_string()), keyed("k", "x")]).await
        }
    });
    let start = Instant::now();
    let outcomes = futures_util::future::join_all(flights).await;
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    let mut told = 0;
    for outcome in outcomes.into_iter().flat_map(Result::unwrap) {
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), error.retry()), (ErrorKind::Fatal, Retry::Never), "{error:?}");
        told += 1;
    }
    assert_eq!(told, 10);
    let Health::Down(why) = adapter.health().await.unwrap() else { unreachable!("it is not told") };
    assert!(why.contains("failed for good"), "{why}");
    cluster.clear_request_errors(RDKafkaApiKey::Produce);
    // By then it is made anew: who asks, or publishes, brings that about.
    adapter.lives(Instant::now() + Duration::from_secs(5)).await;
    adapter.store(&to, &[keyed("k", "1")]).await;
    adapter.close(Instant::now() + Duration::from_secs(10)).await.unwrap();
}
