use posthaste_derive::Event;

#[derive(Event)]
#[event(type = "order.placed", topic = "orders")]
struct OrderPlaced;

fn main() {}
