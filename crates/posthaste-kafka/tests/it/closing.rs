//! The end of a connection: what is on its way goes out, and nothing outlives the deadline.

use std::time::Duration;

use posthaste_core::{ErrorKind, Layout};
use tokio::time::Instant;

use crate::adapter::{Adapter, envelope, fresh, native};
use crate::raw;
use crate::server::{Private, Server};
use crate::suite::Suite;

pub(crate) fn add(suite: &mut Suite) {
    suite.add("after_close_everything_is_closed", closed);
    suite.add("close_lets_go_out_what_is_on_its_way", on_its_way);
    suite.private("close_without_a_broker_ends_in_time", without_a_broker);
}

fn soon(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

async fn closed(server: Server) {
    let to = fresh("closed", Layout::Plain);
    raw::create(&server, &native(&to), 1, &[]).await;
    let adapter = Adapter::connect(server.config()).await.unwrap();
    adapter.store(&to, &[envelope("a")]).await;
    let start = Instant::now();
    adapter.close(soon(10)).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    adapter.close(soon(10)).await.unwrap();
    for error in [
        adapter.publish(&to, &[envelope("b")]).await.unwrap_err(),
        adapter.health().await.unwrap_err(),
        adapter.admin().describe(&to.topic).await.unwrap_err(),
        adapter.admin().delete_topic(&to.topic).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Closed, "{error:?}");
    }
}

async fn on_its_way(server: Server) {
    let to = fresh("on-its-way", Layout::Plain);
    raw::create(&server, &native(&to), 2, &[]).await;
    let adapter = Adapter::connect(server.config()).await.unwrap();
    adapter.store(&to, &[envelope("first")]).await;
    let batch: Vec<_> = (0..2_000).map(|n| envelope(format!("{n}"))).collect();
    let publish = adapter.store(&to, &batch);
    let close = async {
        // It is polled after the batch was handed over.
        tokio::task::yield_now().await;
        adapter.close(soon(20)).await
    };
    let (stored, closed) = tokio::join!(publish, close);
    closed.unwrap();
    assert_eq!(stored.len(), 2_000);
    assert_eq!(raw::read_all(&server, &native(&to)).await.len(), 2_001);
}

async fn without_a_broker(mut private: Private) {
    let (server, to) = (private.server(), fresh("stuck", Layout::Plain));
    raw::create(&server, &native(&to), 1, &[]).await;
    let adapter = Adapter::connect(server.config()).await.unwrap();
    adapter.store(&to, &[envelope("a")]).await;
    private.kill().await;
    let batch = [envelope("b"), envelope("c")];
    let publish = adapter.publish(&to, &batch);
    let close = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let start = Instant::now();
        let closed = adapter.close(soon(3)).await;
        assert!(start.elapsed() < Duration::from_millis(3_500), "{:?}", start.elapsed());
        closed
    };
    let (outcomes, closed) = tokio::join!(publish, close);
    let error = closed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    // Whoever waited is told.
    for outcome in outcomes.unwrap() {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Closed, "{error:?}");
    }
}
