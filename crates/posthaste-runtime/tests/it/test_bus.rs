//! The test kit: an application's consumers, given, when, then.

use posthaste_core::TopicConfig;
use posthaste_runtime::*;

use crate::shop::*;

async fn bill(order: Payload<Placed>) -> Result<Publish<Cancelled>, HandlerError> {
    match order.number {
        0 => Err(Permanent("nothing ordered").into()),
        _ => Ok(Publish::to("bills", Cancelled { id: order.0.id })),
    }
}

async fn slow(_: Payload<Cancelled>) {
    tokio::time::sleep(600 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn what_consumers_do_can_be_asked() {
    let shop = Shop::plain().await;
    shop.bus.ensure(TopicConfig::new("bills").group("mail")).await.unwrap();
    let mut test = TestBus::over(&shop.bus);
    test.run(shop.billing().on("orders", bill)).await.unwrap();
    test.run(Consumer::new(&shop.bus).group("mail").on("bills", slow)).await.unwrap();

    for number in 0..3 {
        test.publish("orders", &placed(&format!("A-{number}"), number)).await.unwrap();
    }
    test.advance(60 * SECOND).await;
    // Handlers of a plain topic run side by side.
    let mut handled = test.handled::<Placed>();
    handled.sort_by_key(|order| order.number);
    assert_eq!(handled, [placed("A-1", 1), placed("A-2", 2)]);
    assert_eq!((test.handled::<PlacedTwo>().len(), test.handled::<Cancelled>().len()), (0, 0));
    assert_eq!(test.published("bills").await.unwrap().len(), 2);
    test.advance(600 * SECOND).await;
    assert_eq!(test.handled::<Cancelled>().len(), 2);
    test.assert_settled().await;
    assert_eq!(test.dead_letters().await.unwrap().len(), 1);
    let reports = test.stop().await.unwrap();
    let handled: Vec<_> = reports.iter().map(|report| report.handled).collect();
    assert_eq!(handled, [2, 2]);
}

#[tokio::test(start_paused = true)]
async fn what_is_never_settled_is_said() {
    async fn hang() {
        std::future::pending::<()>().await;
    }
    let shop = Shop::plain().await;
    let mut test = TestBus::over(&shop.bus);
    test.run(shop.billing().on("orders", hang).max_handling(90_000 * SECOND)).await.unwrap();
    test.publish("orders", &placed("A-1", 1)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { test.assert_settled().await });
    let panic = tasks.join_next().await.unwrap().unwrap_err().into_panic();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("1 of orders for billing"), "{text}");
}
